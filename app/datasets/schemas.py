"""Data sets as they cross the API."""

import re
from datetime import datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.numbers import Integer, Number

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _can_stand_in_an_address(name: str) -> str:
    if name.strip() != name or _CONTROL.search(name):
        raise ValueError("a name begins and ends with no space, and has no control characters")
    if name in (".", "..") or not {"/", "\\"}.isdisjoint(name):
        raise ValueError("a name stands in addresses, so it has no / and no \\, and is neither . nor ..")
    return name


DatasetName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=100,
        description="Unique among your data sets; stands for the id, so it has no slash or backslash, no space at "
        "either end, and is neither `.` nor `..`.",
        examples=["patterns"],
    ),
    AfterValidator(_can_stand_in_an_address),
]
Description = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]


class DatasetCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"name": "patterns", "validation_fraction": 0.2}}
    )

    name: DatasetName
    description: Description = ""
    validation_fraction: Number = Field(
        default=0.2, gt=0, lt=1, description="Share of each class that is held out to evaluate models."
    )
    seed: Integer = Field(default=0, ge=0, lt=2**31, description="Seed of the split.")


class DatasetPatch(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"description": "Photos of woven patterns"}}
    )

    name: DatasetName | None = None
    description: Description | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.name is None and self.description is None:
            raise ValueError("give a name, a description, or both")
        return self


class DatasetRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["ds_0193f6a2c1e87b3c9d5e0f1a2b3c4d5e"])
    name: str
    description: str
    validation_fraction: float = Field(description="Share of each class that is held out.")
    seed: int = Field(description="Of the split.")
    latest_version: int | None = Field(description="Number of the newest version; null before the first import.")
    created_at: datetime
    updated_at: datetime


class ClassCounts(BaseModel):
    """Images of one label."""

    train: int
    validation: int


class VersionRead(BaseModel):
    """An immutable state of a dataset, with its split and label index."""

    model_config = ConfigDict(from_attributes=True)

    dataset_id: str
    number: int = Field(description="Versions of a data set count from 1.")
    labels: list[str] = Field(description="The label at place i has index i.")
    counts: dict[str, ClassCounts] = Field(description="Images by label and split.")
    images: int = Field(description="Of all labels, in both splits.")
    content_hash: str = Field(description="sha256 over every item's image hash, label and split.")
    created_at: datetime


class RefusedRead(BaseModel):
    """A file that did not become an item, and why."""

    model_config = ConfigDict(from_attributes=True)

    position: int = Field(description="Of the file in its import; the cursor of the list.")
    path: str = Field(description="Within the archive.")
    code: str = Field(examples=["broken_image"])
    message: str = Field(description="What is wrong with it.")
