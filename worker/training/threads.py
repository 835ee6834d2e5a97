"""In how many threads torch computes what consists of very many short operations."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SHORT = 500_000_000
"""Multiplications in a step, below which threads gain little and may lose much. A step of L-BFGS has dozens of short
operations, after each of which all threads wait for the one whose core is taken by something else; where they spin
meanwhile that is a tenth of a second a step, and one thread alone takes half of that for so many multiplications."""


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
