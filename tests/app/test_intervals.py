"""Intervals for shares and differences of shares, as their papers and scipy have them."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, chi2

from app import intervals
from app.intervals import Pairs, Score


@pytest.mark.parametrize(("correct", "images"), [(0, 10), (10, 10), (7, 10), (950, 1000), (1, 3)])
def test_the_interval_of_a_share_is_that_of_scipy(correct: int, images: int) -> None:
    expected = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    found = intervals.of_share(Score(correct, images))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Newcombe (1998), table II, method 10.
        (Score(56, 70), Score(48, 80), (0.0524, 0.3339)),
        (Score(9, 10), Score(3, 10), (0.1705, 0.8090)),
        (Score(10, 10), Score(0, 20), (0.6791, 1.0)),
    ],
)
def test_the_interval_of_a_difference_is_that_of_its_paper(
    first: Score, second: Score, expected: tuple[float, float]
) -> None:
    found = intervals.of_difference(first, second)
    assert (found.low, found.high) == pytest.approx(expected, abs=5e-5)


PAIRS = [
    Pairs(1, 7, 21),
    Pairs(6, 16, 161),
    Pairs(40, 20, 160),
    Pairs(16, 4, 400),
    Pairs(12, 0, 60),
    Pairs(0, 3, 50),
    Pairs(9, 9, 100),
    Pairs(10, 3, 1000),
    Pairs(5, 0, 5),
]


@pytest.mark.parametrize("pairs", PAIRS)
def test_the_interval_of_a_paired_difference_solves_its_quartic(pairs: Pairs) -> None:
    # Yang, Sun and Hardin (2013): both ends of Tango's interval are roots of one polynomial.
    count, first, second = pairs.images, pairs.first_only, pairs.second_only
    ratio, gap, both = count / chi2.ppf(0.95, 1), first - second, first + second
    square = chi2.ppf(0.95, 1)
    polynomial = [
        count**2 * (ratio + 1) ** 2,
        -count * gap * (ratio + 1) * (4 * ratio + 1),
        2 * count * gap**2 * (3 * ratio + 2) / square - count**2 * (both / square + 1),
        count * gap * (2 * both / square + 1) - gap**3 * (4 * ratio + 1) / square,
        gap**2 * (gap**2 / square - both) / square,
    ]
    roots = np.roots(polynomial)
    real = sorted(roots[np.abs(roots.imag) < 1e-6].real)
    found = intervals.of_paired_difference(pairs)
    assert found.low == pytest.approx(min(real, key=lambda root: abs(root - found.low)), abs=1e-6)
    assert found.high == pytest.approx(min(real, key=lambda root: abs(root - found.high)), abs=1e-6)
    assert found.low <= pairs.difference <= found.high


@pytest.mark.parametrize(("first_only", "second_only"), [(20, 8), (19, 8), (10, 2), (9, 2), (6, 1), (4, 0), (3, 0)])
def test_the_interval_leaves_out_no_difference_just_where_mcnemars_test_finds_one(
    first_only: int, second_only: int
) -> None:
    statistic = (first_only - second_only) ** 2 / (first_only + second_only)
    is_shown = chi2.sf(statistic, 1) < 0.05
    assert (intervals.of_paired_difference(Pairs(first_only, second_only, 150)).low > 0) is bool(is_shown)
    assert (intervals.of_paired_difference(Pairs(second_only, first_only, 150)).high < 0) is bool(is_shown)


def test_of_many_images_the_interval_is_that_of_a_paired_bootstrap() -> None:
    gains = np.repeat([1.0, -1.0, 0.0], [120, 60, 1820])
    expected = bootstrap((gains,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    found = intervals.of_paired_difference(Pairs(120, 60, 2000))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_classifiers_that_are_right_for_the_same_images_leave_open_what_so_few_images_do() -> None:
    # Without an image that tells them apart, its ends are at z^2 / (n + z^2).
    square = chi2.ppf(0.95, 1)
    found = intervals.of_paired_difference(Pairs(0, 0, 100))
    assert (found.low, found.high) == pytest.approx((-square / (100 + square), square / (100 + square)), abs=1e-9)


def test_on_the_same_images_less_is_left_open_than_on_images_of_their_own() -> None:
    apart = intervals.of_difference(Score(370, 400), Score(358, 400))
    paired = intervals.of_paired_difference(Pairs(16, 4, 400))
    assert apart.low < 0 < paired.low < paired.high < apart.high


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    shares, count, draws = (0.10, 0.04, 0.86), 200, 2000
    held = 0
    for first_only, second_only, _ in rng.multinomial(count, shares, size=draws):
        found = intervals.of_paired_difference(Pairs(int(first_only), int(second_only), count))
        held += found.low <= shares[0] - shares[1] <= found.high
    assert abs(held / draws - 0.95) < 3 * math.sqrt(0.95 * 0.05 / draws)
