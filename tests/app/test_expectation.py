"""Which accuracy is expected, by made-up measurements."""

from dataclasses import replace

import pytest

from app import expectation
from app.recipe import Strategy
from tests.app.profiled import probe, profile


def test_what_is_expected_reaches_further_up_where_layers_are_trained() -> None:
    measured = profile(images=3000)
    head, top = expectation.expected(measured, strategy="head"), expectation.expected(measured, strategy="top")
    assert head is not None
    assert top is not None
    assert (head.low, head.high) == pytest.approx((0.8887, 0.9102), abs=1e-4)
    assert (top.low, top.high) == pytest.approx((0.8887, 0.96), abs=1e-4)


@pytest.mark.parametrize(("right", "low", "high"), [(12, 0.757, 1.0), (11, 0.646, 0.985), (0, 0.0, 0.243)])
def test_what_is_expected_of_few_images_is_open_also_where_all_are_labelled_alike(
    right: int, low: float, high: float
) -> None:
    measured = profile(images=12, classes=2, stages=(right / 12, right / 12), gain=0.0, error=0.0)
    found = expectation.expected(measured, strategy="head")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)


@pytest.mark.parametrize(
    ("strategy", "stage", "middle"),
    [
        ("head", None, 0.7),
        ("stage_probe", "stage1", 0.8),
        ("stage_probe", "stage2", 0.7),
        ("stage_probe", "best", 0.8),
        ("stage_probe", "all", 0.9),
    ],
)
def test_what_is_expected_is_told_by_the_features_that_the_classifier_sees(
    strategy: Strategy, stage: str | None, middle: float
) -> None:
    measured = replace(profile(images=3000, stages=(0.8, 0.7)), together=probe(0.9))
    found = expectation.expected(measured, strategy=strategy, stage=stage)
    assert found is not None
    assert (found.low + found.high) / 2 == pytest.approx(middle, abs=0.001)


def test_what_is_expected_reaches_further_up_where_a_sample_was_measured() -> None:
    of_all = replace(profile(images=16_000, stages=(0.4, 0.6, 0.7, 0.8, 0.8)), measured=16_000)
    of_some = replace(of_all, measured=2_000)
    found, less = expectation.expected(of_some, strategy="head"), expectation.expected(of_all, strategy="head")
    assert found is not None
    assert less is not None
    # Three doublings, of which the last one gave 3 points; fewer images leave another one open.
    assert (found.low, found.high) == pytest.approx((less.low - 0.01, less.high + 0.09 + 0.01), abs=0.003)


def test_what_is_expected_reaches_down_by_the_labels_that_were_not_measured() -> None:
    of_all = profile(images=2_000, classes=101, gain=0.0)
    drawn = replace(of_all, images=4_000, classes=201, measured_labels=101)
    found, less = expectation.expected(drawn, strategy="head"), expectation.expected(of_all, strategy="head")
    assert found is not None
    assert less is not None
    assert 1 - found.low == pytest.approx(2 * (1 - less.low))
    assert found.high == less.high


def test_nothing_is_expected_of_a_training_from_random_values() -> None:
    assert expectation.expected(profile(images=3000), strategy="scratch") is None
