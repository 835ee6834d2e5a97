"""How a recipe is carried out on a version, and how that is decided where the recipe leaves it open."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from typing import Literal

from pydantic.dataclasses import dataclass

from app import errors
from app.profile import HEAD
from app.recipe import (
    ALL_STAGES,
    BEST_STAGE,
    Augmentation,
    Balance,
    Optimizer,
    Precision,
    Recipe,
    Reinit,
    Strategy,
    Unfreeze,
)
from app.treatment import Treatment, treatments
from app.warmstart import WarmStart

Amount = Literal["little", "much"]
Likeness = Literal["similar", "dissimilar"]

L2_GRID = tuple(10.0**exponent for exponent in range(-4, 3))
"""Penalties tried for the head, per training image, on standardised features."""

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of the features of all stages, that are tried."""

_SCRATCH_STEPS = 2000
_SCRATCH_EPOCHS = (30, 120)


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """What a plan needs to know of a dataset version."""

    classes: int
    train_images: int
    validation_images: int
    smallest_class: int
    """Training images of the class that has fewest."""


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """What a plan needs to know of a backbone."""

    stages: tuple[str, ...]
    normalises: bool = True
    """Whether its layers normalise what they pass on (BatchNorm, LayerNorm and their kin)."""


@dataclass(frozen=True, kw_only=True)
class Quadrant:
    """Where a version lies, seen from a backbone, and the measurements that put it there."""

    amount: Amount
    likeness: Likeness
    evidence: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Where the accuracy on unseen images will probably lie, 0-1."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the training will probably take on the machine that measured the profile."""

    seconds: float
    memory_bytes: int | None
    """None where the backbone's activations are not known."""


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How the trained layers go from their first values to their last."""

    epochs: int
    batch_size: int
    learning_rate: float
    """At its peak."""
    weight_decay: float
    accumulate: int = 1
    """Batches that make one step."""
    optimizer: Optimizer = "sgd"
    warm_up: float = 0.05
    """Share of the steps in which the learning rate rises to its peak."""
    warm_up_epochs: int = 1
    """It takes no more of them."""
    layer_decay: float = 1.0
    """The learning rate of a stage is the peak times this to the power of how many stages it lies below the head."""
    unfreeze: Unfreeze = "at_once"
    decay_to: Literal["zero", "start"] = "zero"
    label_smoothing: float = 0.0
    balance: Balance = "none"
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema: float = 0.0
    """Decay of the moving average of the weights; 0 for none."""
    patience: int | None = None
    precision: Precision = "auto"
    devices: int | None = None
    """How many GPUs may share each batch; None for all that the worker has. On CPUs it is always one process."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe resolved against a version: nothing left open, with the reasons."""

    backbone: str
    strategy: Strategy
    weights: str
    """`pretrained`, the name of published weights, `base`, or `none`."""
    seed: int
    descent: Descent | None
    """None where only a linear classifier is fitted."""
    l2_grid: tuple[float, ...]
    folds: int
    """Of the cross-validation; 0 for none."""
    stage: str | None = None
    """The stage whose features are classified, `best` or `all`; None for what the network's own classifier gets."""
    shares: tuple[float, ...] = ()
    freeze: str | None = None
    """The last stage that stays as it is; None where none does, or all do."""
    reinit: Reinit = "none"
    views: int = 1
    """For how many views of an image the frozen stages are computed."""
    deterministic: bool = False
    base: WarmStart | None = None
    treatments: tuple[Treatment, ...] = ()
    """Of each stage in order, and of the head."""
    rival: "Plan | None" = None
    """Carried out besides, because it costs next to nothing, and kept where it does better on the validation images."""
    quadrant: Quadrant | None = None
    """None where nothing was measured."""
    expected: Expected | None = None
    estimate: Estimate | None = None
    reasons: tuple[str, ...] = field(default=())


def resolve(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Plan:
    """The plan for `recipe` on a version and a backbone with these facts. Raises `UnknownName` and `Invalid`."""
    strategy = "scratch" if recipe.from_random else recipe.strategy
    if strategy == "auto":
        raise ValueError("what to do with strategy 'auto' is decided by app.policy, from a profile")
    plan = _PLANNERS[strategy](recipe, version, network)
    peak, decay = (plan.descent.learning_rate, plan.descent.layer_decay) if plan.descent else (None, 1.0)
    each = treatments(network.stages, cut=plan.stage, freeze=plan.freeze, reinit=plan.reinit, peak=peak, decay=decay)
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
    if stage not in (BEST_STAGE, ALL_STAGES, HEAD, *stages):
        raise errors.UnknownName("stage", stage, [*stages, HEAD, BEST_STAGE, ALL_STAGES])
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
    if freeze not in stages:
        raise errors.UnknownName("stage", freeze, stages)
    probe, descent = _probe(recipe, version), _descent(recipe, version, network)
    reinit: Reinit = recipe.reinit or "none"
    trained = ", ".join(stages[stages.index(freeze) + 1 :]) or "nothing but the head"
    views = min(recipe.views or 2, descent.epochs)
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
            f"The stages of {recipe.backbone} up to {freeze} stay as {recipe.origin}, BatchNorm's statistics included; "
            f"trained is {trained}.",
            _STARTS[reinit],
            *([probe.reason] if reinit == "none" else []),
            f"What the frozen stages give is computed once, for {views} views of each image, and kept.",
            *_told(descent, version),
            *_about_rate(recipe, descent, network),
        ),
    )


_STARTS: dict[Reinit, str] = {
    "none": "The head starts as the best linear classifier on the features as they are, so that training does not "
    "begin by spoiling them (LP-FT, Kumar et al. 2022); if it explains the validation images no worse, it is kept.",
    "head": "The head starts from random values.",
    "retrained": "All that is trained starts from random values.",
}


def _plan_full(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Plan:
    probe, descent = _probe(recipe, version), _descent(recipe, version, network)
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
            *_told(descent, version),
            *_about_rate(recipe, descent, network),
            *_told_of_stages(descent, network.stages),
        ),
    )


def _plan_scratch(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Plan:
    descent = _descent(recipe, version, network)
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
            *_told(descent, version),
            *_about_rate(recipe, descent, network),
        ),
    )


def _descent(recipe: Recipe, version: VersionFacts, network: NetworkFacts) -> Descent:
    scratch = recipe.from_random
    batch_size = recipe.batch_size or max(2, min(32, version.train_images // 8))
    accumulate = recipe.accumulate or 1
    optimizer: Optimizer = recipe.optimizer or "sgd"
    return Descent(
        epochs=recipe.epochs or (_scratch_epochs(version, batch_size * accumulate) if scratch else 10),
        batch_size=batch_size,
        accumulate=accumulate,
        optimizer=optimizer,
        learning_rate=recipe.learning_rate or _peak(optimizer, batch_size * accumulate, network, scratch=scratch),
        weight_decay={"sgd": 1e-4, "adamw": 0.05}[optimizer] if recipe.weight_decay is None else recipe.weight_decay,
        warm_up=0.1 if scratch else 0.05,
        warm_up_epochs=5 if scratch else 1,
        layer_decay=recipe.layer_decay or 1.0,
        unfreeze=recipe.unfreeze or "at_once",
        label_smoothing=recipe.label_smoothing or 0.0,
        balance=recipe.balance or "none",
        augmentation=recipe.augmentation or (_STRONG if scratch else Augmentation()),
        ema=recipe.ema or 0.0,
        patience=recipe.patience,
        precision=recipe.precision or "auto",
        devices=recipe.devices,
    )


def _scratch_epochs(version: VersionFacts, images: int) -> int:
    """What random values need is steps, of which few images give few in an epoch."""
    fewest, most = _SCRATCH_EPOCHS
    return min(most, max(fewest, math.ceil(_SCRATCH_STEPS / math.ceil(version.train_images / images))))


_UNNORMALISED, _UNNORMALISED_SCRATCH = 0.3, 0.1
"""What a network without normalisation bears of the learning rate of one that has it, with SGD. From random values the
published AlexNet, VGG and SqueezeNet were trained at 0.01, ResNets at 0.1; from where they ended gradients are smaller.
AdamW measures each step by the gradients themselves."""


def _peak(optimizer: Optimizer, images: int, network: NetworkFacts, *, scratch: bool) -> float:
    """The peak learning rate for steps over so many images."""
    borne = 1.0
    if optimizer == "sgd" and not network.normalises:
        borne = _UNNORMALISED_SCRATCH if scratch else _UNNORMALISED
    if scratch:
        # By the root, as in proportion steps over few images would be so short that nothing is learnt in time.
        return {"sgd": 0.05, "adamw": 1e-3}[optimizer] * math.sqrt(images / 32) * borne
    # Steps over more images may be longer: in proportion for SGD (Goyal et al. 2017), by the root for AdamW.
    return {"sgd": 0.01 * images / 32, "adamw": 1e-4 * math.sqrt(images / 32)}[optimizer] * borne


_STRONG = Augmentation(policy="trivial", erasing=0.1)
"""What is learnt from nothing is learnt by heart unless the images look different each time."""


def _told(descent: Descent, version: VersionFacts) -> Iterator[str]:
    name = {"sgd": "SGD with momentum", "adamw": "AdamW"}[descent.optimizer]
    several = f", {descent.accumulate} to a step" if descent.accumulate > 1 else ""
    yield (
        f"{descent.epochs} epochs of {version.train_images} images in batches of {descent.batch_size}{several}, "
        f"{name}, cosine learning rate with a peak of {descent.learning_rate:g}."
    )
    if descent.devices is not None:
        yield f"Each batch is shared by {descent.devices} GPUs at most."
    if descent.balance != "none":
        how = {"weights": "count more", "sampler": "are shown more often"}[descent.balance]
        yield f"Images of labels that have few {how}, so that each label counts the same."
    if descent.ema:
        yield f"The network that is kept is the moving average of its weights, with a decay of {descent.ema:g} a step."
    if descent.patience is not None:
        yield f"Training ends early after {descent.patience} epochs without a better one, and the best is kept."


def _about_rate(recipe: Recipe, descent: Descent, network: NetworkFacts) -> Iterator[str]:
    if recipe.learning_rate is None and descent.optimizer == "sgd" and not network.normalises:
        yield (
            f"Nothing in {recipe.backbone} normalises what its layers pass on, so its learning rate is lower than that "
            "of other networks."
        )


def _told_of_stages(descent: Descent, stages: Sequence[str]) -> Iterator[str]:
    if descent.layer_decay < 1:
        lowest = descent.learning_rate * descent.layer_decay ** len(stages)
        yield (
            f"The learning rate shrinks by {descent.layer_decay:g} from stage to stage, from "
            f"{descent.learning_rate:g} at the head to {lowest:g} at {stages[0]}: earlier stages need to change less."
        )
    if descent.unfreeze == "gradual":
        yield (
            f"At first only the head is trained; in the first half of the training the {len(stages)} stages join it "
            "one by one, the last one first (ULMFiT, Howard and Ruder 2018). Until then each stays as it is."
        )


_PLANNERS: dict[Strategy, Callable[[Recipe, VersionFacts, NetworkFacts], Plan]] = {
    "head": _plan_head,
    "stage_probe": _plan_stage_probe,
    "top": _plan_top,
    "full": _plan_full,
    "scratch": _plan_scratch,
}
