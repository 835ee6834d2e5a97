"""Multinomial logistic regression in the principal axes of standardised features.

The penalty does not change under rotation, so all is done in the principal axes of the features: there are no more
of them than images, and in them the problem is so well conditioned that a few steps of L-BFGS solve it.

The features of many images stay where they are, maybe on disk: what is needed of them at a time is read in chunks, so
that the memory does not depend on how many there are. Only weights and slopes then go to the principal axes and back.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.training.table import Rows

MAX_BYTES = 256 * 2**20
"""Features that take more than this as float64 are not held in memory, but read in chunks."""

_CHUNK_ROWS = 8192
_CHUNK_VALUES = 2**22
"""Of features that are not held: as many as make a product of them with themselves worth its while."""
_SLOPE_VALUES = 2**18
"""As many as stay in a CPU's cache until they are gone through again, which halves the time."""
_NEGLIGIBLE_VARIANCE = 1e-10
_MAX_STEPS = 300


@dataclass(frozen=True)
class Axes:
    """The principal axes of standardised features."""

    mean: Tensor
    scale: Tensor
    directions: Tensor
    """Orthonormal `(D, R) float64`."""
    variances: Tensor
    """Along each axis `(R,) float64`."""

    def of_raw(self, weight: Tensor, bias: Tensor) -> "Solution":
        """In these axes, what `weight (K, D)` and `bias (K,)` for raw features give for the images that they are of."""
        turn = torch.where(self.scale.isinf(), 0.0, self.scale)
        raw = weight.double()
        return Solution((raw * turn) @ self.directions, bias.double() + raw @ self.mean)

    def project(self, features: Rows) -> Tensor:
        """`features (N, D)` in these axes `(N, R) float64`."""
        return torch.cat(
            [
                ((chunk.double() - self.mean) / self.scale) @ self.directions
                for chunk in _chunks(features, _CHUNK_VALUES)
            ]
        )


@dataclass(frozen=True)
class Solution:
    """Weights `(K, R)` and biases `(K,)`, float64, in principal axes."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Centre:
    """What weights are drawn to in place of zero: `solution`. Rows that are held `(K,)` are drawn so many times as
    strongly as the penalty says, and their biases too; 0 stands for a row that is not, of which the bias is free."""

    solution: Solution
    hold: Tensor


Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Of weights `(K, R)` and biases `(K,)`: the mean negative log-likelihood, and how it changes with each of them."""


class Labelled(Protocol):
    """Images with their labels."""

    def at(self, positions: NDArray[np.int64]) -> Tensor:
        """Those images in principal axes `(M, R) float64`."""

    def slope(self, unit: Tensor) -> Slope:
        """With axes that have units of their own `(R,)`."""


@dataclass(frozen=True)
class Projected:
    """Images in principal axes `(N, R)`; in float32, half of the time goes for solutions that need not be exact."""

    values: Tensor
    targets: Tensor

    def at(self, positions: NDArray[np.int64]) -> Tensor:
        return self.values[positions]

    def slope(self, unit: Tensor) -> Slope:
        kind = self.values.dtype
        scaled = self.values * unit.to(kind)

        def slope(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            loss, by_weight, by_bias = _slope(scaled, self.targets, weight.to(kind), bias.to(kind))
            return loss, by_weight.to(weight.dtype), by_bias.to(bias.dtype)

        return slope


@dataclass(frozen=True)
class Read:
    """Images whose features `(N, D)` are read in chunks whenever they are wanted."""

    features: Rows
    targets: Tensor
    axes: Axes

    def at(self, positions: NDArray[np.int64]) -> Tensor:
        return self.axes.project(self.features[positions])

    def slope(self, unit: Tensor) -> Slope:
        axes = self.axes
        turn = axes.directions * unit / axes.scale[:, None]

        def slope(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            # The weights of raw features, so that a chunk of them is gone through twice and nothing else.
            raw = weight @ turn.T
            offset = bias - raw @ axes.mean
            loss, by_raw, by_bias = bias.new_zeros(()), torch.zeros_like(raw), torch.zeros_like(bias)
            start = 0
            for chunk in _chunks(self.features, _SLOPE_VALUES):
                labels = self.targets[start : start + len(chunk)]
                start += len(chunk)
                share = len(chunk) / len(self.targets)
                found = _slope(chunk.double(), labels, raw, offset)
                for total, part in zip((loss, by_raw, by_bias), found, strict=True):
                    total += share * part
            return loss, (by_raw - by_bias[:, None] * axes.mean) @ turn, by_bias

        return slope


def labelled(features: Rows, targets: Tensor) -> tuple[Axes, Labelled]:
    """Images with features `(N, D)` and the principal axes of these."""
    if not is_held(features):
        axes = principal_axes(features)
        return axes, Read(features, targets, axes)
    features = features[:]
    axes = principal_axes(features)
    return axes, Projected(axes.project(features), targets)


def is_held(features: Rows) -> bool:
    """Whether `features (N, D)` are few enough to hold them in memory; where there are no more of them than columns,
    as much is needed in any case."""
    count, size = features.shape
    return count < size or 8 * count * size <= MAX_BYTES


def principal_axes(features: Rows) -> Axes:
    """Of `features (N, D)`."""
    count, size = features.shape
    mean = _mean(features)
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
        standardised = (torch.from_numpy(features[:]).double() - mean) / scale
        variances, images = torch.linalg.eigh(standardised @ standardised.T / count)
        directions = standardised.T @ images / (variances.clamp(min=1e-300) * count).sqrt()
    kept = variances > _NEGLIGIBLE_VARIANCE * variances.max().clamp(min=1e-300)
    return Axes(mean, scale, directions[:, kept], variances[kept])


def spread(features: Rows) -> NDArray[np.floating]:
    """The standard deviation of each of `features (N, D)`."""
    return features[:].std(axis=0) if is_held(features) else _spread(features, _mean(features)).numpy()


def typical_spread(features: Rows) -> float:
    """The mean standard deviation of those of `features (N, D)` that are not the same for all images; 1 for none."""
    mean = _mean(features)
    found = _spread(features, mean)
    varying = found[~_is_constant(found, mean)]
    return float(varying.mean()) if len(varying) else 1.0


def solve(
    images: Labelled, variances: Tensor, *, l2: float, start: Solution, tolerance: float, centre: Centre | None = None
) -> Solution:
    """The minimum for images with these variances along their principal axes, to a gradient of `tolerance`. What is
    penalised is the distance of the weights from `centre`, from zero where it is None."""
    classes = len(start.bias)
    # The curvature along each axis where nothing is learnt yet: with its root as unit all axes look alike.
    centre = centre or Centre(Solution(torch.zeros_like(start.weight), start.bias), torch.zeros_like(start.bias))
    anchor, hold = centre.solution, l2 * centre.hold
    strength = torch.where(hold > 0, hold, l2)[:, None] if hold.any() else variances.new_tensor(l2)
    unit = (variances / classes + strength).rsqrt()
    slope = _slope_in(unit, images)
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
        likelihood, by_weight, by_bias = slope(weight.detach(), bias.detach())
        away, moved = weight.detach() * unit - anchor.weight, bias.detach() - anchor.bias
        weight.grad = by_weight + strength * away * unit
        bias.grad = by_bias + hold * moved
        return float(likelihood + (strength / 2 * away.square()).sum() + (hold / 2 * moved.square()).sum())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Solution(weight=weight.detach() * unit, bias=bias.detach())


def _slope_in(unit: Tensor, images: Labelled) -> Slope:
    """With axes that have units of their own `(R,)`, or others for each row `(K, R)`."""
    if unit.ndim == 1:
        return images.slope(unit)
    plain = images.slope(torch.ones_like(unit[0]))

    def slope(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, by_weight, by_bias = plain(weight * unit, bias)
        return loss, by_weight * unit, by_bias

    return slope


def _slope(values: Tensor, targets: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.addmm(bias, values, weight.T)
    log_probabilities = logits.log_softmax(dim=1)
    residual = log_probabilities.exp()
    residual[torch.arange(len(targets)), targets] -= 1
    residual /= len(targets)
    return functional.nll_loss(log_probabilities, targets), residual.T @ values, residual.sum(dim=0)


def _mean(features: Rows) -> Tensor:
    if is_held(features):
        return torch.from_numpy(features[:]).mean(dim=0, dtype=torch.float64)
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for chunk in _chunks(features, _CHUNK_VALUES):
        total += chunk.sum(dim=0, dtype=torch.float64)
    return total / len(features)


def _is_constant(spread: Tensor, mean: Tensor) -> Tensor:
    """Whether a feature is the same for all images: it tells nothing, and its rounding error must not be blown up."""
    return spread <= 1e-6 * mean.abs() + 1e-12


def _spread(features: Rows, mean: Tensor) -> Tensor:
    squares = torch.zeros_like(mean)
    for chunk in _chunks(features, _CHUNK_VALUES):
        squares += (chunk.double() - mean).square().sum(dim=0)
    return (squares / len(features)).sqrt()


def _covariance(features: Rows, mean: Tensor, scale: Tensor) -> Tensor:
    # In chunks: all features as float64 at once would need three times their memory.
    total = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for chunk in _chunks(features, _CHUNK_VALUES):
        standardised = (chunk.double() - mean) / scale
        total += standardised.T @ standardised
    return total / len(features)


def _chunks(features: Rows, most: int) -> Iterator[Tensor]:
    """Of so many values each, where they are not held."""
    rows = _CHUNK_ROWS if is_held(features) else max(1, most // features.shape[1])
    for start in range(0, len(features), rows):
        yield torch.from_numpy(features[start : start + rows])
