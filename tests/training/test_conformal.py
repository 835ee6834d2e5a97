"""Conformal sets: they hold the true label as often as is asked for."""

import numpy as np
import pytest

from tests.training.test_evaluate import guesses
from worker.training import conformal


@pytest.mark.parametrize(("classes", "temperature"), [(2, 1.0), (5, 1.3), (40, 1.0)])
def test_over_twenty_splits_they_cover_what_is_asked_for(classes: int, temperature: float) -> None:
    every = conformal.evaluate(*guesses(1000, classes), temperature=temperature, seed=0)

    assert [found.alpha for found in every] == list(conformal.ALPHAS)
    for found in every:
        assert found.splits == 20
        assert found.coverage == pytest.approx(1 - found.alpha, abs=0.02)
        assert found.coverage_range.low <= found.coverage <= found.coverage_range.high
        assert found.empty + found.single <= 1
        assert 0 < found.mean_size < classes


@pytest.mark.parametrize(("images", "more"), [(30, 1 / 25), (56, 0.02), (80, 0.02), (159, 0.02)])
def test_of_few_images_they_cover_no_more_than_whole_images_make_it(images: int, more: float) -> None:
    draws = [conformal.evaluate(*guesses(images, 4, seed=seed), temperature=1.0, seed=seed) for seed in range(10)]
    for place, alpha in enumerate(conformal.ALPHAS):
        coverage = np.mean([every[place].coverage for every in draws])
        assert 1 - alpha - 0.01 <= coverage <= 1 - alpha + more
    assert {found.judged_share for every in draws for found in every} == {0.2}


def test_of_too_few_images_to_leave_one_out_every_label_is_in_the_set() -> None:
    found = conformal.evaluate(*guesses(17, 2), temperature=1.0, seed=3)[0]
    assert (found.splits, found.threshold) == (20, 0.0)
    assert (found.coverage, found.coverage_range.low, found.mean_size) == (1.0, 1.0, 2.0)


@pytest.mark.parametrize(("images", "judged"), [(2, 1 / 2), (4, 1 / 4), (5, 1 / 5), (7, 1 / 5)])
def test_of_few_images_a_larger_share_is_judged(images: int, judged: float) -> None:
    assert conformal.evaluate(*guesses(images, 2), temperature=1.0, seed=0)[0].judged_share == judged


def test_images_that_the_threshold_was_not_chosen_on_are_covered_too() -> None:
    covered = []
    for seed in range(20):
        known, targets = guesses(500, 6, seed=seed)
        fresh, theirs = guesses(500, 6, seed=1000 + seed)
        members = conformal.sets(fresh, conformal.threshold(known[np.arange(500), targets], alpha=0.1))
        covered.append(members[np.arange(500), theirs].mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.02)


def test_the_threshold_leaves_out_as_many_as_may_be() -> None:
    shares = np.linspace(0.05, 0.95, 19)
    # Two of twenty, counting the one to come, may lie below.
    assert conformal.threshold(shares, alpha=0.1) == pytest.approx(0.1)
    assert conformal.threshold(shares, alpha=0.04) == 0


def test_of_a_single_image_every_label_is_credible() -> None:
    for found in conformal.evaluate(np.array([[0.7, 0.3]]), np.array([0]), temperature=1.0, seed=0):
        assert (found.threshold, found.coverage, found.mean_size) == (0.0, 1.0, 2.0)
