"""Probabilities that can be taken at their word: temperature scaling, and how far off they are.

Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from app.evaluation import Bin, Reliability, Trust
from worker.training import data, probe

BINS = 15
FOLDS = 5
COLDEST, HOTTEST = 0.25, 20.0
"""Between these a temperature is sought. Where few images are all labelled right, there would be no end to it."""

_VALUES_AT_ONCE = 2**17
"""A megabyte of them, which caches hold, and little memory besides whatever the number of labels."""
_MOST_STEPS = 100
_CLOSE = 1e-6
"""A step that changes the temperature by a smaller share is the last one: what is left is about the square of that."""
_TINY = 1e-300
_EPSILON = float(np.finfo(np.float64).eps)


def reliability(probabilities: NDArray[np.float64], targets: NDArray[np.int64], *, seed: int) -> Reliability:
    """Of `probabilities (N, K)` before and after scaling, each image scaled by what suits the other folds.

    The temperature is that which suits all images, and 1 where scaling does not lower the log-loss of images that it
    was not fitted to: it never raises it.
    """
    plain = trust(probabilities, targets)
    temperature = fit(probabilities, targets)
    after = _crossed(probabilities, targets, near=temperature, seed=seed)
    whole = _mean_loss(likelihoods(probabilities, targets, temperature))
    if after.log_loss >= plain.log_loss or whole > plain.log_loss:
        temperature, after = 1.0, plain
    return Reliability(temperature=temperature, folds=FOLDS, before=plain, after=after)


def fit(
    probabilities: NDArray[np.float64],
    targets: NDArray[np.int64],
    *,
    rows: NDArray[np.int64] | None = None,
    near: float = 1.0,
) -> float:
    """The temperature from `COLDEST` to `HOTTEST` with the least log-loss of the images at positions `rows (M,)`, by
    default of all, by Newton's method: as a function of the inverse temperature the loss is convex. It is found the
    sooner, the closer it is to `near`."""
    chosen = np.arange(len(targets)) if rows is None else rows
    bluntest, sharpest = 1 / HOTTEST, 1 / COLDEST
    low, high, sharpness = 0.0, math.inf, 1 / near
    for _ in range(_MOST_STEPS):
        slope, curvature = _derivatives(probabilities, targets, chosen, sharpness)
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        wanted = min(max(sharpness - slope / max(curvature, _TINY), bluntest), sharpest)
        # Before the bounds are looked at, to either side of which rounding puts what is found.
        if abs(wanted - sharpness) <= _CLOSE * sharpness:
            return 1 / wanted
        sharpness = wanted if low < wanted < high else float(np.sqrt(low * high))
    return 1 / sharpness


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """`probabilities (N, K)` with the logits they come from divided by `temperature`."""
    found = np.empty(probabilities.shape)
    for rows in _parts(*probabilities.shape):
        found[rows] = _softmax(_logits(probabilities[rows]) / temperature)
    return found


def likelihoods(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64], temperature: float
) -> NDArray[np.float64]:
    """What `tempered` has for the label of each image `(N,)`."""
    found = np.empty(len(targets))
    for rows in _parts(*probabilities.shape):
        found[rows] = _of_labels(tempered(probabilities[rows], temperature), targets[rows])
    return found


def log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Mean, in nats. A probability that is rounded to 0 would make it infinite."""
    return _mean_loss(_of_labels(probabilities, targets))


def trust(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> Trust:
    """Of `probabilities (N, K)`, in `BINS` bins of equal width that have their lower bound, and in one more for those
    of 1 where there are any."""
    right = probabilities.argmax(axis=1) == targets
    return _trust(probabilities.max(axis=1), right, _of_labels(probabilities, targets))


def _trust(confidence: NDArray[np.float64], right: NDArray[np.bool_], likelihood: NDArray[np.float64]) -> Trust:
    bounds = np.linspace(0, 1, BINS + 1)
    # As torchmetrics does, whose bins go by single precision: of sure classifiers much is 1 by it that is not quite.
    place = np.searchsorted(torch.linspace(0, 1, BINS + 1).numpy(), confidence.astype(np.float32), side="right") - 1
    images = np.bincount(place, minlength=BINS + 1)
    count = np.maximum(images, 1)
    means = np.bincount(place, confidence, minlength=BINS + 1) / count
    accuracy = np.bincount(place, right, minlength=BINS + 1) / count
    columns = (bounds, np.append(bounds[1:], 1.0), images, means, accuracy)
    found = [Bin(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return Trust(
        log_loss=_mean_loss(likelihood),
        calibration_error=float((images * np.abs(means - accuracy)).sum() / len(right)),
        bins=tuple(found if images[BINS] else found[:BINS]),
    )


def _crossed(probabilities: NDArray[np.float64], targets: NDArray[np.int64], *, near: float, seed: int) -> Trust:
    """Of each image at the temperature of the other folds, which is `near` that of all."""
    fold_of = probe.assign_folds(targets, folds=FOLDS, seed=seed)
    confidence, likelihood = probabilities.max(axis=1), _of_labels(probabilities, targets)
    for fold in range(FOLDS):
        held = fold_of == fold
        if held.any() and not held.all():
            own = fit(probabilities, targets, rows=np.flatnonzero(~held), near=near)
            scaled = tempered(probabilities[held], own)
            confidence[held], likelihood[held] = scaled.max(axis=1), _of_labels(scaled, targets[held])
    return _trust(confidence, probabilities.argmax(axis=1) == targets, likelihood)


def _of_labels(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = probabilities[np.arange(len(targets)), targets]
    return found


def _mean_loss(likelihood: NDArray[np.float64]) -> float:
    return float(abs(np.log(np.clip(likelihood, _EPSILON, 1)).mean()))


def _derivatives(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64], rows: NDArray[np.int64], sharpness: float
) -> tuple[float, float]:
    """Of the mean log-loss of the images at `rows` by the inverse temperature, the first and the second."""
    slope, spread = np.empty(len(rows)), np.empty(len(rows))
    for part in _parts(len(rows), probabilities.shape[1]):
        logits = _logits(probabilities[rows[part]])
        found = _softmax(sharpness * logits)
        mean = (found * logits).sum(axis=1)
        slope[part] = mean - _of_labels(logits, targets[rows[part]])
        spread[part] = (found * np.square(logits - mean[:, None])).sum(axis=1)
    return float(slope.mean()), float(spread.mean())


def _parts(count: int, labels: int) -> list[slice]:
    """The rows of a table to compute at a time."""
    # All at once would need the memory of several tables as large.
    return [slice(part.start, part.stop) for part in data.parts_of(count, max(1, _VALUES_AT_ONCE // labels))]


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of the classifier but for a constant in each row, which changes nothing."""
    found: NDArray[np.float64] = np.maximum(probabilities, _TINY)
    return np.log(found, out=found)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return found
