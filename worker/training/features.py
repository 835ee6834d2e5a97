"""Features of all images at every depth of a frozen network, from one pass, kept on disk for later trainings."""

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app import profile
from app.backbones import crops
from app.backbones.classifier import InferenceForm
from app.backbones.preprocess import Pixels, Preprocessing
from app.backbones.walk import Survey
from worker.training import data, runtime, tablefile
from worker.training.data import Images, Splits
from worker.training.events import Emit, FeaturesNotKept, FeaturesReady, Progress
from worker.training.reuse import Known
from worker.training.runtime import Surveyor
from worker.training.table import Columns, Rows, Taken
from worker.training.tablefile import Draft, Kept, Names, Tables

FORMAT = 5
"""Part of the key: features of another format are computed anew."""

BATCH = 8
"""Measured on CPUs: the activations of so few images stay in the cache. See `CUDA_BATCH` for GPUs."""
CUDA_BATCH = 128

_AHEAD_BYTES = 64 * 2**20
"""Of pixels that are decoded ahead of the network: while it is compiled, which is done in one thread, the other cores
have nothing else to do."""

_ROUNDING = 1e-3
"""Share of its length by which a mean may come out otherwise where its values are added in another order."""

HEAD = profile.HEAD
"""The depth in front of the network's own classifier."""


@dataclass(frozen=True)
class Extractor:
    """A frozen network with what identifies its features; `weights_sha256` is that of the file of its values, or of the
    values themselves where they are of no file."""

    network: InferenceForm
    preprocessing: Preprocessing
    weights_sha256: str
    is_exact: bool = False
    """Whether the features of training images, too, are those that serving would compute, and not rounded to bf16 where
    that is quicker."""


@dataclass(frozen=True)
class Features:
    """Pooled features of the images of each split, `(N, D) float32`: those of all depths side by side. What is asked
    for of them is read from the disk."""

    train: Rows
    validation: Rows
    columns: Mapping[str, slice]
    """Where the features of each stage lie, in order, and last those that the network's own classifier gets; a last
    stage whose features are these is not there."""

    def at(self, depth: str) -> "Features":
        """The features of one depth, a stage or `HEAD`."""
        columns = self.columns[depth]
        width = columns.stop - columns.start
        return Features(Columns(self.train, columns), Columns(self.validation, columns), {depth: slice(0, width)})


def extract(
    splits: Splits, extractor: Extractor, *, cache_dir: Path, max_pixels: int, emit: Emit, device: torch.device
) -> Features:
    """The features of `splits`, from `cache_dir` where an earlier training has left them: also those of some of the
    images alone, where each image goes through the network by itself. Raises `BadImage`."""
    started = time.perf_counter()
    hashes = sorted({*splits.train.sha256, *splits.validation.sha256})
    names = _names(hashes, exact=_exact(splits, hashes, extractor, device))
    family = _family(extractor, images=len(hashes), device=device)
    path = cache_dir / f"{family}-{hashlib.sha256(names.tobytes()).hexdigest()}.safetensors"
    kept, reused = tablefile.read(path, names=names), len(hashes)
    if kept is None:
        with Draft(path, tell=lambda reason: emit(FeaturesNotKept(reason))) as draft:
            known = Known(draft, names)
            is_apart = runtime.is_apart(extractor.network, len(hashes), device)
            if is_apart:
                known.take_from(_used_lately(cache_dir, family))
            try:
                _compute(known, splits, hashes, extractor, max_pixels=max_pixels, emit=emit, device=device)
            except Exception:
                # Cancelled or paused, most often: whoever goes on later loses nothing.
                if is_apart:
                    known.keep(seconds=time.perf_counter() - started)
                raise
            took, reused = time.perf_counter() - started + known.seconds, known.count
            kept = Kept(draft.publish(seconds=took), took)
    seconds = time.perf_counter() - started
    emit(
        FeaturesReady(
            images=len(hashes),
            seconds=seconds,
            cached=reused == len(hashes),
            reused=reused,
            pass_seconds=kept.seconds,
        )
    )
    row = {digest: place for place, digest in enumerate(hashes)}
    return Features(
        train=_rows(kept.tables, row, splits.train),
        validation=_rows(kept.tables, row, splits.validation),
        columns=_columns({depth: values.shape[1] for depth, values in kept.tables.items()}),
    )


def digest(values: Mapping[str, Tensor]) -> str:
    """sha256 over named values on the CPU."""
    found = hashlib.sha256()
    for name, value in sorted(values.items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()


def batch_size(device: torch.device) -> int:
    """Images to push through a network at once where no gradients are kept."""
    return CUDA_BATCH if device.type == "cuda" else BATCH


def views(
    images: Images, parts: Sequence[Sequence[int]], preprocessing: Preprocessing, *, max_pixels: int
) -> Iterator[Tensor]:
    """For each part, the images at its positions as serving sees them `(N, 3, H, W) uint8`. Raises `BadImage`."""

    def view(_position: int, file: bytes) -> Pixels:
        return crops.load(file, preprocessing, max_pixels=max_pixels)

    threads = torch.get_num_threads()
    part_bytes = 3 * preprocessing.crop**2 * max(map(len, parts), default=1)
    window = max(2 * threads, _AHEAD_BYTES // part_bytes)
    return data.batches(images, parts, view, threads=threads, window=window)


def _family(extractor: Extractor, *, images: int, device: torch.device) -> str:
    """What features have in common that one image has alike, whatever others there are."""
    facts = [
        FORMAT,
        extractor.weights_sha256,
        extractor.preprocessing.to_json(),
        runtime.is_apart(extractor.network, images, device),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _names(hashes: Sequence[str], *, exact: Collection[str]) -> Names:
    """Those of rows: the hash of an image, and whether its features are exact."""
    marked = (bytes.fromhex(digest) + bytes([digest in exact]) for digest in hashes)
    return np.frombuffer(b"".join(marked), np.uint8).reshape(len(hashes), -1)


def _used_lately(folder: Path, family: str) -> list[Path]:
    """Files with features of this family, the one that was used last first."""
    used: list[tuple[float, Path]] = []
    for path in folder.glob(f"{family}-*.safetensors"):
        with suppress(OSError):  # somebody may have removed it
            used.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(used, reverse=True)]


def _rows(tables: Tables, row: Mapping[str, int], images: Images) -> Taken:
    return Taken(tuple(tables.values()), np.array([row[digest] for digest in images.sha256], np.int64))


def _exact(splits: Splits, hashes: list[str], extractor: Extractor, device: torch.device) -> Collection[str]:
    """The images whose features are those that serving would compute; the others' may be rounded."""
    rounded = not extractor.is_exact and runtime.is_rounded(extractor.network, len(hashes), device)
    return {*splits.validation.sha256} if rounded else {*hashes}


def _compute(
    known: Known,
    splits: Splits,
    hashes: Sequence[str],
    extractor: Extractor,
    *,
    max_pixels: int,
    emit: Emit,
    device: torch.device,
) -> None:
    """The rows of those `hashes` that are not known, which are in their order."""
    if known.is_there.all():
        return
    row = {digest: place for place, digest in enumerate(hashes)}
    network = extractor.network.to(device)
    size = extractor.preprocessing.crop
    surveyor = Surveyor(network, size, images=len(hashes), device=device)
    stages = _own_stages(network, size, device)
    images = data.Joined((splits.validation, splits.train))
    groups: list[list[list[int]]] = []
    for positions in _unique(splits):
        missing = [position for position in positions if not known.is_there[row[images.sha256[position]]]]
        groups.append([[missing[place] for place in part] for part in data.parts_of(len(missing), batch_size(device))])
    # One stream of all, which goes on while the network is compiled, as it is for each group.
    parts_of_all = [part for parts in groups for part in parts]
    batches = views(images, parts_of_all, extractor.preprocessing, max_pixels=max_pixels)
    done = known.count
    for parts, exact in zip(groups, (True, extractor.is_exact), strict=True):
        rows = [row[images.sha256[position]] for part in parts for position in part]
        start = 0
        for survey in surveyor.surveys(islice(batches, len(parts)), exact=exact):
            found = _named(stages, survey)
            tables = known.tables({depth: values.shape[1] for depth, values in found.items()})
            count = len(found[HEAD])
            for depth, values in found.items():
                tables[depth][rows[start : start + count]] = values
            known.is_there[rows[start : start + count]] = True
            start += count
            done += count
            emit(Progress("features", done, len(hashes)))


def _unique(splits: Splits) -> tuple[list[int], list[int]]:
    """The positions in both splits, one after the other, of images that have not come before: those of validation,
    which come first as their features are to be exact, and those of training."""
    seen: set[str] = set()
    found: list[list[int]] = []
    start = 0
    for split in (splits.validation, splits.train):
        positions = []
        for position, digest in enumerate(split.sha256, start):
            if digest not in seen:
                seen.add(digest)
                positions.append(position)
        found.append(positions)
        start += len(split)
    return found[0], found[1]


def _own_stages(network: InferenceForm, size: int, device: torch.device) -> tuple[str, ...]:
    """The stages but the last one where the classifier gets the mean over that, as in most networks.

    What an image of noise gives tells it; shapes do not: a class token is as wide as the mean of the others, and
    features are so before and behind a LayerNorm.
    """
    with torch.inference_mode():
        survey = network.survey(runtime.noise(size).to(device))
    last, features = survey.stages[-1], survey.features
    is_same = last.shape == features.shape and bool((last - features).norm() <= _ROUNDING * features.norm())
    return network.walk.stages[:-1] if is_same else network.walk.stages


def _named(stages: Sequence[str], survey: Survey) -> dict[str, NDArray[np.float32]]:
    found = {**dict(zip(stages, survey.stages, strict=False)), HEAD: survey.features}
    return {depth: values.float().cpu().numpy() for depth, values in found.items()}


def _columns(widths: Mapping[str, int]) -> dict[str, slice]:
    ends = accumulate(widths.values())
    return {depth: slice(end - width, end) for (depth, width), end in zip(widths.items(), ends, strict=True)}
