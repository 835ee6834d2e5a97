"""A linear classifier on frozen features: multinomial logistic regression with an L2 penalty on standardised features.

Minimised is the mean negative log-likelihood plus `l2 / 2` times the sum of the squared weights, in nats; the biases
are free. (scikit-learn's `C` is `1 / (l2 * N)`, for two classes `2 / (l2 * N)`.)

The penalty does not change under rotation, so all is done in the principal axes of the features: there are no more
of them than images, and in them the problem is so well conditioned that a few steps of L-BFGS solve it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.training import threads
from worker.training.events import Emit, PenaltyTried, ProbeFitted, Progress

MAX_CROSS_VALIDATED = 10_000
"""The penalty is chosen on a stratified sample of so many images; more of them do not change the choice."""

_CHUNK_ROWS = 8192
_NEGLIGIBLE_VARIANCE = 1e-10
_MAX_STEPS = 300


@dataclass(frozen=True)
class Linear:
    """Weights `(K, D)` and biases `(K,)`, float32, for features as they come; and the penalty they were fitted with."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    l2: float
    tried: tuple[PenaltyTried, ...]


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
class _Axes:
    """Standardised features in their principal axes."""

    mean: Tensor
    scale: Tensor
    directions: Tensor
    """Orthonormal `(D, R) float64`."""
    values: Tensor
    """The images in these axes `(N, R) float64`."""
    variances: Tensor
    """Along each axis `(R,) float64`."""


@dataclass(frozen=True)
class _Solution:
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _Effort:
    """How far solutions are taken."""

    tolerance: float
    """The gradient at which one is good enough."""
    patience: int | None
    """Penalties in a row that are worse than one before, after which weaker ones are not tried."""


_THOROUGH = _Effort(tolerance=1e-7, patience=None)
# For figures to look at. The loss falls and rises once along the grid, and the weak penalties take long to solve.
_QUICK = _Effort(tolerance=1e-6, patience=2)


@dataclass(frozen=True)
class _Crossed:
    """Cross-validation of several penalties, the strongest first."""

    penalties: list[float]
    predicted: Tensor
    """For each penalty and image `(P, N) int64`."""
    log_losses: Tensor
    """For each penalty and image `(P, N) float64`; infinite where a penalty was not tried."""


def fit(
    features: NDArray[np.float32],
    targets: NDArray[np.int64],
    *,
    classes: int,
    l2_grid: Sequence[float],
    folds: int,
    seed: int,
    emit: Emit,
) -> Linear:
    """The best linear classifier of `features (N, D)` with `targets (N,)`.

    Of several penalties that with the least mean log-loss in stratified `folds`-fold cross-validation is taken.
    """
    several = len(l2_grid) > 1
    linear = search(
        features, targets, classes=classes, l2_grid=l2_grid, folds=folds if several else 0, seed=seed, emit=emit
    )
    emit(ProbeFitted(l2=linear.l2, tried=linear.tried))
    return linear


@threads.few
def search(
    features: NDArray[np.float32],
    targets: NDArray[np.int64],
    *,
    classes: int,
    l2_grid: Sequence[float],
    folds: int,
    seed: int,
    emit: Emit,
) -> Linear:
    """`fit` that tells of its progress alone, and cross-validates a single penalty, too; with 0 `folds` none."""
    axes = _principal_axes(torch.from_numpy(features))
    labels = torch.from_numpy(targets)
    tried: tuple[PenaltyTried, ...] = ()
    l2 = l2_grid[0]
    if folds:
        sample = stratified_sample(targets, size=MAX_CROSS_VALIDATED, at_least=folds, seed=seed)
        fold_of = assign_folds(targets[sample], folds=folds, seed=seed)
        values, held = axes.values[sample], labels[sample]
        crossed = _cross(
            values, held, axes.variances, fold_of, classes=classes, l2_grid=l2_grid, effort=_THOROUGH, emit=emit
        )
        tried = _tried(crossed, held)
        l2 = min(tried, key=lambda penalty: penalty.log_loss).l2
    start = _zeros(axes.values, classes)
    solution = _solve(axes.values, labels, axes.variances, l2=l2, start=start, tolerance=_THOROUGH.tolerance)
    return _for_raw_features(axes, solution, l2, tried)


@threads.few
def path(
    features: NDArray[np.float32], targets: NDArray[np.int64], *, classes: int, l2_grid: Sequence[float]
) -> tuple[Linear, ...]:
    """The linear classifier of `features (N, D)` for each penalty, the strongest first."""
    axes = _principal_axes(torch.from_numpy(features))
    solution, found = _zeros(axes.values, classes), []
    for l2 in sorted(l2_grid, reverse=True):
        solution = _solve(
            axes.values, torch.from_numpy(targets), axes.variances, l2=l2, start=solution, tolerance=_THOROUGH.tolerance
        )
        found.append(_for_raw_features(axes, solution, l2, ()))
    return tuple(found)


def typical_spread(features: NDArray[np.float32]) -> float:
    """The mean standard deviation of those of `features (N, D)` that are not the same for all images; 1 for none."""
    values = torch.from_numpy(features)
    mean = values.mean(dim=0, dtype=torch.float64)
    spread = _spread(values, mean)
    varying = spread[~_is_constant(spread, mean)]
    return float(varying.mean()) if len(varying) else 1.0


@threads.few
def cross_validate(
    features: NDArray[np.float32],
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
    axes = _principal_axes(torch.from_numpy(features))
    fold_of = assign_folds(targets, folds=folds, seed=seed)
    labels = torch.from_numpy(targets)
    crossed = _cross(
        axes.values, labels, axes.variances, fold_of, classes=classes, l2_grid=l2_grid, effort=_QUICK, emit=emit
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


def _principal_axes(features: Tensor) -> _Axes:
    count, size = features.shape
    mean = features.mean(dim=0, dtype=torch.float64)
    spread = _spread(features, mean)
    constant = _is_constant(spread, mean)
    # The spread of a few images says little about that of others: a feature that hardly differs among them, like a
    # channel that answers to something rare, would be blown up until one new image with it outweighs all the rest. So
    # no feature counts as less spread than the typical one by more than so many images can tell. (The mean is typical
    # even where most channels hardly answer; the median would then be one of theirs.)
    floor = spread[~constant].mean() / count**0.5 if not constant.all() else 0.0
    scale = torch.where(constant, torch.inf, spread.clamp(min=float(floor)))
    if size <= count:
        variances, directions = torch.linalg.eigh(_covariance(features, mean, scale))
    else:
        standardised = (features.double() - mean) / scale
        variances, images = torch.linalg.eigh(standardised @ standardised.T / count)
        directions = standardised.T @ images / (variances.clamp(min=1e-300) * count).sqrt()
    kept = variances > _NEGLIGIBLE_VARIANCE * variances.max().clamp(min=1e-300)
    directions = directions[:, kept]
    return _Axes(mean, scale, directions, _project(features, mean, scale, directions), variances[kept])


def _is_constant(spread: Tensor, mean: Tensor) -> Tensor:
    """Whether a feature is the same for all images: it tells nothing, and its rounding error must not be blown up."""
    return spread <= 1e-6 * mean.abs() + 1e-12


def _spread(features: Tensor, mean: Tensor) -> Tensor:
    squares = torch.zeros_like(mean)
    for chunk in _chunks(features):
        squares += (chunk.double() - mean).square().sum(dim=0)
    return (squares / len(features)).sqrt()


def _covariance(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    # In chunks: all features as float64 at once would need three times their memory.
    total = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for chunk in _chunks(features):
        standardised = (chunk.double() - mean) / scale
        total += standardised.T @ standardised
    return total / len(features)


def _project(features: Tensor, mean: Tensor, scale: Tensor, directions: Tensor) -> Tensor:
    return torch.cat([((chunk.double() - mean) / scale) @ directions for chunk in _chunks(features)])


def _chunks(features: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(features), _CHUNK_ROWS):
        yield features[start : start + _CHUNK_ROWS]


def _cross(
    values: Tensor,
    targets: Tensor,
    variances: Tensor,
    fold_of: NDArray[np.int64],
    *,
    classes: int,
    l2_grid: Sequence[float],
    effort: _Effort,
    emit: Emit,
) -> _Crossed:
    """What each penalty of the grid gives for images in principal axes `(N, R)`."""
    penalties = sorted(l2_grid, reverse=True)
    predicted = torch.empty(len(penalties), len(targets), dtype=torch.int64)
    log_losses = torch.full((len(penalties), len(targets)), torch.inf, dtype=torch.float64)
    folds = [torch.from_numpy(fold_of == fold) for fold in np.unique(fold_of)]
    solutions = [_zeros(values, classes)] * len(folds)
    for step, l2 in enumerate(penalties):
        for place, held_out in enumerate(folds):
            emit(Progress("probe", step * len(folds) + place, len(folds) * len(penalties)))
            # From strong to weak, each solution is close to the next.
            seen, start = ~held_out, solutions[place]
            solution = _solve(values[seen], targets[seen], variances, l2=l2, start=start, tolerance=effort.tolerance)
            logits = values[held_out] @ solution.weight.T + solution.bias
            log_losses[step, held_out] = functional.cross_entropy(logits, targets[held_out], reduction="none")
            predicted[step, held_out] = logits.argmax(dim=1)
            solutions[place] = solution
        if effort.patience is not None and step - int(log_losses.mean(dim=1).argmin()) >= effort.patience:
            break
    return _Crossed(penalties, predicted, log_losses)


def _tried(crossed: _Crossed, targets: Tensor) -> tuple[PenaltyTried, ...]:
    losses, hits = crossed.log_losses.mean(dim=1), (crossed.predicted == targets).double().mean(dim=1)
    return tuple(
        PenaltyTried(l2, float(loss), float(hit)) for l2, loss, hit in zip(crossed.penalties, losses, hits, strict=True)
    )


def _solve(
    values: Tensor, targets: Tensor, variances: Tensor, *, l2: float, start: _Solution, tolerance: float
) -> _Solution:
    """The minimum for images in principal axes `(N, R)`."""
    classes = len(start.bias)
    # The curvature along each axis where nothing is learnt yet: with its root as unit all axes look alike.
    unit = (variances / classes + l2).rsqrt()
    scaled = values * unit
    weight = (start.weight / unit).requires_grad_()
    bias = start.bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MAX_STEPS,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        logits = torch.addmm(bias.detach(), scaled, weight.detach().T)
        log_probabilities = logits.log_softmax(dim=1)
        weights = weight.detach() * unit
        residual = log_probabilities.exp()
        residual[torch.arange(len(targets)), targets] -= 1
        residual /= len(targets)
        weight.grad = residual.T @ scaled + l2 * weights * unit
        bias.grad = residual.sum(dim=0)
        likelihood = functional.nll_loss(log_probabilities, targets)
        return float(likelihood + l2 / 2 * weights.square().sum())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return _Solution(weight=weight.detach() * unit, bias=bias.detach())


def _for_raw_features(axes: _Axes, solution: _Solution, l2: float, tried: tuple[PenaltyTried, ...]) -> Linear:
    weight = (solution.weight @ axes.directions.T) / axes.scale
    bias = solution.bias - weight @ axes.mean
    # A common offset of all classes means nothing.
    bias = bias - bias.mean()
    return Linear(weight.float().numpy(), bias.float().numpy(), l2, tried)


def _zeros(values: Tensor, classes: int) -> _Solution:
    return _Solution(values.new_zeros(classes, values.shape[1]), values.new_zeros(classes))
