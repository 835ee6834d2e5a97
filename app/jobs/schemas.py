"""Jobs and imports as they cross the API."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.plan import Plan
from app.recipe import Recipe

JobState = Literal["queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"]
JobKind = Literal["ingest", "analyse", "train"]
ENDED = ("succeeded", "failed", "cancelled")

ModelName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$",
        description="Lower-case letters, digits, dot, dash and underscore. A model that exists gets a new version.",
        examples=["patterns"],
    ),
]


class JobCreate(BaseModel):
    """A fine-tune of a backbone on a version of a dataset."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["train"] = "train"
    dataset: str = Field(max_length=100, pattern=r"^[^\x00]*$", description="Id or name of the dataset.")
    version: int | None = Field(default=None, ge=1, lt=2**31, description="Its version; the newest if left out.")
    model: ModelName
    recipe: Recipe


class Progress(BaseModel):
    """How far the present phase is."""

    phase: str
    done: int
    total: int


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    detail: dict[str, Any]


class JobRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["job_0193f6a2c1e87b3c9d5e0f1a2b3c4d5e"])
    kind: JobKind
    state: JobState
    dataset_id: str
    dataset_version: int | None = Field(description="The version that is read; null for an import.")
    model_name: str | None
    spec: dict[str, Any] = Field(
        description="What was asked: the recipe of a training, the import of an ingest, the backbone of an analysis."
    )
    plan: Plan | None = Field(description="The recipe resolved against the version, with reasons.")
    attempt: int
    max_attempts: int
    progress: Progress | None
    result: dict[str, Any] | None
    error: JobError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class EventRead(BaseModel):
    """One line of a job's history."""

    model_config = ConfigDict(from_attributes=True)

    seq: int = Field(description="Counts from 1 without gaps; the `id` of the server-sent event.")
    at: datetime
    attempt: int
    type: str = Field(examples=["epoch_finished"])
    data: dict[str, Any]


class ImportRead(BaseModel):
    """An uploaded archive and what became of it."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    dataset_id: str
    job_id: str
    file_name: str | None
    size_bytes: int
    sha256: str
    accepted: int | None = Field(description="Images that became items; null until the job has ended well.")
    refused: int | None = Field(description="Files that did not, listed with their reasons under `/refused`.")
    ignored: int | None = Field(description="Files that systems leave behind, such as `.DS_Store`.")
    version: int | None = Field(description="The version that this import made.")
    created_at: datetime


class ImportAccepted(ImportRead):
    """An import just received, with the job that reads it."""

    job: JobRead
