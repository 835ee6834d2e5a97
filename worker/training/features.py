"""Features of all images from one pass of a frozen network, kept on disk for the next training on the same images."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from numpy.typing import NDArray

from app.backbones import preprocess
from app.backbones.classifier import InferenceForm
from app.backbones.preprocess import Preprocessing
from worker.training import data
from worker.training.data import Images, Splits
from worker.training.events import Emit, FeaturesReady, Progress

FORMAT = 1
"""Part of the key: features of another format are computed anew."""

BATCH = 8
"""Measured on CPUs: the activations of so few images stay in the cache. See `CUDA_BATCH` for GPUs."""
CUDA_BATCH = 128

_TENSOR = "features"
_DIGEST = "sha256"


@dataclass(frozen=True)
class Extractor:
    """A frozen network with what identifies its features; `weights_sha256` is that of the file of its values."""

    network: InferenceForm
    preprocessing: Preprocessing
    weights_sha256: str


@dataclass(frozen=True)
class Features:
    """Pooled features of the images of each split, `(N, feature_dim) float32`."""

    train: NDArray[np.float32]
    validation: NDArray[np.float32]


def extract(
    splits: Splits, extractor: Extractor, *, cache_dir: Path, max_pixels: int, emit: Emit, device: torch.device
) -> Features:
    """The features of `splits`, from `cache_dir` where an earlier training has left them. Raises `BadImage`."""
    started = time.perf_counter()
    hashes = sorted({*splits.train.sha256, *splits.validation.sha256})
    path = cache_dir / f"{_key(hashes, extractor)}.safetensors"
    table = _read(path, rows=len(hashes))
    cached = table is not None
    if table is None:
        table = _compute(splits, hashes, extractor, max_pixels=max_pixels, emit=emit, device=device)
        _write(path, table)
    emit(FeaturesReady(images=len(hashes), seconds=time.perf_counter() - started, cached=cached))
    row = {digest: place for place, digest in enumerate(hashes)}
    return Features(
        train=table[[row[digest] for digest in splits.train.sha256]],
        validation=table[[row[digest] for digest in splits.validation.sha256]],
    )


def batch_size(device: torch.device) -> int:
    """Images to push through a network at once where no gradients are kept."""
    return CUDA_BATCH if device.type == "cuda" else BATCH


def _key(hashes: list[str], extractor: Extractor) -> str:
    facts = [FORMAT, extractor.weights_sha256, extractor.preprocessing.to_json(), hashes]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _compute(
    splits: Splits, hashes: list[str], extractor: Extractor, *, max_pixels: int, emit: Emit, device: torch.device
) -> NDArray[np.float32]:
    """One row for each of `hashes`, in their order."""
    row = {digest: place for place, digest in enumerate(hashes)}
    network = extractor.network.to(device)
    table: NDArray[np.float32] | None = None
    done = 0
    for images, positions in _unique(splits):
        rows = [row[images.sha256[position]] for position in positions]
        start = 0
        for features in _forward(images, positions, network, extractor.preprocessing, max_pixels, device):
            if table is None:
                table = np.empty((len(hashes), features.shape[1]), np.float32)
            table[rows[start : start + len(features)]] = features
            start += len(features)
            done += len(features)
            emit(Progress("features", done, len(hashes)))
    assert table is not None
    return table


def _unique(splits: Splits) -> Iterator[tuple[Images, list[int]]]:
    """The positions in each split of images that have not come before."""
    seen: set[str] = set()
    for images in (splits.train, splits.validation):
        positions = []
        for position, digest in enumerate(images.sha256):
            if digest not in seen:
                seen.add(digest)
                positions.append(position)
        yield images, positions


def _forward(
    images: Images,
    positions: list[int],
    network: InferenceForm,
    preprocessing: Preprocessing,
    max_pixels: int,
    device: torch.device,
) -> Iterator[NDArray[np.float32]]:
    def view(_position: int, file: bytes) -> preprocess.Pixels:
        return preprocess.load(file, preprocessing, max_pixels=max_pixels)

    parts = [[positions[place] for place in part] for part in data.parts_of(len(positions), batch_size(device))]
    for batch in data.batches(images, parts, view, threads=torch.get_num_threads()):
        with torch.inference_mode():
            yield network.features(batch.to(device)).float().cpu().numpy()


def _read(path: Path, *, rows: int) -> NDArray[np.float32] | None:
    """The table in `path`; None where there is none, or it is damaged."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            table: NDArray[np.float32] = file.get_tensor(_TENSOR)
            digest = (file.metadata() or {}).get(_DIGEST)
        os.utime(path)  # whoever bounds the cache removes what was used longest ago
    except (OSError, safetensors.SafetensorError):
        return None
    sound = table.dtype == np.float32 and table.ndim == 2 and len(table) == rows and digest == _digest(table)
    return table if sound else None


def _write(path: Path, table: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix="features.", suffix=".part")
    os.close(descriptor)
    part = Path(name)
    try:
        safetensors.numpy.save_file({_TENSOR: table}, part, metadata={_DIGEST: _digest(table)})
        # Two trainings may compute the same table at once; either of them is right.
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _digest(table: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(table).data).hexdigest()
