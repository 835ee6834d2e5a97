"""Temperature scaling and calibration figures, beside those of peers on the same predictions."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from tests.training.test_evaluate import guesses
from worker.training import calibrate

CLOSE = 1e-6


def sharpened(values: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values**power / (values**power).sum(axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("power", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 5, 30])
def test_figures_are_those_of_torchmetrics_and_scikit_learn(classes: int, power: float) -> None:
    plain, targets = guesses(400, classes)
    probabilities = sharpened(plain, power)
    found = calibrate.trust(probabilities, targets)
    error = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(targets), classes, n_bins=calibrate.BINS
    )

    assert found.calibration_error == pytest.approx(float(error), abs=CLOSE)
    assert found.log_loss == pytest.approx(metrics.log_loss(targets, probabilities), abs=CLOSE)
    assert sum(one.images for one in found.bins) == 400
    assert [one.low for one in found.bins[1:]] == [one.high for one in found.bins[:-1]]


def test_a_probability_of_one_has_a_bin_of_its_own() -> None:
    found = calibrate.trust(np.array([[1.0, 0.0], [0.0, 1.0], [0.95, 0.05]]), np.array([0, 0, 0]))
    below, certain = found.bins[-2:]
    assert (below.high, below.images, certain.low, certain.high, certain.images) == (1.0, 1, 1.0, 1.0, 2)
    assert (certain.confidence, certain.accuracy) == (1.0, 0.5)
    assert found.calibration_error == pytest.approx((2 * 0.5 + 0.05) / 3)
    assert len(calibrate.trust(np.array([[0.95, 0.05]]), np.array([0])).bins) == calibrate.BINS


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_a_classifier_that_is_certain_are_those_of_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bounds = np.arange(8, 14) / 15
    values = np.array([1.0, 1 - 1e-12, 1 - 1e-9, 0.95, 0.96, 0.97, *bounds, *np.nextafter(np.float32(bounds), 0)])
    # Wrong at one value and right at the next, so that it matters which of them share a bin.
    wrong = [1, 1, 1, 0, 0, 0, *(0 for _ in bounds), *(1 for _ in bounds)]
    place = rng.integers(0, len(values), 200)
    probabilities = np.stack([values[place], 1 - values[place]], axis=1)
    targets = np.array(wrong)[place]
    error = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(targets), 2, n_bins=calibrate.BINS
    )
    found = calibrate.trust(probabilities, targets)
    assert found.calibration_error == pytest.approx(float(error), abs=CLOSE)
    shown = sum(one.images * abs(one.confidence - one.accuracy) for one in found.bins) / 200
    assert found.calibration_error == pytest.approx(shown)


@pytest.mark.parametrize("power", [0.4, 1.0, 3.0])
def test_the_temperature_is_the_best_there_is(power: float) -> None:
    plain, targets = guesses(500, 6)
    probabilities = sharpened(plain, power)

    def loss(exponent: float) -> float:
        return float(metrics.log_loss(targets, sharpened(probabilities, 1 / np.exp(exponent))))

    best = minimize_scalar(loss, bounds=np.log([calibrate.COLDEST, calibrate.HOTTEST]), method="bounded")
    found = calibrate.fit(probabilities, targets)
    assert found == pytest.approx(np.exp(best.x), rel=1e-3)
    assert calibrate.log_loss(calibrate.tempered(probabilities, found), targets) <= best.fun + 1e-9


@pytest.mark.parametrize("power", [0.2, 1.0, 3.0])
def test_a_temperature_is_found_in_a_few_passes_and_sooner_from_close_by(
    power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, targets = guesses(2000, 50)
    probabilities = sharpened(plain, power)
    passes = 0
    derivatives = calibrate._derivatives

    def counted(*given: Any) -> tuple[float, float]:
        nonlocal passes
        passes += 1
        return derivatives(*given)

    monkeypatch.setattr(calibrate, "_derivatives", counted)
    found = calibrate.fit(probabilities, targets)
    assert passes <= 6
    passes = 0
    assert calibrate.fit(probabilities, targets, near=1.02 * found) == pytest.approx(found, rel=1e-9)
    assert passes <= 3


def test_a_temperature_of_one_changes_nothing() -> None:
    probabilities, _ = guesses(50, 4)
    assert calibrate.tempered(probabilities, 1.0) == pytest.approx(probabilities, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("count", "classes", "power"), [(8, 2, 1.0), (30, 3, 2.5), (60, 6, 1.0), (300, 4, 0.5)])
def test_scaling_never_raises_the_log_loss(count: int, classes: int, power: float, seed: int) -> None:
    plain, targets = guesses(count, classes, seed=seed)
    probabilities = sharpened(plain, power)
    found = calibrate.reliability(probabilities, targets, seed=seed)
    all_scaled = calibrate.tempered(probabilities, found.temperature)

    assert found.after.log_loss <= found.before.log_loss
    assert calibrate.log_loss(all_scaled, targets) <= found.before.log_loss + 1e-12
    assert found.temperature == 1 or found.after.log_loss < found.before.log_loss


def test_probabilities_that_are_too_sure_are_mended_on_images_that_had_no_part_in_it() -> None:
    plain, targets = guesses(3000, 5)
    found = calibrate.reliability(sharpened(plain, 4.0), targets, seed=0)
    assert found.before.calibration_error > 0.15
    assert found.after.calibration_error < 0.05
    assert found.temperature > 2


def test_few_images_that_are_all_labelled_right_give_no_certainty_without_end() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.1, 0.9]])
    targets = probabilities.argmax(axis=1)
    assert calibrate.fit(probabilities, targets) == pytest.approx(calibrate.COLDEST)
    assert calibrate.fit(probabilities, 1 - targets) == pytest.approx(calibrate.HOTTEST)


def test_probabilities_that_are_rounded_to_zero_are_taken() -> None:
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.4], [0.3, 0.7]])
    found = calibrate.reliability(probabilities, np.array([0, 0, 1, 1]), seed=0)
    assert np.isfinite([found.temperature, found.before.log_loss, found.after.log_loss]).all()
