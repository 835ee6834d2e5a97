"""Plans and trainings over HTTP that leave their backbone open, which a ranking chooses."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from app import ranking
from app.backbones import catalogue
from app.db import Database, utc_now
from app.jobs import leases
from app.rankings import service as rankings
from tests.app import planned
from tests.app.conftest import Bell
from tests.app.ranked import FOUND, WEIGHTS_HERE, asked, ranked
from tests.app.test_ranking import SETTING
from tests.problems import problem


def test_a_plan_whose_backbone_is_open_ranks_then_measures_and_then_is_there(
    http: TestClient, versioned: str, database: Database
) -> None:
    body = {"dataset": versioned, "recipe": {"backbone": "auto", "budget": {"latency_ms": 50}}}
    first = http.post("/v1/plans", json=body)
    assert (first.status_code, first.json()["kind"]) == (202, "rank")
    assert http.post("/v1/plans", json=body).json()["id"] == first.json()["id"]
    ranking_id = ranked(database, first.json()["id"])

    second = http.post("/v1/plans", json=body)
    assert (second.status_code, second.json()["kind"]) == (202, "analyse")
    assert second.json()["spec"]["backbone"] == "mobilenet_v2"
    planned.measure(database, second.json()["id"])

    found = http.post("/v1/plans", json=body).json()
    assert found["ranking_id"] == ranking_id
    assert found["plan"]["backbone"] == "mobilenet_v2"
    assert found["plan"]["reasons"][0].startswith("Backbone mobilenet_v2: first of 2")


def test_a_ranking_of_chosen_networks_chooses_no_backbone(http: TestClient, versioned: str, database: Database) -> None:
    ranked(database, asked(http, versioned, candidates=[{"backbone": "formnet"}])["id"])
    answer = http.post("/v1/plans", json={"dataset": versioned, "recipe": {"backbone": "auto"}})
    assert (answer.status_code, answer.json()["kind"]) == (202, "rank")


@pytest.mark.parametrize(
    ("weights", "status"),
    [
        (None, 200),  # of a worker that ranks nothing
        (WEIGHTS_HERE, 200),
        ({**WEIGHTS_HERE, "resnet50": "0" * 8}, 202),  # added since
        ({"mobilenet_v2": "0" * 8, "formnet": "0" * 8}, 202),  # gone
        ({**WEIGHTS_HERE, "formnet": "1" * 8}, 202),  # another file
        ({**WEIGHTS_HERE, "mobilenet_v2": f"{'0' * 8} 200-2"}, 200),  # the same, copied
        ({**WEIGHTS_HERE, "resnet18": "1" * 8}, 202),  # another file of what could not be had
        ({**WEIGHTS_HERE, "resnet18": f"{'5' * 8} 200-2"}, 202),  # that one, mended
    ],
)
def test_a_plan_goes_by_a_ranking_only_while_it_is_of_the_networks_that_a_worker_has_now(
    http: TestClient, versioned: str, database: Database, weights: dict[str, str] | None, status: int
) -> None:
    ranked(database, asked(http, versioned)["id"])
    body = {"dataset": versioned, "recipe": {"backbone": "auto"}}
    job = http.post("/v1/plans", json=body).json()
    assert job["kind"] == "analyse"
    planned.measure(database, job["id"])
    now = utc_now()
    with database.write() as session:
        leases.saw_worker(session, "worker_1", ["gpu"], weights=weights, started_at=now, now=now)
        gone = now - timedelta(minutes=5)
        leases.saw_worker(session, "worker_2", ["gpu"], weights={"vgg16": "2" * 8}, started_at=gone, now=gone)

    answer = http.post("/v1/plans", json=body)
    assert answer.status_code == status
    assert status == 200 or answer.json()["kind"] == "rank"


def test_a_network_that_had_no_room_in_the_memory_is_tried_again_after_some_hours(
    http: TestClient, versioned: str, database: Database
) -> None:
    full = replace(FOUND, refused=tuple(replace(one, code=ranking.OUT_OF_MEMORY) for one in FOUND.refused))
    body = {"dataset": versioned, "recipe": {"backbone": "auto"}}
    now = utc_now()

    def answered(*, hours: float) -> str:
        """What kind of job comes first once the last ranking is so old."""
        ranked(database, asked(http, versioned)["id"], found=full, now=now - timedelta(hours=hours))
        kind: str = http.post("/v1/plans", json=body).json()["kind"]
        return kind

    assert answered(hours=8) == "analyse"  # where no worker is there
    with database.write() as session:
        leases.saw_worker(session, "worker_1", ["gpu"], weights=WEIGHTS_HERE, started_at=now, now=now)
    assert http.post("/v1/plans", json=body).json()["kind"] == "rank"
    assert answered(hours=0) == "analyse"


def test_what_was_ranked_on_a_few_images_of_each_of_many_labels_is_ranked_anew_once(
    http: TestClient, versioned: str, database: Database
) -> None:
    few = replace(FOUND, setting=replace(SETTING, classes=101, images=75_000, measured_images=2_000))
    body = {"dataset": versioned, "recipe": {"backbone": "auto"}}
    ranking_id = ranked(database, asked(http, versioned)["id"], found=few)
    assert http.post("/v1/plans", json=body).json()["kind"] == "analyse"
    with database.write() as session:
        row = rankings.find(session, ranking_id)
        setting = {name: value for name, value in row.body["setting"].items() if name != "measured_labels"}
        row.body = {**row.body, "setting": setting}

    anew = http.post("/v1/plans", json=body).json()
    assert anew["kind"] == "rank"
    ranked(database, anew["id"], found=few)
    assert http.post("/v1/plans", json=body).json()["kind"] == "analyse"


def test_of_workers_with_different_networks_one_is_enough(http: TestClient, versioned: str, database: Database) -> None:
    ranked(database, asked(http, versioned)["id"])
    with database.write() as session:
        for number, weights in enumerate(({"vgg16": "2" * 8}, WEIGHTS_HERE)):
            now = utc_now()
            leases.saw_worker(session, f"worker_{number}", ["gpu"], weights=weights, started_at=now, now=now)
    answer = http.post("/v1/plans", json={"dataset": versioned, "recipe": {"backbone": "auto"}})
    assert answer.json()["kind"] == "analyse"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_which_workers_are_there_goes_by_the_clock_of_the_database(
    http: TestClient, versioned: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked(database, asked(http, versioned)["id"])
    with database.write() as session:
        now = database.now(session)
        leases.saw_worker(session, "worker_1", ["gpu"], weights={"vgg16": "2" * 8}, started_at=now, now=now)
    for module in ("app.db", "app.plans.routes"):
        monkeypatch.setattr(f"{module}.utc_now", lambda: now + timedelta(minutes=2), raising=False)
    answer = http.post("/v1/plans", json={"dataset": versioned, "recipe": {"backbone": "auto"}})
    assert answer.json()["kind"] == "rank"


def test_a_budget_that_none_fits_is_said(http: TestClient, versioned: str, database: Database) -> None:
    ranked(database, asked(http, versioned)["id"])
    recipe = {"backbone": "auto", "budget": {"latency_ms": 0.1}}
    said = problem(http.post("/v1/plans", json={"dataset": versioned, "recipe": recipe}), 422)
    assert said["code"] == "no_backbone_fits"
    assert said["errors"][0]["location"] == ["body", "recipe", "budget"]
    assert said["backbones"]["formnet"] == ["takes 5.0 ms an image, of at most 0.1 ms"]


def test_a_training_may_leave_its_backbone_open(http: TestClient, versioned: str) -> None:
    recipe = {"backbone": "auto", "budget": {"size_bytes": 10_000_000}}
    answer = http.post("/v1/jobs", json={"dataset": versioned, "model": "mine", "recipe": recipe})
    assert answer.status_code == 202
    assert answer.json()["plan"] is None
    assert answer.json()["spec"]["budget"]["size_bytes"] == 10_000_000


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        ({"backbone": "auto", "strategy": "full"}, "strategy"),
        ({"backbone": "auto", "weights": "none"}, "weights"),
        ({"backbone": "formnet", "budget": {"macs": 1}}, "budget"),
        ({"backbone": "auto", "budget": {"latency_ms": 0}}, "budget"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(
    http: TestClient, versioned: str, recipe: dict[str, object], field: str
) -> None:
    body = {"dataset": versioned, "model": "mine", "recipe": recipe}
    found = problem(http.post("/v1/jobs", json=body), 422)
    assert found["errors"][0]["location"][:3] == ["body", "recipe", field]


@pytest.mark.parametrize("number", ["1e999", "Infinity", "NaN", "1e16"])
def test_a_budget_has_an_end(http: TestClient, versioned: str, number: str) -> None:
    recipe = {"backbone": "auto", "budget": {"latency_ms": "NUMBER"}}
    body = json.dumps({"dataset": versioned, "model": "mine", "recipe": recipe}).replace('"NUMBER"', number)
    found = problem(http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"}), 422)
    assert found["errors"][0]["location"] == ["body", "recipe", "budget", "latency_ms"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/plans"])
@pytest.mark.parametrize(
    ("stages", "field"),
    [
        ({"freeze": "layer33"}, "freeze"),
        ({"stage": "layer33"}, "stage"),
        ({"freeze": "best"}, "freeze"),
        ({"stage": "layer3", "freeze": "patches"}, "freeze"),  # none has both
    ],
)
def test_a_stage_that_no_backbone_has_is_refused_also_where_the_backbone_is_open(
    http: TestClient, versioned: str, bell: Bell, path: str, stages: dict[str, str], field: str
) -> None:
    body: dict[str, object] = {"dataset": versioned, "recipe": {"backbone": "auto", **stages}}
    found = problem(http.post(path, json=body | ({"model": "mine"} if path == "/v1/jobs" else {})), 422)
    assert found["code"] == "unknown_stage"
    assert found["errors"][0]["location"] == ["body", "recipe", field]
    assert "layer3" in found["nearest"] or stages != {"freeze": "layer33"}
    assert bell.rung == []


def test_of_the_ranked_backbones_those_with_the_named_stage_are_chosen_from(
    http: TestClient, versioned: str, database: Database
) -> None:
    ranked(database, asked(http, versioned)["id"])
    first = http.post("/v1/plans", json={"dataset": versioned, "recipe": {"backbone": "auto"}}).json()["spec"]
    others = [name for name in WEIGHTS_HERE if name != first["backbone"]]
    stages = {name: set(catalogue.find(name).facts.stages) for name in WEIGHTS_HERE}
    (own, *_) = sorted(stages[others[0]] - stages[first["backbone"]])
    recipe = {"backbone": "auto", "freeze": own}
    measuring = http.post("/v1/plans", json={"dataset": versioned, "recipe": recipe}).json()
    assert (measuring["kind"], measuring["spec"]["backbone"]) == ("analyse", others[0])

    nowhere = {"backbone": "auto", "freeze": "patches"}  # a stage of networks that were not ranked
    refused = problem(http.post("/v1/plans", json={"dataset": versioned, "recipe": nowhere}), 422)
    assert refused["code"] == "no_backbone_fits"
    assert refused["backbones"][first["backbone"]] == ["has no stage patches"]
    assert refused["errors"][0]["location"] == ["body", "recipe", "backbone"]
    job = http.post("/v1/jobs", json={"dataset": versioned, "model": "mine", "recipe": nowhere})
    assert job.status_code == 202  # what a worker has is known to the worker
