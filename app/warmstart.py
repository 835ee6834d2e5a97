"""Starting from a model version of one's own: which rows of its classifier go where, by the names of the labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from app import errors
from app.described import described
from app.recipe import LabelPrior

_TOLD = 20
"""Labels that a message or an error lists at most."""


@described
@dataclass(frozen=True, kw_only=True)
class Kept:
    """A label of the base that the version has, too."""

    old: str
    """Its name in the base."""
    new: str
    """Its name in the version."""


@described
@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The model version that a training starts from, and what becomes of its labels."""

    base: str
    """`name@version`."""
    version_id: str
    kept: tuple[Kept, ...]
    """Labels whose rows of the classifier are taken over, in the order of the base."""
    fresh: tuple[str, ...]
    """Labels of the version that the base does not know: their rows are new."""
    dropped: tuple[str, ...]
    """Labels of the base that the version has not."""
    replay: bool
    """Whether the base's own training images of kept labels are trained on besides."""
    label_prior: LabelPrior = "training"
    """How frequent kept labels are taken to be beside fresh ones: as in the `training`, or as the base `learned`."""


def match(
    old: Sequence[str], new: Sequence[str], label_map: Mapping[str, str] | None
) -> tuple[tuple[Kept, ...], tuple[str, ...], tuple[str, ...]]:
    """Which labels of `old` are which of `new`: those of `label_map` as it says, the others by their names. Also those
    of `new` that are none of `old`, and those of `old` that are none of `new`.

    The order of labels means nothing, nor does their number. Raises `UnknownName` for a label of the map, and `Invalid`
    where two old labels would become the same one or none is kept.
    """
    check_renamed(old, label_map)
    renamed, names = dict(label_map or {}), set(new)
    for after in renamed.values():
        if after not in names:
            raise errors.UnknownName("label", after, new, holder="the version").at("recipe.label_map")
    kept = tuple(Kept(old=label, new=renamed.get(label, label)) for label in old if renamed.get(label, label) in names)
    for label, count in Counter(one.new for one in kept).items():
        if count > 1:
            olds: list[JsonValue] = [one.old for one in kept if one.new == label]
            raise errors.Invalid(
                f"{' and '.join(map(repr, olds))} of the base would both become {label!r}; one row can only be taken "
                "from one of them",
                code="label_map_ambiguous",
                detail={"label": label, "old": olds},
            ).at("recipe.label_map")
    if not kept:
        raise errors.Invalid(
            f"the base knows none of the version's labels: it has {told(old)}, the version {told(new)}; map those that "
            "were renamed with label_map, or train without a base",
            code="no_common_labels",
            detail={"old": [*old[:_TOLD]], "new": [*new[:_TOLD]]},
        ).at("recipe.base")
    known = {one.new for one in kept}
    taken = {one.old for one in kept}
    return kept, tuple(label for label in new if label not in known), tuple(one for one in old if one not in taken)


def check_renamed(old: Sequence[str], label_map: Mapping[str, str] | None) -> None:
    """Raises `UnknownName` where `label_map` renames what is none of the `old` labels."""
    for before in label_map or {}:
        if before not in old:
            raise errors.UnknownName("label", before, old, holder="the base").at("recipe.label_map")


def told(labels: Sequence[str]) -> str:
    """`labels` in words, the first ones where there are many."""
    more = f" and {len(labels) - _TOLD} more" if len(labels) > _TOLD else ""
    return ", ".join(labels[:_TOLD]) + more
