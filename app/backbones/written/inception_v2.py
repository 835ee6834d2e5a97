"""Inception v2 (BN-Inception), the network that introduced batch normalisation."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from app.backbones.written.inception_v1 import initialise


@dataclass(frozen=True)
class Filters:
    """Filters of one Inception block, as in the columns of table 5 of the paper.

    A block that halves the grid has no 1 x 1 filters, and its pool passes the channels on as they are.
    """

    one: int
    three_reduce: int
    three: int
    double_reduce: int
    double: int
    pool: Literal["average", "max"]
    projection: int

    @property
    def halves(self) -> bool:
        """Whether the block has stride 2."""
        return self.projection == 0

    def outputs(self, inputs: int) -> int:
        """Channels of the block's result."""
        return self.one + self.three + self.double + (inputs if self.halves else self.projection)


BLOCKS = {
    "inception3a": Filters(64, 64, 64, 64, 96, "average", 32),
    "inception3b": Filters(64, 64, 96, 64, 96, "average", 64),
    "inception3c": Filters(0, 128, 160, 64, 96, "max", 0),
    "inception4a": Filters(224, 64, 96, 96, 128, "average", 128),
    "inception4b": Filters(192, 96, 128, 96, 128, "average", 128),
    "inception4c": Filters(160, 128, 160, 128, 160, "average", 96),
    "inception4d": Filters(96, 128, 192, 160, 192, "average", 96),
    "inception4e": Filters(0, 128, 192, 192, 256, "max", 0),
    "inception5a": Filters(352, 192, 320, 160, 224, "average", 128),
    "inception5b": Filters(352, 192, 320, 192, 224, "max", 128),
}


class InceptionV2(nn.Module):
    """Images `(N, 3, H, W) float32` to logits `(N, classes) float32`.

    "Batch Normalization" (Ioffe and Szegedy 2015): table 5 for the layers, section 4.2 for what differs from GoogLeNet.
    The first convolution is an ordinary one of 7 x 7, not one split by depth to save time. The paper says nothing of
    initial values: weights are drawn as in He et al. 2015 (section 2.2).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvNorm(64, 64, 1)
        self.conv3 = ConvNorm(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels = 192
        for name, filters in BLOCKS.items():
            self.add_module(name, Inception(channels, filters))
            channels = filters.outputs(channels)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(images)))))
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


class Inception(nn.Module):
    """1 x 1, 3 x 3, twice 3 x 3, and a pool, side by side."""

    def __init__(self, inputs: int, filters: Filters) -> None:
        super().__init__()
        stride = 2 if filters.halves else 1
        self.branches = nn.ModuleList()
        if filters.one:
            self.branches.append(ConvNorm(inputs, filters.one, 1))
        self.branches.append(
            nn.Sequential(
                ConvNorm(inputs, filters.three_reduce, 1),
                ConvNorm(filters.three_reduce, filters.three, 3, stride=stride, padding=1),
            )
        )
        self.branches.append(
            nn.Sequential(
                ConvNorm(inputs, filters.double_reduce, 1),
                ConvNorm(filters.double_reduce, filters.double, 3, padding=1),
                ConvNorm(filters.double, filters.double, 3, stride=stride, padding=1),
            )
        )
        kind = nn.MaxPool2d if filters.pool == "max" else nn.AvgPool2d
        pool = kind(3, stride=stride, padding=1)
        projection = (ConvNorm(inputs, filters.projection, 1),) if filters.projection else ()
        self.branches.append(nn.Sequential(pool, *projection))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class ConvNorm(nn.Module):
    """A convolution, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self.norm(self.conv(x)))
        return result
