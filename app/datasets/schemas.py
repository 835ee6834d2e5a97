"""Data sets as they cross the API."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

DatasetName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=100,
        pattern=r"^[^\s\x00]([^\x00\n]*[^\s\x00])?$",
        description="Unique among your data sets; stands for the id.",
    ),
]
Description = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]


class DatasetCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"name": "patterns", "validation_fraction": 0.2}}
    )

    name: DatasetName
    description: Description = ""
    validation_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="Share of each class that is held out to evaluate models."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Seed of the split.")


class DatasetPatch(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"description": "Photos of woven patterns"}}
    )

    name: DatasetName | None = None
    description: Description | None = None


class DatasetRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["ds_0193f6a2c1e87b3c9d5e0f1a2b3c4d5e"])
    name: str
    description: str
    validation_fraction: float
    seed: int
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
    number: int
    labels: list[str] = Field(description="The label at place i has index i.")
    counts: dict[str, ClassCounts] = Field(description="Images by label and split.")
    images: int
    content_hash: str = Field(description="sha256 over every item's image hash, label and split.")
    created_at: datetime


class RefusedRead(BaseModel):
    """A file that did not become an item, and why."""

    model_config = ConfigDict(from_attributes=True)

    position: int
    path: str
    code: str
    message: str
