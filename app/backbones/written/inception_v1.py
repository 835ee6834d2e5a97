"""GoogLeNet (Inception v1) as published: true 5 x 5 filters, local response normalisation, two auxiliary heads."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Filters:
    """Filters of one Inception block, as in the columns of table 1 of the paper."""

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pool: int

    @property
    def outputs(self) -> int:
        """Channels of the block's result."""
        return self.one + self.three + self.five + self.pool


BLOCKS = {
    "inception3a": Filters(64, 96, 128, 16, 32, 32),
    "inception3b": Filters(128, 128, 192, 32, 96, 64),
    "inception4a": Filters(192, 96, 208, 16, 48, 64),
    "inception4b": Filters(160, 112, 224, 24, 64, 64),
    "inception4c": Filters(128, 128, 256, 24, 64, 64),
    "inception4d": Filters(112, 144, 288, 32, 64, 64),
    "inception4e": Filters(256, 160, 320, 32, 128, 128),
    "inception5a": Filters(256, 160, 320, 32, 128, 128),
    "inception5b": Filters(384, 192, 384, 48, 128, 128),
}


class InceptionV1(nn.Module):
    """Images `(N, 3, 224, 224) float32` to logits `(N, classes) float32`; in evaluation mode of other sizes too.

    "Going Deeper with Convolutions" (Szegedy et al. 2014): table 1 and figure 3 for the layers, section 5 for the
    auxiliary heads. The paper says nothing of initial values: weights are drawn as in "Delving Deep into Rectifiers"
    (He et al. 2015, section 2.2), which keeps the variance through ReLUs, biases are 0.
    """

    def __init__(self, classes: int, *, auxiliary: bool) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = _half()
        self.norm1 = nn.LocalResponseNorm(5)
        self.conv2 = _conv(64, 64, 1)
        self.conv3 = _conv(64, 192, 3, padding=1)
        self.norm2 = nn.LocalResponseNorm(5)
        self.maxpool2 = _half()
        channels = 192
        for name, filters in BLOCKS.items():
            self.add_module(name, Inception(channels, filters))
            channels = filters.outputs
        self.maxpool3 = _half()
        self.maxpool4 = _half()
        self.aux1 = Auxiliary(BLOCKS["inception4a"].outputs, classes) if auxiliary else None
        self.aux2 = Auxiliary(BLOCKS["inception4d"].outputs, classes) if auxiliary else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool2(self.norm2(self.conv3(self.conv2(self.norm1(self.maxpool1(self.conv1(images)))))))
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
            if name == "inception3b":
                x = self.maxpool3(x)
            elif name == "inception4e":
                x = self.maxpool4(x)
        logits: Tensor = self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))
        return logits


class Inception(nn.Module):
    """1 x 1, 3 x 3 and 5 x 5 filters and a pool side by side (figure 2b)."""

    def __init__(self, inputs: int, filters: Filters) -> None:
        super().__init__()
        self.branch1 = _conv(inputs, filters.one, 1)
        self.branch2 = nn.Sequential(
            _conv(inputs, filters.three_reduce, 1), _conv(filters.three_reduce, filters.three, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            _conv(inputs, filters.five_reduce, 1), _conv(filters.five_reduce, filters.five, 5, padding=2)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _conv(inputs, filters.pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class Auxiliary(nn.Module):
    """Activations `(N, C, 14, 14)` to logits `(N, classes)` (section 5)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, stride=3)
        self.conv = _conv(inputs, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.conv(self.pool(x)), 1)
        logits: Tensor = self.fc2(self.dropout(self.relu(self.fc1(x))))
        return logits


def initialise(network: nn.Module) -> None:
    """Draw the weights of all convolutions and dense layers (He et al. 2015); biases become 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _half() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding),
        nn.ReLU(inplace=True),
    )
