"""Starting from a finished classifier: its values, its rows for the labels that are kept, and what it was made from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier
from app.backbones.preprocess import Preprocessing
from app.backbones.taps import Outlet
from app.warmstart import Kept, WarmStart
from worker.training import features
from worker.training.data import Images, Joined, Relabelled, Selection, Splits
from worker.training.probe import Prior

HOLD = 100.0
"""How many times as strongly as new rows old ones are held where they are, if their labels have no more images now than
the base had: then they hardly move. On flowers with few photos of the old labels 1 forgot up to 4 points, 20 half as
much, and the classifier as a whole was as good."""

_WEIGHT, _BIAS = "head.weight", "head.bias"


@dataclass(frozen=True)
class Base:
    """A finished classifier to start from; `labels[i]` is the meaning of its output i."""

    labels: tuple[str, ...]
    preprocessing: Preprocessing
    state: Mapping[str, Tensor]
    """As `Classifier.state` gives it."""
    outlet: Outlet
    splits: Splits | None
    """The images that it was made from; None where they are gone."""
    learned: Mapping[str, int]
    """How many images of each label it has learnt from, its own bases included; empty where that is unknown."""

    @cached_property
    def sha256(self) -> str:
        """Of all that its features depend on: every value but those of the classifier, and where features come out."""
        body = {name: value for name, value in self.state.items() if name not in (_WEIGHT, _BIAS)}
        return hashlib.sha256(f"{features.digest(body)} {self.outlet}".encode()).hexdigest()


def head(base: Base, labels: Sequence[str], kept: Sequence[Kept]) -> Prior:
    """The classifier that a training for `labels` starts from: rows of kept labels are those of the base, bit for bit,
    wherever they lie there; the others are the mean of these, a label that is as likely as they are."""
    places = {label: place for place, label in enumerate(labels)}
    new = [places[one.new] for one in kept]
    old = [base.labels.index(one.old) for one in kept]
    weight, bias = base.state[_WEIGHT][old], base.state[_BIAS][old]
    whole = Prior(weight.mean(dim=0).repeat(len(labels), 1), bias.mean().repeat(len(labels)), torch.zeros(len(labels)))
    whole.weight[new], whole.bias[new], whole.hold[new] = weight, bias, HOLD
    return whole


def prior(base: Base, splits: Splits, kept: Sequence[Kept]) -> Prior:
    """`head`, with each old row held as its images allow: where the version has more of them than the base had, they
    know better."""
    begun = head(base, splits.labels, kept)
    now = np.bincount(splits.train.targets, minlength=len(splits.labels))
    for one in kept:
        new, before = splits.labels.index(one.new), _had(base, one.old)
        if before is not None:
            begun.hold[new] *= min(1.0, before / max(1, now[new]))
    return begun


def _had(base: Base, label: str) -> int | None:
    """How many images of `label` the base has learnt from, as far as that is known."""
    learned = base.learned.get(label)
    if base.splits is None:
        return learned
    return max(learned or 0, int((base.splits.train.targets == base.labels.index(label)).sum()))


def build(backbone: str, base: Base, labels: Sequence[str], kept: Sequence[Kept]) -> Classifier:
    """A classifier for `labels` with copies of the base's values and with `head`; it has no auxiliary heads. Raises
    `Unavailable` where the values do not fit."""
    begun = head(base, labels, kept)
    state = {name: value.clone() for name, value in base.state.items()}
    state |= {_WEIGHT: begun.weight, _BIAS: begun.bias}
    return classifiers.restore(backbone, len(labels), base.preprocessing, state, outlet=base.outlet)


def with_replay(splits: Splits, base: Base, start: WarmStart) -> Splits:
    """`splits` with the images that the base was trained on besides, as far as their labels are kept and `splits` has
    them nowhere: in the validation images they would be learnt by heart, and a label given anew counts."""
    return replace(splits, train=Joined((splits.train, replayable(splits, base, start))))


def replayable(splits: Splits, base: Base, start: WarmStart) -> Images:
    """What `with_replay` adds to `splits`."""
    assert base.splits is not None
    known = {*splits.train.sha256, *splits.validation.sha256}
    return _kept(base.splits.train, base, splits.labels, start, without=known)


def seen(base: Base, splits: Splits) -> int:
    """How many of the validation images of `splits` the base was trained on, as far as its own images are there."""
    known = set() if base.splits is None else set(base.splits.train.sha256)
    return sum(digest_of in known for digest_of in splits.validation.sha256)


def old_images(splits: Splits, start: WarmStart, *, without: set[str]) -> Images:
    """The validation images of `splits` with labels that are kept, but for those `without` these hashes."""
    known = {one.new for one in start.kept}
    wanted = np.array([label in known for label in splits.labels], bool)
    return _selected(splits.validation, wanted[splits.validation.targets], without)


def old_images_of_base(base: Base, labels: Sequence[str], start: WarmStart, *, without: set[str]) -> Images:
    """The validation images of the base with labels that are kept, as images of `labels`."""
    assert base.splits is not None
    return _kept(base.splits.validation, base, labels, start, without=without)


def _kept(images: Images, base: Base, labels: Sequence[str], start: WarmStart, *, without: set[str]) -> Images:
    assert base.splits is not None
    places = {label: place for place, label in enumerate(labels)}
    names = {one.old: one.new for one in start.kept}
    becomes = np.array([places[names[label]] if label in names else -1 for label in base.splits.labels], np.int64)
    chosen = _selected(images, becomes[images.targets] >= 0, without)
    return Relabelled(chosen, becomes)


def _selected(images: Images, wanted: NDArray[np.bool_], without: set[str]) -> Selection:
    """Each image once."""
    seen = set(without)
    positions = []
    for position, digest_of in enumerate(images.sha256):
        if wanted[position] and digest_of not in seen:
            seen.add(digest_of)
            positions.append(position)
    return Selection(images, np.array(positions, np.int64))


def network(backbone: str, base: Base) -> Classifier:
    """The base itself."""
    return classifiers.restore(backbone, len(base.labels), base.preprocessing, base.state, outlet=base.outlet)
