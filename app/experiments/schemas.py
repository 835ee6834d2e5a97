"""Experiments as they cross the API."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.contradictions import refuse
from app.experiments.verdict import ARMS, Arm, Finding, Point, Verdict
from app.intervals import Interval
from app.jobs.schemas import JobError, JobState, ModelName
from app.numbers import Integer
from app.recipe import AUTO_BACKBONE, Recipe, Strategy

STRATEGIES: dict[Arm, tuple[Strategy, ...]] = {
    "probe": ("head", "stage_probe"),
    "fine_tune": ("full", "top"),
    "scratch": ("scratch",),
}
"""What each arm may be; the first where nothing is asked for."""


class ExperimentCreate(BaseModel):
    """Control runs of a backbone on a version: a linear classifier on fixed features, fine-tuning, and training from
    random values, on the same split."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field(max_length=100, pattern=r"^[^\x00]*$", description="Id or name of the dataset.")
    version: Integer | None = Field(default=None, ge=1, lt=2**31, description="Its version; the newest if left out.")
    model: ModelName = Field(
        max_length=53, description="The models are called this with `-probe`, `-fine-tune` and `-scratch` behind it."
    )
    backbone: str = Field(description="Name of a backbone of the catalogue.", examples=["mobilenet_v2"])
    seed: Integer = Field(default=0, ge=0, lt=2**31, description="Of all runs whose recipe is left out.")
    arms: tuple[Arm, ...] = Field(default=ARMS, min_length=2, description="Which to run; two at least.")
    probe: Recipe | None = Field(default=None, description="With strategy `head` (if left out) or `stage_probe`.")
    fine_tune: Recipe | None = Field(default=None, description="With strategy `full` (if left out) or `top`.")
    scratch: Recipe | None = Field(default=None, description="With strategy `scratch`.")

    def recipe(self, arm: Arm) -> Recipe:
        """How `arm` is to be trained."""
        asked: Recipe | None = getattr(self, arm)
        return asked or Recipe(backbone=self.backbone, strategy=STRATEGIES[arm][0], seed=self.seed)

    @model_validator(mode="after")
    def _recipes_fit_their_arms(self) -> Self:
        if self.backbone == AUTO_BACKBONE:
            refuse({"backbone": (self.backbone, "control runs are of one network; rank backbones first to choose it")})
        if len(set(self.arms)) < len(self.arms):
            refuse({"arms": (self.arms, "an arm is named twice")})
        asked = {arm: getattr(self, arm) for arm in ARMS if getattr(self, arm) is not None}
        refuse(
            {
                arm: (None, f"a recipe for an arm that is not run: {arm} is not in arms")
                for arm in asked
                if arm not in self.arms
            }
        )
        for arm, recipe in asked.items():
            allowed = STRATEGIES[arm]
            if recipe.strategy not in allowed:
                said = f"the arm {arm} needs strategy {' or '.join(allowed)}, not {recipe.strategy}"
                refuse({f"{arm}.strategy": (recipe.strategy, said)})
            if recipe.backbone != self.backbone:
                said = f"the experiment is of {self.backbone}; only runs of one network can be compared"
                refuse({f"{arm}.backbone": (recipe.backbone, said)})
            if recipe.search is not None:
                said = "the runs of an experiment are single trainings, as the best of many cannot be compared with one"
                refuse({f"{arm}.search": (None, said)})
            if recipe.base is not None:
                said = "control runs tell what published pre-training does; a base is a model of one's own"
                refuse({f"{arm}.base": (recipe.base, said)})
            if recipe.from_random and arm != "scratch":
                said = f"the arm {arm} is of pre-trained weights; those from random values are the arm scratch"
                refuse({f"{arm}.weights": (recipe.weights, said)})
        return self


class ArmRead(BaseModel):
    """One of the runs."""

    job_id: str
    state: JobState
    error: JobError | None
    model: str
    model_version: int | None = Field(description="Null until the run has ended well, and once the version is deleted.")
    strategy: str = Field(description="Of the classifier that was kept; that of the plan until there is one.")
    epochs: int | None = Field(description="That its plan has; null for a probe, and where there is no plan yet.")
    accuracy: float | None = Field(description="Final, on the validation images, 0-1.")
    interval: Interval | None = Field(description="Wilson's, 95 %.")
    images: int | None = Field(description="Validation images.")
    also_chosen_by: bool | None = Field(
        description="Whether these also decided which of several networks was kept, which flatters the run a little; "
        "null where that is not known."
    )
    seconds: float = Field(
        description="Worked on it so far, waiting and pauses left out; a pass for features that another run has done "
        "counts with what it took there."
    )
    curve: list[Point] = Field(description="After each epoch; of a probe the only point there is.")


class ExperimentRead(BaseModel):
    id: str = Field(examples=["exp_0193f6a2c1e87b3c9d5e0f1a2b3c4d5e"])
    dataset_id: str
    dataset_name: str | None = Field(description="Null once the data set is deleted.")
    dataset_version: int
    model: str = Field(description="What its models are called, with the names of the arms behind it.")
    backbone: str
    created_at: datetime
    has_ended: bool
    arms: dict[Arm, ArmRead]
    verdict: Verdict | None = Field(description="Null until all runs have ended.")


class ExperimentSummary(BaseModel):
    """An experiment in a list."""

    id: str
    dataset_id: str
    dataset_version: int
    model: str = Field(description="What its models are called, with the names of the arms behind it.")
    backbone: str
    created_at: datetime
    has_ended: bool = Field(description="Whether all its runs have.")
    finding: Finding | None = Field(description="That of the verdict; null until all runs have ended.")
