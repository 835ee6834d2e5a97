"""TinyNet, a small residual network of our own for images of 64 x 64 pixels that needs no pre-trained weights.

Residual blocks as in "Deep Residual Learning for Image Recognition" (He et al. 2015, section 3.3), with three
stages of one block and few channels.
"""

from torch import Tensor, nn

FEATURES = 128
_STEM_CHANNELS = 32
_STAGE_CHANNELS = (64, 96, FEATURES)
_STAGE_STRIDES = (2, 2, 2)


class TinyNet(nn.Module):
    """Images `(N, 3, H, W) float32` to logits `(N, classes) float32`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, _STEM_CHANNELS, stride=2), nn.BatchNorm2d(_STEM_CHANNELS), nn.ReLU())
        inputs = (_STEM_CHANNELS, *_STAGE_CHANNELS)
        self.stages = nn.Sequential(
            *(
                Block(before, after, stride=stride)
                for before, after, stride in zip(inputs, _STAGE_CHANNELS, _STAGE_STRIDES, strict=False)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(FEATURES, classes)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.stages(self.stem(images))).flatten(1))
        return logits

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block):
                # Each block starts as its short cut, which makes the first steps safe (Goyal et al. 2017, section 5.1).
                nn.init.zeros_(module.norm2.weight)


class Block(nn.Module):
    """Two 3x3 convolutions beside a short cut."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(before, after, stride=stride)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = _conv(after, after, stride=1)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, images: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(images)))))
        result: Tensor = self.relu(inner + self.shortcut(images))
        return result


def _conv(before: int, after: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
