"""Trainings of very small networks, and what came of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.augmentation import Augmentation
from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier
from app.backbones.preprocess import Preprocessing
from app.descent import Descent
from tests.training import samples
from tests.training.samples import Recorder, Stopped
from worker.training import evaluate, fit
from worker.training.data import Splits
from worker.training.events import (
    EpochFinished,
    Event,
    Progress,
)
from worker.training.feed import ImageFeed
from worker.training.fitting import Fitting

LABELS = ("red", "blue")
AT_32 = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
SEED = 3
DESCENT = Descent(epochs=4, batch_size=6, learning_rate=0.02, weight_decay=1e-4)
MID_EPOCH = Progress("train", 2 * 18 + 12, 4 * 18)
"""In the third epoch of `DESCENT` on the training images of `SPLITS`."""


@dataclass(frozen=True)
class Ran:
    """A training that came to its end."""

    network: Classifier
    told: Recorder

    @property
    def epochs(self) -> list[EpochFinished]:
        """What was told of each epoch, without what depends on the clock."""
        return [replace(told, seconds=0.0, images_per_second=0.0) for told in self.told.of(EpochFinished)]


def fitting(
    splits: Splits,
    folder: Path,
    emit: Recorder,
    *,
    descent: Descent = DESCENT,
    seed: int = SEED,
    fingerprint: str = "one",
) -> Fitting:
    return Fitting(
        splits=splits,
        feed=images(splits, descent, seed),
        descent=descent,
        seed=seed,
        workdir=folder,
        fingerprint=fingerprint,
        device=samples.CPU,
        emit=emit,
    )


def images(splits: Splits, descent: Descent, seed: int, *, preprocessing: Preprocessing = AT_32) -> ImageFeed:
    return ImageFeed(splits, preprocessing, descent.augmentation, seed, samples.MAX_PIXELS, samples.CPU)


def build(backbone: str = "tinynet", classes: int = 2, *, seed: int = SEED) -> Classifier:
    return classifiers.build(catalogue.find(backbone), classes, state=None, seed=seed)


def run(
    splits: Splits,
    folder: Path,
    *,
    backbone: str = "tinynet",
    descent: Descent = DESCENT,
    seed: int = SEED,
    fingerprint: str = "one",
) -> Ran:
    told = Recorder()
    given = fitting(splits, folder, told, descent=descent, seed=seed, fingerprint=fingerprint)
    return Ran(fit.fit(build(backbone, seed=seed), given), told)


def interrupt(
    splits: Splits, folder: Path, stop_at: Event, *, backbone: str = "tinynet", descent: Descent = DESCENT
) -> None:
    with pytest.raises(Stopped):
        fit.fit(build(backbone), fitting(splits, folder, Recorder(stop_at), descent=descent))


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def same(one: Ran, other: Ran) -> bool:
    return equal(one.network.state_dict(), other.network.state_dict())


def learns(ran: Ran, *, backbone: str = "tinynet", seed: int = SEED) -> bool:
    """Whether the training has changed its network, and not just gone through it."""
    begun = build(backbone, seed=seed)
    drawn = [name for name, value in begun.named_parameters() if value.ndim > 1]
    return all(not torch.equal(begun.get_parameter(name), ran.network.get_parameter(name)) for name in drawn)


def losses(network: Classifier, splits: Splits) -> tuple[float, float]:
    """Accuracy and log-loss on the validation images."""
    probabilities = evaluate.predict(
        classifiers.inference_form(network),
        splits.validation,
        AT_32,
        max_pixels=samples.MAX_PIXELS,
        phase="test",
        emit=Recorder(),
        device=samples.CPU,
    )
    figures = evaluate.evaluate(probabilities, splits.validation.targets, splits.labels)
    return figures.accuracy, figures.log_loss


OPTIONS = {
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3},
    "average": {"ema": 0.9},
    "accumulated": {"batch_size": 3, "accumulate": 2},
    "mixed": {"augmentation": Augmentation(policy="trivial", erasing=0.5, mixup=0.2, cutmix=1.0)},
    "sampled": {"balance": "sampler", "label_smoothing": 0.1},
}


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), LABELS, train=0.75, seed=0)
