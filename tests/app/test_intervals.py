"""Intervals for shares and differences of shares, as their papers and scipy have them."""

import pytest
from scipy.stats import binomtest

from app import intervals
from app.intervals import Score


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
