"""The backbones that can be fine-tuned, as data. Knows no torch; `app.backbones.networks` builds them."""

import re
from dataclasses import dataclass

from app import errors
from app.backbones.preprocess import Preprocessing

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_AT_64 = Preprocessing(resize=72, crop=64, mean=_MEAN, std=_STD)
_AT_128 = Preprocessing(resize=144, crop=128, mean=_MEAN, std=_STD)
_AT_224 = Preprocessing(resize=256, crop=224, mean=_MEAN, std=_STD)
_AT_299 = Preprocessing(resize=342, crop=299, mean=_MEAN, std=_STD)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Published pre-trained weights of a backbone, together with the preprocessing they were trained for."""

    name: str
    file_name: str
    url: str | None
    """Where the publisher offers the file; None for one that comes with this package."""
    preprocessing: Preprocessing
    classes: int
    """0 for weights that come without a classifier."""
    top1: float | None
    """Accuracy on ImageNet-1K in %, as the publisher gives it; None for weights that know nothing of its classes."""
    top5: float | None
    licence: str

    @property
    def sha256_prefix(self) -> str:
        """The first hex digits of the file's sha256, which are part of its name."""
        match = re.search(r"-([0-9a-f]{8,})\.(?:pth|safetensors)$", self.file_name)
        if match is None:
            raise ValueError(f"{self.file_name} does not end in -<hex digits of sha256> and .pth or .safetensors")
        return match[1]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A network of the catalogue."""

    name: str
    family: str
    year: int
    paper: str
    summary: str
    parameters: int
    """With the classifier for 1,000 classes, without auxiliary heads."""
    gmac: float
    """Multiply-adds for one image at `input_size`, in thousand millions."""
    feature_dim: int
    """Values that the classifier gets for an image."""
    min_size: int
    """Side in pixels of the smallest image that the network can work on."""
    auxiliary_heads: int
    """Classifiers on inner layers that only help in training."""
    scratch_preprocessing: Preprocessing
    """What is done to images where no weights bring their own preprocessing along."""
    weights: Weights | None

    @property
    def input_size(self) -> int:
        """Side of the image that the network sees, in pixels."""
        return self.scratch_preprocessing.crop


def find(name: str) -> Backbone:
    """The backbone called `name`. Raises `UnknownName`."""
    try:
        return BACKBONES[name]
    except KeyError:
        raise errors.UnknownName("backbone", name, BACKBONES) from None


def _imagenet(file_name: str, top1: float, top5: float, preprocessing: Preprocessing = _AT_224) -> Weights:
    return Weights(
        name="IMAGENET1K_V1",
        file_name=file_name,
        url=f"https://download.pytorch.org/models/{file_name}",
        preprocessing=preprocessing,
        classes=1000,
        top1=top1,
        top5=top5,
        licence="BSD-3-Clause (torchvision)",
    )


_ENTRIES = (
    Backbone(
        name="tinynet",
        family="TinyNet",
        year=2026,
        paper="",
        summary="A small residual network of 64 x 64 pixels that trains from scratch in a minute, without any weights.",
        parameters=603_720,
        gmac=0.029,
        feature_dim=128,
        min_size=1,
        auxiliary_heads=0,
        scratch_preprocessing=_AT_64,
        weights=None,
    ),
    Backbone(
        name="formnet",
        family="FormNet",
        year=2026,
        paper="",
        summary="A small residual network whose weights come with Graft, trained on images that formulas drew.",
        parameters=2_412_136,
        gmac=0.126,
        feature_dim=512,
        min_size=1,
        auxiliary_heads=0,
        scratch_preprocessing=_AT_128,
        weights=Weights(
            name="FORMULAS_V1",
            file_name="formnet-c979bd17.safetensors",
            url=None,
            preprocessing=_AT_128,
            classes=0,
            top1=None,
            top5=None,
            licence="Apache-2.0",
        ),
    ),
    Backbone(
        name="squeezenet1_1",
        family="SqueezeNet",
        year=2016,
        paper="https://arxiv.org/abs/1602.07360",
        summary="The smallest pre-trained network: 1x1 convolutions squeeze what 3x3 convolutions then expand.",
        parameters=1_235_496,
        gmac=0.349,
        feature_dim=512,
        min_size=17,
        auxiliary_heads=0,
        scratch_preprocessing=_AT_224,
        weights=_imagenet("squeezenet1_1-b8a52dc0.pth", 58.178, 80.624),
    ),
    Backbone(
        name="mobilenet_v3_small",
        family="MobileNet",
        year=2019,
        paper="https://arxiv.org/abs/1905.02244",
        summary="The least computation of the pre-trained networks, found by architecture search for phones.",
        parameters=2_542_856,
        gmac=0.057,
        feature_dim=1024,
        min_size=1,
        auxiliary_heads=0,
        scratch_preprocessing=_AT_224,
        weights=_imagenet("mobilenet_v3_small-047dcff4.pth", 67.668, 87.402),
    ),
    Backbone(
        name="mobilenet_v2",
        family="MobileNet",
        year=2018,
        paper="https://arxiv.org/abs/1801.04381",
        summary="Depthwise convolutions in inverted residuals: good features for little computation.",
        parameters=3_504_872,
        gmac=0.301,
        feature_dim=1280,
        min_size=1,
        auxiliary_heads=0,
        scratch_preprocessing=_AT_224,
        weights=_imagenet("mobilenet_v2-b0353104.pth", 71.878, 90.286),
    ),
    Backbone(
        name="googlenet",
        family="Inception",
        year=2014,
        paper="https://arxiv.org/abs/1409.4842",
        summary="Inception v1: filters of several sizes side by side, average pooling instead of large dense layers.",
        parameters=6_624_904,
        gmac=1.498,
        feature_dim=1024,
        min_size=15,
        auxiliary_heads=2,
        scratch_preprocessing=_AT_224,
        weights=_imagenet("googlenet-1378be20.pth", 69.778, 89.530),
    ),
    Backbone(
        name="resnet18",
        family="ResNet",
        year=2015,
        paper="https://arxiv.org/abs/1512.03385",
        summary="The small residual network: a sturdy default for fine-tuning.",
        parameters=11_689_512,
        gmac=1.814,
        feature_dim=512,
        min_size=1,
        auxiliary_heads=0,
        scratch_preprocessing=_AT_224,
        weights=_imagenet("resnet18-f37072fd.pth", 69.758, 89.078),
    ),
    Backbone(
        name="resnet50",
        family="ResNet",
        year=2015,
        paper="https://arxiv.org/abs/1512.03385",
        summary="The residual network that most transfer learning is measured with.",
        parameters=25_557_032,
        gmac=4.089,
        feature_dim=2048,
        min_size=1,
        auxiliary_heads=0,
        scratch_preprocessing=_AT_224,
        weights=_imagenet("resnet50-0676ba61.pth", 76.130, 92.862),
    ),
    Backbone(
        name="inception_v3",
        family="Inception",
        year=2015,
        paper="https://arxiv.org/abs/1512.00567",
        summary="Inception with large filters factorised into small and one-sided ones; sees 299 x 299 pixels.",
        parameters=23_834_568,
        gmac=5.713,
        feature_dim=2048,
        min_size=75,
        auxiliary_heads=1,
        scratch_preprocessing=_AT_299,
        weights=_imagenet("inception_v3_google-0cc3c7bd.pth", 77.294, 93.450, _AT_299),
    ),
    Backbone(
        name="alexnet",
        family="AlexNet",
        year=2012,
        paper="https://arxiv.org/abs/1404.5997",
        summary="The network that began it, in its one-tower variant; nearly all weights sit in its dense layers.",
        parameters=61_100_840,
        gmac=0.714,
        feature_dim=4096,
        min_size=63,
        auxiliary_heads=0,
        scratch_preprocessing=_AT_224,
        weights=_imagenet("alexnet-owt-7be5be79.pth", 56.522, 79.066),
    ),
    Backbone(
        name="vgg16",
        family="VGG",
        year=2014,
        paper="https://arxiv.org/abs/1409.1556",
        summary="Only 3x3 filters, stacked deep: plain and heavy.",
        parameters=138_357_544,
        gmac=15.470,
        feature_dim=4096,
        min_size=32,
        auxiliary_heads=0,
        scratch_preprocessing=_AT_224,
        weights=_imagenet("vgg16-397923af.pth", 71.592, 90.382),
    ),
)

BACKBONES: dict[str, Backbone] = {entry.name: entry for entry in _ENTRIES}
