import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.probed import blobs, fit
from worker.training import crossvalidation, lbfgs, probe, regression, threads
from worker.training.events import Event, Progress
from worker.training.lbfgs import Functions
from worker.training.regression import Slope


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_short_steps_are_computed_in_one_thread() -> None:
    with threads.suited(threads.SHORT - 1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_long_steps_are_computed_in_all_threads() -> None:
    with threads.suited(threads.SHORT):
        assert torch.get_num_threads() == 2


def test_after_a_failure_there_are_as_many_threads_as_before() -> None:
    with pytest.raises(ValueError, match="it fails"), threads.suited(1):
        raise ValueError("it fails")
    assert torch.get_num_threads() == 2


def test_a_brief_step_is_given_to_nobody_else() -> None:
    with threads.crew(threads.BRIEF - 1) as crew:
        assert crew.count == 1
        assert crew.each(lambda _: threading.get_ident(), range(2)) == 2 * [threading.get_ident()]


def test_parts_of_a_step_are_computed_side_by_side_in_one_thread_each() -> None:
    together = threading.Barrier(2)

    def part(number: int) -> tuple[int, int]:
        together.wait(timeout=60)
        return number, torch.get_num_threads()

    with threads.crew(threads.BRIEF) as crew:
        assert torch.get_num_threads() == 1
        assert crew.each(part, range(4)) == [(number, 1) for number in range(4)]
    assert torch.get_num_threads() == 2


def test_heavy_parts_of_which_there_are_few_have_all_threads_among_them() -> None:
    torch.set_num_threads(4)
    with threads.crew(threads.SHORT) as crew:
        assert crew.each(lambda _: torch.get_num_threads(), range(2)) == [2, 2]
    assert torch.get_num_threads() == 4


def test_the_failure_of_a_part_is_that_of_the_step() -> None:
    def fail(_: int) -> None:
        raise ValueError("it fails")

    with pytest.raises(ValueError, match="it fails"), threads.crew(threads.BRIEF) as crew:
        crew.each(fail, range(2))
    assert torch.get_num_threads() == 2


def test_parts_of_a_step_of_inference_may_change_what_inference_made() -> None:
    with torch.inference_mode(), threads.crew(threads.BRIEF) as crew:
        values = torch.zeros(2)
        crew.each(lambda place: values[place].add_(1), range(2))
    assert values.tolist() == [1, 1]


def test_folds_are_shared_among_threads_and_so_are_the_images_of_what_is_solved_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, targets = blobs(40, 5, 2)
    alone = fit(features, targets, classes=2, folds=4)
    monkeypatch.setattr(threads, "BRIEF", 1)
    solved: list[int] = []
    looked_at: set[tuple[int, ...]] = set()
    minimum, slope = lbfgs.minimum, regression._slope

    def noted(functions: Functions, start: Tensor, **how: Any) -> Tensor:
        solved.append(len(start))
        return minimum(functions, start, **how)

    def seen(values: Tensor, targets: Tensor, share: Tensor, *point: Tensor) -> Slope:
        looked_at.add((len(share), len(targets)))
        return slope(values, targets, share, *point)

    monkeypatch.setattr(lbfgs, "minimum", noted)
    monkeypatch.setattr(regression, "_slope", seen)
    shared = fit(features, targets, classes=2, folds=4)
    assert set(solved[:-1]) == {2}, "two folds each"
    assert looked_at == {(2, 40), (1, 20)}, "and then two halves of the images"
    assert shared.l2 == alone.l2
    np.testing.assert_allclose(shared.weight, alone.weight, atol=1e-5)


def test_images_that_are_read_in_chunks_are_shared_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = blobs(101, 5, 2)
    alone = fit(features, targets, classes=2)
    monkeypatch.setattr(regression, "MAX_BYTES", 1)
    monkeypatch.setattr(regression, "_SLOPE_VALUES", 7 * 5)
    monkeypatch.setattr(threads, "BRIEF", 1)
    shared = fit(features, targets, classes=2)
    np.testing.assert_allclose(shared.weight, alone.weight, atol=1e-4)


def test_large_folds_are_solved_one_after_the_other_by_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes many times the memory of its weights."""
    features, targets = blobs(40, 5, 2)
    alone = fit(features, targets, classes=2, folds=4)
    monkeypatch.setattr(threads, "BRIEF", 1)
    monkeypatch.setattr(crossvalidation, "_SIDE_BY_SIDE", 2 * 5 - 1)
    at_work, most = 0, 0
    minimum, slope = lbfgs.minimum, regression._slope
    parts = set[int]()

    def counted(functions: Functions, start: Tensor, **how: Any) -> Tensor:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        try:
            return minimum(functions, start, **how)
        finally:
            at_work -= 1

    def seen(values: Tensor, targets: Tensor, share: Tensor, *point: Tensor) -> Slope:
        parts.add(len(targets))
        return slope(values, targets, share, *point)

    monkeypatch.setattr(lbfgs, "minimum", counted)
    monkeypatch.setattr(regression, "_slope", seen)
    shared = fit(features, targets, classes=2, folds=4)
    assert most == 1
    assert parts == {15, 20}, "halves of the 30 images that each fold learns from, and of all"
    np.testing.assert_allclose(shared.weight, alone.weight, atol=1e-5)


def test_where_sums_are_large_images_are_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "BRIEF", 1)
    monkeypatch.setattr(regression, "_MOST_SUMS_BYTES", 8 * 2 * 5)
    counts = set[int]()
    slope = regression._slope

    def seen(values: Tensor, targets: Tensor, share: Tensor, *point: Tensor) -> Slope:
        counts.add(len(targets))
        return slope(values, targets, share, *point)

    monkeypatch.setattr(regression, "_slope", seen)
    features, targets = blobs(40, 5, 2)
    fit(features, targets, classes=2, folds=4)
    assert counts == {40}


def test_a_training_that_is_to_stop_does_so_within_a_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        pass

    told: list[Event] = []

    def emit(event: Event) -> None:
        told.append(event)
        if len(told) > 3:
            raise StopError

    monkeypatch.setattr(threads, "BRIEF", 1)
    features, targets = blobs(400, 5, 2)
    with pytest.raises(StopError):
        probe.fit(features, targets, classes=2, l2_grid=[0.1, 1.0], folds=4, seed=0, emit=emit)
    assert {event.done for event in told if isinstance(event, Progress)} == {0}
    assert torch.get_num_threads() == 2
