"""Sets of labels that hold the true one as often as is asked for.

Source: Sadinle, Lei, Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", 2019, with the
finite-sample threshold of split conformal prediction (Vovk et al. 2005).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.evaluation import Conformal
from app.intervals import Interval
from worker.training import calibrate

ALPHAS = (0.05, 0.1, 0.2)
FOLDS = 5
"""Of which one is judged and the others choose the threshold: of fewer images it covers more than was asked for, and so
says less of that of all images."""
ROUNDS = 4
"""How often the images are put into folds anew."""


@dataclass(frozen=True)
class _Judged:
    """What sets did on the part of a split that the threshold was not chosen on."""

    coverage: float
    sizes: NDArray[np.int64]


def evaluate(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64], *, temperature: float, seed: int
) -> tuple[Conformal, ...]:
    """For each of `ALPHAS` the threshold that all images of `probabilities (N, K)` give, and what sets do on images
    that had no part in it.

    Each split finds a temperature of its own, unless `temperature` is 1.
    """
    splits: dict[float, list[_Judged]] = {alpha: [] for alpha in ALPHAS}
    for chosen, judged in _splits(len(targets), seed=seed):
        is_scaled = temperature != 1 and len(chosen) > 0
        own = calibrate.fit(probabilities, targets, rows=chosen, near=temperature) if is_scaled else 1.0
        likely = calibrate.likelihoods(probabilities, targets, own)
        fresh = calibrate.tempered(probabilities[judged], own)
        for alpha, found in splits.items():
            members = sets(fresh, threshold(likely[chosen], alpha=alpha))
            held = members[np.arange(len(judged)), targets[judged]]
            found.append(_Judged(float(held.mean()), members.sum(axis=1)))
    likely = calibrate.likelihoods(probabilities, targets, temperature)
    return tuple(
        _figures(alpha, threshold(likely, alpha=alpha), found, count=len(targets)) for alpha, found in splits.items()
    )


def threshold(likely: NDArray[np.float64], *, alpha: float) -> float:
    """The probability from which on a label is in a set, by what the labels of images got `(N,)`; 0 where there are too
    few images to promise anything else.

    Of n images it holds the label of the next with a chance of 1 - alpha at least, and of 1 - alpha + 1 / (n + 1) at
    most, as images can only be left out whole.
    """
    count = len(likely)
    place = math.floor(alpha * (count + 1) + 1e-9)
    if place < 1:
        return 0.0
    return float(np.partition(likely, place - 1)[place - 1])


def sets(probabilities: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Whether each label is in the set of each image `(N, K)`; an image may have none."""
    return probabilities >= least


def _splits(count: int, *, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The images that choose and those that are judged, each image as often as the others."""
    for number in range(ROUNDS):
        order = np.random.default_rng([seed, number]).permutation(count)
        for judged in np.array_split(order, _folds(count)):
            yield np.setdiff1d(order, judged), judged


def _folds(count: int) -> int:
    return min(FOLDS, count)


def _figures(alpha: float, least: float, splits: Sequence[_Judged], *, count: int) -> Conformal:
    coverage, sizes = [split.coverage for split in splits], np.concatenate([split.sizes for split in splits])
    return Conformal(
        alpha=alpha,
        threshold=least,
        splits=len(splits),
        coverage=float(np.mean(coverage)),
        coverage_range=Interval(min(coverage), max(coverage)),
        mean_size=float(sizes.mean()),
        empty=float((sizes == 0).mean()),
        single=float((sizes == 1).mean()),
        judged_share=1 / _folds(count),
    )
