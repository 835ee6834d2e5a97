"""Rankings as they cross the API."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from app.ranking import Ranking
from app.rankings.tables import StoredRanking


class RankingRead(BaseModel):
    """Which of several networks suits a version best, what each costs, and where the scores disagree."""

    id: str = Field(examples=["rnk_0193f6a2c1e87b3c9d5e0f1a2b3c4d5e"])
    dataset_id: str
    dataset_name: str | None = Field(description="Null once the data set is deleted.")
    dataset_version: int = Field(description="The version that was measured; others may have the same content.")
    job_id: str = Field(description="The job that measured.")
    is_of_all: bool = Field(description="Whether all backbones with weights at hand were compared.")
    created_at: datetime
    figures: Ranking

    @classmethod
    def of(cls, row: StoredRanking, dataset_name: str | None) -> Self:
        names = cls.model_fields.keys() - {"figures", "dataset_name"}
        kept = {name: getattr(row, name) for name in names}
        return cls.model_validate({**kept, "dataset_name": dataset_name, "figures": row.body})


class RankingSummary(BaseModel):
    """A ranking in a list."""

    id: str
    dataset_id: str
    dataset_version: int
    created_at: datetime
    networks: int = Field(description="How many were ranked.")
    best: str = Field(description="The first that has not seen the images, or the first where all have.")
