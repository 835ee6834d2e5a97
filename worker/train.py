"""The work of a training: a plan carried out on a version, ending in an artifact."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch

from app.backbones import catalogue, weights
from app.backbones.weights import WeightsFile
from app.models import artifact
from app.models.artifact import Artifact
from app.recipe import NO_WEIGHTS, Plan
from worker.splits import splits_of
from worker.training import checkpoint, strategies
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
    splits = splits_of(work.table, work.tag)
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
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
    result = Artifact(
        backbone=plan.backbone,
        labels=splits.labels,
        preprocessing=trained.preprocessing,
        plan=asdict(plan),
        evaluation=asdict(trained.evaluation),
        provenance=_provenance(work, file),
        state=trained.classifier.state(),
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
