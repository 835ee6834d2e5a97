"""A version of a dataset as a training sees it: its images by split, read from the table as they are needed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.datasets import alike, store
from app.datasets.store import Item, Snapshot
from worker.training.data import Splits


@dataclass(frozen=True)
class _SplitImages:
    """The images of one split, read from the table as they are needed."""

    snapshot: Snapshot
    rows: tuple[int, ...]
    sha256: tuple[str, ...]
    targets: NDArray[np.int64]
    difference_hashes: NDArray[np.uint64]

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        return np.array(alike.of_labels(self.difference_hashes.tolist(), self.targets.tolist()), np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: Sequence[int]) -> list[bytes]:
        return self.snapshot.read([self.rows[position] for position in positions])


def splits_of(table: Path, tag: str) -> Splits:
    """The version that the table has under `tag`."""
    snapshot = store.read(table, tag)
    # Of what the table says of each image, only what a training needs stays in memory.
    reader = replace(snapshot, items=())
    labels = tuple(sorted({item.label for item in snapshot.items}))
    index = {label: place for place, label in enumerate(labels)}
    return Splits(
        labels=labels,
        train=_images(reader, snapshot.items, "train", index),
        validation=_images(reader, snapshot.items, "validation", index),
    )


def _images(reader: Snapshot, items: Sequence[Item], split: str, index: dict[str, int]) -> _SplitImages:
    rows: list[tuple[int, Item]] = [(row, item) for row, item in enumerate(items) if item.split == split]
    return _SplitImages(
        snapshot=reader,
        rows=tuple(row for row, _ in rows),
        sha256=tuple(item.sha256 for _, item in rows),
        targets=np.array([index[item.label] for _, item in rows], dtype=np.int64),
        difference_hashes=np.array([item.difference_hash for _, item in rows], dtype=np.uint64),
    )
