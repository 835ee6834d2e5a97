"""Multinomial logistic regression in the principal axes of standardised features.

The penalty does not change under rotation, so all is done in the principal axes of the features: there are no more
of them than images, and in them the problem is so well conditioned that a few steps of L-BFGS solve it. Several
regressions on parts of the same images, as cross-validation asks for, are solved side by side: the features are gone
through once for all of them.

The features of many images stay where they are, maybe on disk: what is needed of them at a time is read in chunks, so
that the memory does not depend on how many there are. Only weights and slopes then go to the principal axes and back.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.training import lbfgs, threads
from worker.training.table import Rows
from worker.training.threads import Crew

MAX_BYTES = 256 * 2**20
"""Features that take more than this as float64 are not held in memory, but read in chunks."""

MAX_STEPS = 300
"""Of a solution, each of which goes through the images once or a few times."""

_CHUNK_ROWS = 8192
_CHUNK_VALUES = 2**22
"""Of features that are not held: as many as make a product of them with themselves worth its while."""
_SLOPE_VALUES = 2**18
"""As many as stay in a CPU's cache until they are gone through again, which halves the time."""
_LOGITS = 2**20
"""At a time, over all regressions."""
_SLOPE_BYTES = 2**22
"""Of features that are held, for the same reason."""
_REMEMBERED, _REMEMBERED_OF_ONE = 10, 20
"""Steps by which L-BFGS knows the curvature of several regressions, and that of one, which is solved to the end: with
weak penalties it takes half as many then."""
_FEWEST_REMEMBERED, _MOST_REMEMBERED_BYTES = 5, 256 * 2**20
_MOST_SUMS_BYTES = 64 * 2**20
_NEGLIGIBLE_VARIANCE = 1e-10

Told = Callable[[int], None]
"""Is told how much has been done so far, for whoever waits to know that something is."""


def _tell_nobody(_done: int) -> None:
    pass


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
    """Weights `(K, R)` and biases `(K,)`, float64, in principal axes; of several regressions, `(B, K, R)` and
    `(B, K)`."""

    weight: Tensor
    bias: Tensor

    def repeated(self, count: int) -> "Solution":
        """The same for each of so many regressions."""
        return Solution(self.weight.repeat(count, 1, 1), self.bias.repeat(count, 1))

    def mean(self) -> "Solution":
        """Of several regressions."""
        return Solution(self.weight.mean(dim=0), self.bias.mean(dim=0))


def nothing(classes: int, size: int) -> Solution:
    """Weights and biases of zero."""
    return Solution(torch.zeros(classes, size, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64))


@dataclass(frozen=True)
class Centre:
    """What weights are drawn to in place of zero: `solution`. Rows that are held `(K,)` are drawn so many times as
    strongly as the penalty says, and their biases too; 0 stands for a row that is not, of which the bias is free."""

    solution: Solution
    hold: Tensor


@dataclass(frozen=True)
class Slope:
    """Of several regressions: the mean negative log-likelihood `(B,)`, and how it changes with weights `(B, K, R)` and
    biases `(B, K)`."""

    loss: Tensor
    by_weight: Tensor
    by_bias: Tensor


class Labelled(Protocol):
    """Images with their labels."""

    @property
    def count(self) -> int:
        """N of them."""

    def at(self, positions: NDArray[np.int64]) -> Tensor:
        """Those images in principal axes `(M, R) float64`."""

    def slope(self, weight: Tensor, bias: Tensor, crew: Crew) -> Slope:
        """At weights `(B, K, R)` and biases `(B, K)`, found by `crew`."""


@dataclass(frozen=True)
class Projected:
    """Images in principal axes; in float32, half of the time goes for solutions that need not be exact."""

    values: Tensor
    """`(N, R)`, or `(B, N, R)` where they differ from one regression to the other."""
    targets: Tensor
    seen: Tensor | None = None
    """Which of them each of several regressions is of `(B, N) bool`; None: all are."""

    @property
    def count(self) -> int:
        return len(self.targets)

    def at(self, positions: NDArray[np.int64]) -> Tensor:
        return self.values[..., positions, :]

    def slope(self, weight: Tensor, bias: Tensor, crew: Crew) -> Slope:
        kind = self.values.dtype
        seen = torch.ones(len(bias), self.count, dtype=torch.bool) if self.seen is None else self.seen
        share = seen.to(kind) / seen.sum(dim=1, keepdim=True)
        rows = max(1, min(_LOGITS // bias.numel(), _SLOPE_BYTES // max(1, self.values[..., 0, :].nbytes)))
        weights, biases = weight.to(kind), bias.to(kind)

        def of(images: range) -> Slope:
            parts = (slice(start, min(start + rows, images.stop)) for start in images[::rows])
            slopes = (
                _slope(self.values[..., part, :], self.targets[part], share[:, part], weights, biases) for part in parts
            )
            return _summed(slopes, weight, bias)

        return _summed(crew.each(of, _divided(self.count, weight, crew)), weight, bias)


@dataclass(frozen=True)
class Read:
    """Images whose features `(N, D)` are read in chunks whenever they are wanted."""

    features: Rows
    targets: Tensor
    axes: Axes

    @property
    def count(self) -> int:
        return len(self.targets)

    def at(self, positions: NDArray[np.int64]) -> Tensor:
        return self.axes.project(self.features[positions])

    def slope(self, weight: Tensor, bias: Tensor, crew: Crew) -> Slope:
        mean = self.axes.mean
        # The weights of raw features, so that a chunk of them is gone through twice and nothing else.
        raw = weight @ self._turn.T
        offset = bias - raw @ mean

        def of(images: range) -> Slope:
            return _summed(self._parts(raw, offset, images), raw, bias)

        found = _summed(crew.each(of, _divided(self.count, weight, crew)), raw, bias)
        return Slope(found.loss, (found.by_weight - found.by_bias[..., None] * mean) @ self._turn, found.by_bias)

    @cached_property
    def _turn(self) -> Tensor:
        """From standardised features to the axes `(D, R)`."""
        return self.axes.directions / self.axes.scale[:, None]

    def _parts(self, raw: Tensor, offset: Tensor, images: range) -> Iterator[Slope]:
        start = images.start
        for chunk in _chunks(self.features, _SLOPE_VALUES, images):
            labels = self.targets[start : start + len(chunk)]
            start += len(chunk)
            share = raw.new_full((len(offset), len(chunk)), 1 / len(self.targets))
            yield _slope(chunk.double(), labels, share, raw, offset)


def labelled(features: Rows, targets: Tensor, *, read: Told = _tell_nobody) -> tuple[Axes, Labelled]:
    """Images with features `(N, D)` and the principal axes of these; `read` is told of each chunk that the axes take,
    how many images there have been."""
    if not is_held(features):
        axes = principal_axes(features, read=read)
        return axes, Read(features, targets, axes)
    features = features[:]
    axes = principal_axes(features)
    return axes, Projected(axes.project(features), targets)


def is_held(features: Rows) -> bool:
    """Whether `features (N, D)` are few enough to hold them in memory; where there are no more of them than columns,
    as much is needed in any case."""
    count, size = features.shape
    return count < size or 8 * count * size <= MAX_BYTES


def principal_axes(features: Rows, *, read: Told = _tell_nobody) -> Axes:
    """Of `features (N, D)`; `read` is told how many of them there have been."""
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
        variances, directions = _eigen(_covariance(features, mean, scale, read))
    else:
        standardised = (torch.from_numpy(features[:]).double() - mean) / scale
        variances, images = _eigen(standardised @ standardised.T / count)
        directions = standardised.T @ images / (variances.clamp(min=1e-300) * count).sqrt()
    kept = variances > _NEGLIGIBLE_VARIANCE * variances.max().clamp(min=1e-300)
    return Axes(mean, scale, directions[:, kept], variances[kept])


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues and eigenvectors of a symmetric `matrix`."""
    # Much of the work is done in as many short steps as there are rows.
    with threads.suited(len(matrix) ** 3 // 32):
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors


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
    images: Labelled,
    variances: Tensor,
    *,
    l2: float,
    start: Solution,
    tolerance: float,
    centre: Centre | None = None,
    passed: Told = _tell_nobody,
    crew: Crew | None = None,
) -> Solution:
    """The minimum for images with these variances `(R,)` or `(B, R)` along their principal axes, to a gradient of
    `tolerance`; where `start` is of several regressions, that of each. What is penalised is the distance of the weights
    from `centre`, from zero where it is None. `passed` is told of each time that the images are gone through, how many
    there were before. They are shared among `crew`; among as many threads as torch has where it is None."""
    several = start.bias.ndim > 1
    begun = start if several else start.repeated(1)
    count, classes, size = begun.weight.shape
    centre = centre or Centre(nothing(classes, size), torch.zeros(classes, dtype=torch.float64))
    anchor, hold = centre.solution, l2 * centre.hold
    strength = torch.where(hold > 0, hold, l2)[:, None]
    # The curvature along each axis where nothing is learnt yet: with its root as unit all axes look alike.
    unit = (variances[..., None, :] / classes + strength).rsqrt()
    passes = itertools.count()

    def slope(point: Tensor) -> tuple[Tensor, Tensor]:
        passed(next(passes))
        weight = point[:, :-classes].reshape(count, classes, size) * unit
        bias = point[:, -classes:]
        found = images.slope(weight, bias, sharing)
        away, moved = weight - anchor.weight, bias - anchor.bias
        loss = found.loss + (strength / 2 * away.square()).sum(dim=(1, 2)) + (hold / 2 * moved.square()).sum(dim=1)
        by_weight = (found.by_weight + strength * away) * unit
        return loss, torch.cat([by_weight.flatten(1), found.by_bias + hold * moved], dim=1)

    first = torch.cat([(begun.weight / unit).flatten(1), begun.bias], dim=1)
    with threads.crew(images.count * begun.weight.numel()) if crew is None else nullcontext(crew) as sharing:
        remembered = _remembered(first, several=several)
        last = lbfgs.minimum(slope, first, tolerance=tolerance, most_steps=MAX_STEPS, remembered=remembered)
    solved = Solution(last[:, :-classes].reshape(count, classes, size) * unit, last[:, -classes:])
    return solved if several else Solution(solved.weight[0], solved.bias[0])


def _remembered(point: Tensor, *, several: bool) -> int:
    """Steps, each of which takes twice the memory of `point`."""
    fitting = _MOST_REMEMBERED_BYTES // (2 * max(1, point.nbytes))
    return max(_FEWEST_REMEMBERED, min(fitting, _REMEMBERED if several else _REMEMBERED_OF_ONE))


def _slope(values: Tensor, targets: Tensor, share: Tensor, weight: Tensor, bias: Tensor) -> Slope:
    """Of images `(N, R)` or `(B, N, R)`, each of which counts for so much `(B, N)` in each regression."""
    # With the images last, which is how these products and sums take least time.
    logits = _times(weight, values.mT) + bias[..., None]
    log_probabilities = logits.log_softmax(dim=1)
    residual = log_probabilities.exp()
    images = torch.arange(len(targets))
    residual[:, targets, images] -= 1
    residual *= share[:, None]
    loss = -(log_probabilities[:, targets, images] * share).sum(dim=1)
    return Slope(loss, _times(residual, values), residual.sum(dim=2))


def _times(several: Tensor, values: Tensor) -> Tensor:
    """`several (B, K, M)` times `values (M, L)` or `(B, M, L)`."""
    if values.ndim > 2:
        return several @ values
    return (several.flatten(0, 1) @ values).view(*several.shape[:2], values.shape[1])


def _summed(parts: Iterable[Slope], weight: Tensor, bias: Tensor) -> Slope:
    total = Slope(bias.new_zeros(len(bias)), torch.zeros_like(weight), torch.zeros_like(bias))
    for part in parts:
        total.loss.add_(part.loss)
        total.by_weight.add_(part.by_weight)
        total.by_bias.add_(part.by_bias)
    return total


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


def _covariance(features: Rows, mean: Tensor, scale: Tensor, read: Told) -> Tensor:
    # In chunks: all features as float64 at once would need three times their memory.
    total, done = torch.zeros(len(mean), len(mean), dtype=torch.float64), 0
    for chunk in _chunks(features, _CHUNK_VALUES):
        read(done)
        done += len(chunk)
        standardised = (chunk.double() - mean) / scale
        total += standardised.T @ standardised
    return total / len(features)


def _chunks(features: Rows, most: int, images: range | None = None) -> Iterator[Tensor]:
    """Of so many values each, where they are not held; of all `images`, or of a part of them."""
    rows = _CHUNK_ROWS if is_held(features) else max(1, most // features.shape[1])
    images = range(len(features)) if images is None else images
    for start in images[::rows]:
        yield torch.from_numpy(features[start : min(start + rows, images.stop)])


def _divided(images: int, weight: Tensor, crew: Crew) -> list[range]:
    """Them in parts as alike as it goes, one for each of `crew` unless the sums, each as large as `weight`, are too
    large."""
    parts = max(1, min(crew.count, _MOST_SUMS_BYTES // max(1, weight.nbytes)))
    ends = [images * part // parts for part in range(parts + 1)]
    return [range(start, end) for start, end in itertools.pairwise(ends) if start < end]
