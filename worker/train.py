"""The work of a training: a plan carried out on a version, ending in an artifact."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app import errors, estimates, policy
from app.backbones import catalogue, weights
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.datasets import store
from app.datasets.store import Item, Snapshot
from app.models import artifact
from app.models.artifact import Artifact
from app.plan import Plan, VersionFacts, resolve
from app.recipe import NO_WEIGHTS, Recipe, narrowed
from worker.training import checkpoint, profile, strategies
from worker.training.data import Splits
from worker.training.events import Emit, Planned

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "pylance")


@dataclass(frozen=True)
class TrainWork:
    """A plan, the version it is for, and the folders to work in."""

    plan: Plan | None
    """None where it is decided by what is measured first."""
    recipe: Recipe
    facts: VersionFacts
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
    """Carry out `work`, after deciding how, where that is left open. Raises `WeightsUnavailable`."""
    backbone = catalogue.find(work.recipe.backbone)
    file = _weights(work, backbone)
    splits = _splits(store.read(work.table, work.tag))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = work.plan or _decide(work, splits, backbone, file, emit, device)
    # Each attempt writes into a folder of its own: a stale one that is still at work spoils nothing.
    folder = work.folder / work.version_id
    checkpoints = folder / "checkpoints"
    checkpoint.take_over(checkpoints, work.folder.glob("*/checkpoints"))
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
    )
    result = Artifact(
        backbone=backbone.name,
        labels=splits.labels,
        preprocessing=trained.preprocessing,
        plan=asdict(trained.plan),
        evaluation=asdict(trained.evaluation),
        provenance=_provenance(work, file),
        state=trained.classifier.state(),
        outlet=trained.classifier.outlet,
    )
    artifact.write(folder / "artifact", result)
    return TrainOutcome(
        artifact=folder / "artifact",
        version_id=work.version_id,
        plan=trained.plan,
        labels=splits.labels,
        evaluation=dict(result.evaluation),
        provenance=dict(result.provenance),
    )


def _weights(work: TrainWork, backbone: Backbone) -> WeightsFile | None:
    choice = work.recipe.start if work.plan is None else work.plan.weights
    if choice == NO_WEIGHTS:
        return None
    return weights.obtain(
        backbone,
        choice=choice,
        weights_dir=work.weights_dir,
        cache_dir=weights.default_cache_dir(),
        download=work.download_weights,
    )


def _decide(
    work: TrainWork,
    splits: Splits,
    backbone: Backbone,
    file: WeightsFile | None,
    emit: Emit,
    device: torch.device,
) -> Plan:
    """Measure, and plan by it; the job has the plan from then on."""
    assert file is not None
    stages = [stage.name for stage in backbone.stages]
    try:
        measured = profile.measure(
            splits,
            backbone=backbone,
            weights=file,
            feature_cache=work.feature_cache,
            max_pixels=work.max_image_pixels,
            seed=work.recipe.seed,
            emit=emit,
            device=device,
        )
    except errors.Invalid as error:
        head, _ = narrowed(work.recipe, "head")
        plan = resolve(head, work.facts, stages=stages)
        plan = replace(plan, reasons=(f"Nothing can be measured ({error.message}).", *plan.reasons))
    else:
        plan = policy.plan(work.recipe, measured, work.facts, stages=stages)
        plan = replace(plan, estimate=estimates.of(plan, work.facts, backbone, measured.costs))
    emit(Planned(asdict(plan)))
    return plan


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
            "name": work.recipe.backbone,
            "weights": None if file is None else _weights_provenance(file),
        },
        "seed": work.recipe.seed,
        "libraries": {"python": platform.python_version(), **{name: installed(name) for name in _LIBRARIES}},
    }


def _weights_provenance(file: WeightsFile) -> dict[str, Any]:
    # A file of the operator's own only stands in for published weights.
    digits = file.weights.sha256_prefix
    name = file.weights.name if digits is None or file.sha256.startswith(digits) else None
    return {"name": name, "file": file.path.name, "sha256": file.sha256, "source": file.source}
