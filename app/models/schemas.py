"""Models and their versions as they cross the API."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.evaluation import Evaluation
from app.models import references
from app.numbers import Flag, Integer
from app.optimisation import AUTO, PRECISIONS, RUNTIMES, DeviceKind, Report

AliasName = Annotated[
    str,
    AfterValidator(references.check_alias),
    Field(
        max_length=references.MAX_ALIAS,
        json_schema_extra={"pattern": references.ALIAS},
        description="Lower-case letters, digits, dash and underscore; not digits alone.",
        examples=["production"],
    ),
]


class AliasPut(BaseModel):
    """Where an alias is to point."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"version": 1, "keep_loaded": False}})

    version: Integer = Field(ge=1, lt=2**31, description="A version of the model.")
    keep_loaded: Flag | None = Field(
        default=None,
        description="Whether its version is to be in memory at any time, ready for the first request; left out, that "
        "stays as it is, and is false for a new alias.",
    )


class AliasRead(BaseModel):
    """A movable name of a version; `{model}:{name}` addresses what it points to."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["production"])
    version: int = Field(description="Number of the version that it points to.")
    keep_loaded: bool = Field(description="Whether that is in memory at any time.")
    revision: int = Field(description="Grows with each change; in quotes it is the `ETag`.")
    created_at: datetime
    updated_at: datetime


class AliasMoveRead(BaseModel):
    """One line of an alias's history."""

    model_config = ConfigDict(from_attributes=True)

    revision: int = Field(description="Of the alias, from this move on.")
    action: Literal["moved", "rolled_back", "removed"]
    version: int | None = Field(description="Where it points since then; null after its removal.")
    back_to: int | None = Field(
        description="Revision of the move that a rollback from here goes back to, or further back where its version is "
        "deleted; null where there is none."
    )
    created_at: datetime


class ModelRead(BaseModel):
    id: str
    name: str = Field(examples=["patterns"])
    latest_version: int = Field(description="The version that answers predictions that name none.")
    revision: int = Field(description="Of its `ETag`: the last number that a version was given.")
    aliases: list[AliasRead] = Field(description="By name.")
    created_at: datetime


class ModelVersionRead(BaseModel):
    """One immutable result of a training job."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())

    number: int = Field(description="Versions of a model count from 1; no number is given again.")
    job_id: str = Field(description="Of the training.")
    dataset_id: str
    dataset_version: int = Field(description="Of the data set, that it was trained on.")
    backbone: str
    strategy: str = Field(description="What was carried out and kept: never `auto`.")
    labels: list[str] = Field(description="The label at place i is what output i of the classifier means.")
    evaluation: dict[str, Any] = Field(description="Main figures on the validation split; `…/evaluation` has all.")
    provenance: dict[str, Any] = Field(description="Data, weights, seed and libraries it was made from.")
    created_at: datetime


class PinsPut(BaseModel):
    """What a version is to be run by."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"runtime": "auto", "precision": "auto"}})

    runtime: str = Field(
        default=AUTO, max_length=100, description=f"`auto` for what was measured, or one of {', '.join(RUNTIMES)}."
    )
    precision: str = Field(
        default=AUTO, max_length=100, description=f"`auto` for what was measured, or one of {', '.join(PRECISIONS)}."
    )


class PinsRead(BaseModel):
    """What somebody has decided that a version is run by; `auto` leaves it to what was measured."""

    runtime: str = Field(examples=["onnxruntime"])
    precision: str = Field(examples=["fp32"])


class ServedRead(BaseModel):
    """How a version is run on one kind of device."""

    device: DeviceKind | None = Field(description="Null where it was optimised for none yet.")
    optimisation: str | None = Field(description="Id of the one that counts.")
    forms: list[str] = Field(description="Tried in this order; what fails to load is passed over.")
    why: str = Field(description="In words.")


class FileRead(BaseModel):
    """A file of a model version, to be downloaded at `…/files/{name}`."""

    name: str = Field(examples=["labels.json"])
    size_bytes: int
    sha256: str
    about: str = Field(description="What is in it.")


class FileListing(BaseModel):
    """All of them."""

    data: list[FileRead]


class OptimisationRead(BaseModel):
    """What one job has measured; latencies in milliseconds, shares 0-1, log-loss in nats."""

    id: str
    job_id: str
    created_at: datetime
    report: Report


class RuntimesRead(BaseModel):
    """The forms that a version can be run in, and which of them it is."""

    model: str = Field(examples=["patterns"])
    version: int
    pins: PinsRead
    revision: int = Field(description="Of the pins; in quotes it is the `ETag`.")
    served: list[ServedRead]
    optimisations: list[OptimisationRead] = Field(description="The newest for each kind of device.")


class EvaluationRead(BaseModel):
    """All that was measured of a version. What a version of an older service lacks is null."""

    model: str = Field(examples=["patterns"])
    version: int
    split: str = Field(description="The images that it was measured on.", examples=["validation"])
    pictures: list[str] = Field(description="Names of the pictures at `…/evaluation/{picture}.svg`.")
    doubt: str | None = Field(description="Why the accuracy is not shown to be above guessing; null where it is.")
    figures: Evaluation
