"""Trainings by stages, what begins them, and the values of networks."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from app.backbones.classifier import Classifier
from app.descent import Descent
from tests.training.fitted import fitting
from tests.training.samples import Recorder
from worker.training.data import Splits
from worker.training.fitting import Fitting

LABELS = ("red", "blue")
DESCENT = Descent(epochs=4, batch_size=6, learning_rate=0.02, weight_decay=0.1)


def values(network: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def inside(network: Classifier, stage: str) -> list[str]:
    """Names of all values of `stage` and those before it, running statistics included."""
    part = network.walk.part(network.body, stage)
    return [name for name in network.state_dict() if part.holds(name.removeprefix("body."))]


def begun(splits: Splits, folder: Path, told: Recorder, descent: Descent) -> Fitting:
    """With what a training begins with among what may be kept."""
    return replace(fitting(splits, folder, told, descent=descent), start_counts=True)
