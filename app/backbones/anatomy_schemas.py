"""Anatomies and described stacks as they cross the API."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.backbones import stacks
from app.backbones.stacks import Layer
from app.numbers import Flag, Integer

Dtype = Literal["float64", "float32", "bfloat16", "float16"]
MAX_SIZE = 4096
MAX_BATCH = 4096

Side = Annotated[Integer, Field(ge=1, le=1024)]
Padding = Annotated[Integer, Field(ge=0, le=1024)]
Channels = Annotated[Integer, Field(ge=1, le=16384)]
_Field = tuple[int, int] | None


class _Read(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class RowRead(_Read):
    """One layer; shapes, multiply-adds and values are for one image."""

    name: str
    type: str
    kernel: tuple[int, int] | None
    stride: tuple[int, int] | None
    padding: tuple[int, int] | None
    groups: int | None
    output: list[int] = Field(description="Channels, height and width, or what a vector has.")
    parameters: int
    macs: int = Field(description="Multiply-adds.")
    values: int = Field(description="Values of the output.")
    bytes: int = Field(description="Of the output for the whole batch.")
    in_place: bool = Field(description="Whether the output takes the memory of the input.")
    receptive_field: _Field = Field(description="Height and width in pixels of the image; null for the whole image.")
    depth: int = Field(description="Most convolutions and fully connected layers on a way from the image to here.")
    stage: str | None


class TotalsRead(_Read):
    """Sums over the network; multiply-adds and values are for one image."""

    parameters: int
    macs: int
    conv_fc_values: int
    layer_values: int
    all_values: int


class StageTotalsRead(_Read):
    name: str
    parameters: int
    macs: int
    all_values: int


class MemoryRead(_Read):
    """Bytes for the batch."""

    weights: int
    inference_activations: int
    inference: int
    training_activations: int
    gradients: int
    momentum: int
    training: int


class FiguresRead(_Read):
    """The layers of a network, and what they cost."""

    input: tuple[int, int, int] = Field(description="Channels, height and width.")
    batch: int
    dtype: Dtype
    layers: int = Field(description="Convolutions and fully connected layers on the longest way.")
    totals: TotalsRead
    memory: MemoryRead
    stages: list[StageTotalsRead]
    rows: list[RowRead]


class AnatomyRead(FiguresRead):
    """The anatomy of a backbone."""

    backbone: str
    counted: dict[str, str] = Field(description="What each figure counts, in words.")


class LayerCreate(BaseModel):
    """One layer of a stack."""

    model_config = ConfigDict(extra="forbid")

    type: stacks.Type
    out_channels: Channels | None = Field(default=None, description="Channels, or features of `linear`.")
    kernel: Side | tuple[Side, Side] | None = Field(default=None, description="A number, or height and width.")
    stride: Side | tuple[Side, Side] | None = Field(default=None, description="1, or for pools the kernel.")
    padding: Padding | tuple[Padding, Padding] | Literal["same"] | None = Field(default=None, description="0.")
    groups: Channels | None = None
    bias: Flag | None = Field(default=None, description="True.")

    def layer(self) -> Layer:
        return Layer(**{name: getattr(self, name) for name in LayerCreate.model_fields})


class InputCreate(BaseModel):
    """What a stack works on."""

    model_config = ConfigDict(extra="forbid")

    channels: Channels = 3
    size: Integer = Field(ge=1, le=MAX_SIZE, description="Height and width in pixels.")


class StackCreate(BaseModel):
    """Layers one after the other."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    input: InputCreate
    layers: list[LayerCreate] = Field(min_length=1, max_length=200)


_SMALL: dict[str, JsonValue] = {"type": "conv", "out_channels": 64, "kernel": 3, "padding": "same", "bias": False}
_RELU: JsonValue = {"type": "relu"}
_MAP: JsonValue = {"channels": 64, "size": 56}
_EXAMPLE: JsonValue = {
    "stacks": [
        {"name": "three 3x3", "input": _MAP, "layers": [_SMALL, _RELU] * 3},
        {"name": "one 7x7", "input": _MAP, "layers": [{**_SMALL, "kernel": 7}, _RELU]},
    ]
}


class StacksCreate(BaseModel):
    """Stacks to compare, or a single one."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    stacks: list[StackCreate] = Field(min_length=1, max_length=8)
    batch: Integer = Field(default=1, ge=1, le=MAX_BATCH)
    dtype: Dtype = "float32"


class StackRead(FiguresRead):
    """The anatomy of a stack."""

    name: str


class ComparedRead(BaseModel):
    """One stack beside the others; ratios are to the first."""

    name: str
    layers: int
    activation_functions: int
    parameters: int
    parameters_ratio: float | None = Field(description="Null where the first stack has none.")
    macs: int
    macs_ratio: float | None = Field(description="Null where the first stack has none.")
    all_values: int
    training_bytes: int
    receptive_field: _Field = Field(description="Height and width in pixels of the input; null for all of it.")
    output: list[int]


class StacksRead(BaseModel):
    comparison: list[ComparedRead]
    stacks: list[StackRead]
    counted: dict[str, str] = Field(description="What each figure counts, in words.")
