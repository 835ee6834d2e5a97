"""The folds of a cross-validation, and what is judged by them."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from tests.training.probed import blobs, fit, probabilities, regression, standardised
from tests.training.samples import Recorder
from worker.training import probe


@pytest.mark.parametrize(("count", "size", "classes", "folds"), [(120, 12, 3, 5), (40, 60, 2, 4)])
def test_the_losses_of_the_penalties_are_those_of_scikit_learn(count: int, size: int, classes: int, folds: int) -> None:
    features, targets = blobs(count, size, classes)
    found = fit(features, targets, classes=classes, folds=folds, seed=7)
    scaled = standardised(features).transform(features.astype(np.float64))
    fold_of = probe.assign_folds(targets, folds=folds, seed=7)
    for tried in found.tried:
        expected = np.empty((count, classes))
        for fold in range(folds):
            out = fold_of == fold
            model = regression(scaled[~out], targets[~out], classes=classes, l2=tried.l2)
            expected[out] = model.predict_proba(scaled[out])
        # To choose among penalties they need not be solved to the last digit.
        assert tried.log_loss == pytest.approx(log_loss(targets, expected), rel=2e-3, abs=2e-2)
        assert tried.accuracy == pytest.approx((expected.argmax(axis=1) == targets).mean(), abs=1.5 / count)


@pytest.mark.parametrize("size", [4, 50])
def test_folds_with_features_of_their_own_are_judged_as_by_scikit_learn(size: int) -> None:
    features, targets = blobs(45, 60, 3)
    rng = np.random.default_rng(1)
    chosen = [np.sort(rng.permutation(60)[:size]) for _ in range(3)]
    fold_of = probe.assign_folds(targets, folds=3, seed=7)
    found = probe.compare_chosen(features, targets, fold_of, chosen, classes=3, l2_grid=[0.1], emit=Recorder())
    expected = np.empty((45, 3))
    for fold, columns in enumerate(chosen):
        out = fold_of == fold
        own = features[:, columns]
        scaled = standardised(own).transform(own.astype(np.float64))
        model = regression(scaled[~out], targets[~out], classes=3, l2=0.1)
        expected[out] = model.predict_proba(scaled[out])
    assert found.l2 == 0.1
    assert found.log_loss == pytest.approx(log_loss(targets, expected), rel=2e-3)
    assert found.accuracy == pytest.approx((expected.argmax(axis=1) == targets).mean(), abs=1.5 / 45)


def test_the_classifier_of_each_fold_has_not_seen_its_images() -> None:
    features, targets = blobs(60, 8, 2)
    folds = probe.divide(targets, folds=3, seed=7)
    compared = probe.compare(features, targets, folds, classes=2, l2_grid=[0.1], emit=Recorder())
    scaled = standardised(features).transform(features.astype(np.float64))
    for fold, linear in enumerate(compared.folds):
        rest = folds.fold_of != fold
        expected = regression(scaled[rest], targets[rest], classes=2, l2=0.1).predict_proba(scaled)
        assert probabilities(features, linear) == pytest.approx(expected, abs=2e-3)
    assert compared.best.l2 == 0.1


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_fold_has_its_share_of_every_class(folds: int) -> None:
    targets = np.random.default_rng(1).permutation(np.repeat(np.arange(4), (40, 17, 5, 2)))
    fold_of = probe.assign_folds(targets, folds=folds, seed=0)
    assert set(fold_of.tolist()) == set(range(folds))
    for target in range(4):
        shares = np.bincount(fold_of[targets == target], minlength=folds)
        assert shares.max() - shares.min() <= 1
    sizes = np.bincount(fold_of, minlength=folds)
    assert sizes.max() - sizes.min() <= 1


def test_small_classes_are_spread_over_all_folds() -> None:
    fold_of = probe.assign_folds(np.arange(10), folds=5, seed=3)
    assert np.bincount(fold_of).tolist() == [2] * 5


def test_the_seed_alone_decides_on_the_folds() -> None:
    targets = np.repeat(np.arange(3), 20)
    one, same, other = (probe.assign_folds(targets, folds=4, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
