from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from worker.training import threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@threads.few
def used(_features: NDArray[np.float32], _targets: NDArray[np.int64], *, folds: int = 0, failing: bool = False) -> int:
    assert folds >= 0
    if failing:
        raise ValueError("it fails")
    return torch.get_num_threads()


def test_short_steps_are_computed_in_one_thread() -> None:
    assert used(np.zeros((20, 5), np.float32), np.arange(20)) == 1
    assert torch.get_num_threads() == 2


def test_long_steps_are_computed_in_all_threads() -> None:
    assert used(np.zeros((2000, 1000), np.float32), np.arange(2000) % 100) == 2


def test_steps_are_long_where_many_folds_are_computed_side_by_side() -> None:
    features, targets = np.zeros((1000, 1000), np.float32), np.arange(1000) % 10
    assert used(features, targets, folds=0) == used(features, targets, folds=2) == 1
    assert used(features, targets, folds=5) == 2


def test_after_a_failure_there_are_as_many_threads_as_before() -> None:
    with pytest.raises(ValueError, match="it fails"):
        used(np.zeros((20, 5), np.float32), np.arange(20), failing=True)
    assert torch.get_num_threads() == 2
