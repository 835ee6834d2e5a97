"""Probabilities that can be taken at their word: temperature scaling, and how far off they are.

Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from app.evaluation import Bin, Reliability, Trust
from worker.training import data, probe

BINS = 15
FOLDS = 5
COLDEST, HOTTEST = 0.25, 20.0
"""Between these a temperature is sought. Where few images are all labelled right, there would be no end to it."""

_ROWS_AT_ONCE = 1024
_MOST_STEPS = 100
_CLOSE = 1e-12
_TINY = 1e-300
_EPSILON = float(np.finfo(np.float64).eps)


def reliability(probabilities: NDArray[np.float64], targets: NDArray[np.int64], *, seed: int) -> Reliability:
    """Of `probabilities (N, K)` before and after scaling, each image scaled by what suits the other folds.

    The temperature is that which suits all images, and 1 where scaling does not lower the log-loss of images that it
    was not fitted to: it never raises it.
    """
    plain = trust(probabilities, targets)
    temperature, after = fit(probabilities, targets), trust(_crossed(probabilities, targets, seed=seed), targets)
    if after.log_loss >= plain.log_loss or log_loss(tempered(probabilities, temperature), targets) > plain.log_loss:
        temperature, after = 1.0, plain
    return Reliability(temperature=temperature, folds=FOLDS, before=plain, after=after)


def fit(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """The temperature from `COLDEST` to `HOTTEST` with the least log-loss, by Newton's method: as a function of the
    inverse temperature the loss is convex."""
    logits = _logits(probabilities)
    low, high, sharpness = 1 / HOTTEST, 1 / COLDEST, 1.0
    for _ in range(_MOST_STEPS):
        slope, curvature = _derivatives(logits, targets, sharpness)
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        wanted = sharpness - slope / max(curvature, _TINY)
        following = wanted if low < wanted < high else float(np.sqrt(low * high))
        if abs(following - sharpness) <= _CLOSE * sharpness:
            break
        sharpness = following
    return min(max(1 / sharpness, COLDEST), HOTTEST)


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """`probabilities (N, K)` with the logits they come from divided by `temperature`."""
    found = np.empty(probabilities.shape)
    for rows in _parts(len(probabilities)):
        found[rows] = _softmax(_logits(probabilities[rows]) / temperature)
    return found


def log_loss(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Mean, in nats. A probability that is rounded to 0 would make it infinite."""
    likelihood = np.clip(probabilities[np.arange(len(targets)), targets], _EPSILON, 1)
    return float(abs(np.log(likelihood).mean()))


def trust(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> Trust:
    """Of `probabilities (N, K)`, in `BINS` bins of equal width that have their lower bound, and in one more for those
    of 1 where there are any."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
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
        log_loss=log_loss(probabilities, targets),
        calibration_error=float((images * np.abs(means - accuracy)).sum() / len(targets)),
        bins=tuple(found if images[BINS] else found[:BINS]),
    )


def _crossed(probabilities: NDArray[np.float64], targets: NDArray[np.int64], *, seed: int) -> NDArray[np.float64]:
    fold_of = probe.assign_folds(targets, folds=FOLDS, seed=seed)
    found = probabilities.copy()
    for fold in range(FOLDS):
        held = fold_of == fold
        if held.any() and not held.all():
            found[held] = tempered(probabilities[held], fit(probabilities[~held], targets[~held]))
    return found


def _derivatives(logits: NDArray[np.float64], targets: NDArray[np.int64], sharpness: float) -> tuple[float, float]:
    """Of the mean log-loss by the inverse temperature, the first and the second."""
    mean, spread = np.empty(len(targets)), np.empty(len(targets))
    for rows in _parts(len(targets)):
        some = logits[rows]
        found = _softmax(sharpness * some)
        mean[rows] = (found * some).sum(axis=1)
        spread[rows] = (found * np.square(some - mean[rows, None])).sum(axis=1)
    slope = mean - logits[np.arange(len(targets)), targets]
    return float(slope.mean()), float(spread.mean())


def _parts(count: int) -> list[slice]:
    # All rows at once would need the memory of several tables as large.
    return [slice(part.start, part.stop) for part in data.parts_of(count, _ROWS_AT_ONCE)]


def _logits(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of the classifier but for a constant in each row, which changes nothing."""
    found: NDArray[np.float64] = np.maximum(probabilities, _TINY)
    return np.log(found, out=found)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return found
