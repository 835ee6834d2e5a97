"""Memory that a thread uses again: never while somebody has it."""

import gc
import threading

import pytest
import torch

from app.runtimes import activations, memory
from app.runtimes.activations import Pool

LARGE = 2**20


@pytest.fixture
def pool() -> Pool:
    return Pool()


def place(values: torch.Tensor) -> int:
    return values.untyped_storage().data_ptr()


def test_what_is_free_is_used_again_and_what_somebody_has_is_not(pool: Pool) -> None:
    first = pool.empty(LARGE + 9)
    view, where = first[5:].view(-1, 1), place(first)
    del first
    other = pool.empty(LARGE)
    assert place(other) != where
    del view
    assert place(pool.empty(LARGE)) == where


def test_the_smallest_piece_that_is_large_enough_is_taken(pool: Pool) -> None:
    sizes = (4 * LARGE, 2 * LARGE, 3 * LARGE)
    made = [pool.empty(size) for size in sizes]
    places = [place(values) for values in made]
    del made
    assert place(kept := pool.empty(2 * LARGE - 9)) == places[1]
    assert place(pool.empty(2 * LARGE)) == places[2]
    assert len(kept) == 2 * LARGE - 9


def test_pieces_begin_with_a_line_of_the_cache(pool: Pool) -> None:
    made = [pool.empty(LARGE + more) for more in range(3)]
    assert [place(values) % 64 for values in made] == [0, 0, 0]


def test_pieces_that_are_too_small_for_what_comes_are_given_back(pool: Pool) -> None:
    small = [place(pool.empty(LARGE)) for _ in range(2)]
    large = pool.empty(2 * LARGE)
    again = pool.empty(LARGE)
    assert pool._free == []
    assert place(large) != place(again)
    assert len(set(small)) == 1


@pytest.mark.parametrize("count", [0, LARGE - 1, 2**23 + 1])
def test_small_and_very_large_ones_are_torchs(pool: Pool, count: int) -> None:
    values = pool.empty(count)
    assert (len(values), values.dtype) == (count, torch.float32)
    del values
    gc.collect()
    assert pool._free == []


@pytest.mark.parametrize("forget", [activations.forget, memory.give_back])
def test_all_that_is_free_is_given_back_when_memory_is(pool: Pool, forget: object) -> None:
    other: list[Pool] = []
    thread = threading.Thread(target=lambda: other.append(Pool()))
    thread.start()
    thread.join()
    had = pool.empty(LARGE)
    pool.empty(LARGE)
    other[0].empty(LARGE)
    assert (len(pool._free), len(other[0]._free)) == (1, 1)
    assert callable(forget)
    forget()
    assert (pool._free, other[0]._free) == ([], [])
    had.fill_(1.0)
    del had  # it is of those that are given back
    assert pool._free == []


def test_what_another_thread_lets_go_of_is_free(pool: Pool) -> None:
    lent = [pool.empty(LARGE)]
    where = place(lent[0])
    thread = threading.Thread(target=lent.clear)
    thread.start()
    thread.join()
    assert place(pool.empty(LARGE)) == where
