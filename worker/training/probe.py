"""A linear classifier on frozen features: multinomial logistic regression with an L2 penalty on standardised features.

Minimised is the mean negative log-likelihood plus `l2 / 2` times the sum of the squared weights, in nats; the biases
are free. (scikit-learn's `C` is `1 / (l2 * N)`, for two classes `2 / (l2 * N)`.) With a `prior`, what is squared is the
distance from its weights: a Gaussian prior around them in place of zero, so that a classifier that is extended keeps
what the images do not speak against.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.plan import MAX_CROSS_VALIDATED
from worker.training import crossvalidation, regression
from worker.training.crossvalidation import CHOOSING, QUICK, Crossing
from worker.training.events import Emit, PenaltyTried, ProbeFitted, Progress
from worker.training.regression import Axes, Centre, Solution, Told
from worker.training.table import Rows


@dataclass(frozen=True)
class Linear:
    """Weights `(K, D)` and biases `(K,)`, float32, for features as they come; the penalty they were fitted with, and
    those that were tried, maybe on some of the images."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    l2: float
    tried: tuple[PenaltyTried, ...]


@dataclass(frozen=True)
class Prior:
    """A linear classifier that another one starts from and stays close to: weights `(K, D)` and biases `(K,)`, for
    features as they come; and how many times as strongly as the penalty says each row is held `(K,)`; 0: new."""

    weight: Tensor
    bias: Tensor
    hold: Tensor


@dataclass(frozen=True)
class Folds:
    """Images to cross-validate with."""

    positions: NDArray[np.int64]
    """Of them among all, `(M,)`."""
    fold_of: NDArray[np.int64]
    """The fold of each of them `(M,)`."""


@dataclass(frozen=True)
class Comparison:
    """What a cross-validation of penalties came to."""

    best: PenaltyTried
    """The one with the least log-loss."""
    folds: tuple[Linear, ...]
    """The classifier that has not seen the images of each fold, with that penalty."""


@dataclass(frozen=True)
class Held:
    """What classifiers that have not seen an image say of it, with the penalty that does best."""

    l2: float
    predicted: NDArray[np.int64]
    """For each image `(N,)`."""
    log_losses: NDArray[np.float64]
    """Of each image `(N,)`, in nats."""
    targets: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of images, 0-1."""
        return float((self.predicted == self.targets).mean())

    @property
    def log_loss(self) -> float:
        """Mean, in nats."""
        return float(self.log_losses.mean())

    @property
    def error(self) -> float:
        """Standard error of the accuracy, as if every image were judged by the same classifier."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / len(self.targets)))


_THOROUGH = 1e-7
"""The gradient at which a classifier that is kept is good enough."""


def fit(
    features: Rows,
    targets: NDArray[np.int64],
    *,
    classes: int,
    l2_grid: Sequence[float],
    folds: int,
    seed: int,
    emit: Emit,
    prior: Prior | None = None,
    groups: NDArray[np.int64] | None = None,
) -> Linear:
    """The best linear classifier of `features (N, D)` with `targets (N,)`, in memory that does not grow with N.

    Of several penalties that with the least mean log-loss in stratified `folds`-fold cross-validation is taken, which
    for all images is `for_all` of it where some of them are cross-validated; near copies, told by `groups (N,)`, are in
    one fold.
    """
    several = len(l2_grid) > 1
    linear = search(
        features,
        targets,
        classes=classes,
        l2_grid=l2_grid,
        folds=folds if several else 0,
        seed=seed,
        emit=emit,
        prior=prior,
        groups=groups,
    )
    emit(ProbeFitted(l2=linear.l2, tried=linear.tried))
    return linear


def search(
    features: Rows,
    targets: NDArray[np.int64],
    *,
    classes: int,
    l2_grid: Sequence[float],
    folds: int,
    seed: int,
    emit: Emit,
    prior: Prior | None = None,
    groups: NDArray[np.int64] | None = None,
) -> Linear:
    """`fit` that tells of its progress alone, and cross-validates a single penalty, too; with 0 `folds` none."""
    axes, images = regression.labelled(features, torch.from_numpy(targets), read=_reading(emit, len(targets)))
    start = regression.nothing(classes, len(axes.variances)) if prior is None else axes.of_raw(prior.weight, prior.bias)
    centre = None if prior is None else Centre(start, prior.hold.double())
    tried: tuple[PenaltyTried, ...] = ()
    l2, begun = l2_grid[0], start
    if folds:
        divided = divide(targets, folds=folds, seed=seed, groups=groups)
        crossing = Crossing(
            values=images.at(divided.positions),
            targets=torch.from_numpy(targets[divided.positions]),
            variances=axes.variances,
            fold_of=divided.fold_of,
            start=start,
            centre=centre,
        )
        crossed = crossvalidation.cross(crossing, l2_grid, effort=CHOOSING, emit=emit)
        tried, l2 = crossed.tried(), crossed.best.l2
        if len(l2_grid) > 1:
            l2 = for_all(l2, chosen_with=len(divided.positions), images=len(targets))
        begun = crossed.solution.mean()  # which is close to that of all images
        del crossing, crossed  # they may be large, and what follows needs memory of its own
    solution = regression.solve(
        images, axes.variances, l2=l2, start=begun, tolerance=_THOROUGH, centre=centre, passed=_fitting(emit)
    )
    if prior is None:
        return _for_raw_features(axes, solution, l2, tried)
    # As a change of the prior: what its rows say of features that do not differ among these images stays.
    change = Solution(solution.weight - start.weight, solution.bias - start.bias)
    return _changed(prior, _for_raw_features(axes, change, l2, tried))


def for_all(l2: float, *, chosen_with: int, images: int) -> float:
    """The penalty for so many `images` that is the same prior as `l2` is for those that it was `chosen_with`: beside a
    mean over all images a prior weighs the less, the more there are."""
    return l2 * (chosen_with / images)


def compare(
    features: Rows, targets: NDArray[np.int64], folds: Folds, *, classes: int, l2_grid: Sequence[float], emit: Emit
) -> Comparison:
    """What `search` goes by, in the principal axes of the images in `folds` alone."""
    axes, values = _projected(features[folds.positions])
    crossing = Crossing(
        values=values,
        targets=torch.from_numpy(targets[folds.positions]),
        variances=axes.variances,
        fold_of=folds.fold_of,
        start=regression.nothing(classes, len(axes.variances)),
    )
    crossed = crossvalidation.cross(crossing, l2_grid, effort=CHOOSING, emit=emit)
    solutions = [Solution(*pair) for pair in zip(crossed.solution.weight, crossed.solution.bias, strict=True)]
    linears = tuple(_for_raw_features(axes, solution, crossed.best.l2, ()) for solution in solutions)
    return Comparison(crossed.best.told(), linears)


def compare_chosen(
    features: Rows,
    targets: NDArray[np.int64],
    fold_of: NDArray[np.int64],
    chosen: Sequence[NDArray[np.int64]],
    *,
    classes: int,
    l2_grid: Sequence[float],
    emit: Emit,
) -> PenaltyTried:
    """The penalty with the least log-loss in cross-validation on few images, all of them, where each fold has features
    of its own, those in `chosen (F,)` columns."""
    spaces = [_projected(features[:][:, columns]) for columns in chosen]
    rank = max(len(axes.variances) for axes, _ in spaces)
    variances, values = (
        torch.stack([functional.pad(one, (0, rank - one.shape[-1])) for one in ones])
        for ones in ([axes.variances for axes, _ in spaces], [projected for _, projected in spaces])
    )
    del spaces
    crossing = Crossing(values, torch.from_numpy(targets), variances, fold_of, regression.nothing(classes, rank))
    return crossvalidation.cross(crossing, l2_grid, effort=CHOOSING, emit=emit).best.told()


def path(
    features: Rows, targets: NDArray[np.int64], *, classes: int, l2_grid: Sequence[float], emit: Emit
) -> tuple[Linear, ...]:
    """The linear classifier of `features (N, D)` for each penalty, the strongest first."""
    axes, images = regression.labelled(features, torch.from_numpy(targets), read=_reading(emit, len(targets)))
    solution, found = regression.nothing(classes, len(axes.variances)), []
    for l2 in sorted(l2_grid, reverse=True):
        solution = regression.solve(
            images, axes.variances, l2=l2, start=solution, tolerance=CHOOSING.tolerance, passed=_fitting(emit)
        )
        found.append(_for_raw_features(axes, solution, l2, ()))
    return tuple(found)


def cross_validate(
    features: Rows,
    targets: NDArray[np.int64],
    *,
    classes: int,
    l2_grid: Sequence[float],
    folds: int,
    seed: int,
    emit: Emit,
    groups: NDArray[np.int64] | None = None,
) -> Held:
    """How well linear classifiers of `features (N, D)` do on images that they have not seen, in stratified `folds`-fold
    cross-validation with the penalty of the grid that has the least mean log-loss in it; near copies, told by
    `groups (N,)`, are in one fold.

    A label that has a single image is never known to the classifier that meets it.
    """
    axes, values = _projected(features)
    crossing = Crossing(
        values=values,
        targets=torch.from_numpy(targets),
        variances=axes.variances,
        fold_of=assign_folds(targets, folds=folds, seed=seed, groups=groups),
        start=regression.nothing(classes, len(axes.variances)),
    )
    best = crossvalidation.cross(crossing, l2_grid, effort=QUICK, emit=emit).best
    return Held(l2=best.l2, predicted=best.predicted.numpy(), log_losses=best.log_losses.numpy(), targets=targets)


def divide(targets: NDArray[np.int64], *, folds: int, seed: int, groups: NDArray[np.int64] | None = None) -> Folds:
    """The images with `targets (N,)` that are cross-validated with, and their folds."""
    positions = stratified_sample(targets, size=MAX_CROSS_VALIDATED, at_least=folds, seed=seed)
    among = None if groups is None else groups[positions]
    return Folds(positions, assign_folds(targets[positions], folds=folds, seed=seed, groups=among))


def assign_folds(
    targets: NDArray[np.int64], *, folds: int, seed: int, groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """A fold for each image `(N,)`, each class spread as evenly as it goes; images of a class that have their number
    in `groups (N,)` in common come into one fold, or their copies would judge what has learnt from them. A class that
    is a single such group is spread as others are."""
    rng = np.random.default_rng(seed)
    fold_of = np.empty(len(targets), np.int64)
    # Where one class ends, the next goes on, so that small classes do not all land in the first folds.
    begin = 0
    for target in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == target))
        units = np.arange(len(members)) if groups is None else _units(groups[members])
        fold_of[members] = (begin + _spread(units, folds)[units]) % folds
        begin += int(units.max()) + 1
    return fold_of


def _units(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of what each of some images is in `(M,)`, in order of first appearance, that may not be divided:
    of its group, or of itself where there is but one group."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse] if len(first) > 1 else np.arange(len(groups))


def _spread(units: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """A fold for each unit `(U,)`, the largest first, into the one that has the fewest of the images `units (M,)`."""
    sizes = np.bincount(units)
    if len(sizes) == len(units):
        return np.arange(len(units))
    found, filled = np.empty(len(sizes), np.int64), np.zeros(folds, np.int64)
    for unit in np.argsort(-sizes, kind="stable"):
        found[unit] = filled.argmin()
        filled[found[unit]] += sizes[unit]
    return found


def stratified_sample(targets: NDArray[np.int64], *, size: int, at_least: int, seed: int) -> NDArray[np.int64]:
    """Positions of all images or of about `size`, with `at_least` so many of each class where it has them."""
    if len(targets) <= size:
        return np.arange(len(targets))
    rng = np.random.default_rng(seed)
    share = size / len(targets)
    chosen = []
    for target in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == target))
        chosen.append(members[: max(at_least, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


def _reading(emit: Emit, images: int) -> Told:
    return lambda done: emit(Progress("axes", done, images))


def _fitting(emit: Emit) -> Told:
    most = regression.MAX_STEPS
    # How many passes there will be, nobody knows: most classifiers take a few dozen, some more than one a step.
    return lambda passes: emit(Progress("fit", min(passes, most - 1), most))


def _projected(features: Rows) -> tuple[Axes, Tensor]:
    """The principal axes of `features`, and these in them."""
    axes = regression.principal_axes(features)
    return axes, axes.project(features)


def _for_raw_features(axes: Axes, solution: Solution, l2: float, tried: tuple[PenaltyTried, ...]) -> Linear:
    weight = (solution.weight @ axes.directions.T) / axes.scale
    bias = solution.bias - weight @ axes.mean
    # A common offset of all classes means nothing.
    bias = bias - bias.mean()
    return Linear(weight.float().numpy(), bias.float().numpy(), l2, tried)


def _changed(prior: Prior, by: Linear) -> Linear:
    return Linear(
        (prior.weight.double().numpy() + by.weight).astype(np.float32),
        (prior.bias.double().numpy() + by.bias).astype(np.float32),
        by.l2,
        by.tried,
    )
