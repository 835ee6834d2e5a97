"""Tables of numbers that are read row by row when they are asked for, so that they may be larger than the memory."""

import errno
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.number[Any])

_PORTION_BYTES = 2**20


class Rows(Protocol):
    """A table `(N, D) float32`, as an array is one. Asked for some rows, by a slice or by positions, and maybe for a
    slice of their columns, it gives an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Taken:
    """Rows of tables that lie side by side: `places[i]` of each is row i."""

    blocks: Sequence[NDArray[np.float32]]
    """Maybe mapped from a file, which is then read where its numbers are wanted."""
    places: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.places), sum(block.shape[1] for block in self.blocks)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        places = self.places[rows]
        start, stop, _ = columns.indices(self.shape[1])
        parts, begin = [], 0
        for block in self.blocks:
            first, last = max(start - begin, 0), min(stop - begin, block.shape[1])
            if first < last:
                parts.append(block[places, first:last])
            begin += block.shape[1]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


@dataclass(frozen=True)
class Columns:
    """Some columns of a wider table."""

    rows: Rows
    columns: slice

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), self.columns.stop - self.columns.start

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        rows, among = key if isinstance(key, tuple) else (key, slice(None))
        start, stop, _ = among.indices(self.shape[1])
        return self.rows[rows, self.columns.start + start : self.columns.start + stop]


def nameless(folder: Path, shape: tuple[int, ...], dtype: type[Number]) -> NDArray[Number]:
    """Numbers in a file of `folder` that goes with them, also where the process is killed. Raises `OSError` where the
    disk has no room."""
    with tempfile.TemporaryFile(dir=folder) as file:
        reserve(file.fileno(), math.prod(shape) * np.dtype(dtype).itemsize)
        return np.memmap(file, dtype, "r+", shape=shape)


def reserve(descriptor: int, size_bytes: int) -> None:
    """Give a file this size at least, and room for it on the disk; what it holds stays. Raises `OSError` where there is
    no room: a process that writes into a map of a file would be killed instead."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size_bytes)
        return
    for start in range(0, size_bytes, _PORTION_BYTES):
        size = min(_PORTION_BYTES, size_bytes - start)
        if os.pwrite(descriptor, os.pread(descriptor, size, start).ljust(size, b"\0"), start) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
