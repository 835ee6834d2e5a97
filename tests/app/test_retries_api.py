"""A job that came to nothing, queued once more."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db import Database
from app.jobs import leases
from app.jobs.leases import Failure
from app.storage import Storage
from tests import factories
from tests.app.conftest import NOW, Bell
from tests.app.test_jobs_api import wanted
from tests.problems import problem


def trained(http: TestClient, dataset_id: str) -> str:
    job_id: str = http.post("/v1/jobs", json=wanted(dataset_id)).json()["id"]
    return job_id


def ranked(http: TestClient, dataset_id: str) -> dict[str, Any]:
    job: dict[str, Any] = http.post("/v1/jobs", json={"kind": "rank", "dataset": dataset_id}).json()
    return job


def fail(database: Database, job_id: str) -> None:
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
        assert claim is not None
        leases.fail(session, claim, Failure("out_of_memory", "the batch is too large", {}), now=NOW)


def history(http: TestClient, job_id: str) -> list[tuple[int, str]]:
    listed = http.get(f"/v1/jobs/{job_id}/events").json()["data"]
    return [(event["attempt"], event["type"]) for event in listed]


def test_a_failed_job_is_queued_as_if_it_had_never_begun(
    http: TestClient, database: Database, versioned: str, bell: Bell
) -> None:
    job_id = trained(http, versioned)
    before = http.get(f"/v1/jobs/{job_id}").json()
    fail(database, job_id)
    bell.rung.clear()

    answer = http.post(f"/v1/jobs/{job_id}/retry")

    assert answer.status_code == 202
    assert answer.json() == before
    assert bell.rung == [("gpu", job_id)]
    fail(database, job_id)
    assert http.post(f"/v1/jobs/{job_id}/retry").status_code == 202
    assert history(http, job_id) == [
        (0, "queued"),
        (1, "attempt_started"),
        (1, "failed"),
        (0, "retried"),
        (1, "attempt_started"),
        (1, "failed"),
        (0, "retried"),
    ]


def test_a_cancelled_job_is_retried_without_what_it_had_kept(http: TestClient, versioned: str, files: Storage) -> None:
    job_id = trained(http, versioned)
    for step in ("pause", "cancel"):
        assert http.post(f"/v1/jobs/{job_id}/{step}").status_code == 202
    (files.job(job_id) / "checkpoint").touch()

    assert http.post(f"/v1/jobs/{job_id}/retry").json()["state"] == "queued"
    assert [*files.job(job_id).iterdir()] == []


def test_a_retry_that_is_repeated_with_its_key_is_the_first_one(
    http: TestClient, database: Database, versioned: str, bell: Bell, files: Storage
) -> None:
    job_id = trained(http, versioned)
    fail(database, job_id)
    bell.rung.clear()

    def retry(key: str) -> str:
        answer = http.post(f"/v1/jobs/{job_id}/retry", headers={"Idempotency-Key": key})
        assert answer.status_code == 202
        state: str = answer.json()["state"]
        return state

    assert retry("first") == "queued"
    (files.job(job_id) / "checkpoint").touch()
    assert retry("first") == "queued"
    assert (files.job(job_id) / "checkpoint").exists()
    fail(database, job_id)
    assert [retry("first"), retry("second")] == ["failed", "queued"]
    assert bell.rung == [("gpu", job_id)] * 2
    assert [kind for _, kind in history(http, job_id)].count("retried") == 2


@pytest.mark.parametrize("state", ["queued", "paused", "running", "succeeded"])
def test_a_job_in_another_state_is_not_retried(
    http: TestClient, database: Database, versioned: str, state: str
) -> None:
    job_id = trained(http, versioned)
    if state == "paused":
        http.post(f"/v1/jobs/{job_id}/pause")
    elif state != "queued":
        with database.write() as session:
            claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
            assert claim is not None
            if state == "succeeded":
                leases.succeed(session, claim, {}, now=NOW)

    document = problem(http.post(f"/v1/jobs/{job_id}/retry"), 409)

    assert document["detail"] == f"job {job_id} is {state}; only one that has failed or was cancelled can be retried"
    assert document["state"] == state
    assert document["code"] == ("job_has_ended" if state == "succeeded" else "job_in_other_state")


def test_an_import_is_uploaded_again_and_not_retried(http: TestClient, dataset_id: str, tmp_path: Path) -> None:
    body = factories.zip_of(tmp_path, factories.photos()).read_bytes()
    headers = {"Content-Type": "application/zip"}
    job = http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers=headers).json()["job"]
    http.post(f"/v1/jobs/{job['id']}/cancel")

    document = problem(http.post(f"/v1/jobs/{job['id']}/retry"), 409)

    assert document["code"] == "archive_gone"
    assert "upload the archive again" in document["detail"]


def test_what_another_job_is_after_meanwhile_is_not_looked_for_twice(
    http: TestClient, database: Database, versioned: str
) -> None:
    first = ranked(http, versioned)["id"]
    fail(database, first)
    second = ranked(http, versioned)["id"]

    document = problem(http.post(f"/v1/jobs/{first}/retry"), 409)

    assert document["code"] == "asked_meanwhile"
    assert second in document["detail"]
    fail(database, second)
    assert http.post(f"/v1/jobs/{first}/retry").status_code == 202
    assert ranked(http, versioned)["id"] == first


def test_a_job_on_a_deleted_data_set_is_not_retried(http: TestClient, database: Database, versioned: str) -> None:
    job_id = trained(http, versioned)
    fail(database, job_id)
    http.delete(f"/v1/datasets/{versioned}", headers={"If-Match": "*"})

    document = problem(http.post(f"/v1/jobs/{job_id}/retry"), 404)
    assert (document["code"], document["detail"]) == ("dataset_not_found", "dataset 'photos' was deleted")
    assert problem(http.post("/v1/jobs/job_none/retry"), 404)["code"] == "job_not_found"


def test_an_experiment_waits_for_an_arm_that_is_retried(http: TestClient, database: Database, versioned: str) -> None:
    asked = {"dataset": versioned, "model": "insects", "backbone": "formnet"}
    experiment = http.post("/v1/experiments", json=asked).json()
    arms = [arm["job_id"] for arm in experiment["arms"].values()]
    for job_id in arms:
        fail(database, job_id)
    place = f"/v1/experiments/{experiment['id']}"
    assert http.get(place).json()["has_ended"]

    assert http.post(f"/v1/jobs/{arms[0]}/retry").status_code == 202
    again = http.get(place).json()
    assert (again["has_ended"], again["verdict"]) == (False, None)


@pytest.mark.parametrize("recipe", [{"backbone": "auto"}, {"backbone": "formnet"}])
def test_what_decides_itself_decides_anew(
    http: TestClient, database: Database, versioned: str, recipe: dict[str, str]
) -> None:
    body = {"dataset": versioned, "model": "insects", "recipe": recipe}
    job_id = http.post("/v1/jobs", json=body).json()["id"]
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
        assert claim is not None
        decided = {"backbone": "squeezenet1_1", "strategy": "head", "base": None}
        leases.record(session, claim, [], plan=decided, now=NOW, lease_seconds=30)
        leases.fail(session, claim, Failure("weights_unavailable", "no usable weights", {}), now=NOW)

    answer = http.post(f"/v1/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["plan"]) == (202, None)
    with database.write() as session:
        claim = leases.claim(session, job_id, now=NOW, lease_seconds=30)
        assert claim is not None
        assert claim.plan is None


@pytest.mark.parametrize(
    "recipe",
    [
        {"backbone": "tinynet"},
        {"backbone": "formnet", "weights": "none"},
        {"backbone": "mobilenet_v2", "strategy": "top"},
    ],
)
def test_what_was_planned_when_it_was_queued_stays_so(
    http: TestClient, database: Database, versioned: str, recipe: dict[str, str]
) -> None:
    job = http.post("/v1/jobs", json={"dataset": versioned, "model": "insects", "recipe": recipe}).json()
    assert job["plan"] is not None
    fail(database, job["id"])
    assert http.post(f"/v1/jobs/{job['id']}/retry").json()["plan"] == job["plan"]
