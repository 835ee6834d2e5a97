"""Decoded images, kept in files that are mapped into memory: each one is decoded when it is wanted for the first time.

Several processes may have the same files, and each finds there what the others have decoded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.backbones.preprocess import Pixels
from worker.training import table, transfer
from worker.training.data import Files

Decode = Callable[[bytes], tuple[Pixels, float]]
"""From an image file to `(side, side, 3)` pixels and the ratio of the width of what they show to its height."""


@dataclass(frozen=True)
class Decoded:
    """So many square images of `side` pixels: the `images`, as `decode` makes them. Can be sent to another process."""

    images: Files
    count: int
    side: int
    decode: Decode
    path: Path
    """Of the file of the pixels; another one beside it has the ratios, 0 for what is not decoded yet."""

    def create(self) -> None:
        """Make the files, with nothing in them. Raises `OSError` where the disk has no room."""
        for path, dtype, shape in ((self.path, np.uint8, self._shape), (self._ratios_path, np.float32, (self.count,))):
            np.lib.format.open_memmap(path, "w+", dtype, shape)
            with path.open("r+b") as file:
                table.reserve(file.fileno(), path.stat().st_size)

    def take(self, positions: Sequence[int], device: torch.device) -> tuple[Tensor, NDArray[np.float32]]:
        """The pixels at these positions `(N, side, side, 3) uint8`, ready to be sent to `device`, and their ratios
        `(N,)`. May be called from several threads. Raises `BadImage`."""
        places = np.asarray(positions, np.int64)
        self._decode([int(place) for place in places[self._ratios[places] == 0]])
        taken = transfer.room((len(places), *self._shape[1:]), torch.uint8, device)
        torch.index_select(torch.from_numpy(self._pixels), 0, torch.from_numpy(places), out=taken)
        return taken, self._ratios[places]

    def _decode(self, positions: Sequence[int]) -> None:
        for position, file in zip(positions, self.images.read(positions) if positions else (), strict=True):
            pixels, ratio = self.decode(file)
            self._pixels[position] = pixels
            # Last, as it says that the image is there. Where two threads decode the same one, nothing is lost.
            self._ratios[position] = ratio

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.count, self.side, self.side, 3

    @property
    def _ratios_path(self) -> Path:
        return self.path.with_suffix(".ratios.npy")

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        return np.load(self.path, mmap_mode="r+")  # type: ignore[no-any-return]

    @cached_property
    def _ratios(self) -> NDArray[np.float32]:
        return np.load(self._ratios_path, mmap_mode="r+")  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        # The maps are made anew: sent along, they would be copies of all pixels.
        return {field.name: getattr(self, field.name) for field in fields(self)}
