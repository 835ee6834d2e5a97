"""Images decoded once for all forms, kept on disk."""

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app import errors
from app.backbones import crops
from app.backbones.preprocess import Pixels, Preprocessing
from worker.training import data, table
from worker.training.data import Files
from worker.training.events import Emit, Progress

_BATCH = 8


def decode(
    images: Files,
    positions: NDArray[np.int64],
    preprocessing: Preprocessing,
    path: Path,
    *,
    max_pixels: int,
    emit: Emit,
) -> NDArray[np.uint8]:
    """The images at `positions (N,)` as serving sees them `(N, H, W, 3)`, in the new file `path`. Raises `BadImage`,
    and `Unavailable` where the disk has no room for them."""

    def read(places: range) -> list[Pixels]:
        files = images.read(positions[places.start : places.stop].tolist())
        return [crops.load(file, preprocessing, max_pixels=max_pixels) for file in files]

    threads = torch.get_num_threads()
    side = preprocessing.crop
    kept = _room(path, (len(positions), side, side, 3))
    done = 0
    parts = data.parts_of(len(positions), _BATCH)
    for batch in data.prefetched(parts, read, threads=threads, window=2 * threads):
        kept[done : done + len(batch)] = batch
        done += len(batch)
        emit(Progress(f"decode {path.stem}", done, len(positions)))
    return kept


def _room(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        with path.open("w+b") as file:
            table.reserve(file.fileno(), math.prod(shape))
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise errors.Unavailable(
            f"{math.prod(shape):,} bytes of decoded images have no room on the disk: {error}", code="no_room"
        ) from error


def spread(count: int, *, most: int, seed: int) -> NDArray[np.int64]:
    """At most so many of `count` positions, drawn at random, in their order."""
    drawn = np.random.default_rng(seed).permutation(count)[:most]
    return np.sort(drawn).astype(np.int64)
