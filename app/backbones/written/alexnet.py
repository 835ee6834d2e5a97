"""AlexNet of 2012 and its correction, ZFNet: five convolutions and three dense layers for 1,000 classes."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Widths:
    """Filters of the five convolutions."""

    conv1: int
    conv2: int
    conv3: int
    conv4: int
    conv5: int


ALEXNET_WIDTHS = Widths(96, 256, 384, 384, 256)
ZFNET_512_WIDTHS = Widths(96, 256, 512, 1024, 512)


class AlexNet2012(nn.Module):
    """Images `(N, 3, 227, 227) float32` to logits `(N, classes) float32`.

    "ImageNet Classification with Deep Convolutional Neural Networks" (Krizhevsky, Sutskever, Hinton 2012): sections 3.3
    to 3.5 for the layers, 4.2 for the dropout, 5 for the initial values. With 2 `groups` convolutions 2, 4 and 5 see
    only the half of the channels that lay on the same graphics card.
    """

    def __init__(self, classes: int, *, groups: int = 2) -> None:
        super().__init__()
        widths = ALEXNET_WIDTHS
        self.conv1 = nn.Conv2d(3, widths.conv1, 11, stride=4)
        self.relu1 = nn.ReLU(inplace=True)
        self.norm1 = _response_norm()
        self.pool1 = nn.MaxPool2d(3, stride=2)
        self.conv2 = nn.Conv2d(widths.conv1, widths.conv2, 5, padding=2, groups=groups)
        self.relu2 = nn.ReLU(inplace=True)
        self.norm2 = _response_norm()
        self.pool2 = nn.MaxPool2d(3, stride=2)
        _add_upper_layers(self, widths, classes, groups=groups)
        _initialise(self, ones=("conv2", "conv4", "conv5", "fc6", "fc7"))

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool1(self.norm1(self.relu1(self.conv1(images))))
        x = self.pool2(self.norm2(self.relu2(self.conv2(x))))
        return _upper_layers(self, x)


class ZFNet(nn.Module):
    """Images `(N, 3, 224, 224) float32` to logits `(N, classes) float32`.

    "Visualizing and Understanding Convolutional Networks" (Zeiler and Fergus 2013): figure 3 and section 3 for the
    layers and the initial values (0.01 for weights, no biases), section 5.1 for other widths. What the paper
    calls contrast normalisation across feature maps is AlexNet's response normalisation, here behind the pools as in
    the figure.
    """

    def __init__(self, classes: int, *, widths: Widths = ALEXNET_WIDTHS) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths.conv1, 7, stride=2, padding=1)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm1 = _response_norm()
        self.conv2 = nn.Conv2d(widths.conv1, widths.conv2, 5, stride=2)
        self.relu2 = nn.ReLU(inplace=True)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.norm2 = _response_norm()
        _add_upper_layers(self, widths, classes, groups=1)
        _initialise(self, ones=())

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm1(self.pool1(self.relu1(self.conv1(images))))
        x = self.norm2(self.pool2(self.relu2(self.conv2(x))))
        return _upper_layers(self, x)


def _response_norm() -> nn.LocalResponseNorm:
    # The paper (section 3.3) multiplies alpha = 0.0001 with the sum over 5 channels, torch with their mean.
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


def _add_upper_layers(network: nn.Module, widths: Widths, classes: int, *, groups: int) -> None:
    layers: dict[str, nn.Module] = {
        "conv3": nn.Conv2d(widths.conv2, widths.conv3, 3, padding=1),
        "relu3": nn.ReLU(inplace=True),
        "conv4": nn.Conv2d(widths.conv3, widths.conv4, 3, padding=1, groups=groups),
        "relu4": nn.ReLU(inplace=True),
        "conv5": nn.Conv2d(widths.conv4, widths.conv5, 3, padding=1, groups=groups),
        "relu5": nn.ReLU(inplace=True),
        "pool5": nn.MaxPool2d(3, stride=2),
        "fc6": nn.Linear(widths.conv5 * 6 * 6, 4096),
        "relu6": nn.ReLU(inplace=True),
        "drop6": nn.Dropout(0.5),
        "fc7": nn.Linear(4096, 4096),
        "relu7": nn.ReLU(inplace=True),
        "drop7": nn.Dropout(0.5),
        "fc8": nn.Linear(4096, classes),
    }
    for name, layer in layers.items():
        network.add_module(name, layer)


def _upper_layers(network: nn.Module, x: Tensor) -> Tensor:
    for name in ("conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5"):
        x = network.get_submodule(name)(x)
    x = torch.flatten(x, 1)
    for name in ("fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"):
        x = network.get_submodule(name)(x)
    return x


def _initialise(network: nn.Module, *, ones: tuple[str, ...]) -> None:
    for name, module in network.named_children():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            assert module.bias is not None
            nn.init.constant_(module.bias, 1.0 if name in ones else 0.0)
