"""Our own convolutions in float32, compiled for the CPU of this machine when they are first needed."""

import ctypes
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from app import errors
from app.runtimes.activations import Pool

_SOURCE, _HEADER = "convolve.cpp", "crew.h"
_COMPILERS = ("g++", "c++", "clang++")
_OPTIONS = ("-std=c++17", "-O3", "-march=native", "-pthread", "-shared", "-fPIC")
_SECONDS = 120
_COMPILING = threading.Lock()
_TRANSFORM = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""The matrix G of F(4 x 4, 3 x 3): Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015)."""


@dataclass(frozen=True)
class Window:
    """What a convolution sees at a time, and where; two numbers are those of rows and columns."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def is_small(self) -> bool:
        """Whether it is one of those that Winograd's way is for: of 3 x 3, one beside the other."""
        return self.size == (3, 3) and self.stride == (1, 1) and self.padding[0] == self.padding[1]

    def outputs(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that come of maps of so many."""
        down, across = (
            (length + 2 * padding - size) // stride + 1
            for length, size, stride, padding in zip((height, width), self.size, self.stride, self.padding, strict=True)
        )
        return down, across

    def tiles(self, images: int, _channels: int, height: int, width: int) -> int:
        """Of 4 x 4 outputs, in which Winograd's way sees them, that come of maps `(N, C, H, W)`."""
        down, across = self.outputs(height, width)
        return images * -(-down // 4) * -(-across // 4)


@dataclass(frozen=True)
class Finish:
    """What becomes of the sums of a convolution of K outputs."""

    bias: Tensor
    """`(K,) float32`."""
    low: float = -float("inf")
    high: float = float("inf")
    """What values are limited to, after what is added."""


class _Own(threading.local):
    crew: int | None = None
    """Where the code has those that help this thread."""

    def __init__(self) -> None:
        self.pool = Pool()


class Library:
    """The compiled code, which computes in the thread that calls it, and where that is `helped` in others, too."""

    def __init__(self, path: Path) -> None:
        code = ctypes.CDLL(str(path))
        pointer, number, value, count = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
        code.winograd_room.restype = number
        code.winograd_room.argtypes = [number, number, number, pointer]
        code.winograd.restype = code.direct.restype = None
        code.winograd.argtypes = [pointer] * 6 + [number] * 6 + [value] * 2 + [pointer]
        code.direct.argtypes = [pointer] * 5 + [number] * 11 + [value] * 2 + [pointer]
        code.crew_of.restype = pointer
        code.crew_of.argtypes = [count]
        code.crew_wake.argtypes = code.crew_sleep.argtypes = code.crew_helped.argtypes = [pointer]
        code.crew_helped.restype = number
        self._code = code
        self._panel: int = code.panel()
        self._lanes: int = code.lanes()
        self._crews: dict[int, int] = {}
        self._helping = threading.Lock()
        self._own = _Own()

    @contextmanager
    def helped(self, threads: int) -> Iterator[None]:
        """Inside, so many threads compute what the one that calls asks for, itself among them, or it alone where
        another is helped just then. All stay awake meanwhile, and use up a core each."""
        if threads == 1 or not self._helping.acquire(blocking=False):
            yield
            return
        try:
            if threads not in self._crews:
                self._crews[threads] = self._code.crew_of(threads)
            self._own.crew = self._crews[threads]
            self._code.crew_wake(self._own.crew)
            yield
        finally:
            if self._own.crew is not None:
                self._code.crew_sleep(self._own.crew)
                self._own.crew = None
            self._helping.release()

    def pieces_helped_with(self) -> int:
        """How many pieces of convolutions have been done so far by others than those who asked for them."""
        return sum(self._code.crew_helped(crew) for crew in self._crews.values())

    def suits_winograd(self, window: Window, channels: int, outputs: int) -> bool:
        """Whether `winograd` knows how to do it."""
        return window.is_small and channels % self._lanes == 0 and outputs % self._lanes == 0

    def transformed(self, weights: Tensor) -> Tensor:
        """Weights `(K, C, 3, 3)` as `winograd` takes them: four times as many values."""
        outputs, channels = weights.shape[:2]
        by = torch.tensor(_TRANSFORM, dtype=torch.float64)
        planes = torch.empty(6, 6, channels, outputs)
        for place, row in enumerate(by):  # all at once, in double precision, would take twice as much memory
            planes[place] = torch.einsum("j,kcjl,ml->mck", row, weights.double(), by)
        return self._in_panels(planes.flatten(0, 1))

    def packed(self, weights: Tensor) -> Tensor:
        """Weights `(K, C, H, W)` as `direct` takes them."""
        return self._in_panels(weights.permute(2, 3, 1, 0).reshape(1, -1, len(weights)))

    def winograd(
        self, maps: Tensor, weights: Tensor, window: Window, outputs: int, finish: Finish, added: Tensor | None
    ) -> Tensor:
        """Maps `(N, C, H, W) float32` to `(N, outputs, H', W')`, both in channels-last order, as is what is `added`."""
        maps, added = _in_order(maps), None if added is None else _in_order(added)
        images, channels, height, width = maps.shape
        found = self._empty(images, outputs, window.outputs(height, width))
        _check(maps, found, added)
        room = self._code.winograd_room(window.tiles(*maps.shape), channels, outputs, self._own.crew)
        scratch = self._own.pool.empty(room)
        self._code.winograd(
            *(_at(values) for values in (maps, weights, finish.bias, added, found, scratch)),
            *(images, height, width, channels, outputs, window.padding[0]),
            *(finish.low, finish.high, self._own.crew),
        )
        return found

    def direct(
        self, maps: Tensor, weights: Tensor, window: Window, outputs: int, finish: Finish, added: Tensor | None
    ) -> Tensor:
        """The same for windows of any size and stride."""
        down, across = window.outputs(*maps.shape[2:])
        (rows, columns), added = window.padding, None if added is None else _in_order(added)
        maps = self._padded(_in_order(maps), rows, columns)
        images, channels, height, width = maps.shape
        found = self._empty(images, outputs, (down, across))
        _check(maps, found, added)
        self._code.direct(
            *(_at(values) for values in (maps, weights, finish.bias, added, found)),
            *(images, height, width, channels, down, across, outputs, *window.size, *window.stride),
            *(finish.low, finish.high, self._own.crew),
        )
        return found

    def _padded(self, maps: Tensor, rows: int, columns: int) -> Tensor:
        """With so many rows and columns of zeros around."""
        if not (rows or columns):
            return maps
        images, channels, height, width = maps.shape
        found = self._empty(images, channels, (height + 2 * rows, width + 2 * columns))
        down, across = slice(rows, rows + height), slice(columns, columns + width)
        found[:, :, :rows], found[:, :, down.stop :] = 0, 0
        found[:, :, down, :columns], found[:, :, down, across.stop :] = 0, 0
        found[:, :, down, across] = maps
        return found

    def _empty(self, images: int, channels: int, size: tuple[int, int]) -> Tensor:
        """`(N, C, H, W) float32` of whatever values, in channels-last order."""
        values = self._own.pool.empty(images * channels * size[0] * size[1])
        return values.view(images, *size, channels).permute(0, 3, 1, 2)

    def _in_panels(self, planes: Tensor) -> Tensor:
        """`(P, summed, outputs)` as `(P, panels, summed, panel)`."""
        count, summed, outputs = planes.shape
        missing = -outputs % self._panel
        filled = functional.pad(planes, (0, missing)) if missing else planes
        return filled.reshape(count, summed, -1, self._panel).transpose(1, 2).contiguous()


def library(lanes: int | None = None) -> Library:
    """The code for this machine, compiled by the first call, for vectors of so many values: those of the CPU, if left
    out. Raises `Unavailable` where it cannot be."""
    with _COMPILING:
        # Vectors longer than those of the CPU take ten times as long to compile with all that the compiler can do.
        return _compiled(() if lanes is None else (f"-DGRAFT_LANES={lanes}", "-O2"))


@cache
def _compiled(options: tuple[str, ...]) -> Library:
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise _unavailable(f"there is no C++ compiler ({', '.join(_COMPILERS)})")
    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        path = Path(folder) / "convolve.so"
        here = resources.files(__package__)
        with resources.as_file(here / _SOURCE) as source, resources.as_file(here / _HEADER) as header:
            command = [compiler, *_OPTIONS, *options, "-iquote", str(header.parent), str(source), "-o", str(path)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
                return Library(path)
            except subprocess.CalledProcessError as error:
                raise _unavailable(f"{compiler} does not compile its convolutions: {error.stderr[-500:]}") from error
            except (OSError, subprocess.TimeoutExpired) as error:  # such as a folder that nothing may be run from
                raise _unavailable(f"its convolutions cannot be compiled and loaded: {error}") from error


def _unavailable(reason: str) -> errors.Unavailable:
    return errors.Unavailable(reason, code="runtime_unavailable")


def _in_order(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _check(maps: Tensor, found: Tensor, added: Tensor | None) -> None:
    """Raise `RuntimeError`, as torch does, for what the code would read or write beyond its end."""
    if not found.numel():
        raise RuntimeError(f"the window of a convolution is greater than its padded maps of {tuple(maps.shape)}")
    if added is not None and added.shape != found.shape:
        raise RuntimeError(f"{tuple(added.shape)} cannot be added to {tuple(found.shape)}")
    for values in (maps, found if added is None else added):
        if values.dtype != torch.float32 or values.device.type != "cpu":
            raise RuntimeError(f"these convolutions take float32 on the CPU, not {values.dtype} on {values.device}")


def _at(values: Tensor | None) -> int | None:
    return None if values is None else values.data_ptr()
