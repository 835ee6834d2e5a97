"""Labelled images in memory, and small true data sets of them."""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from app.backbones import crops
from app.backbones.preprocess import Preprocessing
from worker.training.data import Images, Splits
from worker.training.events import Event

MAX_PIXELS = 10_000_000

Kind = TypeVar("Kind")

CPU = torch.device("cpu")


@dataclass(frozen=True)
class MemoryImages:
    """One split, held in memory."""

    files: tuple[bytes, ...]
    targets: NDArray[np.int64]

    @cached_property
    def sha256(self) -> tuple[str, ...]:
        return tuple(hashlib.sha256(file).hexdigest() for file in self.files)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Each by itself."""
        return np.arange(len(self))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, positions: Sequence[int]) -> list[bytes]:
        return [self.files[position] for position in positions]


class Recorder:
    """An `emit` that keeps what it is told, and may stop the training at one of the events."""

    def __init__(self, stop_at: Event | None = None) -> None:
        self.events: list[Event] = []
        self._stop_at = stop_at

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if event == self._stop_at:
            raise Stopped

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]


class Stopped(Exception):
    """What a `Recorder` stops a training with."""


def no_memory() -> Tensor:
    """Asks this machine for more memory than any has, which it refuses in words of its own."""
    return torch.empty(1 << 60, dtype=torch.uint8)


def images(files: Sequence[tuple[bytes, int]]) -> MemoryImages:
    return MemoryImages(tuple(file for file, _ in files), np.array([target for _, target in files], np.int64))


def swapped(images: Images) -> MemoryImages:
    """The same images of two classes, each with the other's label."""
    return MemoryImages(tuple(images.read(range(len(images)))), 1 - images.targets)


def split(files: Sequence[tuple[bytes, int]], labels: Sequence[str], *, train: float, seed: int) -> Splits:
    """Files with their targets, each class divided at random."""
    rng = np.random.default_rng(seed)
    parts: tuple[list[tuple[bytes, int]], list[tuple[bytes, int]]] = ([], [])
    for target in range(len(labels)):
        members = [file for file in files if file[1] == target]
        order = rng.permutation(len(members))
        cut = round(train * len(members))
        parts[0].extend(members[place] for place in order[:cut])
        parts[1].extend(members[place] for place in order[cut:])
    return Splits(tuple(labels), images(parts[0]), images(parts[1]))


SHAPES = ("circle", "cross", "square", "triangle")


def shape(kind: str, rng: np.random.Generator, *, size: int = 96) -> bytes:
    """A photo-like picture of a shape in any colour, size, place and angle on a noisy background."""
    back, front = rng.integers(0, 100, 3), rng.integers(130, 256, 3)
    if rng.random() < 0.5:
        back, front = front, back
    canvas = Image.new("RGB", (size, size), tuple(back.tolist()))
    radius = size * rng.uniform(0.22, 0.38)
    centre = size / 2 + rng.uniform(-0.1, 0.1, 2) * size
    draw = ImageDraw.Draw(canvas)
    colour = tuple(front.tolist())
    if kind == "circle":
        draw.circle(tuple(centre.tolist()), radius, fill=colour)
    else:
        draw.polygon(_corners(kind, centre, radius, rng.uniform(0, 2 * np.pi)), fill=colour)
    noisy = np.asarray(canvas).astype(np.int16) + rng.integers(-20, 21, (size, size, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def shapes(each: int, *, seed: int = 0, size: int = 96) -> list[tuple[bytes, int]]:
    rng = np.random.default_rng(seed)
    return [(shape(kind, rng, size=size), target) for target, kind in enumerate(SHAPES) for _ in range(each)]


def colours(each: int, *, seed: int = 0) -> list[tuple[bytes, int]]:
    """Very small pictures of two classes that any network tells apart: reddish and bluish noise."""
    rng = np.random.default_rng(seed)
    files = []
    for target, tint in enumerate(([80, 0, 0], [0, 0, 80])):
        for _ in range(each):
            pixels = rng.integers(0, 170, (40, 44, 3)) + np.array(tint)
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
            files.append((buffer.getvalue(), target))
    return files


def plain(colour: tuple[int, int, int], *, size: int = 32) -> bytes:
    """A picture of one colour, of which every part looks alike."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


def seen(file: bytes, preprocessing: Preprocessing) -> Tensor:
    """What a network is given of an image file, as a batch of one `(1, 3, H, W) uint8`."""
    pixels = crops.load(file, preprocessing, max_pixels=MAX_PIXELS)
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)


def photos(archive: Path) -> tuple[list[tuple[bytes, int]], list[str]]:
    """All images of an archive with one folder per class, and the labels."""
    with zipfile.ZipFile(archive) as packed:
        names = sorted(name for name in packed.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png")))
        labels = sorted({Path(name).parts[-2] for name in names})
        return [(packed.read(name), labels.index(Path(name).parts[-2])) for name in names], labels


def _corners(kind: str, centre: NDArray[np.float64], radius: float, angle: float) -> list[tuple[float, float]]:
    if kind == "cross":
        arm = 0.3
        ends = np.array([(arm, 1), (arm, arm), (1, arm), (1, -arm), (arm, -arm), (arm, -1)])
        points = np.concatenate([ends, -ends])
    else:
        turns = np.arange({"square": 4, "triangle": 3}[kind]) * 2 * np.pi / {"square": 4, "triangle": 3}[kind]
        points = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return [(float(x), float(y)) for x, y in points @ rotation * radius + centre]
