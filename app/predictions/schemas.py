"""Predictions as they cross the API."""

from pydantic import BaseModel, ConfigDict, Field

SMALL_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mM8YaPBgA0wMeAAg1MCAO+wATws8x7vAAAAAElFTkSuQmCC"


class EncodedImage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    b64: str = Field(description="A JPEG, PNG or WebP file in base64.", examples=[SMALL_PNG])


class PredictBody(BaseModel):
    """Images within JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[EncodedImage] = Field(min_length=1)


class LabelProbability(BaseModel):
    label: str = Field(examples=["bees"])
    probability: float = Field(
        ge=0,
        le=1,
        description="Calibrated on the validation split: of images with 0.9 about nine of ten have the label.",
        examples=[0.97],
    )


class Prediction(BaseModel):
    """The labels of one image, the most probable first."""

    labels: list[LabelProbability] = Field(description="Not more than `top_k`, and none below `threshold`.")
    unknown: bool | None = Field(
        description="Whether the image is like nothing that the model was trained on, so that its labels mean nothing; "
        "null where the version was trained by a service that did not evaluate that.",
        examples=[False],
    )
    similarity: float | None = Field(
        description="With the nearest label, up to 1: below the version's threshold (`…/evaluation`) it is unknown.",
        examples=[0.71],
    )


class TimingRead(BaseModel):
    """What the request took in milliseconds, its transport aside; of several images decoding and inference are sums."""

    waited_ms: float = Field(description="Until its first image was begun with; of several, the longest.")
    decoding_ms: float = Field(description="From files to pixels.")
    inference_ms: float = Field(description="Through the network.")
    whole_ms: float = Field(description="From the complete body to the answer.")


class PredictRead(BaseModel):
    model: str = Field(examples=["patterns"])
    version: int = Field(description="The version that answered.")
    predictions: list[Prediction] = Field(description="One for each image, in the order of the request.")
    timing: TimingRead
