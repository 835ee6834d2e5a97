"""Jobs over HTTP: what can be asked for, and how a job is followed."""

from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

from app.db import Database
from app.jobs import leases
from app.jobs.events import Line
from tests.app.conftest import Bell
from tests.problems import problem

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def wanted(dataset_id: str, **recipe: object) -> dict[str, object]:
    recipe = {"backbone": "tinynet", "strategy": "full", "weights": "none", **recipe}
    return {"dataset": dataset_id, "model": "insects", "recipe": recipe}


def test_a_training_is_queued_with_its_plan_and_reasons(http: TestClient, versioned: str, bell: Bell) -> None:
    answer = http.post("/v1/jobs", json=wanted(versioned, epochs=3))

    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["kind"], job["queue"], job["dataset_version"]) == ("queued", "train", "gpu", 1)
    assert job["plan"]["descent"]["epochs"] == 3
    assert any("2 labels" in reason for reason in job["plan"]["reasons"])
    assert bell.rung[-1] == ("gpu", job["id"])
    assert http.get(answer.headers["location"]).json() == job


def test_an_unknown_backbone_is_answered_with_the_nearest_names(http: TestClient, versioned: str) -> None:
    answer = http.post("/v1/jobs", json=wanted(versioned, backbone="resnet81", weights="pretrained"))

    document = problem(answer, 422)
    assert document["code"] == "unknown_backbone"
    assert "resnet18" in document["nearest"]
    assert "did you mean" in document["detail"]


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (
            {"strategy": "head", "weights": "pretrained", "epochs": 3},
            "epochs: not for strategy 'head', only for top, full",
        ),
        ({"strategy": "head"}, "body.recipe.weights: strategy 'head' keeps layers as they are"),
        (
            {"strategy": "scratch", "weights": "pretrained"},
            "body.recipe.weights: strategy 'scratch' starts from random",
        ),
        ({"l2": 1.0}, "body.recipe.l2: needs pre-trained weights"),
        ({"layer_decay": 0.5}, "body.recipe.layer_decay: needs pre-trained weights"),
        ({"layer_decay": 0.0, "weights": None}, "body.recipe.layer_decay"),
        ({"weights": None, "reinit": "retrained"}, "body.recipe.reinit: with strategy 'full' that is every layer"),
        ({"weights": None, "reinit": "head", "l2": 1.0}, "body.recipe.l2: with reinit 'head' no linear classifier"),
        ({"weights": None, "stage": "stage1"}, "body.recipe.stage: not for strategy 'full'"),
        (
            {"strategy": "top", "weights": None, "augmentation": {"mixup": 1.0}},
            "body.recipe.augmentation.mixup: not for strategy 'top'",
        ),
        ({"learning_rat": 0.1}, "body.recipe.learning_rat: no such field; did you mean learning_rate"),
        ({"search": {"second": 5}}, "body.recipe.search.second: no such field; did you mean seconds?"),
        ({"xyz": 5}, "body.recipe.xyz: no such field"),
        ({"epochs": 0}, "epochs"),
        ({"stage": ""}, "body.recipe.stage: String should have at least 1 character"),
        ({"strategy": "top", "freeze": ""}, "body.recipe.freeze: String should have at least 1 character"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_with_the_reason(
    http: TestClient, versioned: str, recipe: dict[str, object], said: str
) -> None:
    document = problem(http.post("/v1/jobs", json=wanted(versioned, **recipe)), 422)

    assert document["code"] == "invalid_request"
    assert said in document["detail"]


def test_a_stage_that_does_not_exist_is_answered_with_the_nearest_ones(http: TestClient, versioned: str) -> None:
    recipes: tuple[dict[str, object], ...] = (
        {"strategy": "stage_probe", "stage": "layer33"},
        {"strategy": "top", "freeze": "layer33"},
        {"strategy": "auto", "freeze": "layer33"},
        {"strategy": "auto", "stage": "layer33"},
    )
    for recipe in recipes:
        asked = wanted(versioned, **{"backbone": "resnet18", "weights": "pretrained", **recipe})
        document = problem(http.post("/v1/jobs", json=asked), 422)
        assert document["code"] == "unknown_stage"
        assert "layer3" in document["nearest"]


@pytest.mark.parametrize(
    ("changes", "code", "location"),
    [
        ({"backbone": "resnet19"}, "unknown_backbone", ["recipe", "backbone"]),
        ({"backbone": "resnet18", "weights": "nope"}, "unknown_weights", ["recipe", "weights"]),
        ({"weights": "pretrained"}, "backbone_has_no_weights", ["recipe", "weights"]),
        ({"strategy": "head", "weights": None}, "backbone_has_no_weights", ["recipe", "backbone"]),
        (
            {"backbone": "resnet18", "weights": None, "strategy": "top", "freeze": "nope"},
            "unknown_stage",
            ["recipe", "freeze"],
        ),
        (
            {"backbone": "resnet18", "weights": None, "strategy": "stage_probe", "stage": "nope"},
            "unknown_stage",
            ["recipe", "stage"],
        ),
    ],
)
def test_a_problem_of_a_recipe_points_at_its_field(
    http: TestClient, versioned: str, changes: dict[str, object], code: str, location: list[str]
) -> None:
    document = problem(http.post("/v1/jobs", json=wanted(versioned, **changes)), 422)
    assert document["code"] == code
    assert [place["location"] for place in document["errors"]] == [["body", *location]]


def test_a_data_set_or_version_that_is_not_there_is_pointed_at(http: TestClient, versioned: str) -> None:
    missing = problem(http.post("/v1/jobs", json=wanted("nope")), 404)
    assert [place["location"] for place in missing["errors"]] == [["body", "dataset"]]
    missing = problem(http.post("/v1/jobs", json={**wanted(versioned), "version": 7}), 404)
    assert [place["location"] for place in missing["errors"]] == [["body", "version"]]


def test_full_without_weights_is_another_way_to_say_scratch(http: TestClient, versioned: str) -> None:
    said: tuple[dict[str, object], ...] = (
        {"strategy": "scratch", "weights": None},
        {"strategy": "scratch"},
        {"strategy": "full", "weights": "none"},
    )
    plans = [http.post("/v1/jobs", json=wanted(versioned, **recipe)).json()["plan"] for recipe in said]
    assert plans[0] == plans[1] == plans[2]
    assert (plans[0]["strategy"], plans[0]["weights"]) == ("scratch", "none")


def test_what_decides_itself_has_no_plan_until_it_has_measured(http: TestClient, versioned: str) -> None:
    asked = wanted(versioned, backbone="formnet", strategy="auto", weights=None, epochs=3, views=2)
    job = http.post("/v1/jobs", json=asked).json()
    assert (job["plan"], job["spec"]["strategy"]) == (None, "auto")


def test_what_decides_itself_trains_from_random_values_where_there_are_no_others(
    http: TestClient, versioned: str
) -> None:
    without = wanted(versioned, backbone="tinynet", strategy="auto", weights=None)
    not_wanted = wanted(versioned, backbone="formnet", strategy="auto", weights="none")
    for asked in (without, not_wanted):
        assert http.post("/v1/jobs", json=asked).json()["plan"]["strategy"] == "scratch"


@pytest.mark.parametrize("field", [{"l2": 0.1}, {"reinit": "head"}, {"layer_decay": 0.5}])
def test_what_random_values_have_no_use_for_is_left_out_and_told(
    http: TestClient, versioned: str, field: dict[str, object]
) -> None:
    asked = wanted(versioned, backbone="tinynet", strategy="auto", weights=None, **field)
    queued = http.post("/v1/jobs", json=asked)
    assert queued.status_code == 202, queued.text
    (name,) = field
    assert f"Not for strategy 'scratch', and so left out: {name}." in queued.json()["plan"]["reasons"]


def test_weights_are_asked_for_by_name(http: TestClient, versioned: str) -> None:
    named = wanted(versioned, backbone="resnet50", weights="IMAGENET1K_V2")
    answer = http.post("/v1/jobs", json=named)
    assert answer.status_code == 202
    assert answer.json()["plan"]["weights"] == "IMAGENET1K_V2"
    assert any("IMAGENET1K_V2" in reason for reason in answer.json()["plan"]["reasons"])

    document = problem(http.post("/v1/jobs", json=wanted(versioned, backbone="resnet50", weights="IMAGENET_V2")), 422)
    assert document["code"] == "unknown_weights"
    assert "IMAGENET1K_V2" in document["nearest"]


def test_any_network_of_timm_can_be_trained(http: TestClient, versioned: str) -> None:
    assert http.post("/v1/jobs", json=wanted(versioned, backbone="timm:resnet10t")).status_code == 202
    document = problem(http.post("/v1/jobs", json=wanted(versioned, backbone="timm:resnet10")), 422)
    assert "timm:resnet10t" in document["nearest"]


def test_a_backbone_without_weights_cannot_start_from_them(http: TestClient, versioned: str) -> None:
    answer = http.post("/v1/jobs", json=wanted(versioned, weights="pretrained"))

    assert problem(answer, 422)["code"] == "backbone_has_no_weights"


def test_training_needs_a_version(http: TestClient, versioned: str) -> None:
    empty = http.post("/v1/datasets", json={"name": "empty"}).json()["id"]

    document = problem(http.post("/v1/jobs", json=wanted(empty)), 409)
    assert document["code"] == "dataset_has_no_version"
    assert "import photos first" in document["detail"]
    assert problem(http.post("/v1/jobs", json=wanted("ds_none")), 404)["code"] == "dataset_not_found"
    answer = http.post("/v1/jobs", json={**wanted(versioned), "version": 7})
    assert problem(answer, 404)["code"] == "version_not_found"


def test_a_job_repeated_with_its_key_is_one_job(http: TestClient, versioned: str, bell: Bell) -> None:
    rung = len(bell.rung)
    ids = {
        http.post("/v1/jobs", json=wanted(versioned), headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(3)
    }

    assert len(ids) == 1
    assert len(bell.rung) == rung + 1


def test_jobs_are_listed_by_state(http: TestClient, versioned: str) -> None:
    first, second = (http.post("/v1/jobs", json=wanted(versioned)).json()["id"] for _ in range(2))
    http.post(f"/v1/jobs/{first}/cancel")

    def listed(**query: str) -> list[str]:
        return [job["id"] for job in http.get("/v1/jobs", params=query).json()["data"] if job["kind"] == "train"]

    assert listed() == [second, first]
    assert listed(state="cancelled") == [first]
    assert listed(dataset=versioned) == [second, first]
    assert problem(http.get("/v1/jobs?dataset=ds_none"), 404)["code"] == "dataset_not_found"
    assert problem(http.get("/v1/jobs?state=sleeping"), 422)


def test_events_are_a_list_and_a_stream_that_goes_on_where_it_was_left(
    http: TestClient, database: Database, versioned: str
) -> None:
    job_id = http.post("/v1/jobs", json=wanted(versioned)).json()["id"]
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
        assert claim is not None
        lines = [Line("epoch_finished", {"epoch": number}) for number in (1, 2)]
        leases.record(session, claim, lines, now=NOW, lease_seconds=30)
        leases.succeed(session, claim, {"model": "insects"}, now=NOW)

    listed = http.get(f"/v1/jobs/{job_id}/events").json()["data"]
    assert [(event["seq"], event["type"]) for event in listed] == [
        (1, "queued"),
        (2, "attempt_started"),
        (3, "epoch_finished"),
        (4, "epoch_finished"),
        (5, "succeeded"),
    ]
    page = http.get(f"/v1/jobs/{job_id}/events?after=1&limit=2").json()
    assert ([event["seq"] for event in page["data"]], page["has_more"]) == ([2, 3], True)

    stream = {"Accept": "text/event-stream"}
    whole = http.get(f"/v1/jobs/{job_id}/events", headers=stream)
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert [line for line in whole.text.splitlines() if line.startswith("id:")] == [f"id: {n}" for n in range(1, 6)]
    rest = http.get(f"/v1/jobs/{job_id}/events", headers={**stream, "Last-Event-ID": "4"})
    assert [line for line in rest.text.splitlines() if line.startswith("id:")] == ["id: 5"]


def test_events_of_no_job_are_a_problem_in_both_forms(http: TestClient) -> None:
    assert problem(http.get("/v1/jobs/job_none/events"), 404)["code"] == "job_not_found"
    answer = http.get("/v1/jobs/job_none/events", headers={"Accept": "text/event-stream"})
    assert problem(answer, 404)["code"] == "job_not_found"
