"""In how many threads torch computes what consists of very many short operations."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """Let `work` on features `(N, D)` and targets `(N,)`, of which `folds` are computed side by side where it has such
    an argument, compute in one thread unless there is much of them.

    Threads that meet after each of thousands of short operations take up to fifty times as long as one alone, where
    something else wants their cores, too.
    """

    @functools.wraps(work)
    def carried_out(
        features: Features, targets: NDArray[np.int64], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        count, size = features.shape
        logits = (int(targets.max(initial=0)) + 1) * max(1, int(kwargs.get("folds", 1)))  # type: ignore[call-overload]
        with one(wanted=count * min(count, size) * logits < SHORT):
            return work(features, targets, *args, **kwargs)

    return carried_out


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
