"""Plans and profiles as they cross the API."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from app.numbers import Flag, Integer
from app.plan import Plan
from app.profile import Profile
from app.profiles.tables import StoredProfile
from app.recipe import Recipe


class PlanCreate(BaseModel):
    """A recipe to resolve against a version of a dataset, without training anything."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field(max_length=100, pattern=r"^[^\x00]*$", description="Id or name of the dataset.")
    version: Integer | None = Field(default=None, ge=1, lt=2**31, description="Its version; the newest if left out.")
    recipe: Recipe
    measure: Flag = Field(
        default=False,
        description="Whether the version is to be measured with the backbone first, where that has not been done, also "
        "for a recipe that names its strategy (`auto` measures in any case): the answer is then the job that does it. "
        "For a training from a `base` nothing is ever measured, as the figures would be those of another network: it "
        "is planned at once.",
    )


class ProfileRead(BaseModel):
    """What was measured of a version with a backbone: how much data there is, and how close to what it knows."""

    id: str = Field(examples=["prf_0193f6a2c1e87b3c9d5e0f1a2b3c4d5e"])
    dataset_id: str
    dataset_version: int = Field(description="The version that was measured; others may have the same content.")
    job_id: str = Field(description="The job that measured.")
    created_at: datetime
    figures: Profile

    @classmethod
    def of(cls, row: StoredProfile) -> Self:
        names = cls.model_fields.keys() - {"figures"}
        return cls.model_validate({**{name: getattr(row, name) for name in names}, "figures": row.body})


class PlanRead(BaseModel):
    """What a training with the recipe would do, and why."""

    dataset_id: str
    dataset_version: int
    plan: Plan
    ranking_id: str | None = Field(description="The ranking that chose the backbone, where it was left open.")
    profile: ProfileRead | None = Field(
        description="Null where the version was not measured with this backbone yet, and with a base."
    )
