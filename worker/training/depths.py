"""Figures of the pooled features at each depth of a network: probes, learning curve, scores. Knows no network."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from app import profile
from app.plan import L2_GRID
from app.profile import CurvePoint, Depth, Probe
from worker.training import probe, transferability
from worker.training.events import Emit

AT_LEAST = profile.IMAGES_NEEDED
"""Images of each label without which cross-validation means nothing."""

MAX_MEASURED = 2_000
"""Of more images, a stratified sample of about so many is measured."""

EACH = profile.IMAGES_OF_EACH
"""That a sample of very many images has of a label, or all that it has."""

_CURVE = (0.25, 0.5)
_FOLDS = 5

Values = Mapping[str, NDArray[np.float32]]
"""Pooled features `(N, D)` at each depth, in order."""

Groups = NDArray[np.int64] | None
"""Of each image `(N,)` a number that near copies have in common, which are in one fold; None where there are none."""


def measurable(targets: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Positions in order of the images to measure, of those with `targets (N,)`: none of labels that have a single
    one. Raises `Invalid` where not two labels are left."""
    counts = np.bincount(targets) if len(targets) else np.zeros(0, np.int64)
    profile.check_measurable(counts.tolist())
    kept = np.flatnonzero(counts[targets] >= AT_LEAST)
    return kept[sample(targets[kept], size=MAX_MEASURED, seed=seed)]


def sample(targets: NDArray[np.int64], *, size: int, seed: int) -> NDArray[np.int64]:
    """Positions in order of all images, or of about `size`, stratified by `targets (N,)`: of all labels, each of which
    keeps `AT_LEAST`, or of as many, drawn from them, as may each have `EACH` there, or all that they have."""
    if len(targets) <= size:
        return np.arange(len(targets))
    labels, counts = np.unique(targets, return_counts=True)
    drawn = np.random.default_rng(seed).permutation(len(labels))
    fit = int((np.cumsum(np.minimum(counts[drawn], EACH)) <= size).sum())
    chosen = drawn[: max(fit, profile.LABELS_NEEDED)]
    kept = np.flatnonzero(np.isin(targets, labels[chosen]))
    at_least = EACH if len(chosen) < len(labels) else AT_LEAST
    return kept[probe.stratified_sample(targets[kept], size=size, at_least=at_least, seed=seed)]


def drawn_labels(targets: NDArray[np.int64], rows: NDArray[np.int64]) -> int | None:
    """How many labels those of `targets (N,)` at `rows` have, None where no other has `AT_LEAST` images."""
    among = int(np.count_nonzero(np.bincount(targets[rows])))
    return among if among < known_labels(targets) else None


def known_labels(targets: NDArray[np.int64]) -> int:
    """How many of them have `AT_LEAST` images."""
    return int((np.bincount(targets) >= AT_LEAST).sum())


def numbered(targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same labels `(N,)` as 0 to K - 1, of which each is there."""
    return np.unique(targets, return_inverse=True)[1]


def measure(
    values: Values, targets: NDArray[np.int64], *, seed: int, emit: Emit, groups: Groups = None
) -> tuple[Depth, ...]:
    """The figures at each depth; `targets (N,)` are 0 to K - 1, each of them that of `AT_LEAST` images or more."""
    return tuple(_depth(name, found, targets, groups, seed=seed, emit=emit) for name, found in values.items())


def together(values: Values, targets: NDArray[np.int64], *, seed: int, emit: Emit, groups: Groups = None) -> Probe:
    """The probe on all depths side by side ("Head2Toe", Evci et al. 2022)."""
    return linear(np.concatenate([*values.values()], axis=1), targets, seed=seed, emit=emit, groups=groups)


def linear(
    values: NDArray[np.float32], targets: NDArray[np.int64], *, seed: int, emit: Emit, groups: Groups = None
) -> Probe:
    """What a linear classifier on features `(N, D)` makes of images that it has not seen; `targets` as above."""
    # As many folds everywhere, also where a label has fewer images, or the points of a curve could not be compared.
    held = probe.cross_validate(
        values, targets, classes=_classes(targets), l2_grid=L2_GRID, folds=_FOLDS, seed=seed, emit=emit, groups=groups
    )
    return Probe(accuracy=held.accuracy, log_loss=held.log_loss, error=held.error)


def curve(
    values: NDArray[np.float32],
    targets: NDArray[np.int64],
    whole: Probe,
    *,
    seed: int,
    emit: Emit,
    groups: Groups = None,
) -> tuple[CurvePoint, ...]:
    """The learning curve of features `(N, D)`, whose last point is the probe on all images, `whole`. The images of each
    point are among those of the next."""
    points = []
    for share in shares(targets):
        some = probe.stratified_sample(targets, size=round(share * len(targets)), at_least=AT_LEAST, seed=seed)
        among = None if groups is None else groups[some]
        found = linear(values[some], targets[some], seed=seed, emit=emit, groups=among)
        points.append(CurvePoint(images=len(some), probe=found))
    return (*points, CurvePoint(images=len(targets), probe=whole))


def shares(targets: NDArray[np.int64]) -> tuple[float, ...]:
    """The shares of the images, short of all, with which every label keeps `AT_LEAST`."""
    smallest = int(np.bincount(targets).min())
    return tuple(share for share in _CURVE if round(share * smallest) >= AT_LEAST)


def _depth(
    name: str, values: NDArray[np.float32], targets: NDArray[np.int64], groups: Groups, *, seed: int, emit: Emit
) -> Depth:
    found = linear(values, targets, seed=seed, emit=emit, groups=groups)
    scores = transferability.score(values, targets, classes=_classes(targets), seed=seed)
    return Depth(
        name=name,
        features=values.shape[1],
        probe=found,
        log_me=scores.log_me,
        h_score=scores.h_score,
        neighbours=scores.neighbours,
    )


def _classes(targets: NDArray[np.int64]) -> int:
    return int(targets.max()) + 1
