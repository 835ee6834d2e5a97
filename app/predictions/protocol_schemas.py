"""The Open Inference Protocol and TensorFlow Serving's REST API as /docs shows them; the routes read and write them by
hand."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.predictions.schemas import SMALL_PNG, EncodedImage

Parameters = dict[str, str | int | float | bool | None]


class LiveRead(BaseModel):
    live: bool = True


class ReadyRead(BaseModel):
    ready: bool = True


class ModelReadyRead(BaseModel):
    name: str
    ready: bool = True


class ServerRead(BaseModel):
    name: str = Field(examples=["graft"])
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description="-1 is the number of images.")


class ModelMetadataRead(BaseModel):
    name: str
    versions: list[str] = Field(description="The newest first, a hundred at most.")
    platform: str
    inputs: list[TensorMetadata] = Field(description="Of which a request has one.")
    outputs: list[TensorMetadata]
    parameters: Parameters = Field(
        description="As JSON in texts: the `version` that is described, its `labels` in the order of the outputs, and "
        "`mean` and `std` of `pixels`."
    )


class InputTensor(BaseModel):
    name: str = Field(description="`image`, `pixels` or `raw_pixels`.", examples=["image"])
    shape: list[int] = Field(examples=[[1]])
    datatype: str = Field(examples=["BYTES"])
    parameters: Parameters | None = Field(default=None, examples=[None])
    data: list[Any] | None = Field(
        default=None, description="Left out where `binary_data_size` bytes follow the JSON.", examples=[[SMALL_PNG]]
    )


class WantedTensor(BaseModel):
    name: str = Field(
        description="`probabilities`, `logits`, `label`, `unknown` or `similarity`.", examples=["probabilities"]
    )
    parameters: Parameters | None = Field(
        default=None,
        description="`binary_data`: after the JSON; `classification`: so many of the best, as `value:index:label`.",
        examples=[{"classification": 1}],
    )


class InferBody(BaseModel):
    """One batch of images."""

    id: str | None = Field(default=None, examples=["42"])
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[WantedTensor] | None = Field(
        default=None,
        description="All, where left out.",
        examples=[[{"name": "probabilities", "parameters": {"classification": 1}}]],
    )
    parameters: Parameters | None = Field(
        default=None,
        description="`timeout` in microseconds, `binary_data_output`; others come back as they are.",
        examples=[{"timeout": 5_000_000}],
    )


class OutputTensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: Parameters | None = None


class InferRead(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[OutputTensor]


class ServingBody(BaseModel):
    """Images by row (`instances`) or column (`inputs`): files in base64, or RGB pixels 0-255 of the version's size."""

    model_config = ConfigDict(extra="forbid")

    signature_name: str | None = Field(default=None, examples=["serving_default"])
    instances: list[Any] | None = Field(
        default=None,
        description='`{"b64": …}`, `{"image": {"b64": …}}`, or lists of rows of `[red, green, blue]`, alone or as '
        "`image`.",
        examples=[[EncodedImage(b64=SMALL_PNG).model_dump()]],
    )
    inputs: dict[str, Any] | list[Any] | None = Field(
        default=None, description='The same as one list, alone or as `{"image": […]}`.', examples=[None]
    )


class ServingPrediction(BaseModel):
    """What is said of one image."""

    labels: list[str] = Field(description="All of them, the most probable first.")
    probabilities: list[float] = Field(description="Of the labels, in their order.")
    unknown: bool | None = Field(default=None, description="Left out where the version has no such decision.")
    similarity: float | None = None


class ServingRead(BaseModel):
    """`predictions` for `instances`, and `outputs` for `inputs`: the same, as one list for each field."""

    predictions: list[ServingPrediction] | None = None
    outputs: dict[str, list[Any]] | None = None
