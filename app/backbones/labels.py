"""The labels that published weights were trained on, and how a data set's match them: by name, never by place."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from app import errors
from app.backbones.catalogue import Weights
from app.libraries import timm_data, torchvision_models

_SEPARATORS = re.compile(r"[\s_\-]+")


@dataclass(frozen=True)
class Match:
    """One label of a data set, and what the weights know of it."""

    label: str
    index: int
    """Its place among the labels of the data set."""
    known_as: str | None
    """The label of the same name that the weights were trained on, None for one they never had."""
    known_indices: tuple[int, ...]
    """The places of that label among those of the weights; more than one where two of them share the name."""

    @property
    def kind(self) -> str:
        """`same` at the same place, `moved` at another one, or `new`."""
        if self.known_as is None:
            return "new"
        return "same" if self.index in self.known_indices else "moved"


@dataclass(frozen=True)
class Matches:
    """How labels match: `matches` in the order of the data set; `missing` are those that the data set lacks."""

    matches: tuple[Match, ...]
    missing: tuple[str, ...]


def labels(weights: Weights) -> tuple[str, ...]:
    """What `weights` were trained to tell apart: `labels(weights)[i]` is the meaning of output i.

    Synonyms of one label are separated by commas. Raises `NotFound` where nobody says it.
    """
    if not weights.classes:
        raise errors.NotFound(f"{weights.name} come without a classifier, so without labels", code="no_labels")
    if weights.hub is None:
        return _of_torchvision()
    subset = timm_data.infer_imagenet_subset({"num_classes": weights.classes})
    if subset is None:
        raise errors.NotFound(
            f"what the {weights.classes} outputs of {weights.name} mean is not published", code="labels_not_published"
        )
    return _of_imagenet(subset)


def match(wanted: Sequence[str], known: Sequence[str]) -> Matches:
    """Each of the labels `wanted` beside the one of `known` that means the same.

    Case, underscores, hyphens and accents do not matter, and any of the synonyms of a known label will do.
    """
    by_name: dict[str, list[int]] = {}
    # A label's first name counts before the synonyms of others: `crane` is the bird before it is a machine.
    for position in range(max((len(_names(label)) for label in known), default=0)):
        level: dict[str, list[int]] = {}
        for index, label in enumerate(known):
            names = _names(label)
            if position < len(names):
                level.setdefault(names[position], []).append(index)
        for name, indices in level.items():
            by_name.setdefault(name, indices)
    matches = []
    for index, label in enumerate(wanted):
        indices = next((by_name[name] for name in (_plain(label), *_names(label)) if name in by_name), [])
        matches.append(Match(label, index, known[indices[0]] if indices else None, tuple(indices)))
    found = {index for one in matches for index in one.known_indices}
    return Matches(tuple(matches), tuple(label for index, label in enumerate(known) if index not in found))


def _names(label: str) -> list[str]:
    return [name for name in (_plain(part) for part in label.split(",")) if name]


def _plain(label: str) -> str:
    decomposed = unicodedata.normalize("NFKD", label)
    bare = "".join(character for character in decomposed if not unicodedata.combining(character))
    return _SEPARATORS.sub(" ", bare.casefold()).strip()


@cache
def _of_torchvision() -> tuple[str, ...]:
    # All of torchvision's classifiers share them.
    return tuple(torchvision_models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


@cache
def _of_imagenet(subset: str) -> tuple[str, ...]:
    return tuple(timm_data.ImageNetInfo(subset).label_descriptions())
