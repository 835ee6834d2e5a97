"""Backbones as they cross the API."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PreprocessingRead(BaseModel):
    """What is done to an image before the network sees it; sizes in pixels."""

    model_config = ConfigDict(from_attributes=True)

    resize: int = Field(description="Length of the shorter side after resizing.")
    crop: int = Field(description="Side of the square cut from the centre.")
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class WeightsRead(BaseModel):
    """The published pre-trained weights of a backbone."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    file_name: str
    classes: int = Field(description="0 for weights that come without a classifier.")
    top1: float | None = Field(
        description="Accuracy on ImageNet-1K in %, as its publisher gives it; null for weights that know nothing of it."
    )
    top5: float | None
    preprocessing: PreprocessingRead
    at_hand: Literal["weights_dir", "package", "cache"] | None = Field(
        description="Where a copy lies on this machine; null where it would have to be downloaded."
    )


class BackboneRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["mobilenet_v2"])
    family: str
    year: int
    paper: str
    summary: str
    parameters: int = Field(description="With the classifier for 1,000 classes, without auxiliary heads.")
    gmac: float = Field(description="Multiply-adds for one image at the input size, in thousand millions.")
    input_size: int = Field(description="Side of the image the network sees, in pixels.")
    feature_dim: int = Field(description="Values that the new classifier gets for an image.")
    weights: WeightsRead | None = Field(description="Null for a network that is trained from scratch.")
