"""Areas under ROC curves and risk by coverage, beside scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from tests.training.test_evaluate import guesses, labels
from worker.training import separation

CLOSE = 1e-6


@pytest.mark.parametrize("classes", [3, 5, 40])
def test_areas_are_those_of_scikit_learn(classes: int) -> None:
    probabilities, targets = guesses(300, classes)
    probabilities = probabilities.round(2)  # ties
    found = separation.roc(probabilities, targets, labels(classes))
    assert found is not None
    expected = [metrics.roc_auc_score(targets == place, probabilities[:, place]) for place in range(classes)]
    assert found.aucs == pytest.approx(expected, abs=CLOSE)
    assert found.macro_auc == pytest.approx(np.mean(expected), abs=CLOSE)


def test_of_two_labels_there_is_one_curve_and_it_is_that_of_scikit_learn() -> None:
    probabilities, targets = guesses(120, 2)
    found = separation.roc(probabilities, targets, labels(2))
    assert found is not None
    assert found.macro_auc == pytest.approx(metrics.roc_auc_score(targets, probabilities[:, 1]), abs=CLOSE)
    (curve,) = found.curves
    place = labels(2).index(str(curve.label))
    wrong, right, _ = metrics.roc_curve(targets == place, probabilities[:, place], drop_intermediate=False)
    points = set(zip(curve.false_positives, curve.true_positives, strict=True))
    assert points <= set(zip(wrong.round(5).tolist(), right.round(5).tolist(), strict=True))
    assert metrics.auc(curve.false_positives, curve.true_positives) == pytest.approx(found.macro_auc, abs=1e-4)


def test_many_labels_have_the_mean_curve_and_those_of_the_worst() -> None:
    probabilities, targets = guesses(400, 20)
    found = separation.roc(probabilities, targets, labels(20))
    assert found is not None
    assert found.curves[0].label is None
    ordered = sorted(range(20), key=lambda place: found.aucs[place] or 0)
    assert [curve.label for curve in found.curves[1:]] == [labels(20)[place] for place in ordered[:6]]
    mean = metrics.auc(found.curves[0].false_positives, found.curves[0].true_positives)
    assert mean == pytest.approx(found.macro_auc, abs=0.02)


def test_a_label_without_images_has_no_area_and_images_of_one_label_no_curves() -> None:
    probabilities, _ = guesses(20, 3)
    found = separation.roc(probabilities, np.arange(20) % 2, labels(3))
    assert found is not None
    assert [area is None for area in found.aucs] == [False, False, True]
    assert separation.roc(probabilities, np.zeros(20, np.int64), labels(3)) is None


def test_the_risk_is_the_share_of_mistakes_among_those_that_are_kept() -> None:
    values, right = np.array([0.9, 0.1, 0.8, 0.5]), np.array([True, False, True, False])
    found = separation.rejection("sureness", values, right)
    assert found.coverage == (0.25, 0.5, 0.75, 1.0)
    assert found.risk == pytest.approx((0, 0, 1 / 3, 0.5), abs=1e-5)
    assert found.area == pytest.approx(np.mean([0, 0, 1 / 3, 0.5]))
