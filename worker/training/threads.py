"""In how many threads torch computes what consists of very many short operations."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

SHORT = 50_000_000
"""Multiplications in a step, below which it is so short that threads would mostly wait for each other."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class _Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


Features = TypeVar("Features", bound=_Shaped)


def few(
    work: Callable[Concatenate[Features, NDArray[np.int64], Arguments], Result],
) -> Callable[Concatenate[Features, NDArray[np.int64], Arguments], Result]:
    """Let `work` on features `(N, D)` and targets `(N,)` compute in one thread unless there is much of both.

    Threads that meet after each of thousands of short operations take up to fifty times as long as one alone, where
    something else wants their cores, too.
    """

    @functools.wraps(work)
    def carried_out(
        features: Features, targets: NDArray[np.int64], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        count, size = features.shape
        classes = int(targets.max(initial=0)) + 1
        with one(wanted=count * min(count, size) * classes < SHORT):
            return work(features, targets, *args, **kwargs)

    return carried_out


_LEFT = ContextVar("left", default=1)


@contextmanager
def one(*, wanted: bool) -> Iterator[None]:
    """Inside, torch computes in one thread if that is `wanted`."""
    threads = torch.get_num_threads()
    token = _LEFT.set(threads if wanted else 1)
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _LEFT.reset(token)


def left() -> int:
    """How many threads may compute side by side, each in torch with as many as it has now."""
    return _LEFT.get()
