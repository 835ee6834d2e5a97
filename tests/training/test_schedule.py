import math

import pytest

from worker.training import schedule


def rates(steps: int, *, warm_up: int, peak: float = 1.0) -> list[float]:
    return [schedule.learning_rate(step, steps=steps, warm_up=warm_up, peak=peak) for step in range(steps)]


def test_the_rate_rises_in_a_straight_line_to_its_peak_and_falls_as_half_a_cosine() -> None:
    found = rates(104, warm_up=4, peak=2.0)
    assert found[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert found[4:] == pytest.approx([1 + math.cos(math.pi * place / 100) for place in range(100)])


def test_the_peak_is_reached_once_and_no_step_is_without_effect() -> None:
    found = rates(60, warm_up=3, peak=0.5)
    assert max(found) == 0.5
    assert found.count(0.5) == 1
    assert min(found) > 0


def test_the_rate_never_rises_after_its_peak() -> None:
    falling = rates(200, warm_up=10)[10:]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 19])
def test_a_short_training_starts_at_its_peak(steps: int) -> None:
    warm_up = schedule.warm_up_steps(steps, steps_per_epoch=1)
    assert warm_up == 0
    assert rates(steps, warm_up=warm_up)[0] == 1.0


@pytest.mark.parametrize(
    ("steps", "steps_per_epoch", "expected"), [(1000, 100, 50), (1000, 20, 20), (40, 4, 2), (0, 3, 0)]
)
def test_warming_up_takes_a_twentieth_but_at_most_an_epoch(steps: int, steps_per_epoch: int, expected: int) -> None:
    assert schedule.warm_up_steps(steps, steps_per_epoch=steps_per_epoch) == expected


def test_a_rate_past_the_last_step_is_still_a_number() -> None:
    assert schedule.learning_rate(5, steps=5, warm_up=5, peak=1.0) == 1.0
    assert schedule.learning_rate(10, steps=10, warm_up=0, peak=1.0) == pytest.approx(0.0, abs=1e-12)
