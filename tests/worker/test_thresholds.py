"""What a form refuses as unknown, by a threshold of its own."""

import numpy as np
import pytest
from numpy.typing import NDArray

from worker.optimising import measure
from worker.optimising.measure import Answers, Scale

MEANS = np.eye(2, dtype=np.float32)
TARGETS = np.zeros(100, np.int64)
PLAIN = np.random.default_rng(0).uniform(0.4, 0.9, 100)
LEAST = float(np.sort(PLAIN)[5])
"""As a training chooses it: the value of an image that is still accepted."""


def answers(similarities: NDArray[np.float64] | None) -> Answers:
    return Answers(np.tile(np.array([1, 0], np.float32), (100, 1)), similarities)


@pytest.mark.parametrize(("times", "lower"), [(1.0, 0.0), (1.0, 0.05), (0.9, 0.02)])
def test_a_form_whose_similarities_are_lower_refuses_as_many_images_and_the_same_ones(
    times: float, lower: float
) -> None:
    figures = measure.figures(answers(times * PLAIN - lower), answers(PLAIN), TARGETS, Scale(1.0, MEANS, LEAST))
    assert (figures.refused, figures.unknown_agreement) == (0.05, 1.0)
    assert figures.unknown_below == pytest.approx(times * LEAST - lower)


def test_a_form_that_tells_others_apart_refuses_as_many_but_does_not_agree() -> None:
    found = np.random.default_rng(1).permutation(PLAIN)
    figures = measure.figures(answers(found), answers(PLAIN), TARGETS, Scale(1.0, MEANS, LEAST))
    assert figures.refused == 0.05
    assert figures.unknown_agreement == 1 - np.mean((found < LEAST) != (PLAIN < LEAST)) < 0.95


@pytest.mark.parametrize("least", [-0.2, 0.0, 0.3, 0.95])
def test_a_threshold_beyond_all_images_stays_as_far_from_them(least: float) -> None:
    figures = measure.figures(answers(PLAIN - 0.1), answers(PLAIN), TARGETS, Scale(1.0, MEANS, least))
    assert figures.unknown_below == pytest.approx(least - 0.1)
    assert figures.refused == float(least > PLAIN.max())


def test_a_version_of_old_has_no_threshold_and_refuses_nothing() -> None:
    figures = measure.figures(answers(None), answers(None), TARGETS, Scale(1.0, None, 0.0))
    assert (figures.refused, figures.unknown_agreement, figures.unknown_below) == (None, None, None)
