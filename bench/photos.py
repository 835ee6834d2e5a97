"""Photo sets as benchmarks need them: zips with a folder per class, read into memory and divided by a seed."""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.backbones import preprocess
from app.datasets import alike, split
from app.datasets.split import Candidate
from app.facts import VersionFacts
from worker.training.data import Splits

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Photos:
    """Image files with their labels, in memory."""

    files: tuple[bytes, ...]
    targets: NDArray[np.int64]
    sha256: tuple[str, ...]

    @property
    def groups(self) -> NDArray[np.int64]:
        """As a training sees them."""
        return np.array(alike.of_labels(_hashes(self.files), self.targets.tolist()), np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, positions: Sequence[int]) -> list[bytes]:
        return [self.files[position] for position in positions]

    def at(self, positions: NDArray[np.int64]) -> "Photos":
        """Those at these positions."""
        return Photos(
            tuple(self.files[position] for position in positions),
            self.targets[positions],
            tuple(self.sha256[position] for position in positions),
        )


@dataclass(frozen=True)
class PhotoSet:
    """All photos of an archive."""

    name: str
    labels: tuple[str, ...]
    photos: Photos


def read(archive: Path) -> PhotoSet:
    """The photos of an archive with a folder per class."""
    with zipfile.ZipFile(archive) as packed:
        names = sorted(name for name in packed.namelist() if name.lower().endswith(_SUFFIXES))
        labels = tuple(sorted({Path(name).parts[-2] for name in names}))
        files = tuple(packed.read(name) for name in names)
    targets = np.array([labels.index(Path(name).parts[-2]) for name in names], np.int64)
    return PhotoSet(archive.stem, labels, Photos(files, targets, tuple(hashlib.sha256(f).hexdigest() for f in files)))


def divide(photos: Photos, *, share: float, seed: int) -> tuple[Photos, Photos]:
    """All but about `share` of each class, and the rest, as the service divides them: near copies of a photo are on one
    side."""
    candidates = [
        Candidate(sha256, str(target), None, difference_hash)
        for sha256, target, difference_hash in zip(photos.sha256, photos.targets, _hashes(photos.files), strict=True)
    ]
    sides = split.assign(candidates, held=(), validation_fraction=share, seed=seed)
    is_held_out = np.array([side == "validation" for side in sides])
    return photos.at(np.flatnonzero(~is_held_out)), photos.at(np.flatnonzero(is_held_out))


def _hashes(files: Sequence[bytes]) -> list[int]:
    return [_difference_hash(file) for file in files]


@cache
def _difference_hash(file: bytes) -> int:
    return preprocess.inspect(file, max_pixels=_MAX_PIXELS).difference_hash


def splits(chosen: PhotoSet, *, seed: int) -> tuple[Splits, Photos]:
    """What a training may see, divided as the service divides it, and a test part (30 %) that it never sees."""
    seen, test = divide(chosen.photos, share=0.3, seed=seed)
    train, validation = divide(seen, share=0.2, seed=seed)
    return Splits(chosen.labels, train, validation), test


def facts(splits: Splits) -> VersionFacts:
    """What a plan is told of them."""
    counts = np.bincount(splits.train.targets, minlength=len(splits.labels))
    return VersionFacts(
        classes=len(splits.labels),
        train_images=len(splits.train),
        validation_images=len(splits.validation),
        smallest_class=int(counts.min()),
    )
