from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.test_probe import blobs, fit
from worker.training import lbfgs, threads
from worker.training.lbfgs import Functions


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


def test_how_long_the_steps_of_a_classifier_are_follows_from_what_is_solved_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The folds of cross-validation together, and all images alone behind it."""
    seen: list[tuple[int, int]] = []
    minimum = lbfgs.minimum

    def noted(functions: Functions, start: Tensor, **how: Any) -> Tensor:
        seen.append((len(start), torch.get_num_threads()))
        return minimum(functions, start, **how)

    monkeypatch.setattr(lbfgs, "minimum", noted)
    monkeypatch.setattr(threads, "SHORT", 3 * 40 * 5 * 2)
    features, targets = blobs(40, 5, 2)
    fit(features, targets, classes=2, folds=4)
    assert {count for count, used in seen if used == 2} == {4}
    assert seen[-1] == (1, 1)
