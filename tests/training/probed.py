"""Clouds of points, and linear classifiers of them: our own and scikit-learn's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.training.samples import Recorder
from worker.training import probe
from worker.training.probe import Linear

GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
Features = NDArray[np.float32]
Targets = NDArray[np.int64]
Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """scikit-learn's solution for features as they come, the weights of all classes adding up to nothing."""

    weight: Figures
    bias: Figures


def blobs(count: int, size: int, classes: int, *, seed: int = 0, apart: float = 0.5) -> tuple[Features, Targets]:
    """Overlapping clouds of points, one a class, with features of all scales and places."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(count) % classes)
    centres = apart * rng.normal(size=(classes, size))
    points = centres[targets] + rng.normal(size=(count, size))
    return (points * rng.uniform(0.1, 3, size) + 2 * rng.normal(size=size)).astype(np.float32), targets


def fit(
    features: Features,
    targets: Targets,
    *,
    classes: int,
    l2_grid: Sequence[float] = GRID,
    folds: int = 4,
    seed: int = 0,
    emit: Recorder | None = None,
) -> Linear:
    emit = emit or Recorder()
    return probe.fit(features, targets, classes=classes, l2_grid=l2_grid, folds=folds, seed=seed, emit=emit)


def regression(features: Figures, targets: Targets, *, classes: int, l2: float) -> LogisticRegression:
    """scikit-learn's regression of standardised features, with its name for the same penalty."""
    strength = (2 if classes == 2 else 1) / (l2 * len(targets))
    solver = "newton-cholesky" if classes == 2 else "newton-cg"
    return LogisticRegression(C=strength, tol=1e-12, max_iter=10_000, solver=solver).fit(features, targets)


def standardised(features: Features) -> StandardScaler:
    """scikit-learn's, with no spread below the typical one over the root of the number of images."""
    scaler = StandardScaler().fit(features.astype(np.float64))
    scaler.scale_ = np.maximum(scaler.scale_, scaler.scale_.mean() / np.sqrt(len(features)))
    return scaler


def reference(features: Features, targets: Targets, *, classes: int, l2: float) -> Reference:
    scaler = standardised(features)
    model = regression(scaler.transform(features.astype(np.float64)), targets, classes=classes, l2=l2)
    weight = model.coef_ / scaler.scale_
    bias = model.intercept_ - weight @ scaler.mean_
    if classes == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Reference(weight - weight.mean(axis=0), bias - bias.mean())


def probabilities(features: Features, linear: Linear | Reference) -> Figures:
    logits = features.astype(np.float64) @ linear.weight.astype(np.float64).T + linear.bias
    exponentials: Figures = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Figures = exponentials / exponentials.sum(axis=1, keepdims=True)
    return shares
