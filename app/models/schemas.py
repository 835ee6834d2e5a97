"""Models and their versions as they cross the API."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.evaluation import Evaluation


class ModelRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str = Field(examples=["patterns"])
    latest_version: int = Field(description="The version that answers predictions that name none.")
    created_at: datetime


class ModelVersionRead(BaseModel):
    """One immutable result of a training job."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())

    number: int
    job_id: str
    dataset_id: str
    dataset_version: int
    backbone: str
    strategy: str
    labels: list[str] = Field(description="The label at place i is what output i of the classifier means.")
    evaluation: dict[str, Any] = Field(description="Main figures on the validation split; `…/evaluation` has all.")
    provenance: dict[str, Any] = Field(description="Data, weights, seed and libraries it was made from.")
    created_at: datetime


class EvaluationRead(BaseModel):
    """All that was measured of a version. What a version of an older service lacks is null."""

    model: str = Field(examples=["patterns"])
    version: int
    split: str = Field(description="The images that it was measured on.", examples=["validation"])
    pictures: list[str] = Field(description="Names of the pictures at `…/evaluation/{picture}.svg`.")
    figures: Evaluation
