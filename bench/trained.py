"""Trainings as benchmarks carry them out: silently, in a folder that goes with them, on the GPU where there is one."""

import tempfile
from pathlib import Path

import torch

from app.backbones import classifier
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.plan import Plan
from app.runtimes import memory
from bench.photos import Photos
from worker.training import evaluate, strategies
from worker.training.data import Splits
from worker.training.events import Emit, Event
from worker.training.rivals import Trained
from worker.training.warm import Base

MAX_PIXELS = 100_000_000
MAX_ACTIVATION_BYTES = 20 * 2**30


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def say_nothing(_event: Event) -> None:
    pass


def train(
    splits: Splits, plan: Plan, backbone: Backbone, file: WeightsFile | None, *, cache: Path, base: Base | None = None
) -> Trained:
    """Carry out `plan`, with features kept in `cache`."""
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as workdir:
        return train_in(Path(workdir), splits, plan, backbone, file, cache=cache, base=base)


def train_in(
    workdir: Path,
    splits: Splits,
    plan: Plan,
    backbone: Backbone,
    file: WeightsFile | None,
    *,
    cache: Path,
    base: Base | None = None,
    emit: Emit = say_nothing,
) -> Trained:
    """The same in a folder of one's own, telling of it."""
    memory.keep_freed()  # as the process of a job does
    return strategies.train(
        splits,
        plan,
        backbone=backbone,
        weights=file,
        feature_cache=cache,
        workdir=workdir,
        max_pixels=MAX_PIXELS,
        max_activation_bytes=MAX_ACTIVATION_BYTES,
        emit=emit,
        device=device(),
        base=base,
    )


def accuracy(trained: Trained, test: Photos) -> float:
    """On photos that the training has not seen, 0-1."""
    probabilities = evaluate.predict(
        classifier.inference_form(trained.classifier),
        test,
        trained.preprocessing,
        max_pixels=MAX_PIXELS,
        phase="test",
        emit=say_nothing,
        device=device(),
    )
    return float((probabilities.argmax(axis=1) == test.targets).mean())
