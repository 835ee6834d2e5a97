"""What to train, asked (`Recipe`) and resolved (`Plan`): values shared by the API, the stored job and the training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from app import errors

Strategy = Literal["head", "top", "full"]
Reinit = Literal["none", "head", "retrained"]
NO_WEIGHTS = "none"

Optimizer = Literal["sgd", "adamw"]
Balance = Literal["none", "weights", "sampler"]
AugmentationPolicy = Literal["none", "crop", "trivial", "rand"]

_DESCENT = (
    "epochs",
    "batch_size",
    "accumulate",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "label_smoothing",
    "balance",
    "augmentation",
    "ema",
    "patience",
)
_FIELDS = {
    "head": ("l2",),
    "top": (*_DESCENT, "l2", "freeze", "reinit", "views"),
    "full": _DESCENT,
}
"""The fields that only some strategies know."""

L2_GRID = tuple(10.0**exponent for exponent in range(-4, 3))
"""Penalties tried for the head, per training image, on standardised features."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """How training images are changed from one epoch to the next."""

    policy: Annotated[
        AugmentationPolicy,
        Field(
            description="`none` shows every image as it is; `crop` a random part of it, mirrored every other time; "
            "`trivial` and `rand` change it in shape or colour besides (TrivialAugment, RandAugment)."
        ),
    ] = "crop"
    strength: Annotated[float, Field(ge=0, le=1, description="Of the changes (`rand`).")] = 0.3
    erasing: Annotated[float, Field(ge=0, le=1, description="Share of images of which a part is blotted out.")] = 0.0
    mixup: Annotated[float, Field(ge=0, le=10, description="Alpha of mixup; 0 for none.")] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=10, description="Alpha of CutMix; 0 for none.")] = 0.0


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """How to train. What is left out is decided by the plan, which gives its reasons."""

    backbone: Annotated[str, Field(description="Name of a backbone of the catalogue.", examples=["mobilenet_v2"])]
    strategy: Annotated[
        Strategy,
        Field(
            description="`head` trains a linear classifier on the frozen backbone; `top` then trains the last stages, "
            "too; `full` trains every layer."
        ),
    ] = "head"
    weights: Annotated[
        str,
        Field(
            min_length=1,
            max_length=100,
            description="`pretrained` starts from the backbone's first published weights, the name of others from "
            "those, `none` from random values.",
            examples=["pretrained", "IMAGENET1K_V2"],
        ),
    ] = "pretrained"
    seed: Annotated[int, Field(ge=0, lt=2**31, description="Seed of everything random in the training.")] = 0
    epochs: Annotated[int | None, Field(ge=1, le=1000, description="Passes over the data (`top`, `full`).")] = None
    batch_size: Annotated[int | None, Field(ge=2, le=1024, description="Images a batch (`top`, `full`).")] = None
    accumulate: Annotated[
        int | None, Field(ge=1, le=64, description="Batches that make one step of the optimizer (`top`, `full`).")
    ] = None
    optimizer: Annotated[Optimizer | None, Field(description="`sgd` with momentum or `adamw` (`top`, `full`).")] = None
    learning_rate: Annotated[float | None, Field(gt=0, le=10, description="Peak learning rate (`top`, `full`).")] = None
    weight_decay: Annotated[
        float | None, Field(ge=0, le=1, description="L2 penalty of the weights (`top`, `full`).")
    ] = None
    label_smoothing: Annotated[
        float | None,
        Field(ge=0, lt=1, description="Share of each target that is spread over all labels (`top`, `full`)."),
    ] = None
    balance: Annotated[
        Balance | None,
        Field(
            description="What evens out labels with few images: `weights` counts theirs more, `sampler` shows them "
            "more often (`top`, `full`)."
        ),
    ] = None
    augmentation: Annotated[
        Augmentation | None, Field(description="How training images are changed (`top`, `full`).")
    ] = None
    ema: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="Decay of the moving average of the weights that is kept; 0 for none (`top`, `full`).",
        ),
    ] = None
    patience: Annotated[
        int | None,
        Field(
            ge=1,
            le=1000,
            description="Stop after so many epochs without a better one; never if left out (`top`, `full`).",
        ),
    ] = None
    freeze: Annotated[
        str | None,
        Field(max_length=100, description="The last stage that stays as it is; all but one if left out (`top`)."),
    ] = None
    reinit: Annotated[
        Reinit | None,
        Field(
            description="What starts from random values: `none`, with a linear classifier fitted first as the head; "
            "the `head`; or all that is `retrained`, head included (`top`)."
        ),
    ] = None
    views: Annotated[
        int | None,
        Field(ge=1, le=1000, description="How many views of each image the frozen stages are computed for (`top`)."),
    ] = None
    l2: Annotated[
        float | None,
        Field(gt=0, le=1e6, description="L2 penalty of the head; cross-validated if left out (`head`, `top`)."),
    ] = None

    @model_validator(mode="after")
    def _fields_fit_strategy(self) -> Self:
        known = {name for fields in _FIELDS.values() for name in fields}
        foreign = sorted(known.difference(_FIELDS[self.strategy]))
        given = [name for name in foreign if getattr(self, name) is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: not for strategy {self.strategy!r}")
        if self.strategy != "full" and self.weights == NO_WEIGHTS:
            raise ValueError(f"strategy {self.strategy!r} keeps layers as they are and so needs weights 'pretrained'")
        if self.strategy == "top" and self.augmentation and (self.augmentation.mixup or self.augmentation.cutmix):
            raise ValueError("augmentation.mixup, augmentation.cutmix: not for strategy 'top', which keeps activations")
        return self


@dataclass(frozen=True, kw_only=True)
class VersionFacts:
    """What a plan needs to know of a dataset version."""

    classes: int
    train_images: int
    validation_images: int
    smallest_class: int
    """Training images of the class that has fewest."""


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
    label_smoothing: float = 0.0
    balance: Balance = "none"
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema: float = 0.0
    """Decay of the moving average of the weights; 0 for none."""
    patience: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe resolved against a version: nothing left open, with the reasons."""

    backbone: str
    strategy: Strategy
    weights: str
    """`pretrained`, the name of published weights, or `none`."""
    seed: int
    descent: Descent | None
    """None where only a linear classifier is fitted."""
    l2_grid: tuple[float, ...]
    folds: int
    freeze: str | None = None
    """The last stage that stays as it is; None where none does, or all do."""
    reinit: Reinit = "none"
    views: int = 1
    """For how many views of an image the frozen stages are computed."""
    reasons: tuple[str, ...] = field(default=())


def resolve(recipe: Recipe, version: VersionFacts, *, stages: Sequence[str]) -> Plan:
    """The plan for `recipe` on a version with these facts, for a backbone with these stages. Raises `UnknownName` and
    `Invalid`."""
    return _PLANNERS[recipe.strategy](recipe, version, stages)


def _plan_head(recipe: Recipe, version: VersionFacts, _stages: Sequence[str]) -> Plan:
    probe = _probe(recipe, version)
    return Plan(
        backbone=recipe.backbone,
        strategy="head",
        weights=recipe.weights,
        seed=recipe.seed,
        descent=None,
        l2_grid=probe.grid,
        folds=probe.folds,
        reasons=(
            f"Every layer of {recipe.backbone} stays as pre-trained; only a new linear classifier for the "
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


def _plan_top(recipe: Recipe, version: VersionFacts, stages: Sequence[str]) -> Plan:
    if len(stages) < 2:
        raise errors.Invalid(f"{recipe.backbone} has a single stage, so there is no top of it", code="no_stages")
    freeze = recipe.freeze or stages[-2]
    if freeze not in stages:
        raise errors.UnknownName("stage", freeze, stages)
    probe, descent = _probe(recipe, version), _descent(recipe, version)
    reinit: Reinit = recipe.reinit or "none"
    trained = ", ".join(stages[stages.index(freeze) + 1 :]) or "nothing but the head"
    views = min(recipe.views or 2, descent.epochs)
    return Plan(
        backbone=recipe.backbone,
        strategy="top",
        weights=recipe.weights,
        seed=recipe.seed,
        descent=descent,
        l2_grid=probe.grid,
        folds=probe.folds,
        freeze=freeze,
        reinit=reinit,
        views=views,
        reasons=(
            f"The stages of {recipe.backbone} up to {freeze} stay as pre-trained, BatchNorm's statistics included; "
            f"trained is {trained}.",
            _STARTS[reinit],
            *([probe.reason] if reinit == "none" else []),
            f"What the frozen stages give is computed once, for {views} views of each image, and kept.",
            *_told(descent, version),
        ),
    )


_STARTS: dict[Reinit, str] = {
    "none": "The head starts as the best linear classifier on the features as they are, so that training does not "
    "begin by spoiling them (LP-FT, Kumar et al. 2022).",
    "head": "The head starts from random values.",
    "retrained": "All that is trained starts from random values.",
}


def _plan_full(recipe: Recipe, version: VersionFacts, _stages: Sequence[str]) -> Plan:
    descent = _descent(recipe, version)
    named = "its pre-trained weights" if recipe.weights == "pretrained" else f"its weights {recipe.weights}"
    start = "random initialisation" if recipe.weights == NO_WEIGHTS else named
    return Plan(
        backbone=recipe.backbone,
        strategy="full",
        weights=recipe.weights,
        seed=recipe.seed,
        descent=descent,
        l2_grid=(),
        folds=0,
        reasons=(
            f"Every layer of {recipe.backbone} is trained from {start}, with a new classifier for the "
            f"{version.classes} labels.",
            *_told(descent, version),
        ),
    )


def _descent(recipe: Recipe, version: VersionFacts) -> Descent:
    scratch = recipe.weights == NO_WEIGHTS
    batch_size = recipe.batch_size or max(2, min(32, version.train_images // 8))
    accumulate = recipe.accumulate or 1
    optimizer: Optimizer = recipe.optimizer or "sgd"
    # Steps over more images may be longer: in proportion for SGD (Goyal et al. 2017), by the root for AdamW.
    images = batch_size * accumulate / 32
    peak = {"sgd": (0.05 if scratch else 0.01) * images, "adamw": (1e-3 if scratch else 1e-4) * images**0.5}[optimizer]
    return Descent(
        epochs=recipe.epochs or (30 if scratch else 10),
        batch_size=batch_size,
        accumulate=accumulate,
        optimizer=optimizer,
        learning_rate=recipe.learning_rate or peak,
        weight_decay={"sgd": 1e-4, "adamw": 0.05}[optimizer] if recipe.weight_decay is None else recipe.weight_decay,
        label_smoothing=recipe.label_smoothing or 0.0,
        balance=recipe.balance or "none",
        augmentation=recipe.augmentation or Augmentation(),
        ema=recipe.ema or 0.0,
        patience=recipe.patience,
    )


def _told(descent: Descent, version: VersionFacts) -> Iterator[str]:
    name = {"sgd": "SGD with momentum", "adamw": "AdamW"}[descent.optimizer]
    several = f", {descent.accumulate} to a step" if descent.accumulate > 1 else ""
    yield (
        f"{descent.epochs} epochs of {version.train_images} images in batches of {descent.batch_size}{several}, "
        f"{name}, cosine learning rate with a peak of {descent.learning_rate:g}."
    )
    if descent.balance != "none":
        how = {"weights": "count more", "sampler": "are shown more often"}[descent.balance]
        yield f"Images of labels that have few {how}, so that each label counts the same."
    if descent.ema:
        yield f"The network that is kept is the moving average of its weights, with a decay of {descent.ema:g} a step."
    if descent.patience is not None:
        yield f"Training ends early after {descent.patience} epochs without a better one."


_PLANNERS: dict[Strategy, Callable[[Recipe, VersionFacts, Sequence[str]], Plan]] = {
    "head": _plan_head,
    "top": _plan_top,
    "full": _plan_full,
}
