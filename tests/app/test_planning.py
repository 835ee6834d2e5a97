"""One plan for one recipe: that of the dry run is what the job of a training has."""

from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.backbones import catalogue
from app.datasets import service as datasets
from app.datasets.service import NewVersion
from app.db import Database
from app.main import assemble
from app.profiles import service as profiles
from app.settings import Settings
from tests.app.conftest import NOW, Bell
from tests.app.planned import profile
from tests.problems import problem

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
RECIPE = {"backbone": "mobilenet_v2"}
STRATEGIES: tuple[dict[str, Any], ...] = (
    {"strategy": "head"},
    {"strategy": "stage_probe"},
    {"strategy": "stage_probe", "stage": "all"},
    {"strategy": "top"},
    {"strategy": "full"},
    {"strategy": "full", "optimizer": "adamw", "ema": 0.99},
    {"strategy": "scratch"},
    {"strategy": "auto", "weights": "none"},
    {"strategy": "full", "search": {"trials": 3}},
)


def record(database: Database, dataset_id: str, *, job_id: str, **costs: Any) -> None:
    measured = profile()
    measured = replace(measured, costs=replace(measured.costs, **costs))
    with database.write() as session:
        version = datasets.version_of(session, dataset_id, 1)
        profiles.record(session, version, measured, choice="pretrained", job_id=job_id, now=NOW)


@pytest.fixture
def many(http: TestClient, database: Database) -> str:
    """A dataset whose version 1 has enough images for batches of 32."""
    dataset_id: str = http.post("/v1/datasets", json={"name": "many"}).json()["id"]
    counts = {label: {"train": 200, "validation": 50} for label in ("ants", "bees")}
    version = NewVersion(1, tuple(counts), counts, 500, "2" * 64, "v1-first")
    with database.write() as session:
        datasets.add_version(session, "imp_many", dataset_id, version, accepted=500, ignored=0, now=NOW)
    return dataset_id


@pytest.fixture
def analysis(http: TestClient, many: str) -> str:
    """The job that measures."""
    body = {"dataset": many, "recipe": {"backbone": "mobilenet_v2"}, "measure": True}
    job_id: str = http.post("/v1/plans", json=body).json()["id"]
    return job_id


def dry_run(http: TestClient, dataset_id: str, **recipe: Any) -> dict[str, Any]:
    body = {"dataset": dataset_id, "recipe": {"backbone": "mobilenet_v2", **recipe}}
    plan: dict[str, Any] = http.post("/v1/plans", json=body).json()["plan"]
    return plan


def queued(http: TestClient, dataset_id: str, **recipe: Any) -> dict[str, Any]:
    body = {"dataset": dataset_id, "model": "insects", "recipe": {"backbone": "mobilenet_v2", **recipe}}
    job: dict[str, Any] = http.post("/v1/jobs", json=body).json()
    return job


@pytest.mark.parametrize("recipe", STRATEGIES, ids=str)
def test_a_job_on_a_measured_version_has_the_plan_of_the_dry_run(
    http: TestClient, database: Database, many: str, analysis: str, recipe: dict[str, Any]
) -> None:
    record(database, many, job_id=analysis)
    made = dry_run(http, many, **recipe)

    assert queued(http, many, **recipe)["plan"] == made
    assert made["quadrant"]["evidence"]
    assert made["estimate"]["seconds"] > 0
    assert made["estimate"]["memory_bytes"] > 0
    assert (made["expected"] is None) == (made["strategy"] == "scratch")


@pytest.mark.parametrize("recipe", [one for one in STRATEGIES if one.get("weights") != "none"], ids=str)
def test_where_nothing_is_measured_a_job_has_its_plan_all_the_same(
    http: TestClient, many: str, recipe: dict[str, Any]
) -> None:
    made = queued(http, many, **recipe)["plan"]
    assert made == dry_run(http, many, **recipe)
    assert (made["quadrant"], made["expected"], made["estimate"]) == (None, None, None)


@pytest.mark.parametrize("strategy", ["top", "full", "scratch"])
def test_batches_that_the_recipe_leaves_open_fit_the_device_in_the_job_too(
    http: TestClient, database: Database, many: str, analysis: str, strategy: str
) -> None:
    record(database, many, job_id=analysis)
    assert dry_run(http, many, strategy=strategy)["descent"]["batch_size"] == 32
    needed = dry_run(http, many, strategy=strategy, batch_size=8)["estimate"]["memory_bytes"]
    record(database, many, job_id=analysis, memory_bytes=2 * needed)

    made = dry_run(http, many, strategy=strategy)
    descent = made["descent"]
    assert (descent["batch_size"], descent["accumulate"]) in {(8, 4), (16, 2)}
    assert "would not fit" in made["reasons"][-1]
    assert f"in batches of {descent['batch_size']}, {descent['accumulate']} to a step" in " ".join(made["reasons"])
    assert queued(http, many, strategy=strategy)["plan"] == made
    by_hand = queued(http, many, strategy=strategy, batch_size=32)["plan"]["descent"]
    assert (by_hand["batch_size"], by_hand["accumulate"]) == (32, 1)


def test_steps_whose_batches_are_set_by_hand_take_the_rate_of_their_images(
    http: TestClient, database: Database, many: str, analysis: str
) -> None:
    record(database, many, job_id=analysis, memory_bytes=1)
    cut = dry_run(http, many, strategy="full", accumulate=3)["descent"]
    assert (cut["batch_size"], cut["accumulate"]) == (2, 3)
    asked = dry_run(http, many, strategy="full", accumulate=3, batch_size=cut["batch_size"])["descent"]
    assert cut == asked


def test_a_plan_says_for_how_many_gpus_its_estimate_is(
    http: TestClient, database: Database, many: str, analysis: str
) -> None:
    record(database, many, job_id=analysis, device="cuda", devices=2)
    made = dry_run(http, many, strategy="full")
    assert "The estimate is for 2 GPUs" in made["reasons"][-1]
    assert queued(http, many, strategy="full")["plan"] == made


def test_control_runs_have_the_plans_of_their_dry_runs(
    http: TestClient, database: Database, many: str, analysis: str
) -> None:
    record(database, many, job_id=analysis)
    made = http.post("/v1/experiments", json={"dataset": many, "model": "insects", "backbone": "mobilenet_v2"}).json()
    for arm in made["arms"].values():
        job = http.get(f"/v1/jobs/{arm['job_id']}").json()
        recipe = {name: value for name, value in job["spec"].items() if name != "backbone"}
        assert job["plan"] == dry_run(http, many, **recipe)
        assert job["plan"]["estimate"]["seconds"] > 0


def test_what_decides_itself_is_decided_by_the_worker_whose_weights_may_be_others(
    http: TestClient, database: Database, many: str, analysis: str
) -> None:
    record(database, many, job_id=analysis)
    assert dry_run(http, many)["estimate"]["seconds"] > 0
    assert queued(http, many)["plan"] is None


def test_a_stage_that_is_not_there_is_refused_also_where_it_would_be_left_out(
    http: TestClient, database: Database, many: str, analysis: str
) -> None:
    record(database, many, job_id=analysis)
    body = {"dataset": many, "recipe": {"backbone": "mobilenet_v2", "freeze": "layer3"}}
    assert problem(http.post("/v1/plans", json=body), 422)["code"] == "unknown_stage"


def test_a_service_with_little_room_plans_for_fewer_views(
    settings: Settings, many: str, database: Database, bell: Bell
) -> None:
    of_a_view = 2 * 500 * sum(catalogue.find("mobilenet_v2").facts.values[-2:-1])
    with TestClient(assemble(settings.model_copy(update={"max_activation_bytes": of_a_view}), bell)) as http:
        made = dry_run(http, many, strategy="top")
        assert made["views"] == 1
        assert queued(http, many, strategy="top")["plan"] == made
        asked = {"dataset": many, "model": "insects", "backbone": "mobilenet_v2"}
        arms = http.post("/v1/experiments", json={**asked, "fine_tune": {**RECIPE, "strategy": "top"}}).json()["arms"]
        assert http.get(f"/v1/jobs/{arms['fine_tune']['job_id']}").json()["plan"]["views"] == 1
