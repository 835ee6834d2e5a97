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

from worker.training.events import Emit, PenaltyTried, ProbeFitted, Progress

MAX_CROSS_VALIDATED = 10_000
"""The penalty is chosen on a stratified sample of so many images; more of them do not change the choice."""

_CHUNK_ROWS = 8192
_NEGLIGIBLE_VARIANCE = 1e-10
_MAX_STEPS = 300
_GRADIENT_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Linear:
    """Weights `(K, D)` and biases `(K,)`, float32, for features as they come; and the penalty they were fitted with."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    l2: float
    tried: tuple[PenaltyTried, ...]


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
    axes = _principal_axes(torch.from_numpy(features))
    labels = torch.from_numpy(targets)
    tried: tuple[PenaltyTried, ...] = ()
    l2 = l2_grid[0]
    if len(l2_grid) > 1:
        sample = stratified_sample(targets, size=MAX_CROSS_VALIDATED, at_least=folds, seed=seed)
        fold_of = assign_folds(targets[sample], folds=folds, seed=seed)
        tried = _cross_validate(axes, labels, sample, fold_of, classes=classes, l2_grid=l2_grid, emit=emit)
        l2 = min(tried, key=lambda penalty: penalty.log_loss).l2
    solution = _solve(axes.values, labels, axes.variances, l2=l2, start=_zeros(axes.values, classes))
    emit(ProbeFitted(l2=l2, tried=tried))
    return _for_raw_features(axes, solution, l2, tried)


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
    # A feature that is the same for all images tells nothing, and its rounding error must not be blown up.
    constant = spread <= 1e-6 * mean.abs() + 1e-12
    scale = torch.where(constant, torch.inf, spread)
    if size <= count:
        variances, directions = torch.linalg.eigh(_covariance(features, mean, scale))
    else:
        standardised = (features.double() - mean) / scale
        variances, images = torch.linalg.eigh(standardised @ standardised.T / count)
        directions = standardised.T @ images / (variances.clamp(min=1e-300) * count).sqrt()
    kept = variances > _NEGLIGIBLE_VARIANCE * variances.max().clamp(min=1e-300)
    directions = directions[:, kept]
    return _Axes(mean, scale, directions, _project(features, mean, scale, directions), variances[kept])


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


def _cross_validate(
    axes: _Axes,
    labels: Tensor,
    sample: NDArray[np.int64],
    fold_of: NDArray[np.int64],
    *,
    classes: int,
    l2_grid: Sequence[float],
    emit: Emit,
) -> tuple[PenaltyTried, ...]:
    """What each penalty of the grid gives, the strongest first."""
    values, targets = axes.values[sample], labels[sample]
    penalties = sorted(l2_grid, reverse=True)
    losses = dict.fromkeys(penalties, 0.0)
    hits = dict.fromkeys(penalties, 0)
    folds = np.unique(fold_of)
    for place, fold in enumerate(folds):
        held_out = torch.from_numpy(fold_of == fold)
        solution = _zeros(values, classes)
        # From strong to weak, each solution is close to the next.
        for step, l2 in enumerate(penalties):
            emit(Progress("probe", place * len(penalties) + step, len(folds) * len(penalties)))
            solution = _solve(values[~held_out], targets[~held_out], axes.variances, l2=l2, start=solution)
            logits = values[held_out] @ solution.weight.T + solution.bias
            losses[l2] += float(functional.cross_entropy(logits, targets[held_out], reduction="sum"))
            hits[l2] += int((logits.argmax(dim=1) == targets[held_out]).sum())
    return tuple(PenaltyTried(l2, losses[l2] / len(sample), hits[l2] / len(sample)) for l2 in penalties)


def _solve(values: Tensor, targets: Tensor, variances: Tensor, *, l2: float, start: _Solution) -> _Solution:
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
        tolerance_grad=_GRADIENT_TOLERANCE,
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
