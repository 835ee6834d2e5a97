"""What to train, asked (`Recipe`) and resolved (`Plan`): values shared by the API, the stored job and the training."""

from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Strategy = Literal["head", "full"]
NO_WEIGHTS = "none"

_FULL_ONLY = ("epochs", "batch_size", "learning_rate", "weight_decay")
_HEAD_ONLY = ("l2",)

L2_GRID = tuple(10.0**exponent for exponent in range(-4, 3))
"""Penalties tried for the head, per training image, on standardised features."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """How to train. What is left out is decided by the plan, which gives its reasons."""

    backbone: Annotated[str, Field(description="Name of a backbone of the catalogue.", examples=["mobilenet_v2"])]
    strategy: Annotated[
        Strategy,
        Field(description="`head` trains a linear classifier on the frozen backbone; `full` trains every layer."),
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
    epochs: Annotated[int | None, Field(ge=1, le=1000, description="Passes over the data (`full`).")] = None
    batch_size: Annotated[int | None, Field(ge=2, le=1024, description="Images a step (`full`).")] = None
    learning_rate: Annotated[float | None, Field(gt=0, le=10, description="Peak learning rate (`full`).")] = None
    weight_decay: Annotated[float | None, Field(ge=0, le=1, description="L2 penalty of the weights (`full`).")] = None
    l2: Annotated[
        float | None, Field(gt=0, le=1e6, description="L2 penalty of the head; cross-validated if left out (`head`).")
    ] = None

    @model_validator(mode="after")
    def _fields_fit_strategy(self) -> Self:
        foreign = _FULL_ONLY if self.strategy == "head" else _HEAD_ONLY
        given = [name for name in foreign if getattr(self, name) is not None]
        if given:
            other = "full" if self.strategy == "head" else "head"
            raise ValueError(f"{', '.join(given)}: only for strategy {other!r}, not for {self.strategy!r}")
        if self.strategy == "head" and self.weights == NO_WEIGHTS:
            raise ValueError("strategy 'head' keeps the backbone as it is and so needs weights 'pretrained'")
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
class Plan:
    """A recipe resolved against a version: nothing left open, with the reasons."""

    backbone: str
    strategy: Strategy
    weights: str
    """`pretrained`, the name of published weights, or `none`."""
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    l2_grid: tuple[float, ...]
    folds: int
    reasons: tuple[str, ...] = field(default=())


def resolve(recipe: Recipe, version: VersionFacts) -> Plan:
    """The plan for `recipe` on a version with these facts."""
    decide = _plan_head if recipe.strategy == "head" else _plan_full
    return decide(recipe, version)


def _plan_head(recipe: Recipe, version: VersionFacts) -> Plan:
    folds = max(2, min(5, version.smallest_class))
    reasons = [
        f"Every layer of {recipe.backbone} stays as pre-trained; only a new linear classifier for the "
        f"{version.classes} labels is trained, on features computed once for {version.train_images} images.",
    ]
    if recipe.l2 is not None:
        reasons.append(f"L2 penalty {recipe.l2:g} as asked.")
    elif version.smallest_class < 2:
        reasons.append("One class has a single training image, too few to cross-validate: L2 penalty 1.")
    else:
        reasons.append(f"L2 penalty chosen among {len(L2_GRID)} values by {folds}-fold cross-validation.")
    if recipe.l2 is not None:
        grid: tuple[float, ...] = (recipe.l2,)
    else:
        grid = L2_GRID if version.smallest_class >= 2 else (1.0,)
    return Plan(
        backbone=recipe.backbone,
        strategy="head",
        weights=recipe.weights,
        seed=recipe.seed,
        epochs=0,
        batch_size=0,
        learning_rate=0.0,
        weight_decay=0.0,
        l2_grid=grid,
        folds=folds,
        reasons=tuple(reasons),
    )


def _plan_full(recipe: Recipe, version: VersionFacts) -> Plan:
    scratch = recipe.weights == NO_WEIGHTS
    epochs = recipe.epochs or (30 if scratch else 10)
    batch_size = recipe.batch_size or max(2, min(32, version.train_images // 8))
    learning_rate = recipe.learning_rate or (0.05 if scratch else 0.01) * batch_size / 32
    named = "its pre-trained weights" if recipe.weights == "pretrained" else f"its weights {recipe.weights}"
    start = "random initialisation" if scratch else named
    return Plan(
        backbone=recipe.backbone,
        strategy="full",
        weights=recipe.weights,
        seed=recipe.seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=1e-4 if recipe.weight_decay is None else recipe.weight_decay,
        l2_grid=(),
        folds=0,
        reasons=(
            f"Every layer of {recipe.backbone} is trained from {start}, with a new classifier for the "
            f"{version.classes} labels.",
            f"{epochs} epochs of {version.train_images} images in batches of {batch_size}, SGD with momentum, "
            f"cosine learning rate with a peak of {learning_rate:g}.",
        ),
    )
