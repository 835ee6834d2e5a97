"""What is written by hand about a network of the catalogue; figures and weights are computed. Knows no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.backbones.chain import Chain
from app.backbones.preprocess import Preprocessing

Source = Literal["torchvision", "timm", "graft"]
"""The library that builds the network; `graft` is this one."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network as it is described by hand."""

    name: str
    family: str
    year: int
    paper: str
    summary: str
    """What it brought, for those who choose."""
    chain: Chain
    source: Source = "torchvision"
    fixed_size: bool = False
    """Whether the network works on images of one size only."""
    preprocessing: Preprocessing | None = None
    """What is done to images where no weights bring their own preprocessing along; None where some always do."""
    accuracy: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    """Top-1 and top-5 in % by weights, where the publisher gives them but the library does not."""


def scratch(crop: int, resize: int) -> Preprocessing:
    """Preprocessing of a network without published weights."""
    return Preprocessing(resize=resize, crop=crop, mean=IMAGENET_MEAN, std=IMAGENET_STD)
