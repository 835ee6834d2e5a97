"""Plans over HTTP: a dry run at once, or the job that measures first."""

from dataclasses import asdict

import pytest
from fastapi.testclient import TestClient

from app.datasets import service as datasets
from app.datasets.service import NewVersion
from app.db import Database
from tests.app.conftest import NOW, Bell
from tests.app.planned import PROBE, asked, measure, wanted
from tests.problems import problem


def test_a_plan_is_that_of_a_training_and_starts_nothing(http: TestClient, versioned: str, bell: Bell) -> None:
    recipe = {"backbone": "tinynet", "strategy": "full", "weights": "none", "epochs": 4}
    answer = http.post("/v1/plans", json={"dataset": versioned, "recipe": recipe})

    assert answer.status_code == 200
    made = answer.json()
    assert (made["dataset_id"], made["dataset_version"], made["profile"]) == (versioned, 1, None)
    assert bell.rung == []
    job = http.post("/v1/jobs", json={"dataset": versioned, "model": "insects", "recipe": recipe}).json()
    assert made["plan"] == job["plan"]


def test_a_version_that_was_not_measured_is_measured_once_for_all_who_ask(
    http: TestClient, versioned: str, bell: Bell, database: Database
) -> None:
    job = asked(http, wanted(versioned, measure=True))
    assert (job["kind"], job["state"], job["dataset_version"]) == ("analyse", "queued", 1)
    assert job["spec"] == {"backbone": "mobilenet_v2", "weights": "pretrained"}
    assert bell.rung[-1] == ("gpu", job["id"])
    same = wanted(versioned, measure=True, strategy="full", weights="IMAGENET1K_V1")
    assert asked(http, same)["id"] == job["id"]
    assert asked(http, wanted(versioned, measure=True, strategy="full", weights="none"))["id"] == job["id"]
    assert asked(http, wanted(versioned, measure=True, backbone="resnet18"))["id"] != job["id"]
    assert http.post("/v1/plans", json=wanted(versioned)).json()["profile"] is None

    profile_id = measure(database, job["id"])
    for body in (wanted(versioned, measure=True), wanted(versioned), same):
        answer = http.post("/v1/plans", json=body)
        assert answer.status_code == 200
        found = answer.json()["profile"]
        assert (found["id"], found["job_id"]) == (profile_id, job["id"])
    assert http.get(f"/v1/jobs/{job['id']}").json()["result"] == {"profile": profile_id}
    assert http.get(f"/v1/profiles/{profile_id}").json() == found
    assert found["figures"]["depths"][0]["probe"] == asdict(PROBE)
    assert found["figures"]["costs"]["step"] == 0.04


def test_what_decides_itself_is_measured_first_and_then_has_a_plan_with_its_evidence(
    http: TestClient, versioned: str, database: Database
) -> None:
    job = asked(http, wanted(versioned, strategy="auto", epochs=3))
    measure(database, job["id"])
    plan = http.post("/v1/plans", json=wanted(versioned, strategy="auto", epochs=3)).json()["plan"]
    assert (plan["strategy"], plan["quadrant"]["amount"]) in {("head", "little"), ("stage_probe", "little")}
    assert plan["quadrant"]["evidence"][0] in plan["reasons"]
    assert 0 <= plan["expected"]["low"] <= plan["expected"]["high"] <= 1
    assert plan["estimate"]["seconds"] > 0
    assert "left out: epochs" in " ".join(plan["reasons"])
    by_hand = http.post("/v1/plans", json=wanted(versioned, strategy="full", epochs=3)).json()["plan"]
    assert (by_hand["strategy"], by_hand["descent"]["epochs"]) == ("full", 3)
    assert by_hand["quadrant"] == plan["quadrant"]
    assert by_hand["estimate"]["seconds"] > plan["estimate"]["seconds"]


def test_a_backbone_without_weights_cannot_be_measured(http: TestClient, versioned: str) -> None:
    body = wanted(versioned, measure=True, backbone="tinynet", strategy="full", weights="none")
    assert problem(http.post("/v1/plans", json=body), 422)["code"] == "backbone_has_no_weights"


def test_what_makes_no_training_makes_no_plan(http: TestClient, versioned: str) -> None:
    def code(body: dict[str, object], status: int) -> str:
        told: str = problem(http.post("/v1/plans", json=body), status)["code"]
        return told

    empty = http.post("/v1/datasets", json={"name": "empty"}).json()["id"]
    assert code(wanted(versioned, backbone="resnet81"), 422) == "unknown_backbone"
    assert code(wanted(versioned, weights="IMAGENET_V2", measure=True), 422) == "unknown_weights"
    assert code({**wanted(versioned), "version": 7}, 404) == "version_not_found"
    assert code(wanted("ds_none"), 404) == "dataset_not_found"
    assert code(wanted(empty, measure=True), 409) == "dataset_has_no_version"
    assert code({**wanted(versioned), "model": "insects"}, 422) == "invalid_request"
    assert problem(http.get("/v1/profiles/prf_none"), 404)["code"] == "profile_not_found"


@pytest.fixture
def few(http: TestClient, database: Database) -> str:
    """A data set of three labels, of which only one has more than a single training image."""
    dataset_id: str = http.post("/v1/datasets", json={"name": "few"}).json()["id"]
    counts = {"ants": {"train": 1, "validation": 1}, "bees": {"train": 5, "validation": 1}}
    counts["wasps"] = counts["ants"]
    version = NewVersion(1, tuple(counts), counts, 10, "1" * 64, "v1-first")
    with database.write() as session:
        datasets.add_version(session, "imp_few", dataset_id, version, accepted=10, ignored=0, now=NOW)
    return dataset_id


def test_with_too_few_images_to_measure_what_decides_itself_has_its_plan_at_once(
    http: TestClient, few: str, bell: Bell
) -> None:
    plan = http.post("/v1/plans", json=wanted(few, strategy="auto", epochs=3)).json()["plan"]
    assert (plan["strategy"], plan["quadrant"], plan["expected"]) == ("head", None, None)
    assert plan["reasons"][0] == (
        "Nothing can be measured: that takes 2 training images of each of 2 labels at least, and 1 of 3 labels has as "
        "many; so the layers stay as they are, which is right for little data."
    )
    assert plan["reasons"][-1] == "Not for strategy 'head', and so left out: epochs."
    assert bell.rung == []
    asked_for = {"dataset": few, "model": "insects", "recipe": wanted(few, strategy="auto", epochs=3)["recipe"]}
    assert http.post("/v1/jobs", json=asked_for).json()["plan"] == plan


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/plans", {"recipe": {"backbone": "mobilenet_v2"}, "measure": True}),
        ("/v1/plans", {"recipe": {"backbone": "auto"}}),
        ("/v1/jobs", {"kind": "rank"}),
        ("/v1/jobs", {"kind": "rank", "candidates": [{"backbone": "formnet"}]}),
    ],
)
def test_what_too_few_images_cannot_tell_is_refused_with_how_many_it_takes(
    http: TestClient, few: str, bell: Bell, path: str, body: dict[str, object]
) -> None:
    document = problem(http.post(path, json={"dataset": few, **body}), 422)
    assert document["code"] == "too_few_images"
    assert (document["labels"], document["labels_with_enough_images"]) == (3, 1)
    assert (document["labels_needed"], document["images_needed"]) == (2, 2)
    assert bell.rung == []
    assert http.get(f"/v1/jobs?dataset={few}").json()["data"] == []


def test_a_training_that_is_to_choose_its_backbone_is_taken_also_with_few_images(http: TestClient, few: str) -> None:
    refused = problem(http.post("/v1/plans", json={"dataset": few, "recipe": {"backbone": "auto"}}), 422)
    assert refused["errors"][0]["location"] == ["body", "recipe", "backbone"]
    assert "a training takes the cheapest one at hand" in refused["detail"]
    answer = http.post("/v1/jobs", json={"dataset": few, "model": "insects", "recipe": {"backbone": "auto"}})
    assert answer.status_code == 202
    assert answer.json()["plan"] is None
