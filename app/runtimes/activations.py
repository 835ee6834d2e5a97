"""Memory for large activations, which each thread uses again and again."""

import threading
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LARGE, _MOST = 2**20, 2**23
"""Values of the least and the largest pieces that are kept. Smaller ones glibc keeps as well as this does; and to clear
larger ones takes little beside what is computed of them."""
_LINE = 16
"""Values of a line of the cache."""
_LOCK = threading.Lock()
_POOLS: "weakref.WeakSet[Pool]" = weakref.WeakSet()


class Pool:
    """Pieces of memory of one thread that are free just now, of float32.

    glibc gives the memory of such pieces back to the system as soon as they are free, where a thread has asked for them
    that is not the first one of the process, whatever it is told; and what the system gives out has to be cleared: a
    tenth of the time of a ResNet-50.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.float32]] = []
        with _LOCK:
            _POOLS.add(self)

    def empty(self, count: int) -> Tensor:
        """`(count,) float32` of whatever values, for the thread of the pool."""
        if not _LARGE <= count <= _MOST:
            return torch.empty(count, dtype=torch.float32)
        piece = self._taken(count)
        lent = piece[:count]
        # Whoever has the tensor or a view of it has that of the array, too.
        weakref.finalize(lent, self._free.append, piece).atexit = False
        return torch.from_numpy(lent)

    def forget(self) -> None:
        """Give back what is free, and what is not yet as soon as it is; in whatever thread."""
        # Not cleared: the thread of the pool may be looking for a piece in it.
        self._free = []

    def _taken(self, count: int) -> NDArray[np.float32]:
        free = self._free
        fitting = [place for place, piece in enumerate(free) if piece.size >= count]
        if fitting:
            return free.pop(min(fitting, key=lambda place: free[place].size))
        free.clear()  # what is too small now would be so in the next pass, too
        return _aligned(count)


def _aligned(count: int) -> NDArray[np.float32]:
    """From the beginning of a line of the cache on: numpy's own begin wherever malloc has them."""
    values = np.empty(count + _LINE, np.float32)
    before = -values.ctypes.data // values.itemsize % _LINE
    return values[before : before + count]


def forget() -> None:
    """Give back what is free of all threads."""
    with _LOCK:
        pools = list(_POOLS)
    for pool in pools:
        pool.forget()
