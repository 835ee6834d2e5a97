"""What the labels of a base have lost in the classifier that was trained from it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier
from app.evaluation import OldLabel
from app.warmstart import WarmStart
from worker.training import evaluate, warm
from worker.training.data import Images, Splits
from worker.training.events import Emit, OldLabelsJudged
from worker.training.warm import Base


@dataclass(frozen=True)
class Pair:
    """A base and what was trained from it, on `splits`, replayed images included."""

    base: Base
    backbone: str
    start: WarmStart
    classifier: Classifier
    splits: Splits


def judge(pair: Pair, *, max_pixels: int, emit: Emit, device: torch.device) -> tuple[OldLabelsJudged, ...]:
    """The figures on the base's own validation images, where these are still there, and on those of the new version;
    none where no image is left that neither was trained on. Raises `BadImage`."""

    def seen_by(network: Classifier) -> Callable[[Images], NDArray[np.float64]]:
        form = classifiers.inference_form(network).to(device)
        return lambda images: evaluate.predict(
            form,
            images,
            network.preprocessing,
            max_pixels=max_pixels,
            phase="old labels",
            emit=emit,
            device=device,
        )

    before, after = seen_by(warm.network(pair.backbone, pair.base)), seen_by(pair.classifier)
    found = []
    for images_of, images in _images(pair):
        if len(images):
            found.append(_judged(pair, images_of, images.targets, before(images), after(images)))
            emit(found[-1])
    return tuple(found)


def _images(pair: Pair) -> Iterator[tuple[str, Images]]:
    trained_on = set(pair.splits.train.sha256)
    base = pair.base
    if base.splits is not None:
        # With what the new one has learnt by heart it would look better than it is, and the base with what it has.
        yield "base", warm.old_images_of_base(base, pair.splits.labels, pair.start, without=trained_on)
        trained_on |= set(base.splits.train.sha256)
    yield "version", warm.old_images(pair.splits, pair.start, without=trained_on)


def _judged(
    pair: Pair, images_of: str, targets: NDArray[np.int64], before: NDArray[np.float64], after: NDArray[np.float64]
) -> OldLabelsJudged:
    """Of probabilities `(N, K)` before, of the base's labels, and after, of the new ones."""
    places = {label: place for place, label in enumerate(pair.splits.labels)}
    new = np.array([places[one.new] for one in pair.start.kept], np.int64)
    old = np.array([pair.base.labels.index(one.old) for one in pair.start.kept], np.int64)
    hits = _Hits(
        base=new[before[:, old].argmax(axis=1)] == targets,
        all=after.argmax(axis=1) == targets,
        among_old=new[after[:, new].argmax(axis=1)] == targets,
    )
    base, overall, among = hits.shares(np.ones(len(targets), bool))
    return OldLabelsJudged(
        images_of=images_of,
        images=len(targets),
        base_accuracy=base,
        accuracy=overall,
        accuracy_among_old=among,
        lost=100 * (base - overall),
        forgotten=100 * (base - among),
        labels=tuple(_labels(pair.splits.labels, new, targets, hits)),
    )


@dataclass(frozen=True)
class _Hits:
    """For each image `(N,)` whether it is judged rightly."""

    base: NDArray[np.bool_]
    all: NDArray[np.bool_]
    among_old: NDArray[np.bool_]

    def shares(self, chosen: NDArray[np.bool_]) -> tuple[float, float, float]:
        return float(self.base[chosen].mean()), float(self.all[chosen].mean()), float(self.among_old[chosen].mean())


def _labels(
    labels: Sequence[str], kept: NDArray[np.int64], targets: NDArray[np.int64], hits: _Hits
) -> Iterator[OldLabel]:
    for place in kept:
        chosen = targets == place
        if chosen.any():
            yield OldLabel(labels[place], int(chosen.sum()), *hits.shares(chosen))
