"""Trainings by stages, what begins them, the values of networks, and a network of each family."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from app.backbones.classifier import Classifier
from app.descent import Descent
from tests.backbones import samples as networks
from tests.training.fitted import fitting
from tests.training.samples import Recorder
from worker.training.data import Splits
from worker.training.fitting import Fitting

LABELS = ("red", "blue")
DESCENT = Descent(epochs=4, batch_size=6, learning_rate=0.02, weight_decay=0.1)
_OF_THE_SAME_FAMILY = (
    "alexnet_2012",
    "inception_v2",
    "inception_v4",
    "mobilenetv1_100",
    "mobilenetv4_conv_small",
    "swin_v2_t",
)
"""As others that are here, and larger or without auxiliary heads."""
OF_EACH_FAMILY = (
    *(name for name in networks.REPRESENTATIVES if name not in _OF_THE_SAME_FAMILY),
    "resnext50_32x4d",
    "wide_resnet50_2",
)
_LARGE = (
    "alexnet",
    "zfnet",
    "vgg11_bn",
    "inception_v3",
    "convnext_tiny",
    "vit_b_32",
    "swin_t",
    "resnext50_32x4d",
    "wide_resnet50_2",
)
FAMILIES = [pytest.param(name, marks=pytest.mark.slow) if name in _LARGE else name for name in OF_EACH_FAMILY]
"""A network of each, and all that have auxiliary heads, as parameters of tests."""


def values(network: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def inside(network: Classifier, stage: str) -> list[str]:
    """Names of all values of `stage` and those before it, running statistics included."""
    part = network.walk.part(network.body, stage)
    return [name for name in network.state_dict() if part.holds(name.removeprefix("body."))]


def begun(splits: Splits, folder: Path, told: Recorder, descent: Descent) -> Fitting:
    """With what a training begins with among what may be kept."""
    return replace(fitting(splits, folder, told, descent=descent), start_counts=True)
