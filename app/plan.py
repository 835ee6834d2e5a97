"""How a recipe is carried out on a version, and how that is decided where the recipe leaves it open."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from typing import Literal

from pydantic.dataclasses import dataclass

from app import descent as descents
from app import errors
from app import room as room_for
from app.descent import Descent
from app.described import described
from app.facts import NetworkFacts, VersionFacts
from app.profile import HEAD
from app.recipe import (
    ALL_STAGES,
    BEST_STAGE,
    Recipe,
    Reinit,
    Strategy,
)
from app.treatment import Treatment, treatments
from app.warmstart import WarmStart
from app.wording import counted

Amount = Literal["little", "much"]
Likeness = Literal["similar", "dissimilar"]

L2_GRID = tuple(10.0**exponent for exponent in range(-4, 3))
"""Penalties tried for the head, per training image, on standardised features."""

MAX_CROSS_VALIDATED = 10_000
"""The penalty is chosen on a stratified sample of so many images; more of them do not change which prior it stands
for, which beside a mean over all images is a penalty that is smaller by their share."""

MAX_COMPARED = 2_000
"""How many features of all stages are taken is chosen on a stratified sample of so many images."""

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of the features of all stages, that are tried."""


def halfway(stages: Sequence[str]) -> str:
    """The last one of the lower half of two or more `stages`; of an odd number of them, the lower half is the smaller
    one."""
    return stages[len(stages) // 2 - 1]


@described
@dataclass(frozen=True, kw_only=True)
class Quadrant:
    """Where a version lies, seen from a backbone, and the measurements that put it there."""

    amount: Amount
    """Of data."""
    likeness: Likeness
    """Of the images with those of the pre-training, as far as that shows in what the features are worth."""
    evidence: tuple[str, ...]
    """The measurements, in words."""


@described
@dataclass(frozen=True, kw_only=True)
class Expected:
    """Where the accuracy on unseen images will probably lie, 0-1."""

    low: float
    high: float


@described
@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the training will probably take on the machine that measured the profile."""

    seconds: float
    """For the whole job, without measuring."""
    memory_bytes: int | None
    """Of the device; None where the backbone's activations are not known."""


@described
@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe resolved against a version: nothing left open, with the reasons."""

    backbone: str
    strategy: Strategy
    weights: str
    """`pretrained`, the name of published weights, `base`, or `none`."""
    seed: int
    """Of everything random."""
    descent: Descent | None
    """None where only a linear classifier is fitted."""
    l2_grid: tuple[float, ...]
    """Penalties of the linear classifier that are tried."""
    folds: int
    """Of the cross-validation; 0 for none."""
    stage: str | None = None
    """The stage whose features are classified, `best` or `all`; None for what the network's own classifier gets."""
    shares: tuple[float, ...] = ()
    """Of the features of all stages, that are tried (stage `all`)."""
    freeze: str | None = None
    """The last stage that stays as it is; None where none does, or all do."""
    reinit: Reinit = "none"
    """What starts from random values."""
    views: int = 1
    """For how many views of an image the frozen stages are computed; 0 where they are in each epoch."""
    deterministic: bool = False
    """Whether GPUs give the same model each time."""
    base: WarmStart | None = None
    """The model version that it starts from; None for published weights or random values."""
    treatments: tuple[Treatment, ...] = ()
    """Of each stage in order, of the layers between the last one and the head where some are known to learn, and of the
    head."""
    rival: "Plan | None" = None
    """Carried out besides, because it costs next to nothing, and kept where it does better on the validation images."""
    quadrant: Quadrant | None = None
    """None where nothing was measured."""
    expected: Expected | None = None
    """None where nothing was measured that could tell."""
    estimate: Estimate | None = None
    """None where nothing was measured."""
    reasons: tuple[str, ...] = field(default=())
    """Each decision, in words."""


def check_stages(recipe: Recipe, network: NetworkFacts) -> None:
    """Raises `UnknownName` for a stage that `recipe` names and the network does not have."""
    for field_name, stage in named_stages(recipe).items():
        if stage not in network.stages:
            also = [HEAD, BEST_STAGE, ALL_STAGES] if field_name == "stage" else []
            raise errors.UnknownName("stage", stage, [*network.stages, *also]).at(f"recipe.{field_name}")


def named_stages(recipe: Recipe) -> dict[str, str]:
    """The stages that `recipe` wants a network to have, by the field that names each."""
    stage = None if recipe.stage in (HEAD, BEST_STAGE, ALL_STAGES) else recipe.stage
    return {name: named for name, named in (("stage", stage), ("freeze", recipe.freeze)) if named is not None}


def resolve(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Plan:
    """The plan for `recipe` on a version and a backbone with these facts. Raises `UnknownName` and `Invalid`."""
    strategy = "scratch" if recipe.from_random else recipe.strategy
    if strategy == "auto":
        raise ValueError("what to do with strategy 'auto' is decided by app.policy, from a profile")
    check_stages(recipe, network)
    plan = _PLANNERS[strategy](recipe, version, network)
    peak, decay = (plan.descent.learning_rate, plan.descent.layer_decay) if plan.descent else (None, 1.0)
    each = treatments(
        network.stages,
        cut=plan.stage,
        freeze=plan.freeze,
        reinit=plan.reinit,
        peak=peak,
        decay=decay,
        pre_logits=bool(network.pre_logits),
    )
    return replace(plan, treatments=each)


def _plan_head(recipe: Recipe, version: VersionFacts, _network: NetworkFacts) -> Plan:
    probe = _probe(recipe, version)
    return Plan(
        backbone=recipe.backbone,
        strategy="head",
        weights=recipe.start,
        seed=recipe.seed,
        descent=None,
        l2_grid=probe.grid,
        folds=probe.folds,
        deterministic=recipe.deterministic,
        reasons=(
            f"Every layer of {recipe.backbone} stays as {recipe.origin}; only a linear classifier for the "
            f"{version.classes} labels is trained, on features computed once for {version.train_images} images.",
            probe.reason,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Probe:
    grid: tuple[float, ...]
    folds: int
    reason: str


def _probe(recipe: Recipe, version: VersionFacts) -> _Probe:
    folds = max(2, min(5, version.smallest_class))
    if recipe.l2 is not None:
        return _Probe(grid=(recipe.l2,), folds=folds, reason=f"L2 penalty {recipe.l2:g} as asked.")
    if version.smallest_class < 2:
        reason = "One class has a single training image, too few to cross-validate: L2 penalty 1."
        return _Probe(grid=(1.0,), folds=folds, reason=reason)
    reason = f"L2 penalty chosen among {len(L2_GRID)} values by {folds}-fold cross-validation."
    return _Probe(grid=L2_GRID, folds=folds, reason=reason)


def _plan_stage_probe(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Plan:
    stages = network.stages
    probe, stage = _probe(recipe, version), recipe.stage or BEST_STAGE
    shares: tuple[float, ...] = SHARES if stage == ALL_STAGES else ()
    reason = _STAGE_REASONS.get(stage, f"It sees what {stage} gives.")
    if version.smallest_class < 2 and stage in _STAGE_REASONS:
        stage, shares = {BEST_STAGE: HEAD}.get(stage, stage), shares[-1:]
        reason = "One class has a single training image, too few to compare stages: it sees " + (
            "the features of all of them." if shares else "what the network's own classifier would."
        )
    return Plan(
        backbone=recipe.backbone,
        strategy="stage_probe",
        weights=recipe.start,
        seed=recipe.seed,
        descent=None,
        l2_grid=probe.grid,
        folds=probe.folds,
        stage=stage,
        shares=shares,
        deterministic=recipe.deterministic,
        reasons=(
            f"Every layer of {recipe.backbone} stays as pre-trained; a linear classifier for the {version.classes} "
            f"labels is trained on features computed once for {version.train_images} images at {len(stages)} stages.",
            reason,
            *([] if stage == HEAD else ["The network that is served ends behind the last stage that is used."]),
            probe.reason,
        ),
    )


_STAGE_REASONS = {
    BEST_STAGE: "It sees the stage that does best in cross-validation: images unlike those of the pre-training are "
    "often told apart better by an earlier one.",
    ALL_STAGES: "It sees the features of all stages that matter most to a classifier of all of them, as many as do "
    "best in cross-validation (Head2Toe, Evci et al. 2022).",
}


def _plan_top(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Plan:
    stages = network.stages
    if len(stages) < 2:
        raise errors.Invalid(f"{recipe.backbone} has a single stage, so there is no top of it", code="no_stages")
    freeze = recipe.freeze or stages[-2]
    probe, descent = _probe(recipe, version), descents.of(recipe, version, network)
    reinit: Reinit = recipe.reinit or "none"
    parts = [", ".join(stages[stages.index(freeze) + 1 :]), descents.PRE_LOGITS[network.pre_logits]]
    trained = " and ".join(part for part in parts if part) or "nothing but the head"
    views, told_of_views = _views(recipe, version, network, freeze, descent)
    return Plan(
        backbone=recipe.backbone,
        strategy="top",
        weights=recipe.start,
        seed=recipe.seed,
        descent=descent,
        l2_grid=probe.grid,
        folds=probe.folds,
        freeze=freeze,
        reinit=reinit,
        views=views,
        deterministic=recipe.deterministic,
        reasons=(
            f"The stages of {recipe.backbone} up to {freeze} stay as {recipe.origin}"
            f"{', running statistics included' if network.normalises else ''}; what is trained is {trained}.",
            _STARTS[reinit],
            *([probe.reason] if reinit == "none" else []),
            told_of_views,
            *_about_more_views(views, recipe, descent),
            *about_single_view(views, descent),
            *(descents.about_images(descent, recipe, version) if views != 1 else ()),
            *descents.told(descent, recipe, version, network, freeze=freeze),
            *_about_end(reinit, descent),
        ),
    )


def _views(
    recipe: Recipe, version: VersionFacts, network: NetworkFacts, freeze: str, descent: Descent
) -> tuple[int, str]:
    """For how many views of each image what the stages up to `freeze` give is kept, and the sentence about it."""
    wanted = min(recipe.views or (2 if descent.augmentation.changes_images else 1), descent.epochs)
    if not network.can_enter:
        return 0, f"{_ANEW}, as {recipe.backbone} cannot be entered between stages."
    room, images = version.max_activation_bytes, version.train_images + version.validation_images
    if room is None or not network.values:
        return wanted, f"{_ONCE}, for {counted(wanted, 'view')} of each image, and kept."
    values = network.values[network.stages.index(freeze)]
    views = room_for.views_that_fit(wanted, values=values, images=images, max_bytes=room)
    if views == wanted:
        return views, f"{_ONCE}, for {counted(views, 'view')} of each image, and kept."
    gigabytes = room_for.bytes_of_view(values, images) / 1e9
    limit = f"a view of all images takes {gigabytes:.3g} GB, and {room / 1e9:.3g} GB may be kept"
    if views == 0:
        return 0, f"{_ANEW}: {limit}."
    return views, f"{_ONCE}, for {counted(views, 'view')} of each image in place of {wanted}, and kept: {limit}."


def _about_more_views(views: int, recipe: Recipe, descent: Descent) -> Iterator[str]:
    if views and recipe.views is not None and recipe.views > descent.epochs:
        yield (
            f"Each epoch sees one view of an image, so that of the {recipe.views} asked for no more than "
            f"{descent.epochs} would be of use."
        )


def about_single_view(views: int, descent: Descent) -> Iterator[str]:
    """The sentence about what it means to keep so many `views` of each image, where it is a single one."""
    if views == 1 and descent.augmentation.changes_images:
        yield "A single view is the one that serving sees, so no image is changed."


_ONCE = "What the frozen stages give is computed once"
_ANEW = "What the frozen stages give is computed anew in each epoch"

_STARTS: dict[Reinit, str] = {
    "none": "The head starts as the best linear classifier on the features as they are, so that training does not "
    "begin by spoiling them (LP-FT, Kumar et al. 2022).",
    "head": "The head starts from random values.",
    "retrained": "All that is trained starts from random values.",
}


def _about_end(reinit: Reinit, descent: Descent) -> Iterator[str]:
    if reinit == "none" and descent.patience is None:
        yield (
            "Kept is what explains the validation images best: the network with which training begins, the one with "
            "which it ends, or one on the way between (WiSE-FT, Wortsman et al. 2022)."
        )


def _plan_full(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Plan:
    probe, descent = _probe(recipe, version), descents.of(recipe, version, network)
    reinit: Reinit = recipe.reinit or "none"
    return Plan(
        backbone=recipe.backbone,
        strategy="full",
        weights=recipe.start,
        seed=recipe.seed,
        descent=descent,
        l2_grid=probe.grid if reinit == "none" else (),
        folds=probe.folds if reinit == "none" else 0,
        reinit=reinit,
        deterministic=recipe.deterministic,
        reasons=(
            f"Every layer of {recipe.backbone} is trained from {recipe.origin_values}, with a classifier for the "
            f"{version.classes} labels.",
            _STARTS[reinit],
            *([probe.reason] if reinit == "none" else []),
            *descents.about_images(descent, recipe, version),
            *descents.told(descent, recipe, version, network),
            *_about_end(reinit, descent),
        ),
    )


def _plan_scratch(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Plan:
    descent = descents.of(recipe, version, network)
    return Plan(
        backbone=recipe.backbone,
        strategy="scratch",
        weights=recipe.start,
        seed=recipe.seed,
        descent=descent,
        l2_grid=(),
        folds=0,
        reinit="retrained",
        deterministic=recipe.deterministic,
        reasons=(
            f"Every layer of {recipe.backbone} is trained from random initialisation, with a new classifier for the "
            f"{version.classes} labels.",
            *descents.about_images(descent, recipe, version),
            *descents.told(descent, recipe, version, network),
        ),
    )


_PLANNERS: dict[Strategy, Callable[[Recipe, VersionFacts, NetworkFacts], Plan]] = {
    "head": _plan_head,
    "stage_probe": _plan_stage_probe,
    "top": _plan_top,
    "full": _plan_full,
    "scratch": _plan_scratch,
}
