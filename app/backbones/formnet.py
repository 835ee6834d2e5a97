"""FormNet, a residual network of our own for images of about 128 x 128 pixels, small enough to come with the package.

Basic blocks as in "Deep Residual Learning for Image Recognition" (He et al. 2015, section 3.3), one a stage; a last
1x1 convolution widens what is pooled. A plain chain: stem, stage1 to stage4, pool, head. Its values in the package are
trained on images that `pretraining` draws.
"""

from torch import Tensor, nn

FEATURES = 512
_STEM_CHANNELS = 32
_STAGE_CHANNELS = (48, 96, 192, 256)


class FormNet(nn.Module):
    """Images `(N, 3, H, W) float32` to logits `(N, classes) float32`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        first, second, third, fourth = _STAGE_CHANNELS
        self.stem = _convolution(3, _STEM_CHANNELS, size=3, stride=2)
        self.stage1 = Block(_STEM_CHANNELS, first, stride=2)
        self.stage2 = Block(first, second, stride=2)
        self.stage3 = Block(second, third, stride=2)
        self.stage4 = nn.Sequential(Block(third, fourth, stride=2), _convolution(fourth, FEATURES, size=1, stride=1))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(FEATURES, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(images)))))
        logits: Tensor = self.head(self.pool(maps))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions beside a 1x1 convolution as short cut."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, images: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(images)))))
        result: Tensor = self.relu(inner + self.shortcut(images))
        return result


def _convolution(before: int, after: int, *, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())
