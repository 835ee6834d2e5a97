"""The images of a training run, drawn once by all processors and kept in a folder."""

import functools
import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from pretraining.drawing import scenes
from pretraining.drawing.plane import SIDE
from pretraining.drawing.scenes import NOTHING, Scene, Vocabulary

_CHUNK = 512
_PIXELS = "pixels.npy"
_WITHOUT_SHAPE = 0.25
_PLAIN_GROUND = 0.2


@dataclass(frozen=True)
class Order:
    """What to draw; equal orders give equal images."""

    images: int
    shapes_each: int
    """Categories of each family of shapes."""
    textures_each: int
    seed: int

    def vocabulary(self) -> Vocabulary:
        """The formulas of the images."""
        return scenes.vocabulary(shapes_each=self.shapes_each, textures_each=self.textures_each, seed=self.seed)


@dataclass(frozen=True)
class Pictures:
    """Images with their categories, each `NOTHING` where there is none."""

    pixels: NDArray[np.uint8]
    """`(N, SIDE, SIDE, 3)`, on disk."""
    categories: NDArray[np.int64]
    """`(N, 3)`: shape, ground, fill."""


def drawn(order: Order, folder: Path, *, processes: int) -> Pictures:
    """The images of `order`, from `folder` where an earlier call has left them, or a part of them."""
    note, wanted = folder / "order.json", json.dumps(asdict(order))
    if not note.is_file() or note.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("categories-*.npy"):
            stale.unlink()
        open_memmap(folder / _PIXELS, "w+", np.uint8, (order.images, SIDE, SIDE, 3))
        note.write_text(wanted)
    chunks = range(-(-order.images // _CHUNK))
    missing = [chunk for chunk in chunks if not _categories(folder, chunk).is_file()]
    if missing:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pretraining.pictures"])
        pool = context.Pool(processes)
        try:
            pool.map(functools.partial(_draw_chunk, order, folder), missing, chunksize=1)
        finally:
            # Not by `terminate`, whose signal the processes of a worker's forkserver do not hear.
            pool.close()
            pool.join()
    categories = np.concatenate([np.load(_categories(folder, chunk)) for chunk in chunks])
    return Pictures(np.load(folder / _PIXELS, mmap_mode="r"), categories)


def scene(words: Vocabulary, order: Order, number: int) -> Scene:
    """The image called `number` of `order`, whose formulas are `words`."""
    rng = np.random.default_rng((order.seed, 2, number))
    shape = int(rng.integers(len(words.shapes))) if rng.random() > _WITHOUT_SHAPE else NOTHING
    plain = shape != NOTHING and rng.random() < _PLAIN_GROUND
    return scenes.draw(words, shape, NOTHING if plain else int(rng.integers(len(words.textures))), rng)


def _categories(folder: Path, chunk: int) -> Path:
    return folder / f"categories-{chunk:05}.npy"


def _draw_chunk(order: Order, folder: Path, chunk: int) -> None:
    words = order.vocabulary()
    pixels = open_memmap(folder / _PIXELS, "r+")
    categories = []
    for number in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, order.images)):
        found = scene(words, order, number)
        pixels[number] = found.pixels
        categories.append((found.shape, found.ground, found.fill))
    pixels.flush()
    # Written last: where it lies, the pixels do.
    np.save(_categories(folder, chunk), np.array(categories, np.int64))
