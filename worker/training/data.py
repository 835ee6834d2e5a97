"""Labelled images as a training sees them, and their way into batches in constant memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.backbones.preprocess import Pixels

Source = TypeVar("Source")
Result = TypeVar("Result")


class Files(Protocol):
    """Image files by position. `read` is called from several threads."""

    def read(self, positions: Sequence[int]) -> list[bytes]:
        """The image files at these positions, in this order."""


class Images(Files, Protocol):
    """The images of one split."""

    @property
    def sha256(self) -> tuple[str, ...]:
        """Of each image file, in hex."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """Index of each image's label `(N,)`."""

    @property
    def groups(self) -> NDArray[np.int64]:
        """Of each image `(N,)` a number that those have in common which are near copies with the same label; images of
        several places, or that had several labels there, are not compared with one another."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Selection:
    """Some images of a split, by their positions `(M,)` in it."""

    images: Images
    positions: NDArray[np.int64]

    @property
    def sha256(self) -> tuple[str, ...]:
        hashes = self.images.sha256
        return tuple(hashes[position] for position in self.positions)

    @property
    def targets(self) -> NDArray[np.int64]:
        return self.images.targets[self.positions]

    @property
    def groups(self) -> NDArray[np.int64]:
        return self.images.groups[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, positions: Sequence[int]) -> list[bytes]:
        return self.images.read([int(self.positions[position]) for position in positions])


@dataclass(frozen=True)
class Relabelled:
    """The same images, of which those with target i have target `becomes[i]`."""

    images: Images
    becomes: NDArray[np.int64]

    @property
    def sha256(self) -> tuple[str, ...]:
        return self.images.sha256

    @property
    def targets(self) -> NDArray[np.int64]:
        return self.becomes[self.images.targets]

    @property
    def groups(self) -> NDArray[np.int64]:
        return self.images.groups

    def __len__(self) -> int:
        return len(self.images)

    def read(self, positions: Sequence[int]) -> list[bytes]:
        return self.images.read(positions)


@dataclass(frozen=True)
class Joined:
    """Images of several places, one after the other."""

    parts: tuple[Images, ...]

    @cached_property
    def sha256(self) -> tuple[str, ...]:
        return tuple(digest for part in self.parts for digest in part.sha256)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        return np.concatenate([part.targets for part in self.parts])

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        starts = np.cumsum([0, *map(len, self.parts)])
        numbered = [np.unique(part.groups, return_inverse=True)[1] for part in self.parts]
        return np.concatenate([start + numbers for start, numbers in zip(starts, numbered, strict=False)])

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def read(self, positions: Sequence[int]) -> list[bytes]:
        found: dict[int, bytes] = {}
        first = 0
        for part in self.parts:
            inside = [position for position in positions if first <= position < first + len(part)]
            if inside:
                files = part.read([position - first for position in inside])
                found |= dict(zip(inside, files, strict=True))
            first += len(part)
        return [found[position] for position in positions]


@dataclass(frozen=True)
class Splits:
    """All images of a version; `labels[i]` is the meaning of target i."""

    labels: tuple[str, ...]
    train: Images
    validation: Images


def prefetched(
    sources: Iterable[Source], work: Callable[[Source], Result], *, threads: int, window: int
) -> Iterator[Result]:
    """`work` done on each of `sources` in other threads, the results in order, at most `window` ahead of the caller."""
    remaining = iter(sources)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    try:
        pending: deque[Future[Result]] = deque(pool.submit(work, source) for source in islice(remaining, window))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(work, source) for source in islice(remaining, 1))
            yield result
    finally:
        # Also where the caller has lost interest: what has not begun is not begun any more.
        pool.shutdown(cancel_futures=True)


def batches(
    images: Files,
    parts: Sequence[Sequence[int]],
    view: Callable[[int, bytes], Pixels],
    *,
    threads: int,
    window: int | None = None,
) -> Iterator[Tensor]:
    """For each part, the images at its positions as one tensor `(N, 3, H, W) uint8` in channels-last order.

    `view(position, file)` makes pixels of a file; reading and decoding go on in other threads meanwhile, at most
    `window` parts ahead of the caller, two for each thread where that is not given.
    """

    def read(positions: Sequence[int]) -> Tensor:
        files = images.read(positions)
        pixels = np.stack([view(position, file) for position, file in zip(positions, files, strict=True)])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    return prefetched(parts, read, threads=threads, window=window or 2 * threads)


def parts_of(count: int, size: int) -> list[range]:
    """Positions 0 to `count` - 1 in parts of `size`, the last one maybe shorter."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
