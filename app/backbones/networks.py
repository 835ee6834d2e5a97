"""How each backbone of the catalogue is built, and which of its layers are tied to the old classes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torchvision.models
from torch import nn

from app.backbones.formnet import FormNet
from app.backbones.tinynet import TinyNet

PUBLISHED_CLASSES = 1000


@dataclass(frozen=True)
class AuxiliaryHead:
    """A classifier on an inner layer, at work in training only."""

    module: str
    last_layer: str
    """Name of its `nn.Linear` for the classes, inside `module`."""
    pretrained: bool
    """Whether the published weights of its other layers were trained."""


@dataclass(frozen=True)
class Architecture:
    """A network for the published classes, without values, and the names of what a new classifier replaces."""

    make: Callable[[bool], nn.Module]
    """Builds the network, with auxiliary heads or without."""
    last_layer: str
    """Name of the layer that turns features into logits; an identity in its place leaves the features."""
    auxiliary: tuple[AuxiliaryHead, ...] = ()


def _tinynet(_auxiliary: bool) -> nn.Module:
    return TinyNet(PUBLISHED_CLASSES)


def _formnet(_auxiliary: bool) -> nn.Module:
    return FormNet(PUBLISHED_CLASSES)


def _plain(name: str) -> Callable[[bool], nn.Module]:
    def make(_auxiliary: bool) -> nn.Module:
        return cast("nn.Module", torchvision.models.get_model(name, weights=None))

    return make


def _inception(name: str) -> Callable[[bool], nn.Module]:
    def make(auxiliary: bool) -> nn.Module:
        # The published weights expect inputs scaled to -1..1, which the network then does itself.
        network = torchvision.models.get_model(
            name, weights=None, aux_logits=auxiliary, transform_input=True, init_weights=True
        )
        return cast("nn.Module", network)

    return make


ARCHITECTURES: dict[str, Architecture] = {
    "tinynet": Architecture(_tinynet, "head"),
    "formnet": Architecture(_formnet, "head"),
    "resnet18": Architecture(_plain("resnet18"), "fc"),
    "resnet50": Architecture(_plain("resnet50"), "fc"),
    "mobilenet_v2": Architecture(_plain("mobilenet_v2"), "classifier.1"),
    "mobilenet_v3_small": Architecture(_plain("mobilenet_v3_small"), "classifier.3"),
    # The ReLU and the average pooling behind the last convolution make features of what comes in front of it.
    "squeezenet1_1": Architecture(_plain("squeezenet1_1"), "classifier.1"),
    "alexnet": Architecture(_plain("alexnet"), "classifier.6"),
    "vgg16": Architecture(_plain("vgg16"), "classifier.6"),
    "googlenet": Architecture(
        _inception("googlenet"),
        "fc",
        (
            AuxiliaryHead("aux1", "fc2", pretrained=False),
            AuxiliaryHead("aux2", "fc2", pretrained=False),
        ),
    ),
    "inception_v3": Architecture(
        _inception("inception_v3"), "fc", (AuxiliaryHead("AuxLogits", "fc", pretrained=True),)
    ),
}
