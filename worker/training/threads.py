"""In how many threads torch computes what consists of very many short operations."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

Task = TypeVar("Task")
Found = TypeVar("Found")

SHORT = 500_000_000
"""Multiplications in a step, below which threads gain little and may lose much. A step of L-BFGS has dozens of short
operations, after each of which all threads wait for the one whose core is taken by something else; where they spin
meanwhile that is a tenth of a second a step, and one thread alone takes half of that for so many multiplications."""
BRIEF = 10_000_000
"""Multiplications in a step, of which it is not worth while to give a part to another thread: they take a fraction of a
millisecond."""


class Crew:
    """Threads that compute parts of a step side by side, each by itself: they meet once a step, and not after each of
    its operations."""

    def __init__(self, pool: ThreadPoolExecutor | None, count: int, threads: int) -> None:
        self.count = count
        """That compute at a time."""
        self._pool, self._threads = pool, threads

    def each(self, do: Callable[[Task], Found], tasks: Sequence[Task]) -> list[Found]:
        """What `do` gives for each of `tasks`, in their order."""
        if self._pool is None or not tasks:
            return [do(task) for task in tasks]
        own = max(1, self._threads // min(self.count, len(tasks)))
        return list(self._pool.map(partial(_in_threads, own, torch.is_inference_mode_enabled(), do), tasks))


ALONE = Crew(None, 1, 1)
"""Whoever does all by itself."""


@contextmanager
def crew(multiplications: int) -> Iterator[Crew]:
    """Inside, torch computes in one thread, and the crew's threads, as many as torch's are outside, each a part of a
    step of so many multiplications; in one alone where they are few."""
    threads = torch.get_num_threads()
    with one(wanted=True):
        if threads == 1 or multiplications < BRIEF:
            yield ALONE
        else:
            with ThreadPoolExecutor(threads, thread_name_prefix="crew") as pool:
                yield Crew(pool, threads, threads if multiplications >= SHORT else 1)


@contextmanager
def suited(multiplications: int) -> Iterator[None]:
    """Inside, torch computes steps of so many multiplications, in one thread unless they are many.

    Threads that meet after each of thousands of short operations take up to fifty times as long as one alone, where
    something else wants their cores, too.
    """
    with one(wanted=multiplications < SHORT):
        yield


@contextmanager
def one(*, wanted: bool) -> Iterator[None]:
    """Inside, torch computes in one thread if that is `wanted`."""
    threads = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_threads(threads: int, inference: bool, do: Callable[[Task], Found], task: Task) -> Found:
    torch.set_num_threads(threads)
    with torch.inference_mode(inference):
        return do(task)
