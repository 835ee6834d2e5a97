"""Sets of labels that hold the true one as often as is asked for.

Source: Sadinle, Lei, Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", 2019, with the
finite-sample threshold of split conformal prediction (Vovk et al. 2005).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.evaluation import Conformal
from app.intervals import Interval
from worker.training import calibrate

ALPHAS = (0.05, 0.1, 0.2)
SPLITS = 20


@dataclass(frozen=True)
class _Half:
    """What sets did on the half of a split that the threshold was not chosen on."""

    coverage: float
    sizes: NDArray[np.int64]


def evaluate(
    probabilities: NDArray[np.float64], targets: NDArray[np.int64], *, temperature: float, seed: int
) -> tuple[Conformal, ...]:
    """For each of `ALPHAS` the threshold that all images of `probabilities (N, K)` give, and what sets do on halves
    that had no part in it.

    Each split finds a temperature of its own, unless `temperature` is 1.
    """
    halves: dict[float, list[_Half]] = {alpha: [] for alpha in ALPHAS}
    for split in range(SPLITS):
        order = np.random.default_rng([seed, split]).permutation(len(targets))
        chosen, judged = order[: len(order) // 2], order[len(order) // 2 :]
        is_scaled = temperature != 1 and len(chosen) > 0
        own = calibrate.fit(probabilities[chosen], targets[chosen]) if is_scaled else 1.0
        known, fresh = (calibrate.tempered(probabilities[part], own) for part in (chosen, judged))
        for alpha, found in halves.items():
            members = sets(fresh, threshold(known, targets[chosen], alpha=alpha))
            held = members[np.arange(len(judged)), targets[judged]]
            found.append(_Half(float(held.mean()), members.sum(axis=1)))
    scaled = calibrate.tempered(probabilities, temperature)
    return tuple(_figures(alpha, threshold(scaled, targets, alpha=alpha), found) for alpha, found in halves.items())


def threshold(probabilities: NDArray[np.float64], targets: NDArray[np.int64], *, alpha: float) -> float:
    """The probability from which on a label is in a set; 0 where there are too few images to promise anything else."""
    count = len(targets)
    place = math.floor(alpha * (count + 1) + 1e-9)
    if place < 1:
        return 0.0
    return float(np.partition(probabilities[np.arange(count), targets], place - 1)[place - 1])


def sets(probabilities: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Whether each label is in the set of each image `(N, K)`; an image may have none."""
    return probabilities >= least


def _figures(alpha: float, least: float, halves: Sequence[_Half]) -> Conformal:
    coverage, sizes = [half.coverage for half in halves], np.concatenate([half.sizes for half in halves])
    return Conformal(
        alpha=alpha,
        threshold=least,
        splits=len(halves),
        coverage=float(np.mean(coverage)),
        coverage_range=Interval(min(coverage), max(coverage)),
        mean_size=float(sizes.mean()),
        empty=float((sizes == 0).mean()),
        single=float((sizes == 1).mean()),
    )
