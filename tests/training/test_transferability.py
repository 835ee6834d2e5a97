"""Scores of features: against slow, literal versions of their definitions, and on features whose order is known."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import KNeighborsClassifier

from worker.training import transferability

CLASSES = 3


def clouds(
    *, apart: float, count: int = 90, size: int = 20, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of `CLASSES` classes whose centres lie so far apart."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % CLASSES
    centres = rng.normal(size=(CLASSES, size)) * apart
    return (centres[targets] + rng.normal(size=(count, size))).astype(np.float32), targets.astype(np.int64)


def literal_evidence(features: NDArray[np.float64], y: NDArray[np.float64], prior: float, noise: float) -> float:
    """log N(y; 0, I / noise + F F^T / prior) / N, by its definition."""
    count = len(y)
    covariance = np.eye(count) / noise + features @ features.T / prior
    _, log_determinant = np.linalg.slogdet(covariance)
    return float(-(count * np.log(2 * np.pi) + log_determinant + y @ np.linalg.solve(covariance, y)) / 2 / count)


@pytest.mark.parametrize("size", [6, 200])
def test_log_me_is_the_largest_evidence_of_a_linear_model(size: int) -> None:
    features, targets = clouds(apart=0.4, size=size)
    found = transferability.log_me(torch.from_numpy(features).double(), torch.from_numpy(targets), classes=CLASSES)
    grid = 10.0 ** np.linspace(-3, 5, 81)
    best = []
    for place in range(CLASSES):
        y = (targets == place).astype(np.float64)
        values = features.astype(np.float64)
        best.append(max(literal_evidence(values, y, prior, noise) for prior in grid[::4] for noise in grid[20:60:2]))
    # The grid is coarse, so it comes close from below.
    assert np.mean(best) - 1e-3 <= found <= np.mean(best) + 0.02


def test_the_h_score_is_the_trace_of_its_definition() -> None:
    features, targets = clouds(apart=1.0)
    values = features.astype(np.float64)
    covariance, shrinkage = ledoit_wolf(values)
    means = np.stack([values[targets == place].mean(axis=0) for place in range(CLASSES)])
    between = np.cov(means[targets].T, bias=True)
    expected = (1 - shrinkage) * np.trace(np.linalg.solve(covariance, between))
    found = transferability.h_score(torch.from_numpy(features).double(), torch.from_numpy(targets), classes=CLASSES)

    assert found == pytest.approx(expected, rel=1e-6)


def test_neighbours_are_counted_as_scikit_learn_does() -> None:
    features, targets = clouds(apart=0.7, count=60)
    hits = 0
    for place in range(len(targets)):
        others = np.arange(len(targets)) != place
        judge = KNeighborsClassifier(5, metric="cosine", weights=lambda distance: 1 + (1 - distance) / 100)
        judge.fit(features[others], targets[others])
        hits += int(judge.predict(features[place : place + 1])[0] == targets[place])
    found = transferability.nearest_neighbours(torch.from_numpy(features), torch.from_numpy(targets), classes=CLASSES)

    assert found == pytest.approx(hits / len(targets))


@pytest.mark.parametrize("size", [20, 400])
def test_features_that_part_the_classes_better_score_higher(size: int) -> None:
    scores = [
        transferability.score(*clouds(apart=apart, size=size), classes=CLASSES, seed=0) for apart in (0.0, 0.5, 2.0)
    ]
    for name in ("log_me", "h_score", "neighbours"):
        values = [getattr(one, name) for one in scores]
        assert values == sorted(values), name
        assert values[-1] > values[0], name


@pytest.mark.parametrize("value", [1.0, 0.0])
def test_features_that_are_all_the_same_are_scored_without_complaint(value: float) -> None:
    _, targets = clouds(apart=1.0, count=12)
    scores = transferability.score(np.full((12, 5), value, np.float32), targets, classes=CLASSES, seed=0)

    assert np.isfinite([scores.log_me, scores.h_score, scores.neighbours]).all()
