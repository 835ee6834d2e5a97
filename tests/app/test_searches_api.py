"""Searches over HTTP: what can be asked for, and what is refused before anything is trained."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.datasets import service as datasets
from app.db import Database, utc_now
from app.jobs import leases, service
from app.jobs.leases import Failure
from app.profiles import service as profiles
from tests.app.conftest import NOW, Bell
from tests.app.planned import profile
from tests.problems import problem

FULL = {"backbone": "mobilenet_v2", "strategy": "full"}


def wanted(dataset_id: str, search: dict[str, Any], **recipe: Any) -> dict[str, Any]:
    return {"dataset": dataset_id, "model": "insects", "recipe": {**FULL, **recipe, "search": search}}


def asked(dataset_id: str, search: dict[str, Any], **recipe: Any) -> dict[str, Any]:
    """The same as a dry run."""
    given = wanted(dataset_id, search, **recipe)
    return {name: value for name, value in given.items() if name != "model"}


@pytest.fixture
def measured(http: TestClient, database: Database, versioned: str) -> str:
    """A version of which the costs are known: 0.04 s for a step with an image, 21 training images."""
    job = http.post("/v1/plans", json={"dataset": versioned, "recipe": FULL, "measure": True}).json()
    with database.write() as session:
        version = datasets.version_of(session, versioned, 1)
        profiles.record(session, version, profile(), choice="pretrained", job_id=job["id"], now=NOW)
    return versioned


def test_a_search_is_kept_with_the_job_beside_the_plan_of_its_first_trial(http: TestClient, versioned: str) -> None:
    searched = http.post("/v1/jobs", json=wanted(versioned, {"seconds": 300, "trials": 20}))
    assert searched.status_code == 202
    plain = http.post("/v1/jobs", json={**wanted(versioned, {"trials": 2}), "recipe": FULL})
    assert searched.json()["spec"]["search"] == {"seconds": 300, "trials": 20}
    assert plain.json()["spec"]["search"] is None
    assert searched.json()["plan"] == plain.json()["plan"]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({}, "body.recipe.search.seconds: a search needs an end: seconds, trials, or both"),
        ({"seconds": 0}, "body.recipe.search.seconds"),
        ({"trials": 1}, "body.recipe.search.trials"),
        ({"minutes": 5}, "body.recipe.search.minutes: no such field"),
    ],
)
def test_a_search_without_sense_is_refused_with_the_reason(
    http: TestClient, versioned: str, search: dict[str, Any], said: str
) -> None:
    document = problem(http.post("/v1/jobs", json=wanted(versioned, search)), 422)
    assert document["code"] == "invalid_request"
    assert said in document["detail"]


def test_a_recipe_that_leaves_nothing_open_cannot_be_searched(http: TestClient, versioned: str) -> None:
    closed = {"learning_rate": 0.01, "weight_decay": 0, "augmentation": {"policy": "crop"}, "epochs": 3}
    for recipe in ({"strategy": "head"}, {"strategy": "stage_probe"}, closed):
        document = problem(http.post("/v1/jobs", json=wanted(versioned, {"trials": 5}, **recipe)), 422)
        assert document["code"] == "nothing_to_search"
        assert document["errors"][0]["location"] == ["body", "recipe", "search"]
    assert http.post("/v1/jobs", json=wanted(versioned, {"trials": 5}, **{**closed, "epochs": None})).status_code == 202


def test_a_budget_shorter_than_one_trial_is_refused_where_that_is_known(http: TestClient, measured: str) -> None:
    for path, body in (
        ("/v1/jobs", wanted(measured, {"seconds": 3, "trials": 5})),
        ("/v1/plans", asked(measured, {"seconds": 3})),
        ("/v1/jobs", wanted(measured, {"seconds": 0.1}, strategy="auto")),
    ):
        document = problem(http.post(path, json=body), 422)
        assert document["code"] == "budget_too_short"
        assert document["errors"][0]["location"] == ["body", "recipe", "search", "seconds"]
        assert document["estimated_seconds"] > document["seconds"]
    several, two = (
        http.post("/v1/plans", json=asked(measured, {"trials": trials})).json()["plan"]["estimate"]["seconds"]
        for trials in (3, 2)
    )
    enough = several - two
    document = problem(http.post("/v1/plans", json=asked(measured, {"seconds": enough / 2})), 422)
    assert document["estimated_seconds"] == pytest.approx(enough, abs=0.1)
    assert f"about {enough:.1f} s" in document["detail"]


def test_a_waiting_search_that_is_to_finish_is_taken_as_such(
    http: TestClient, versioned: str, database: Database, bell: Bell
) -> None:
    job_id = http.post("/v1/jobs", json=wanted(versioned, {"trials": 9})).json()["id"]
    http.post(f"/v1/jobs/{job_id}/pause")
    for _ in range(2):
        assert http.post(f"/v1/jobs/{job_id}/finish").json()["state"] == "finishing"
    assert bell.rung[-1] == ("gpu", job_id)
    assert problem(http.post(f"/v1/jobs/{job_id}/pause"), 409)["code"] == "job_in_other_state"
    with database.write() as session:
        now = utc_now()
        claim = leases.claim(session, job_id, now=now, lease_seconds=30)
        assert claim is not None
        assert leases.record(session, claim, [], now=now, lease_seconds=30) == "finishing"
        lost = Failure("worker_stopped", "stopped", {})
        assert leases.release(session, claim, lost, counts=False, now=now) == "finishing"
        again = leases.claim(session, job_id, now=now, lease_seconds=30)
        assert again is not None
        leases.succeed(session, again, {"model": "insects"}, now=now)
    assert problem(http.post(f"/v1/jobs/{job_id}/finish"), 409)["code"] == "job_has_ended"


def test_a_search_that_waits_to_finish_can_be_cancelled(http: TestClient, versioned: str, database: Database) -> None:
    job_id = http.post("/v1/jobs", json=wanted(versioned, {"trials": 9})).json()["id"]
    http.post(f"/v1/jobs/{job_id}/finish")
    assert http.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelling"
    with database.write() as session:
        assert leases.fail_out_of_attempts(session, now=utc_now()) == [job_id]
    assert http.get(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_waits_is_rung_for_and_taken_in_time_also_where_the_clock_of_the_api_is_ahead(
    http: TestClient, versioned: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = utc_now() + timedelta(hours=1)
    for module in ("app.db", "app.jobs.routes"):
        monkeypatch.setattr(f"{module}.utc_now", lambda: ahead, raising=False)

    def rung() -> datetime | None:
        with database.read() as session:
            return service.find(session, job_id).rung_at

    job_id = http.post("/v1/jobs", json=wanted(versioned, {"trials": 9})).json()["id"]
    moments = [rung()]
    http.post(f"/v1/jobs/{job_id}/pause")
    for verb in ("resume", "cancel", "retry", "finish"):
        assert http.post(f"/v1/jobs/{job_id}/{verb}").is_success
        moments.append(rung())
    assert all(moment is not None and moment < ahead - timedelta(minutes=30) for moment in moments)
    with database.write() as session:
        now = database.now(session)
        claim = leases.claim(session, job_id, now=now, lease_seconds=30)
        assert claim is not None
        leases.release(session, claim, Failure("worker_stopped", "stopped", {}), counts=False, now=now)
        assert leases.claim(session, job_id, now=now, lease_seconds=30) is not None


def test_only_a_search_can_be_finished(http: TestClient, versioned: str) -> None:
    plain = http.post("/v1/jobs", json={**wanted(versioned, {"trials": 2}), "recipe": FULL}).json()["id"]
    assert problem(http.post(f"/v1/jobs/{plain}/finish"), 409)["code"] == "no_search"
    assert problem(http.post("/v1/jobs/job_none/finish"), 404)["code"] == "job_not_found"


def test_a_training_from_a_base_takes_no_search(http: TestClient, versioned: str) -> None:
    document = problem(http.post("/v1/jobs", json=wanted(versioned, {"trials": 3}, base="insects@1")), 422)
    assert "body.recipe.search: not with a base to start from" in document["detail"]


def test_an_experiment_takes_no_search(http: TestClient, versioned: str) -> None:
    recipe = {**FULL, "search": {"trials": 3}}
    asked = {"dataset": versioned, "model": "insects", "backbone": "mobilenet_v2", "fine_tune": recipe}
    document = problem(http.post("/v1/experiments", json=asked), 422)
    assert "fine_tune.search: the runs of an experiment are single trainings" in document["detail"]


def test_a_short_budget_is_taken_where_nothing_was_measured(http: TestClient, versioned: str) -> None:
    for strategy in ("full", "auto"):
        assert http.post("/v1/jobs", json=wanted(versioned, {"seconds": 3}, strategy=strategy)).status_code == 202


def test_an_end_by_trials_alone_needs_no_time(http: TestClient, measured: str) -> None:
    assert http.post("/v1/jobs", json=wanted(measured, {"trials": 2})).status_code == 202
