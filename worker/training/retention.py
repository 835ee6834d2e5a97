"""What the labels of a base have lost in the classifier that was trained from it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from app import intervals
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier
from app.evaluation import LOST_AT_MOST, LOST_AT_MOST_WITH_REPLAY, OldLabel
from app.intervals import Interval, Pairs
from app.warmstart import WarmStart, told
from app.wording import counted
from worker.training import evaluate, warm
from worker.training.data import Images, Splits
from worker.training.events import Emit, OldLabelsJudged, TooMuchLost
from worker.training.warm import Base

_WORST = 3
"""Labels that a warning names at most."""


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
            judged = _judged(pair, images_of, images.targets, before(images), after(images))
            limit = LOST_AT_MOST_WITH_REPLAY if pair.start.replay else LOST_AT_MOST
            is_over = judged.lost > limit
            found.append(replace(judged, limit=limit, warning=_warning(pair, judged, limit) if is_over else None))
            emit(found[-1])
            if found[-1].warning is not None:
                emit(TooMuchLost(images_of=images_of, lost=judged.lost, limit=limit, message=found[-1].warning))
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
        interval=hits.lost,
    )


@dataclass(frozen=True)
class _Hits:
    """For each image `(N,)` whether it is judged rightly."""

    base: NDArray[np.bool_]
    all: NDArray[np.bool_]
    among_old: NDArray[np.bool_]

    def shares(self, chosen: NDArray[np.bool_]) -> tuple[float, float, float]:
        return float(self.base[chosen].mean()), float(self.all[chosen].mean()), float(self.among_old[chosen].mean())

    @property
    def lost(self) -> Interval:
        """What the images leave open of the points that were lost."""
        lost, won = int((self.base & ~self.all).sum()), int((self.all & ~self.base).sum())
        found = intervals.of_paired_difference(Pairs(lost, won, len(self.base)))
        return Interval(100 * found.low, 100 * found.high)


def _labels(
    labels: Sequence[str], kept: NDArray[np.int64], targets: NDArray[np.int64], hits: _Hits
) -> Iterator[OldLabel]:
    for place in kept:
        chosen = targets == place
        if chosen.any():
            yield OldLabel(labels[place], int(chosen.sum()), *hits.shares(chosen))


def _warning(pair: Pair, judged: OldLabelsJudged, limit: float) -> str:
    assert judged.interval is not None
    span = f"95 %: {judged.interval.low:.1f} to {judged.interval.high:.1f}"
    whose = "its own" if judged.images_of == "base" else "the new version's"
    return (
        f"The labels of {pair.start.base} have lost {judged.lost:.1f} points on {whose} held-out images ({span}), more "
        f"than {limit:g}: "
        f"{_causes(judged)}. {_advice(pair, judged)}"
    )


def _causes(judged: OldLabelsJudged) -> str:
    forgotten, taken = (round(points, 1) for points in (judged.forgotten, judged.lost - judged.forgotten))
    if taken <= 0:
        return "they are told from one another less well"
    if forgotten <= 0:
        return "they are taken for labels that are new"
    return (
        f"{forgotten:.1f} because they are told from one another less well, the rest because they are taken for labels "
        "that are new"
    )


def _advice(pair: Pair, judged: OldLabelsJudged) -> str:
    base, start = pair.base, pair.start
    worst = sorted(judged.labels, key=lambda label: label.accuracy - label.base_accuracy)[:_WORST]
    losers = told([label.label for label in worst if label.accuracy < label.base_accuracy])
    more = f"Images of {losers} would help most, as these lose most."
    if base.splits is None:
        return f"The images that {start.base} was made from are gone, so they cannot be replayed. {more}"
    lacking = 0 if start.replay else len(warm.replayable(pair.splits, base, start))
    if lacking:
        images = counted(lacking, "image")
        return f"Train with replay: that adds {images} that {start.base} was trained on and the version lacks."
    return f"There are no more images of {start.base} to replay. {more}"
