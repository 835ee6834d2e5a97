"""How well frozen features suit a labelled data set, without training on them: scores that rank backbones and stages.

None of them wins everywhere; they are meant to be looked at together.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from worker.training import probe

MAX_NEIGHBOURS_AMONG = 5_000
"""Neighbours are looked for in a stratified sample of so many images."""

_NEIGHBOURS = 5
_MAX_ROUNDS = 100
_CONVERGED = 1e-6


@dataclass(frozen=True)
class Scores:
    """Higher is better."""

    log_me: float
    """Mean log evidence of a linear model for each class, in nats an image."""
    h_score: float
    """Between 0 and the number of classes less one."""
    neighbours: float
    """Share of images (0-1) whose nearest others have its label."""


def score(features: NDArray[np.float32], targets: NDArray[np.int64], *, classes: int, seed: int) -> Scores:
    """All scores of `features (N, D)` with `targets (N,)`."""
    values = torch.from_numpy(features).double()
    labels = torch.from_numpy(targets)
    sample = probe.stratified_sample(targets, size=MAX_NEIGHBOURS_AMONG, at_least=_NEIGHBOURS + 1, seed=seed)
    return Scores(
        log_me=log_me(values, labels, classes=classes),
        h_score=h_score(values, labels, classes=classes),
        neighbours=nearest_neighbours(values[sample], labels[sample], classes=classes),
    )


def log_me(features: Tensor, targets: Tensor, *, classes: int) -> float:
    """Log evidence of a Bayesian linear regression from `features (N, D) float64` to each class's indicator, at its
    best prior and noise, over N and averaged over the classes ("LogME", You et al. 2021, algorithm 1; the fixed-point
    iteration as in "Ranking and Tuning Pre-trained Models", You et al. 2022, section 4)."""
    count, size = features.shape
    # The evidence needs the squared singular values and, for each class, its indicator along the left singular vectors,
    # which come cheapest from the smaller of the two products of the features with themselves.
    indicators = functional.one_hot(targets, classes).double()
    product = features.T @ features if size <= count else features @ features.T
    curvature, axes = torch.linalg.eigh(product)
    kept = curvature > curvature.max().clamp(min=1e-300) * 1e-12
    curvature, axes = curvature[kept], axes[:, kept]
    left = features @ axes / curvature.sqrt() if size <= count else axes
    along = (indicators.T @ left).square()
    beyond = (indicators.sum(dim=0) - along.sum(dim=1)).clamp(min=0)
    evidence = [_evidence(curvature, along[place], beyond[place], count, size) for place in range(classes)]
    return sum(evidence) / classes


def h_score(features: Tensor, targets: Tensor, *, classes: int) -> float:
    """How much of the features' spread lies between the classes, `trace(cov(f)^-1 cov(E[f|y]))` (Bao et al. 2019), with
    the covariance shrunk as Ledoit and Wolf (2004) do, without which few images with many features look alike
    ("Newer is not always better", Ibrahim et al. 2021)."""
    count = len(features)
    centred = features - features.mean(dim=0)
    covariance = centred.T @ centred / count
    shrinkage = _shrinkage(centred, covariance)
    level = covariance.diagonal().mean()
    shrunk = (1 - shrinkage) * covariance
    shrunk.diagonal().add_(shrinkage * level + 1e-12)
    indicators = functional.one_hot(targets, classes).double()
    sizes = indicators.sum(dim=0).clamp(min=1)
    means = indicators.T @ centred / sizes[:, None]
    weighted = means * (sizes / count).sqrt()[:, None]
    between = torch.linalg.solve(shrunk, weighted.T)
    return float((1 - shrinkage) * (weighted.T * between).sum())


def nearest_neighbours(features: Tensor, targets: Tensor, *, classes: int) -> float:
    """Share of images whose label most of their five nearest others have, near by the angle between features."""
    directions = functional.normalize(features.float(), dim=1)
    count = min(_NEIGHBOURS, len(targets) - 1)
    if count < 1:
        return 0.0
    hits = 0
    for start in range(0, len(targets), 1024):
        similar = directions[start : start + 1024] @ directions.T
        rows = torch.arange(len(similar))
        similar[rows, rows + start] = -math.inf
        weights, places = similar.topk(count, dim=1)
        # Closer ones weigh a little more, which decides where as many have one label as another.
        votes = torch.zeros(len(similar), classes).scatter_add_(1, targets[places], 1 + weights / 100)
        hits += int((votes.argmax(dim=1) == targets[start : start + 1024]).sum())
    return hits / len(targets)


def _evidence(curvature: Tensor, along: Tensor, beyond: Tensor, count: int, size: int) -> float:
    prior, noise = 1.0, 1.0
    for _ in range(_MAX_ROUNDS):
        ratio = prior / noise
        effective = float((curvature / (curvature + ratio)).sum())
        weights = float((curvature * along / (curvature + ratio).square()).sum())
        residual = float((along / (1 + curvature / ratio).square()).sum() + beyond)
        prior, noise = max(effective, 1e-12) / (weights + 1e-12), max(count - effective, 1e-12) / (residual + 1e-12)
        if abs(prior / noise - ratio) <= _CONVERGED * ratio:
            break
    ratio = prior / noise
    weights = float((curvature * along / (curvature + ratio).square()).sum())
    residual = float((along / (1 + curvature / ratio).square()).sum() + beyond)
    determinant = float((prior + noise * curvature).log().sum()) + (size - len(curvature)) * math.log(prior)
    fit = noise * residual + prior * weights
    return (size * math.log(prior) + count * math.log(noise / (2 * math.pi)) - determinant - fit) / (2 * count)


def _shrinkage(centred: Tensor, covariance: Tensor) -> float:
    """The weight of the multiple of the identity in Ledoit and Wolf's estimate, 0-1."""
    count, size = centred.shape
    level = covariance.diagonal().mean()
    spread = covariance.square().sum() / size - level.square()
    squares = centred.square()
    variance = ((squares.sum(dim=1).square().sum() / count) - covariance.square().sum()) / (count * size)
    return float((variance / spread.clamp(min=1e-300)).clamp(0, 1)) if spread > 0 else 0.0
