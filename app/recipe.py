"""What to train, as it is asked for: a value shared by the API and the stored job. `app.plan` resolves it."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from app.augmentation import MIXED, Augmentation
from app.contradictions import refuse
from app.limits import Budget, Search
from app.numbers import Flag, Integer, Number

Strategy = Literal["head", "stage_probe", "top", "full", "scratch"]
Wish = Literal["auto", "head", "stage_probe", "top", "full", "scratch"]
Reinit = Literal["none", "head", "retrained"]
Unfreeze = Literal["at_once", "gradual"]
Precision = Literal["auto", "fp32", "bf16"]
PRETRAINED = "pretrained"
NO_WEIGHTS = "none"
AUTO_BACKBONE = "auto"
OF_BASE = "base"
BEST_STAGE = "best"
ALL_STAGES = "all"

Optimizer = Literal["sgd", "adamw"]
Balance = Literal["none", "weights", "sampler"]
LabelPrior = Literal["learned", "training"]

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
    "precision",
    "devices",
)
FIELDS: dict[Strategy, tuple[str, ...]] = {
    "head": ("l2",),
    "stage_probe": ("l2", "stage"),
    "top": (*_DESCENT, "l2", "freeze", "reinit", "views"),
    "full": (*_DESCENT, "l2", "reinit", "layer_decay", "unfreeze"),
    "scratch": _DESCENT,
}
"""The fields that only some strategies know, by strategy; `auto` takes them all, for whichever it decides on."""


LabelName = Annotated[str, Field(min_length=1, max_length=500)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Recipe:
    """How to train. What is left out is decided by the plan, which gives its reasons."""

    backbone: Annotated[
        str,
        Field(
            description="Name of a backbone of the catalogue; `auto` ranks all whose weights are at hand and takes the "
            "best within the `budget`.",
            examples=["mobilenet_v2"],
        ),
    ]
    budget: Annotated[Budget | None, Field(description="What a prediction may take, where the backbone is `auto`.")] = (
        None
    )
    strategy: Annotated[
        Wish,
        Field(
            description="`auto` measures how much data there is and how close it is to what the backbone knows, and "
            "decides for one of the others; `head` trains a linear classifier on the frozen backbone; `stage_probe` "
            "the same on the stage where it does best; `top` then trains the last stages, too; `full` every layer "
            "from pre-trained values, `scratch` from random ones."
        ),
    ] = "auto"
    weights: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=100,
            description="`pretrained` starts from the backbone's first published weights, the name of others from "
            "those, `none` from random values. Left out, it is `pretrained`, but for `scratch`.",
            examples=["pretrained", "IMAGENET1K_V2"],
        ),
    ] = None
    base: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=127,
            description="A model version of one's own to start from in place of published weights: `name@version`, "
            "`name:alias`, or `name` for its newest one (`auto`, `head`, `top`, `full`). Labels that it knows keep "
            "their rows of its classifier, by name; other labels get new ones.",
            examples=["flowers@1"],
        ),
    ] = None
    label_map: Annotated[
        dict[LabelName, LabelName] | None,
        Field(
            min_length=1,
            max_length=10_000,
            description="Labels of `base` that are called otherwise in the version: from the old name to the new one.",
            examples=[{"rose": "roses"}],
        ),
    ] = None
    replay: Annotated[
        Flag | None,
        Field(
            description="Whether the training images that `base` was made from are trained on besides, as far as their "
            "labels are kept and the version has not got them; not if left out."
        ),
    ] = None
    label_prior: Annotated[
        LabelPrior | None,
        Field(
            description="How frequent the labels of `base` are taken to be: as in the `training`, or as in all images "
            "that the base has `learned` from besides, where it has more, and as the new labels at most. Left out, it "
            "is `learned`, but for a `balance`."
        ),
    ] = None
    seed: Annotated[Integer, Field(ge=0, lt=2**31, description="Seed of everything random in the training.")] = 0
    epochs: Annotated[
        Integer | None, Field(ge=1, le=1000, description="Passes over the data (`top`, `full`, `scratch`).")
    ] = None
    batch_size: Annotated[
        Integer | None, Field(ge=2, le=1024, description="Images a batch (`top`, `full`, `scratch`).")
    ] = None
    accumulate: Annotated[
        Integer | None,
        Field(ge=1, le=64, description="Batches that make one step of the optimizer (`top`, `full`, `scratch`)."),
    ] = None
    optimizer: Annotated[
        Optimizer | None, Field(description="`sgd` with momentum or `adamw` (`top`, `full`, `scratch`).")
    ] = None
    learning_rate: Annotated[
        Number | None, Field(gt=0, le=10, description="Peak learning rate (`top`, `full`, `scratch`).")
    ] = None
    weight_decay: Annotated[
        Number | None, Field(ge=0, le=1, description="L2 penalty of the weights (`top`, `full`, `scratch`).")
    ] = None
    label_smoothing: Annotated[
        Number | None,
        Field(
            ge=0, lt=1, description="Share of each target that is spread over all labels (`top`, `full`, `scratch`)."
        ),
    ] = None
    balance: Annotated[
        Balance | None,
        Field(
            description="What evens out labels with few images: `weights` counts theirs more, `sampler` shows them "
            "more often (`top`, `full`, `scratch`)."
        ),
    ] = None
    augmentation: Annotated[
        Augmentation | None, Field(description="How training images are changed (`top`, `full`, `scratch`).")
    ] = None
    ema: Annotated[
        Number | None,
        Field(
            ge=0,
            lt=1,
            description="Decay of the moving average of the weights that is kept; 0 for none (`top`, `full`, "
            "`scratch`).",
        ),
    ] = None
    patience: Annotated[
        Integer | None,
        Field(
            ge=1,
            le=1000,
            description="Stop after so many epochs without a better one; never if left out (`top`, `full`, `scratch`).",
        ),
    ] = None
    precision: Annotated[
        Precision | None,
        Field(
            description="Of the computation: `fp32`, `bf16` (mixed precision), or `auto`, which is bf16 on devices "
            "that are quicker with it and fp32 elsewhere (`top`, `full`, `scratch`)."
        ),
    ] = None
    devices: Annotated[
        Integer | None,
        Field(
            ge=1,
            le=64,
            description="How many of the worker's GPUs may share each batch; all of them if left out (`top`, `full`, "
            "`scratch`).",
        ),
    ] = None
    stage: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=100,
            description="The stage whose features are classified: its name, `best` for the one that does best "
            "in cross-validation, or `all` for a selection of the features of all stages (`stage_probe`).",
            examples=["best", "all", "layer3"],
        ),
    ] = None
    freeze: Annotated[
        str | None,
        Field(min_length=1, max_length=100, description="The last stage to stay as it is; else all but one (`top`)."),
    ] = None
    reinit: Annotated[
        Reinit | None,
        Field(
            description="What starts from random values: `none`, with a linear classifier fitted first as the head; "
            "the `head`; or all that is `retrained`, head included, for `top` alone (`top`, `full`)."
        ),
    ] = None
    layer_decay: Annotated[
        Number | None,
        Field(
            gt=0,
            le=1,
            description="By how much the learning rate shrinks from each stage to the one before it; 1 for one rate "
            "(`full`).",
        ),
    ] = None
    unfreeze: Annotated[
        Unfreeze | None,
        Field(
            description="Whether all stages are trained `at_once`, or `gradual`ly, one more at a time, beginning with "
            "the last (`full`)."
        ),
    ] = None
    views: Annotated[
        Integer | None,
        Field(ge=1, le=1000, description="How many views of each image the frozen stages are computed for (`top`)."),
    ] = None
    l2: Annotated[
        Number | None,
        Field(
            gt=0,
            le=1e6,
            description="L2 penalty of the linear classifier; cross-validated if left out (`head`, `stage_probe`, "
            "`top`, `full`).",
        ),
    ] = None
    deterministic: Annotated[
        Flag,
        Field(
            description="Whether a GPU, too, is to give the same model for the same recipe; slower, and refused where "
            "a layer of the network has no such way to be trained."
        ),
    ] = False
    search: Annotated[
        Search | None,
        Field(
            description="Whether trainings with other learning rates, layers, augmentations, epochs and weight decays "
            "are tried besides, as far as the recipe leaves these open, and the best is kept."
        ),
    ] = None

    @property
    def picks_backbone(self) -> bool:
        """Whether the backbone is to be chosen by a ranking."""
        return self.backbone == AUTO_BACKBONE

    @property
    def is_evened_out(self) -> bool:
        """Whether layers are trained with labels that are made alike frequent."""
        return self.strategy in ("top", "full", "scratch") and self.balance in ("weights", "sampler")

    @property
    def start(self) -> str:
        """`pretrained`, the name of published weights, `base`, or `none`."""
        if self.base is not None:
            return OF_BASE
        return self.weights or (NO_WEIGHTS if self.strategy == "scratch" else PRETRAINED)

    @property
    def origin(self) -> str:
        """What stays as it is, stays so: in words."""
        return "pre-trained" if self.base is None else f"in {self.base}"

    @property
    def origin_values(self) -> str:
        """What a training of all layers starts from, in words."""
        if self.base is not None:
            return f"the values of {self.base}"
        return "its pre-trained weights" if self.start == PRETRAINED else f"its weights {self.start}"

    @property
    def from_random(self) -> bool:
        """Whether every layer starts from random values."""
        return self.start == NO_WEIGHTS

    @model_validator(mode="after")
    def _fields_fit_strategy(self) -> Self:
        known = known_fields()
        foreign = sorted(known.difference(known if self.strategy == "auto" else FIELDS[self.strategy]))
        given = {name: getattr(self, name) for name in foreign if getattr(self, name) is not None}
        if given:
            refuse({name: (value, self._not_for_strategy(name)) for name, value in given.items()})
        return self

    def _not_for_strategy(self, field: str) -> str:
        takers = [strategy for strategy, fields in FIELDS.items() if field in fields]
        return f"not for strategy '{self.strategy}', only for {', '.join(takers)}"

    @model_validator(mode="after")
    def _fields_fit_base(self) -> Self:
        if self.base is None:
            given = {name: getattr(self, name) for name in _FOR_BASE if getattr(self, name) is not None}
            refuse({name: (value, "only with a base to start from") for name, value in given.items()})
            return self
        if self.strategy not in WITH_BASE:
            said = f"not for strategy '{self.strategy}'; those that start from a base are {', '.join(WITH_BASE)}"
            refuse({"base": (self.base, said)})
        if self.search is not None:
            refuse({"search": (None, "not with a base to start from, whose plan keeps close to it")})
        if self.weights is not None:
            refuse({"weights": (self.weights, "a base brings values of its own; give one or the other")})
        if self.reinit not in (None, "none"):
            said = f"a base's classifier is kept, which reinit '{self.reinit}' would make anew"
            refuse({"reinit": (self.reinit, said)})
        if self.picks_backbone:
            refuse({"backbone": (self.backbone, "a base has a backbone of its own; name that")})
        if self.label_prior == "learned" and self.is_evened_out:
            said = f"balance '{self.balance}' trains with all labels alike frequent; give one or the other"
            refuse({"label_prior": (self.label_prior, said)})
        return self

    @model_validator(mode="after")
    def _weights_fit_strategy(self) -> Self:
        if self.strategy == "scratch" and not self.from_random:
            refuse({"weights": (self.weights, "strategy 'scratch' starts from random values and so takes none")})
        if self.from_random and self.strategy not in ("auto", "full", "scratch"):
            said = f"strategy '{self.strategy}' keeps layers as they are and so needs weights 'pretrained'"
            refuse({"weights": (self.weights, said)})
        if self.from_random:
            given = {name: getattr(self, name) for name in _FOR_PRETRAINED if getattr(self, name) is not None}
            refuse({name: (value, "needs pre-trained weights to begin with") for name, value in given.items()})
        return self

    @model_validator(mode="after")
    def _fields_fit_backbone(self) -> Self:
        if self.picks_backbone and self.strategy != "auto":
            said = "backbone 'auto' goes with strategy 'auto' alone; name a backbone to set the strategy by hand"
            refuse({"strategy": (self.strategy, said)})
        if self.picks_backbone and self.weights not in (None, PRETRAINED):
            said = "backbone 'auto' compares the first published weights of each; name a backbone to choose others"
            refuse({"weights": (self.weights, said)})
        if self.budget is not None and not self.picks_backbone:
            refuse({"budget": (self.budget, "only for backbone 'auto', which chooses by it")})
        return self

    @model_validator(mode="after")
    def _fields_fit_one_another(self) -> Self:
        if self.strategy == "full" and self.reinit == "retrained":
            said = "with strategy 'full' that is every layer; strategy 'scratch' trains all from random values"
            refuse({"reinit": (self.reinit, said)})
        if self.l2 is not None and self.reinit not in (None, "none"):
            refuse({"l2": (self.l2, f"with reinit '{self.reinit}' no linear classifier is fitted")})
        if self.augmentation and self.augmentation.contradiction:
            refuse({"augmentation.strength": (self.augmentation.strength, self.augmentation.contradiction)})
        if self.views is not None and self.views > 1 and self.augmentation and not self.augmentation.changes_images:
            said = "with augmentation policy 'none' all views of an image are the same"
            refuse({"views": (self.views, said)})
        if self.strategy == "top" and self.augmentation:
            mixed = {name: getattr(self.augmentation, name) for name in MIXED}
            said = "not for strategy 'top', which keeps activations"
            refuse({f"augmentation.{name}": (value, said) for name, value in mixed.items() if value})
        return self


WITH_BASE: tuple[Wish, ...] = ("auto", "head", "top", "full")
"""The strategies that can start from a model version. The classifier of a `stage_probe` sees other features than that
of the base, whose rows would mean nothing there."""

_FOR_BASE = ("label_map", "replay", "label_prior")
_FOR_PRETRAINED = ("l2", "stage", "freeze", "reinit", "layer_decay", "unfreeze", "views")


def known_fields() -> set[str]:
    """Those that some strategies know and others do not."""
    return {name for fields in FIELDS.values() for name in fields}
