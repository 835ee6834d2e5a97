"""Jobs and imports as they cross the API."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from app import errors, optimisation
from app.models import references
from app.numbers import Integer
from app.optimisation import DEFAULT_TOLERANCE, Tolerance
from app.plan import Plan
from app.recipe import PRETRAINED, Recipe

JobState = Literal[
    "queued", "running", "pausing", "paused", "finishing", "cancelling", "succeeded", "failed", "cancelled"
]
JobKind = Literal["ingest", "analyse", "rank", "train", "optimise"]
ENDED = ("succeeded", "failed", "cancelled")
WAITING = ("queued", "paused")
NOT_ENDED = (*WAITING, "running", "pausing", "finishing", "cancelling")

ModelName = Annotated[
    str,
    Field(
        json_schema_extra={"pattern": references.NAME},
        description="Lower-case letters, digits, dot, dash and underscore, 63 at the most; begins and ends with a "
        "letter or a digit. A model that exists gets a new version.",
        examples=["patterns"],
    ),
    AfterValidator(references.check_name),
]


class JobCreate(BaseModel):
    """A fine-tune of a backbone on a version of a dataset."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["train"] = "train"
    dataset: str = Field(max_length=100, pattern=r"^[^\x00]*$", description="Id or name of the dataset.")
    version: Integer | None = Field(default=None, ge=1, lt=2**31, description="Its version; the newest if left out.")
    model: ModelName
    recipe: Recipe


class Candidate(BaseModel):
    """What is to be ranked: a backbone with its weights, or the network of a model of one's own."""

    model_config = ConfigDict(extra="forbid")

    backbone: str | None = Field(
        default=None, max_length=100, description="Name of a backbone of the catalogue.", examples=["mobilenet_v2"]
    )
    weights: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Name of the backbone's weights; left out or `pretrained`, those that are published first.",
    )
    model: str | None = Field(
        default=None,
        max_length=references.MAX_LENGTH,
        pattern=r"^[^\x00]*$",
        description="A model in place of a backbone, `name`, `name@version` or `name:alias`: its network, as far as "
        "its new classifier.",
    )
    version: Integer | None = Field(
        default=None, ge=1, lt=2**31, description="Of the model; its newest when the job begins if left out."
    )

    @property
    def name(self) -> str:
        """What the ranking calls it; the version of a model follows when it is known."""
        if self.model is not None:
            return self.model if self.version is None else f"{self.model}@{self.version}"
        return str(self.backbone) if self.choice == PRETRAINED else f"{self.backbone} {self.weights}"

    @property
    def is_qualified(self) -> bool:
        """Whether `model` is more than a name."""
        return self.model is not None and not {"@", ":"}.isdisjoint(self.model)

    @property
    def choice(self) -> str:
        """Of the backbone's weights."""
        return self.weights or PRETRAINED

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if (self.backbone is None) == (self.model is None):
            raise ValueError("name a backbone or a model, one of the two")
        if self.model is None and self.version is not None:
            raise ValueError("a backbone has no version; say which of its weights")
        if self.model is not None and self.version is not None and self.is_qualified:
            raise ValueError(f"{self.model} says its version already")
        if self.model is not None and self.weights is not None:
            raise ValueError("a model has weights of its own")
        return self


class RankingCreate(BaseModel):
    """A comparison of networks on a version of a dataset, without training any."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["rank"]
    dataset: str = Field(max_length=100, pattern=r"^[^\x00]*$", description="Id or name of the dataset.")
    version: Integer | None = Field(default=None, ge=1, lt=2**31, description="Its version; the newest if left out.")
    candidates: list[Candidate] | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="What to rank; left out, all backbones of the catalogue whose weights are at hand on the worker.",
    )
    seed: Integer = Field(default=0, ge=0, lt=2**31, description="Of the cross-validation and of samples.")

    @model_validator(mode="after")
    def _is_without_doubles(self) -> Self:
        names = [candidate.name for candidate in self.candidates or ()]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"asked for twice: {', '.join(doubled)}")
        return self


def _known_form(name: str) -> str:
    if name not in optimisation.FORM_NAMES:
        nearest = errors.nearest_names(name, optimisation.FORM_NAMES)
        hint = errors.did_you_mean(nearest) or f"; valid are {', '.join(optimisation.FORM_NAMES)}"
        raise ValueError(f"no form {name[:100]!r}{hint}")
    return name


FormName = Annotated[str, Field(max_length=100), AfterValidator(_known_form)]


class OptimisationCreate(BaseModel):
    """A comparison of all forms that a model version can be run in."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "tolerance": {"accuracy_points": 0.5, "agreement": 0.99, "unknown_agreement": 0.95},
                "forms": ["onnxruntime-fp32", "openvino-int8"],
                "device": "cpu",
            }
        },
    )

    tolerance: Tolerance = Field(default=DEFAULT_TOLERANCE, description="How far a form may be from the plain one.")
    device: Literal["cpu", "gpu"] = Field(
        default="gpu", description="`gpu` for the GPU of a worker that has one, and its CPU where it has none."
    )
    forms: list[FormName] | None = Field(
        default=None,
        min_length=1,
        max_length=len(optimisation.FORM_NAMES),
        description="Those to compare with the plain one, such as `openvino-int8`, besides those that are pinned and "
        "that which is served; left out, all that the machine of the worker may run, but for `torch-compiled-fp32` "
        "where there is bf16.",
        examples=[["onnxruntime-fp32", "openvino-int8"]],
    )

    @field_validator("forms")
    @classmethod
    def _can_be_there(cls, forms: list[str] | None, info: ValidationInfo) -> list[str] | None:
        possible = optimisation.FORMS_ON["cpu"]
        elsewhere = [name for name in forms or () if name not in possible]
        if elsewhere and info.data.get("device") == "cpu":
            raise ValueError(f"{', '.join(elsewhere)} cannot be run on a CPU; valid are {', '.join(possible)}")
        # However they are named, they are compared in one order: whoever asks for the same joins the same job.
        return None if forms is None else [name for name in optimisation.FORM_NAMES if name in forms]


def _by_kind(value: Any, _plain: Callable[[Any], Any]) -> JobCreate | RankingCreate:
    """The kind of job decides what a request is read as, so that what is said of it is said of its fields."""
    if isinstance(value, JobCreate | RankingCreate):
        return value
    kind = value.get("kind", "train") if isinstance(value, dict) else "train"
    if kind not in ("train", "rank"):
        said = PydanticCustomError("literal_error", "Input should be 'train' or 'rank'")
        raise ValidationError.from_exception_data("Job", [InitErrorDetails(type=said, loc=("kind",), input=kind)])
    return (RankingCreate if kind == "rank" else JobCreate).model_validate(value)


Wanted = Annotated[JobCreate | RankingCreate, WrapValidator(_by_kind)]
"""Whatever job a client may ask for."""


class Progress(BaseModel):
    """How far the present phase is."""

    phase: str = Field(examples=["features"])
    done: int = Field(description="Of `total`: images, steps, or what the phase counts.")
    total: int


class JobError(BaseModel):
    """Why a job failed."""

    code: str = Field(description="Stable, for programs.", examples=["weights_unavailable"])
    message: str = Field(description="What went wrong, and what can be done.")
    detail: dict[str, Any] = Field(description="Its figures and names, by `code`.")


class JobRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["job_0193f6a2c1e87b3c9d5e0f1a2b3c4d5e"])
    kind: JobKind = Field(
        examples=["train"],
        description="`ingest` reads an import, `train` makes a model version, `analyse` measures a profile, `rank` "
        "compares backbones, `optimise` the forms that a model version can be run in.",
    )
    queue: str = Field(
        examples=["gpu"], description="`cpu` or `gpu`: each has workers of its own, and the longest-waiting job first."
    )
    state: JobState = Field(description="`succeeded`, `failed` and `cancelled` are the end.")
    dataset_id: str = Field(examples=["ds_0193f6a2b07c7d1e8f2a3b4c5d6e7f80"])
    dataset_version: int | None = Field(examples=[1], description="The version that is read; null for an import.")
    model_name: str | None = Field(
        examples=["patterns"], description="Of what is trained or optimised; null for others."
    )
    spec: dict[str, Any] = Field(
        description="What was asked: the recipe of a training, the import of an ingest, the backbone of an analysis, "
        "the candidates of a ranking, the model version of an optimisation."
    )
    plan: Plan | None = Field(
        description="The recipe resolved against the version, with reasons; of a job that has succeeded as it was "
        "carried out, with what came of it."
    )
    attempt: int = Field(
        description="How often a worker has begun with it, those times aside that it was paused or given back."
    )
    max_attempts: int = Field(description="Where the last of these is lost with its worker, the job has failed.")
    progress: Progress | None = Field(description="Null until the first phase has begun, and while nobody works on it.")
    result: dict[str, Any] | None = Field(
        description="What it has made, by `kind`: the version of a data set or model, the id of a profile or ranking; "
        "null until it has succeeded."
    )
    error: JobError | None = Field(description="Null unless it has failed.")
    created_at: datetime
    started_at: datetime | None = Field(description="When a worker first began with it.")
    finished_at: datetime | None = Field(description="Null until it has ended.")


class EventRead(BaseModel):
    """One line of a job's history."""

    model_config = ConfigDict(from_attributes=True)

    seq: int = Field(description="Counts from 1 without gaps; the `id` of the server-sent event.")
    at: datetime
    attempt: int = Field(description="Of the job, that it happened in.")
    type: str = Field(examples=["epoch_finished"])
    data: dict[str, Any] = Field(description="Its figures, by `type`.")


class ImportRead(BaseModel):
    """An uploaded archive and what became of it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    dataset_id: str
    job_id: str
    file_name: str | None = Field(description="As its form called it; null where the archive was the body itself.")
    size_bytes: int
    sha256: str = Field(description="Of the archive.")
    accepted: int | None = Field(description="Images that became items; null until the job has ended well.")
    refused: int | None = Field(description="Files that did not, listed with their reasons under `/refused`.")
    ignored: int | None = Field(description="Files that systems leave behind, such as `.DS_Store`.")
    version: int | None = Field(description="The version that this import made.")
    created_at: datetime


class ImportAccepted(ImportRead):
    """An import just received, with the job that reads it."""

    job: JobRead
