import numpy as np
import pytest
from scipy import stats

from worker.training import comparison


def losses(*, images: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.random.default_rng(seed).exponential(0.4, images)


def test_a_gain_on_every_image_is_hardly_chance() -> None:
    first = losses(images=30, seed=0)
    assert comparison.chance(first, np.stack([first - 0.1, first + 0.1]), seed=0) < 0.001


def test_no_gain_is_all_chance() -> None:
    first = losses(images=30, seed=0)
    assert comparison.chance(first, np.stack([first, first]), seed=0) == 1.0
    assert comparison.chance(first, np.stack([first + 0.1]), seed=0) == 1.0


def test_few_images_prove_nothing() -> None:
    first = losses(images=3, seed=0)
    assert comparison.chance(first, np.stack([first - 0.1]), seed=0) == pytest.approx(1 / 8, abs=0.02)


def test_one_against_one_is_the_paired_randomisation_test() -> None:
    first, other = losses(images=40, seed=0), losses(images=40, seed=1) - 0.05
    peer = stats.permutation_test(
        (first - other,), np.mean, permutation_type="samples", alternative="greater", n_resamples=20_000, rng=2
    )
    assert comparison.chance(first, other[None], seed=0) == pytest.approx(peer.pvalue, abs=0.02)


def test_the_best_of_many_that_are_no_better_seldom_looks_like_more_than_chance() -> None:
    rng = np.random.default_rng(0)
    found = []
    for seed in range(100):
        first = rng.exponential(0.4, 50)
        others = first + rng.standard_t(4, (20, 50)) * 0.1
        found.append(comparison.chance(first, others, seed=seed))
    # One in twenty; twelve or more of a hundred would come once in two hundred times.
    assert sum(chance <= 0.05 for chance in found) < 12


def test_choosing_among_copies_costs_nothing() -> None:
    first, other = losses(images=40, seed=0), losses(images=40, seed=1) - 0.1
    one = comparison.chance(first, other[None], seed=0)
    many = comparison.chance(first, np.stack([other] * 10), seed=0)
    assert many == one
