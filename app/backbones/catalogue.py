"""The backbones that can be fine-tuned, as data. Knows no torch; `app.backbones.networks` builds them.

What is written by hand about them lies in `families`; what is computed or comes from the libraries lies in
`figures.json` and `timm.json`, which `python -m app.backbones.figures` writes.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from app import errors
from app.backbones.chain import AuxiliaryHead, Chain
from app.backbones.entry import Entry, Source
from app.backbones.families import ENTRIES
from app.backbones.preprocess import Preprocessing
from app.facts import NetworkFacts

TIMM_PREFIX = "timm:"
"""In front of the name of any network of timm that is not in the catalogue."""

PRETRAINED = "pretrained"
"""Asks for the weights that are listed first."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Published pre-trained weights of a backbone, together with the preprocessing they were trained for."""

    name: str
    file_name: str
    url: str | None
    """Where the publisher offers the file; None where it comes with this package."""
    hub: str | None
    """Repository on the Hugging Face hub, for weights that are offered there."""
    preprocessing: Preprocessing
    classes: int
    """0 for weights that come without a classifier."""
    top1: float | None
    """Accuracy on ImageNet-1K in %, where the publisher gives it."""
    top5: float | None
    licence: str

    @property
    def sha256_prefix(self) -> str | None:
        """The first hex digits of the file's sha256, where they are part of its name."""
        match = re.search(r"-([0-9a-f]{8,})\.(?:pth|safetensors)$", self.file_name)
        return None if match is None else match[1]


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """A stage and what comes out of it for one image at the input size."""

    name: str
    channels: int
    size: tuple[int, int] | None
    """Height and width of its maps, None where it is not known."""
    parameters: int | None
    """Of this stage alone."""
    macs: int | None
    receptive_field: int | None
    """Side in pixels of what one of its values sees; None where it sees all, or where that is not known."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network that can be fine-tuned."""

    name: str
    family: str
    year: int | None
    paper: str
    summary: str
    source: Source
    parameters: int
    """With the classifier for the published classes, without auxiliary heads."""
    gmac: float | None
    """Multiply-adds for one image at `input_size`, in thousand millions."""
    activations: int | None
    """Values that the convolutions and dense layers give for one image."""
    kept_bytes: int | None
    """What a training in single precision keeps of an image at `input_size` on its way to the loss, for the way back;
    None where that is not known."""
    layers: int | None
    """Convolutions and dense layers on the longest way, without short cuts and auxiliary heads."""
    receptive_field: int | None
    """Side in pixels of what one value of the last stage sees; None where it sees all, or where that is not known."""
    feature_dim: int
    """Values that the classifier gets for an image."""
    min_size: int
    """Side in pixels of the smallest image that the network can work on."""
    fixed_size: bool
    """Whether the network works on images of one size only, that of its weights."""
    scratch_preprocessing: Preprocessing
    """What is done to images where no weights bring their own preprocessing along."""
    normalises: bool
    """Whether its layers normalise what they pass on (BatchNorm, LayerNorm and their kin)."""
    pre_logits: bool | None
    """Whether layers that learn lie between the last stage and the classifier; None where that is not known."""
    stages: tuple[StageFacts, ...]
    weights: tuple[Weights, ...]
    chain: Chain | None
    """How the network is gone through; None for networks outside of the catalogue, which timm itself goes through."""

    @property
    def input_size(self) -> int:
        """Side of the image that the network sees, in pixels."""
        return self.scratch_preprocessing.crop

    @property
    def facts(self) -> NetworkFacts:
        """What a plan needs to know of it, with its first weights."""
        return self.facts_with(PRETRAINED)

    def facts_with(self, choice: str) -> NetworkFacts:
        """What a plan that starts from `choice` needs to know of it."""
        crop = self.preprocessing_with(choice).crop
        values = [self._values_behind(stage, crop) for stage in self.stages]
        return NetworkFacts(
            stages=tuple(stage.name for stage in self.stages),
            normalises=self.normalises,
            pre_logits=self.pre_logits,
            can_enter=self.chain is not None,
            auxiliary=() if self.chain is None else self.chain.auxiliary_stages,
            values=tuple(count for count in values if count is not None) if None not in values else (),
        )

    def preprocessing_with(self, choice: str) -> Preprocessing:
        """What is done to images in a training that starts from `choice`: that of the weights of this name, of the
        first ones for `pretrained`, and for all else that of random values."""
        names = [*([PRETRAINED] if self.weights else []), *(weights.name for weights in self.weights)]
        return self.find_weights(choice).preprocessing if choice in names else self.scratch_preprocessing

    def _values_behind(self, stage: StageFacts, crop: int) -> int | None:
        """How many activations come out of `stage` for an image of `crop` pixels; None where that is not known."""
        if stage.size is not None:
            height, width = (math.ceil(side * crop / self.input_size) for side in stage.size)
            return stage.channels * height * width
        patch = self.stages[0].receptive_field
        if self.chain is None or self.chain.layout != "tokens" or patch is None:
            return None
        return stage.channels * (1 + (crop // patch) ** 2)  # the class token in front

    @property
    def architecture(self) -> str:
        """The name that its library has for it."""
        return self.name.removeprefix(TIMM_PREFIX).partition(".")[0]

    @property
    def auxiliary(self) -> tuple[AuxiliaryHead, ...]:
        """Classifiers on inner layers that only help in training."""
        return () if self.chain is None else self.chain.auxiliary

    @property
    def head(self) -> str | None:
        """The module that is replaced by a new classifier; None where timm knows it."""
        return None if self.chain is None else self.chain.head

    @property
    def top1(self) -> float | None:
        """The best accuracy on ImageNet-1K in % that a publisher gives for one of the weights."""
        return max((weights.top1 for weights in self.weights if weights.top1 is not None), default=None)

    def find_weights(self, choice: str) -> Weights:
        """The weights called `choice`, or the first ones for `pretrained`.

        Raises `UnknownName`, or `Invalid` where there are none at all.
        """
        if not self.weights:
            raise errors.Invalid(
                f"{self.name} has no pre-trained weights; train it with strategy 'scratch'",
                code="backbone_has_no_weights",
            )
        if choice == PRETRAINED:
            return self.weights[0]
        found = {weights.name: weights for weights in self.weights}
        if choice not in found:
            raise errors.UnknownName(f"{self.name} weights", choice, found, code="unknown_weights")
        return found[choice]


@cache
def backbones() -> Mapping[str, Backbone]:
    """The networks of the catalogue by name, smallest first."""
    figures = _read("figures.json")
    entries = [assemble(entry, figures[entry.name]) for entry in ENTRIES]
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.parameters)}


def find(name: str) -> Backbone:
    """The backbone called `name`, also `timm:<name>`. Raises `UnknownName`."""
    if name.startswith(TIMM_PREFIX):
        return _find_in_timm(name)
    known = backbones()
    if name not in known:
        # A name of timm without the prefix is a common slip.
        hidden = f"{TIMM_PREFIX}{name}"
        raise errors.UnknownName("backbone", name, [*known, hidden] if name in _read("timm.json") else known)
    return known[name]


def select(
    *,
    family: str | None = None,
    max_params: int | None = None,
    max_gmac: float | None = None,
    has_weights: bool | None = None,
) -> list[Backbone]:
    """The networks of the catalogue for which all of this holds, smallest first. Raises `UnknownName`."""
    entries = backbones().values()
    families = {entry.family.casefold(): entry.family for entry in entries}
    if family is not None and family.casefold() not in families:
        raise errors.UnknownName("family", family, families.values(), code="unknown_family")
    return [
        entry
        for entry in entries
        if (family is None or entry.family.casefold() == family.casefold())
        and (max_params is None or entry.parameters <= max_params)
        and (max_gmac is None or (entry.gmac is not None and entry.gmac <= max_gmac))
        and (has_weights is None or bool(entry.weights) == has_weights)
    ]


def sort(entries: Sequence[Backbone], *, by: str) -> list[Backbone]:
    """`entries` by an attribute of theirs, falling with `-` in front; those without it come last."""
    name, falling = by.removeprefix("-"), by.startswith("-")
    values = {entry.name: getattr(entry, name) for entry in entries}
    known = [entry for entry in entries if values[entry.name] is not None]
    unknown = [entry for entry in entries if values[entry.name] is None]
    return sorted(known, key=lambda entry: values[entry.name], reverse=falling) + unknown


def _find_in_timm(name: str) -> Backbone:
    figures = _read("timm.json")
    architecture, _, tag = name.removeprefix(TIMM_PREFIX).partition(".")
    if architecture not in figures:
        raise errors.UnknownName("backbone", name, [f"{TIMM_PREFIX}{known}" for known in figures])
    known = figures[architecture]
    if tag:
        # The tag is the name of one of the weights: those come first then.
        tagged = [weights for weights in known["weights"] if weights["name"] == tag]
        if not tagged:
            names = [f"{TIMM_PREFIX}{architecture}.{weights['name']}" for weights in known["weights"]]
            raise errors.UnknownName("backbone", name, names)
        known = {**known, "weights": [*tagged, *(weights for weights in known["weights"] if weights not in tagged)]}
    entry = Entry(
        name=name,
        family="timm",
        year=0,
        paper="",
        summary="A network of timm outside of the catalogue.",
        chain=Chain(stages=(), pool=(), head=""),
        source="timm",
        fixed_size=known["fixed_size"],
    )
    return assemble(entry, known)


def assemble(entry: Entry, figures: Mapping[str, Any]) -> Backbone:
    """The backbone of what is written by hand and what is computed."""
    weights = tuple(_weights(entry, facts) for facts in figures["weights"])
    scratch = entry.preprocessing or Preprocessing.from_json(figures["preprocessing"])
    return Backbone(
        name=entry.name,
        family=entry.family,
        year=entry.year or None,
        paper=entry.paper,
        summary=entry.summary,
        source=entry.source,
        parameters=figures["parameters"],
        gmac=figures.get("gmac"),
        activations=figures.get("activations"),
        kept_bytes=figures.get("kept_bytes"),
        layers=figures.get("layers"),
        receptive_field=figures.get("receptive_field"),
        feature_dim=figures["feature_dim"],
        min_size=figures["min_size"],
        fixed_size=entry.fixed_size,
        normalises=figures["normalises"],
        pre_logits=figures.get("pre_logits"),
        scratch_preprocessing=scratch,
        stages=tuple(_stage(facts) for facts in figures["stages"]),
        weights=weights,
        chain=entry.chain if entry.chain.stages else None,
    )


def _stage(facts: Mapping[str, Any]) -> StageFacts:
    size = facts.get("size")
    return StageFacts(
        name=facts["name"],
        channels=facts["channels"],
        size=None if size is None else (size[0], size[1]),
        parameters=facts.get("parameters"),
        macs=facts.get("macs"),
        receptive_field=facts.get("receptive_field"),
    )


def _weights(entry: Entry, facts: Mapping[str, Any]) -> Weights:
    top1, top5 = entry.accuracy.get(facts["name"], (facts.get("top1"), facts.get("top5")))
    return Weights(
        name=facts["name"],
        file_name=facts["file_name"],
        url=facts.get("url"),
        hub=facts.get("hub"),
        preprocessing=Preprocessing.from_json(facts["preprocessing"]),
        classes=facts["classes"],
        top1=top1,
        top5=top5,
        licence=facts["licence"],
    )


@cache
def _read(file_name: str) -> Any:
    return json.loads(resources.files("app.backbones").joinpath(file_name).read_text(encoding="utf-8"))
