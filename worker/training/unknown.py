"""Images that are like nothing that was learned: how similar features are to those of the labels, and from where on an
image is refused.

The score is the cosine with the mean direction of the nearest label. Neither probabilities nor the energy of the logits
(Liu et al. 2020) tell foreign images nearly as well where a linear classifier stands on fixed features; the nearest
training images (Sun et al. 2022) do not tell them better, and would all have to be kept.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.evaluation import COMPARED_EACH, LeftOut, Unknown
from worker.training import data, probe, separation
from worker.training.table import Rows

WANTED = 0.95
"""Share of the held-out images that is accepted."""
FOLDS = 5
_RANKED_AT_ONCE = 1024
_ROUNDING = 1e-5
"""More than what a cosine is off by in single precision."""
_MOST_ROOM = 1e-3
"""Far less than what similarities of known images differ by."""


def sample(targets: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Positions of up to `COMPARED_EACH` images of every label, in order."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(targets == target))[:COMPARED_EACH] for target in np.unique(targets)]
    return np.sort(np.concatenate(chosen))


def directions(features: Rows, targets: NDArray[np.int64], *, classes: int) -> NDArray[np.float32]:
    """For each label the mean direction `(K, D)` of its `features (N, D)`, of length 1; zeros for a label that has
    none."""
    units = _units(features[:].astype(np.float64))
    sums = np.zeros((classes, units.shape[1]))
    np.add.at(sums, targets, units)
    return _units(sums).astype(np.float32)


def similarities(features: NDArray[np.float32], means: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine of `features (N, D)` with the mean of each label `(N, K)`."""
    found: NDArray[np.float64] = _units(features.astype(np.float64)) @ means.T.astype(np.float64)
    return found


def threshold(scores: NDArray[np.float64], *, wanted: float = WANTED) -> float:
    """What the share `wanted` of `scores (N,)` is above, by half of the way to the next one below, or a little: where
    scores are computed anew, on another processor or with others in a batch, rounding moves that image to no side."""
    least = np.quantile(scores, 1 - wanted, method="lower")
    below = scores[scores < least - _ROUNDING]
    room = (least - below.max()) / 2 if len(below) else _MOST_ROOM
    return float(least - min(room, _MOST_ROOM))


def refused(scores: NDArray[np.float64], least: float) -> float:
    """Share of `scores (N,)` below the threshold `least`, 0-1."""
    return float((scores < least).mean())


def evaluate(
    similar: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    targets: NDArray[np.int64],
    labels: Sequence[str],
    *,
    seed: int,
) -> Unknown:
    """What a threshold on `similar (N, K)` does to images whose labels are `targets (N,)`; what it does to foreign ones
    is not known without any, but each label in turn can be taken for foreign."""
    scores, right = similar.max(axis=1), probabilities.argmax(axis=1) == targets
    kept = _accepted(scores, targets, seed=seed)
    return Unknown(
        threshold=threshold(scores),
        wanted=WANTED,
        accepted=float(kept.mean()),
        accepted_accuracy=_share(right[kept]),
        refused_accuracy=_share(right[~kept]),
        mistakes_refused=_share(~kept[~right]),
        mistakes_auroc=separation.auroc(scores[right], scores[~right]),
        left_out=tuple(_left_out(similar, targets, labels)) if len(labels) > 2 else (),
        curves=(
            separation.rejection("probability", probabilities.max(axis=1), right),
            separation.rejection("similarity", scores, right),
        ),
    )


def _accepted(scores: NDArray[np.float64], targets: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """Whether each image is, by a threshold that was chosen without its fold."""
    fold_of = probe.assign_folds(targets, folds=FOLDS, seed=seed)
    kept = np.ones(len(scores), bool)
    for fold in range(FOLDS):
        held = fold_of == fold
        if not held.all():
            kept[held] = scores[held] >= threshold(scores[~held])
    return kept


def _left_out(similar: NDArray[np.float64], targets: NDArray[np.int64], labels: Sequence[str]) -> list[LeftOut]:
    # Without a label an image has the best score of the others: its second, where that label was its best.
    best, nearest = similar.max(axis=1), similar.argmax(axis=1)
    second = np.empty(len(similar))
    for part in data.parts_of(len(similar), _RANKED_AT_ONCE):
        rows = slice(part.start, part.stop)
        second[rows] = np.partition(similar[rows], -2, axis=1)[:, -2]
    found = []
    for place, label in enumerate(labels):
        scores = np.where(nearest == place, second, best)
        known, foreign = scores[targets != place], scores[targets == place]
        area = separation.auroc(known, foreign)
        if area is not None:
            found.append(LeftOut(label, area, refused(foreign, threshold(known))))
    return found


def _share(values: NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None


def _units(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1)
    return found
