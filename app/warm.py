"""What a plan becomes where the training starts from a model version of one's own."""

from collections.abc import Iterator
from dataclasses import replace

from app.facts import NetworkFacts, VersionFacts
from app.narrowing import left_out, narrowed
from app.plan import Plan, resolve
from app.recipe import Recipe
from app.warmstart import WarmStart, told
from app.wording import counted

PULL = 0.01
"""How strongly layers that are trained on are pulled back to where they were, if the recipe does not say; of the
strengths that Li et al. (2018, L2-SP) found to be best from data set to data set, one in the middle."""


def plan(
    recipe: Recipe,
    start: WarmStart,
    version: VersionFacts,
    network: NetworkFacts,
    *,
    can_replay: bool = True,
    replayed: int = 0,
) -> Plan:
    """The plan for a `recipe` with a base whose network is of these facts, and whose images are there if it
    `can_replay` them; about so many `replayed` ones count among the training images of `version`. Raises `UnknownName`
    and `Invalid`."""
    reasons: list[str] = []
    if recipe.strategy == "auto":
        recipe, lost = narrowed(recipe, "head")
        reasons += [_WHY_HEAD, *left_out("head", lost)]
    made = resolve(recipe, version, network)
    if made.descent is not None:
        pull = PULL if recipe.weight_decay is None else recipe.weight_decay
        made = replace(made, descent=replace(made.descent, weight_decay=pull, decay_to="start"))
    return replace(
        made,
        base=start,
        treatments=tuple(
            replace(one, values="base" if one.values in ("pretrained", "fitted") else one.values)
            for one in made.treatments
        ),
        reasons=(
            *_about_labels(start),
            *reasons,
            *made.reasons,
            *_about_pull(made),
            *_about_prior(start),
            _about_replay(start, can_replay=can_replay, replayed=replayed),
        ),
    )


_WHY_HEAD = (
    "The layers have been fitted to data of this kind already: they stay as they are, so that they unlearn nothing, "
    "and only the classifier changes."
)


def _about_labels(start: WarmStart) -> Iterator[str]:
    renamed = [f"{one.old} as {one.new}" for one in start.kept if one.old != one.new]
    fresh = f"; new are those of {counted(len(start.fresh), 'label')}: {told(start.fresh)}" if start.fresh else ""
    yield (
        f"Rows of the classifier of {start.base} are kept for {counted(len(start.kept), 'label')}, matched by name"
        f"{', ' + told(renamed) if renamed else ''}{fresh}."
    )
    if start.dropped:
        yield f"The version has no {told(start.dropped)} any more, so these rows go."
    yield (
        "The classifier that is fitted first is kept close to those rows: what is penalised is the distance from them"
        f"{', and new rows are those of a label that is as likely as the old ones' if start.fresh else ''}."
    )


def _about_pull(made: Plan) -> Iterator[str]:
    if made.descent is not None:
        yield (
            "Weights that are trained are not pulled to zero but back to where they start, by "
            f"{made.descent.weight_decay:g} (L2-SP, Li et al. 2018), so that the old labels are not unlearnt."
        )


def _about_prior(start: WarmStart) -> Iterator[str]:
    if start.label_prior == "learned" and start.fresh:
        yield (
            f"Where the version has fewer images of the old labels than of new ones, and {start.base} has learnt from "
            "more of them, the old ones are taken to be that much more frequent, or else few images would make them "
            "rare (label_prior)."
        )


def _about_replay(start: WarmStart, *, can_replay: bool, replayed: int) -> str:
    if start.replay:
        counts = f": about {counted(replayed, 'image')}, which count above" if replayed else ""
        return (
            f"The training images that {start.base} was made from are trained on besides, where the version lacks them"
            f"{counts}."
        )
    if not can_replay:
        return f"Only the version's own images are trained on; those that {start.base} was made from are deleted."
    return (
        f"Only the version's own images are trained on; replay would add those that {start.base} was made from, for "
        "labels of which the version has few."
    )
