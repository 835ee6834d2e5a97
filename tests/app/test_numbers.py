"""Requests take numbers and flags in JSON's own types alone."""

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.backbones.anatomy_schemas import StacksCreate
from app.datasets.schemas import DatasetCreate
from app.experiments.schemas import ExperimentCreate
from app.jobs.schemas import JobCreate, OptimisationCreate, RankingCreate
from app.models.schemas import AliasPut
from app.plans.schemas import PlanCreate

JOB = {"dataset": "photos", "model": "mine", "recipe": {"backbone": "formnet", "strategy": "full"}}
PLAN = {"dataset": "photos", "recipe": {"backbone": "auto"}}
CONV = {"type": "conv", "out_channels": 4, "kernel": 3}
STACKS = {"stacks": [{"name": "one", "input": {"size": 8}, "layers": [CONV]}]}
INTEGERS: list[tuple[type[BaseModel], Any, str]] = [
    (JobCreate, JOB, "version"),
    (JobCreate, JOB, "recipe.seed"),
    (JobCreate, JOB, "recipe.epochs"),
    (JobCreate, JOB, "recipe.patience"),
    (PlanCreate, PLAN, "recipe.budget.macs"),
    (PlanCreate, PLAN, "recipe.search.trials"),
    (RankingCreate, {"kind": "rank", "dataset": "photos"}, "seed"),
    (ExperimentCreate, {"dataset": "photos", "model": "mine", "backbone": "formnet"}, "seed"),
    (DatasetCreate, {"name": "photos"}, "seed"),
    (AliasPut, {}, "version"),
    (StacksCreate, STACKS, "batch"),
    (StacksCreate, STACKS, "stacks.0.input.size"),
    (StacksCreate, STACKS, "stacks.0.layers.0.out_channels"),
]
NUMBERS: list[tuple[type[BaseModel], Any, str]] = [
    (JobCreate, JOB, "recipe.learning_rate"),
    (JobCreate, JOB, "recipe.augmentation.mixup"),
    (PlanCreate, PLAN, "recipe.budget.latency_ms"),
    (PlanCreate, PLAN, "recipe.search.seconds"),
    (OptimisationCreate, {}, "tolerance.accuracy_points"),
]
FLAGS: list[tuple[type[BaseModel], Any, str]] = [
    (JobCreate, JOB, "recipe.deterministic"),
    (JobCreate, {**JOB, "recipe": {"backbone": "formnet", "base": "other@1"}}, "recipe.replay"),
    (PlanCreate, PLAN, "measure"),
    (AliasPut, {"version": 1}, "keep_loaded"),
    (StacksCreate, STACKS, "stacks.0.layers.0.bias"),
]


def with_value(document: Any, place: list[str], value: Any) -> Any:
    """A copy of `document` with `value` at `place`, parts that are missing added."""
    if not place:
        return value
    first, *rest = place
    if isinstance(document, list):
        return [with_value(part, rest, value) if str(at) == first else part for at, part in enumerate(document)]
    return {**document, first: with_value(document.get(first, {}), rest, value)}


@pytest.mark.parametrize(("kind", "document", "field"), INTEGERS)
@pytest.mark.parametrize("value", [True, "4", 4.5])
def test_an_integer_is_neither_a_flag_nor_text_nor_a_fraction(
    kind: type[BaseModel], document: Any, field: str, value: Any
) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(with_value(document, field.split("."), value))

    assert all(error["type"].startswith("int_") for error in caught.value.errors())
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == field


@pytest.mark.parametrize(("kind", "document", "field"), NUMBERS)
@pytest.mark.parametrize("value", [True, "1"])
def test_a_number_is_neither_a_flag_nor_text(kind: type[BaseModel], document: Any, field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(with_value(document, field.split("."), value))

    assert [error["type"] for error in caught.value.errors()] == ["float_type"]


@pytest.mark.parametrize(("kind", "document", "field"), FLAGS)
@pytest.mark.parametrize("value", [1, 0, "true", "no"])
def test_a_flag_is_true_or_false(kind: type[BaseModel], document: Any, field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(with_value(document, field.split("."), value))

    assert [error["type"] for error in caught.value.errors()] == ["bool_type"]


@pytest.mark.parametrize(("kind", "document", "field"), [*INTEGERS, *NUMBERS])
@pytest.mark.parametrize("value", [4, 4.0])
def test_a_number_may_be_written_with_a_fraction_of_nothing(
    kind: type[BaseModel], document: Any, field: str, value: Any
) -> None:
    TypeAdapter(kind).validate_python(with_value(document, field.split("."), value))
