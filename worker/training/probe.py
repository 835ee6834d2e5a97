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
from worker.training import regression, threads
from worker.training.events import Emit, PenaltyTried, ProbeFitted, Progress
from worker.training.regression import Axes, Centre, Projected, Solution
from worker.training.table import Rows


@dataclass(frozen=True)
class Linear:
    """Weights `(K, D)` and biases `(K,)`, float32, for features as they come; and the penalty they were fitted with."""

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
class Comparison:
    """Penalties in cross-validation."""

    tried: tuple[PenaltyTried, ...]
    """The strongest first."""
    folds: tuple[Linear, ...]
    """The classifier that has not seen the images of each fold, with the penalty that does best."""

    @property
    def best(self) -> PenaltyTried:
        """The one with the least log-loss."""
        return min(self.tried, key=lambda one: one.log_loss)


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


@dataclass(frozen=True)
class _Effort:
    """How far solutions are taken."""

    tolerance: float
    """The gradient at which one is good enough."""
    patience: int | None
    """Penalties in a row that are worse than one before, after which weaker ones are not tried."""


_THOROUGH = _Effort(tolerance=1e-7, patience=None)
# To choose a penalty. The loss falls and rises once along the grid, and the weak penalties take long to solve.
_CHOOSING = _Effort(tolerance=1e-4, patience=2)
# For figures to look at: what is left of the gradient moves the accuracy far less than another choice of images would.
_QUICK = _Effort(tolerance=1e-4, patience=1)


@dataclass(frozen=True)
class _Judged:
    """A penalty in cross-validation."""

    l2: float
    predicted: Tensor
    """For each image `(N,) int64`."""
    log_losses: Tensor
    """Of each image `(N,) float64`."""
    solution: Solution
    """Of each fold."""

    @property
    def log_loss(self) -> float:
        return float(self.log_losses.mean())


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
) -> Linear:
    """The best linear classifier of `features (N, D)` with `targets (N,)`, in memory that does not grow with N.

    Of several penalties that with the least mean log-loss in stratified `folds`-fold cross-validation is taken.
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
    )
    emit(ProbeFitted(l2=linear.l2, tried=linear.tried))
    return linear


@threads.few
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
) -> Linear:
    """`fit` that tells of its progress alone, and cross-validates a single penalty, too; with 0 `folds` none."""
    labels = torch.from_numpy(targets)
    axes, images = regression.labelled(features, labels)
    start = _zeros(axes, classes) if prior is None else axes.of_raw(prior.weight, prior.bias)
    centre = None if prior is None else Centre(start, prior.hold.double())
    tried: tuple[PenaltyTried, ...] = ()
    l2, begun = l2_grid[0], start
    if folds:
        sample, fold_of = _folds(targets, folds=folds, seed=seed)
        values, held = images.at(sample), labels[sample]
        crossed = _cross(
            values,
            held,
            axes.variances,
            fold_of,
            start=start,
            centre=centre,
            l2_grid=l2_grid,
            effort=_CHOOSING,
            emit=emit,
        )
        del values  # they may be large, and what follows needs memory of its own
        tried = tuple(_told(one, held) for one in crossed)
        best = min(crossed, key=lambda one: one.log_loss)
        l2, begun = best.l2, best.solution.mean()  # which is close to that of all images
    solution = regression.solve(
        images, axes.variances, l2=l2, start=begun, tolerance=_THOROUGH.tolerance, centre=centre
    )
    if prior is None:
        return _for_raw_features(axes, solution, l2, tried)
    # As a change of the prior: what its rows say of features that do not differ among these images stays.
    change = Solution(solution.weight - start.weight, solution.bias - start.bias)
    return _changed(prior, _for_raw_features(axes, change, l2, tried))


@threads.few
def compare(
    features: Rows,
    targets: NDArray[np.int64],
    *,
    classes: int,
    l2_grid: Sequence[float],
    folds: int,
    seed: int,
    emit: Emit,
) -> Comparison:
    """What `search` goes by."""
    labels = torch.from_numpy(targets)
    axes, images = regression.labelled(features, labels)
    sample, fold_of = _folds(targets, folds=folds, seed=seed)
    crossed = _cross(
        images.at(sample),
        labels[sample],
        axes.variances,
        fold_of,
        start=_zeros(axes, classes),
        centre=None,
        l2_grid=l2_grid,
        effort=_CHOOSING,
        emit=emit,
    )
    best = min(crossed, key=lambda one: one.log_loss)
    solutions = [Solution(*pair) for pair in zip(best.solution.weight, best.solution.bias, strict=True)]
    return Comparison(
        tuple(_told(one, labels[sample]) for one in crossed),
        tuple(_for_raw_features(axes, solution, best.l2, ()) for solution in solutions),
    )


@threads.few
def compare_chosen(
    features: Rows,
    targets: NDArray[np.int64],
    chosen: Sequence[NDArray[np.int64]],
    *,
    classes: int,
    l2_grid: Sequence[float],
    folds: int,
    seed: int,
    emit: Emit,
) -> tuple[PenaltyTried, ...]:
    """`compare` for few images, where each fold has features of its own, so many of them `(F,)`."""
    fold_of = assign_folds(targets, folds=folds, seed=seed)
    several = [_projected(features[:][:, columns]) for columns in chosen]
    rank = max(len(axes.variances) for axes, _ in several)
    variances, values = (
        torch.stack([functional.pad(one, (0, rank - one.shape[-1])) for one in ones])
        for ones in ([axes.variances for axes, _ in several], [projected for _, projected in several])
    )
    start = Solution(values.new_zeros(classes, rank), values.new_zeros(classes))
    labels = torch.from_numpy(targets)
    crossed = _cross(
        values, labels, variances, fold_of, start=start, centre=None, l2_grid=l2_grid, effort=_CHOOSING, emit=emit
    )
    return tuple(_told(one, labels) for one in crossed)


def _projected(features: Rows) -> tuple[Axes, Tensor]:
    axes = regression.principal_axes(features)
    return axes, axes.project(features)


@threads.few
def path(features: Rows, targets: NDArray[np.int64], *, classes: int, l2_grid: Sequence[float]) -> tuple[Linear, ...]:
    """The linear classifier of `features (N, D)` for each penalty, the strongest first."""
    axes, images = regression.labelled(features, torch.from_numpy(targets))
    solution, found = _zeros(axes, classes), []
    for l2 in sorted(l2_grid, reverse=True):
        solution = regression.solve(images, axes.variances, l2=l2, start=solution, tolerance=_CHOOSING.tolerance)
        found.append(_for_raw_features(axes, solution, l2, ()))
    return tuple(found)


@threads.few
def cross_validate(
    features: Rows,
    targets: NDArray[np.int64],
    *,
    classes: int,
    l2_grid: Sequence[float],
    folds: int,
    seed: int,
    emit: Emit,
) -> Held:
    """How well linear classifiers of `features (N, D)` do on images that they have not seen, in stratified `folds`-fold
    cross-validation with the penalty of the grid that has the least mean log-loss in it.

    A label that has a single image is never known to the classifier that meets it.
    """
    axes = regression.principal_axes(features)
    fold_of = assign_folds(targets, folds=folds, seed=seed)
    crossed = _cross(
        axes.project(features),
        torch.from_numpy(targets),
        axes.variances,
        fold_of,
        start=_zeros(axes, classes),
        centre=None,
        l2_grid=l2_grid,
        effort=_QUICK,
        emit=emit,
    )
    best = min(crossed, key=lambda one: one.log_loss)
    return Held(l2=best.l2, predicted=best.predicted.numpy(), log_losses=best.log_losses.numpy(), targets=targets)


def assign_folds(targets: NDArray[np.int64], *, folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for each image `(N,)`, each class spread as evenly as it goes."""
    rng = np.random.default_rng(seed)
    fold_of = np.empty(len(targets), np.int64)
    # Where one class ends, the next goes on, so that small classes do not all land in the first folds.
    begin = 0
    for target in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == target))
        fold_of[members] = (begin + np.arange(len(members))) % folds
        begin += len(members)
    return fold_of


def _folds(targets: NDArray[np.int64], *, folds: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images that are cross-validated, and the fold of each."""
    sample = stratified_sample(targets, size=MAX_CROSS_VALIDATED, at_least=folds, seed=seed)
    return sample, assign_folds(targets[sample], folds=folds, seed=seed)


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


def _cross(
    values: Tensor,
    targets: Tensor,
    variances: Tensor,
    fold_of: NDArray[np.int64],
    *,
    start: Solution,
    centre: Centre | None,
    l2_grid: Sequence[float],
    effort: _Effort,
    emit: Emit,
) -> list[_Judged]:
    """What each penalty of the grid gives for images in principal axes `(N, R)`, or `(F, N, R)` where each fold has its
    own, the strongest first."""
    held_out = torch.from_numpy(fold_of) == torch.arange(int(fold_of.max()) + 1)[:, None]
    images = Projected(values.float(), targets, seen=~held_out)
    solution = start.repeated(len(held_out))
    judged: list[_Judged] = []
    for step, l2 in enumerate(sorted(l2_grid, reverse=True)):
        emit(Progress("probe", step, len(l2_grid)))
        # From strong to weak, each solution is close to the next.
        solution = regression.solve(images, variances, l2=l2, start=solution, tolerance=effort.tolerance, centre=centre)
        judged.append(_judged(values, targets, held_out, solution, l2))
        best = min(range(len(judged)), key=lambda place: judged[place].log_loss)
        if effort.patience is not None and step - best >= effort.patience:
            break
    return judged


def _judged(values: Tensor, targets: Tensor, held_out: Tensor, solution: Solution, l2: float) -> _Judged:
    """What the fold that has held an image out says of it; `held_out` is `(B, N) bool`."""
    predicted, log_losses = torch.empty_like(targets), values.new_empty(len(targets))
    of_folds = values.expand(len(held_out), *values.shape[-2:])
    for rows, images, weight, bias in zip(held_out, of_folds, solution.weight, solution.bias, strict=True):
        logits = torch.addmm(bias, images[rows], weight.T)
        log_losses[rows] = functional.cross_entropy(logits, targets[rows], reduction="none")
        predicted[rows] = logits.argmax(dim=1)
    return _Judged(l2, predicted, log_losses, solution)


def _told(judged: _Judged, targets: Tensor) -> PenaltyTried:
    return PenaltyTried(judged.l2, judged.log_loss, float((judged.predicted == targets).double().mean()))


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


def _zeros(axes: Axes, classes: int) -> Solution:
    return Solution(axes.variances.new_zeros(classes, len(axes.variances)), axes.variances.new_zeros(classes))
