"""The work of a training: a plan carried out on a version, ending in an artifact."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.backbones import catalogue, weights
from app.backbones.weights import WeightsFile
from app.datasets import store
from app.datasets.store import Item, Snapshot
from app.models import artifact
from app.models.artifact import Artifact
from app.plan import Plan
from app.recipe import NO_WEIGHTS
from worker.training import checkpoint, strategies
from worker.training.data import Splits
from worker.training.events import Emit

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "pylance")


@dataclass(frozen=True)
class TrainWork:
    """A plan, the version it is for, and the folders to work in."""

    plan: Plan
    table: Path
    dataset_id: str
    version: int
    tag: str
    """Under which the table has that version."""
    content_hash: str
    version_id: str
    """The id that the model version is to have."""
    feature_cache: Path
    folder: Path
    """The job's own folder, with one for each attempt: its checkpoints, and the artifact when done."""
    weights_dir: Path | None
    download_weights: bool
    max_image_pixels: int
    max_activation_bytes: int


@dataclass(frozen=True)
class TrainOutcome:
    """A finished classifier whose artifact lies in `artifact`."""

    artifact: Path
    version_id: str
    plan: Plan
    labels: tuple[str, ...]
    evaluation: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _SplitImages:
    """The images of one split, read from the table as they are needed."""

    snapshot: Snapshot
    rows: tuple[int, ...]
    sha256: tuple[str, ...]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, positions: Sequence[int]) -> list[bytes]:
        return self.snapshot.read([self.rows[position] for position in positions])


def train(work: TrainWork, emit: Emit) -> TrainOutcome:
    """Carry out `work`. Raises `WeightsUnavailable`."""
    plan = work.plan
    backbone = catalogue.find(plan.backbone)
    file = (
        None
        if plan.weights == NO_WEIGHTS
        else weights.obtain(
            backbone,
            choice=plan.weights,
            weights_dir=work.weights_dir,
            cache_dir=weights.default_cache_dir(),
            download=work.download_weights,
        )
    )
    # Each attempt writes into a folder of its own: a stale one that is still at work spoils nothing.
    folder = work.folder / work.version_id
    checkpoints = folder / "checkpoints"
    checkpoint.take_over(checkpoints, work.folder.glob("*/checkpoints"))
    splits = _splits(store.read(work.table, work.tag))
    device, *others = _devices(plan)
    trained = strategies.train(
        splits,
        plan,
        backbone=backbone,
        weights=file,
        feature_cache=work.feature_cache,
        workdir=checkpoints,
        max_pixels=work.max_image_pixels,
        max_activation_bytes=work.max_activation_bytes,
        emit=emit,
        device=device,
        others=tuple(others),
    )
    result = Artifact(
        backbone=plan.backbone,
        labels=splits.labels,
        preprocessing=trained.preprocessing,
        plan=asdict(plan),
        evaluation=asdict(trained.evaluation),
        provenance=_provenance(work, file),
        state=trained.classifier.state(),
        outlet=trained.classifier.outlet,
    )
    artifact.write(folder / "artifact", result)
    return TrainOutcome(
        artifact=folder / "artifact",
        version_id=work.version_id,
        plan=plan,
        labels=splits.labels,
        evaluation=dict(result.evaluation),
        provenance=dict(result.provenance),
    )


def _devices(plan: Plan) -> list[torch.device]:
    """What this machine has for the training, the leading one first."""
    if not torch.cuda.is_available():
        return [torch.device("cpu")]
    most = None if plan.descent is None else plan.descent.devices
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())][:most]


def _splits(snapshot: Snapshot) -> Splits:
    labels = tuple(sorted({item.label for item in snapshot.items}))
    index = {label: place for place, label in enumerate(labels)}
    return Splits(
        labels=labels,
        train=_images(snapshot, "train", index),
        validation=_images(snapshot, "validation", index),
    )


def _images(snapshot: Snapshot, split: str, index: dict[str, int]) -> _SplitImages:
    rows: list[tuple[int, Item]] = [(row, item) for row, item in enumerate(snapshot.items) if item.split == split]
    return _SplitImages(
        snapshot=snapshot,
        rows=tuple(row for row, _ in rows),
        sha256=tuple(item.sha256 for _, item in rows),
        targets=np.array([index[item.label] for _, item in rows], dtype=np.int64),
    )


def _provenance(work: TrainWork, file: WeightsFile | None) -> dict[str, Any]:
    return {
        "dataset": {"id": work.dataset_id, "version": work.version, "content_hash": work.content_hash},
        "backbone": {
            "name": work.plan.backbone,
            "weights": None if file is None else _weights_provenance(file),
        },
        "seed": work.plan.seed,
        "libraries": {"python": platform.python_version(), **{name: installed(name) for name in _LIBRARIES}},
    }


def _weights_provenance(file: WeightsFile) -> dict[str, Any]:
    # A file of the operator's own only stands in for published weights.
    digits = file.weights.sha256_prefix
    name = file.weights.name if digits is None or file.sha256.startswith(digits) else None
    return {"name": name, "file": file.path.name, "sha256": file.sha256, "source": file.source}
