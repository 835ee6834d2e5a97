"""Backbones as they cross the API."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

SortKey = Annotated[
    str, StringConstraints(pattern=r"^-?(name|year|parameters|gmac|activations|layers|feature_dim|input_size|top1)$")
]


class PreprocessingRead(BaseModel):
    """What is done to an image before the network sees it; sizes in pixels."""

    model_config = ConfigDict(from_attributes=True)

    resize: int = Field(description="Length of the shorter side after resizing.")
    crop: int = Field(description="Side of the square cut from the centre.")
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic", "lanczos"]


class WeightsRead(BaseModel):
    """Published pre-trained weights of a backbone."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(description="What a recipe's `weights` may say.")
    file_name: str
    url: str | None = Field(description="Where its publisher offers the file; null where it comes with Graft.")
    hub: str | None = Field(description="Repository on the Hugging Face hub, for weights that are offered there.")
    classes: int = Field(description="0 for weights that come without a classifier.")
    top1: float | None = Field(
        description="Accuracy on ImageNet-1K in %, as its publisher gives it; null where it does not."
    )
    top5: float | None
    licence: str
    preprocessing: PreprocessingRead
    at_hand: Literal["weights_dir", "package", "cache"] | None = Field(
        description="Where a copy lies on this machine; null where it would have to be downloaded."
    )


class StageRead(BaseModel):
    """A depth where the network can be cut or frozen; what comes out of it for one image at the input size."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    channels: int
    size: tuple[int, int] | None = Field(
        description="Height and width of its maps; null for tokens and where it is not known."
    )
    parameters: int | None = Field(description="Of this stage alone.")
    macs: int | None = Field(description="Multiply-adds of this stage alone.")
    receptive_field: int | None = Field(
        description="Side in pixels of what one value sees; null where it sees the whole image."
    )


class AuxiliaryHeadRead(BaseModel):
    """A classifier on an inner layer that only helps in training."""

    model_config = ConfigDict(from_attributes=True)

    module: str
    after: str = Field(description="The module whose result it looks at.")
    pretrained: bool = Field(description="Whether published weights hold trained values for it.")


class BackboneSummary(BaseModel):
    """A network as the catalogue lists it."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["mobilenet_v2"])
    family: str
    year: int | None
    paper: str
    summary: str
    source: Literal["torchvision", "timm", "graft"] = Field(description="The library that builds the network.")
    parameters: int = Field(description="With the classifier for the published classes, without auxiliary heads.")
    gmac: float | None = Field(description="Multiply-adds for one image at the input size, in thousand millions.")
    activations: int | None = Field(description="Values that convolutions and dense layers give for one image.")
    layers: int | None = Field(description="Convolutions and dense layers on the longest way.")
    receptive_field: int | None = Field(
        description="Side in pixels of what one value of the last stage sees; null where it sees the whole image."
    )
    input_size: int = Field(description="Side of the image the network sees, in pixels.")
    fixed_size: bool = Field(description="Whether the network works on images of one size only.")
    min_size: int = Field(description="Side in pixels of the smallest image that it works on.")
    feature_dim: int = Field(description="Values that the new classifier gets for an image.")
    weights: list[WeightsRead] = Field(description="Empty for a network that is trained from scratch.")


class BackboneRead(BackboneSummary):
    """A network with its stages."""

    head: str | None = Field(description="The module that is replaced by a new classifier.")
    stages: list[StageRead]
    auxiliary: list[AuxiliaryHeadRead]
