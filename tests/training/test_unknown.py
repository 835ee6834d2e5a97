"""Images that are like nothing that was learned."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.metrics.pairwise import cosine_similarity

from app.evaluation import COMPARED_EACH
from tests.training.test_evaluate import labels
from worker.training import unknown


def clouds(count: int, classes: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of images that lie around a centre for each label."""
    centres = np.random.default_rng(7).normal(size=(classes, 24))
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    return (centres[targets] + 0.4 * rng.normal(size=(count, 24))).astype(np.float32), targets


def test_similarities_are_the_cosines_of_scikit_learn() -> None:
    features, targets = clouds(60, 3)
    means = unknown.directions(features, targets, classes=3)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = cosine_similarity(features, np.stack([units[targets == place].mean(axis=0) for place in range(3)]))
    assert unknown.similarities(features, means) == pytest.approx(expected, abs=1e-6)


def test_a_label_without_images_is_like_nothing() -> None:
    features, targets = clouds(20, 2)
    means = unknown.directions(features, targets, classes=3)
    assert (unknown.similarities(features, means)[:, 2] == 0).all()


@pytest.mark.parametrize("count", [3, 20, 101, 1000])
def test_the_threshold_accepts_the_share_that_is_wanted_and_hardly_more(count: int) -> None:
    scores = np.random.default_rng(count).normal(size=count)
    accepted = 1 - unknown.refused(scores, unknown.threshold(scores))
    assert 0.95 <= accepted <= 0.95 + 1 / count + 1e-9


@pytest.mark.parametrize("count", [3, 20, 101])
def test_no_image_is_on_the_other_side_of_the_threshold_by_rounding(count: int) -> None:
    scores = np.random.default_rng(count).uniform(0.2, 0.9, size=count)
    least = unknown.threshold(scores)
    for off in (-1e-6, 1e-6):
        assert np.array_equal(scores + off < least, scores < least)


def test_the_threshold_stays_close_to_the_image_that_it_is_of() -> None:
    odd = np.array([0.1, *np.linspace(0.8, 0.9, 29)])
    assert unknown.threshold(odd) == pytest.approx(0.8, abs=2e-3)
    twins = np.array([0.3, 0.8 - 1e-7, 0.8, *np.linspace(0.85, 0.9, 37)])
    assert unknown.threshold(twins, wanted=0.95) == pytest.approx(0.8 - 1e-3, abs=1e-6)


def test_foreign_images_are_refused_and_known_ones_accepted() -> None:
    features, targets = clouds(400, 4)
    means = unknown.directions(features, targets, classes=4)
    known = unknown.similarities(clouds(400, 4, seed=1)[0], means).max(axis=1)
    foreign = unknown.similarities(np.random.default_rng(2).normal(size=(400, 24)).astype(np.float32), means)
    least = unknown.threshold(known)
    assert unknown.refused(foreign.max(axis=1), least) > 0.95
    fresh = unknown.similarities(clouds(400, 4, seed=5)[0], means).max(axis=1)
    assert unknown.refused(fresh, least) == pytest.approx(0.05, abs=0.03)


def test_figures_are_those_of_scikit_learn() -> None:
    features, targets = clouds(300, 4, seed=3)
    similar = unknown.similarities(features, unknown.directions(features, targets, classes=4))
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 300)
    probabilities[np.arange(300), targets] += 0.5
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    found = unknown.evaluate(similar, probabilities, targets, labels(4), seed=0)
    right, scores = probabilities.argmax(axis=1) == targets, similar.max(axis=1)

    assert found.mistakes_auroc == pytest.approx(metrics.roc_auc_score(right, scores), abs=1e-6)
    assert found.accepted == pytest.approx(0.95, abs=0.02)
    assert found.threshold == unknown.threshold(scores)
    assert [one.label for one in found.left_out] == labels(4)
    for place, left_out in enumerate(found.left_out):
        without, known = np.delete(similar, place, axis=1).max(axis=1), targets != place
        assert left_out.auroc == pytest.approx(metrics.roc_auc_score(known, without), abs=1e-6)
        assert left_out.refused == unknown.refused(without[~known], unknown.threshold(without[known]))
    assert [curve.score for curve in found.curves] == ["probability", "similarity"]


def test_without_mistakes_or_refusals_there_is_nothing_to_say_of_them() -> None:
    similar = np.full((6, 2), 0.5)
    targets = np.arange(6) % 2
    found = unknown.evaluate(similar, np.eye(2)[targets], targets, labels(2), seed=0)
    assert (found.accepted, found.accepted_accuracy) == (1.0, 1.0)
    assert found.refused_accuracy is found.mistakes_refused is found.mistakes_auroc is None
    assert found.left_out == ()


def test_the_sample_has_some_of_every_label_and_is_the_same_for_the_same_seed() -> None:
    targets = np.repeat([0, 1, 2], [200, 5, 40])
    chosen = unknown.sample(targets, seed=1)
    assert np.bincount(targets[chosen]).tolist() == [COMPARED_EACH, 5, COMPARED_EACH]
    assert (np.diff(chosen) > 0).all()
    assert (chosen == unknown.sample(targets, seed=1)).all()
