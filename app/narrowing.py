"""A recipe narrowed to one strategy: what it says of that is kept, and what is left out is said."""

from dataclasses import replace
from typing import Any

from app.augmentation import MIXED
from app.recipe import FIELDS, Recipe, Strategy, known_fields


def narrowed(recipe: Recipe, strategy: Strategy, **fields: Any) -> tuple[Recipe, tuple[str, ...]]:
    """`recipe` with this strategy and these fields where it leaves them open, without those that the
    strategy cannot take; and the names of the ones left out."""
    known = (*FIELDS[strategy], *_COMMON)
    given = {name: value for name, value in vars(recipe).items() if name in known_fields() and value is not None}
    lost = set(given).difference(known)
    settled = {**fields, **{name: value for name, value in given.items() if name in known}}
    if strategy == "full" and settled.get("reinit") == "retrained":
        lost.add("reinit")
        del settled["reinit"]
    if strategy == "top" and recipe.augmentation:
        mixed: dict[str, Any] = {name: 0.0 for name in MIXED if getattr(recipe.augmentation, name)}
        lost.update(f"augmentation.{name}" for name in mixed)
        settled["augmentation"] = replace(recipe.augmentation, **mixed)
    shown = settled.get("augmentation")
    if "views" in settled and shown is not None and not shown.changes_images:
        # One that a search tries, with views for the others.
        del settled["views"]
    common = {name: getattr(recipe, name) for name in _COMMON}
    return Recipe(**common, strategy=strategy, **settled), tuple(sorted(lost))


def left_out(strategy: Strategy, lost: tuple[str, ...]) -> tuple[str, ...]:
    """The sentence about what `narrowed` has left out; none where that is nothing."""
    return (f"Not for strategy '{strategy}', and so left out: {', '.join(lost)}.",) if lost else ()


_COMMON = ("backbone", "weights", "base", "label_map", "replay", "label_prior", "seed", "deterministic", "search")
