"""A linear classifier on frozen features: multinomial logistic regression with an L2 penalty on standardised features.

Minimised is the mean negative log-likelihood plus `l2 / 2` times the sum of the squared weights, in nats; the biases
are free. (scikit-learn's `C` is `1 / (l2 * N)`, for two classes `2 / (l2 * N)`.) With a `prior`, what is squared is the
distance from its weights: a Gaussian prior around them in place of zero, so that a classifier that is extended keeps
what the images do not speak against.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
class _Crossed:
    """Cross-validation of several penalties, the strongest first."""

    penalties: list[float]
    predicted: Tensor
    """For each penalty and image `(P, N) int64`."""
    log_losses: Tensor
    """For each penalty and image `(P, N) float64`; infinite where a penalty was not tried."""


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
    l2 = l2_grid[0]
    if folds:
        sample = stratified_sample(targets, size=MAX_CROSS_VALIDATED, at_least=folds, seed=seed)
        fold_of = assign_folds(targets[sample], folds=folds, seed=seed)
        values, held = images.at(sample), labels[sample]
        crossed = _cross(
            values, held, axes, fold_of, start=start, centre=centre, l2_grid=l2_grid, effort=_CHOOSING, emit=emit
        )
        del values  # they may be large, and what follows needs memory of its own
        tried = _tried(crossed, held)
        l2 = min(tried, key=lambda penalty: penalty.log_loss).l2
    solution = regression.solve(
        images, axes.variances, l2=l2, start=start, tolerance=_THOROUGH.tolerance, centre=centre
    )
    if prior is None:
        return _for_raw_features(axes, solution, l2, tried)
    # As a change of the prior: what its rows say of features that do not differ among these images stays.
    change = Solution(solution.weight - start.weight, solution.bias - start.bias)
    return _changed(prior, _for_raw_features(axes, change, l2, tried))


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
        axes,
        fold_of,
        start=_zeros(axes, classes),
        centre=None,
        l2_grid=l2_grid,
        effort=_QUICK,
        emit=emit,
    )
    best = int(crossed.log_losses.mean(dim=1).argmin())
    return Held(
        l2=crossed.penalties[best],
        predicted=crossed.predicted[best].numpy(),
        log_losses=crossed.log_losses[best].numpy(),
        targets=targets,
    )


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
    axes: Axes,
    fold_of: NDArray[np.int64],
    *,
    start: Solution,
    centre: Centre | None,
    l2_grid: Sequence[float],
    effort: _Effort,
    emit: Emit,
) -> _Crossed:
    """What each penalty of the grid gives for images in principal axes `(N, R)`."""
    penalties = sorted(l2_grid, reverse=True)
    predicted = torch.empty(len(penalties), len(targets), dtype=torch.int64)
    log_losses = torch.full((len(penalties), len(targets)), torch.inf, dtype=torch.float64)
    folds = [torch.from_numpy(fold_of == fold) for fold in np.unique(fold_of)]
    solutions = [start] * len(folds)
    rough = values.float()

    def solve(held_out: Tensor, start: Solution, l2: float) -> Solution:
        images = Projected(rough[~held_out], targets[~held_out])
        return regression.solve(images, axes.variances, l2=l2, start=start, tolerance=effort.tolerance, centre=centre)

    with ThreadPoolExecutor(threads.left(), thread_name_prefix="fold") as pool:
        for step, l2 in enumerate(penalties):
            # From strong to weak, each solution is close to the next.
            found = pool.map(solve, folds, solutions, [l2] * len(folds))
            solutions = []
            for place, (held_out, solution) in enumerate(zip(folds, found, strict=True)):
                emit(Progress("probe", step * len(folds) + place, len(folds) * len(penalties)))
                logits = values[held_out] @ solution.weight.T + solution.bias
                log_losses[step, held_out] = functional.cross_entropy(logits, targets[held_out], reduction="none")
                predicted[step, held_out] = logits.argmax(dim=1)
                solutions.append(solution)
            if effort.patience is not None and step - int(log_losses.mean(dim=1).argmin()) >= effort.patience:
                break
    return _Crossed(penalties, predicted, log_losses)


def _tried(crossed: _Crossed, targets: Tensor) -> tuple[PenaltyTried, ...]:
    losses, hits = crossed.log_losses.mean(dim=1), (crossed.predicted == targets).double().mean(dim=1)
    return tuple(
        PenaltyTried(l2, float(loss), float(hit))
        for l2, loss, hit in zip(crossed.penalties, losses, hits, strict=True)
        if loss.isfinite()
    )


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
