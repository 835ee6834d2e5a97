"""Measuring that plans ask for over HTTP: one job for all who ask, whatever becomes of it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from app.backbones import catalogue
from app.datasets import service as datasets
from app.db import Database
from app.jobs import leases
from app.jobs import service as jobs
from tests.app.conftest import NOW, Bell
from tests.app.planned import asked, claimed, fail, measure, wanted
from tests.problems import problem


def test_of_many_who_ask_at_the_same_moment_one_makes_the_job(versioned: str, database: Database) -> None:
    def ask(_number: int) -> str:
        with database.write() as session:
            version, backbone = datasets.find_version(session, versioned, 1), catalogue.find("mobilenet_v2")
            job = jobs.submit_analysis(session, version, backbone, choice="pretrained", max_attempts=1, now=NOW)
            return job.id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(16)))) == 1


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_a_measuring_that_came_to_nothing_is_done_anew(
    http: TestClient, versioned: str, database: Database, how: str
) -> None:
    first = asked(http, wanted(versioned, measure=True))["id"]
    if how == "failed":
        fail(database, first)
    else:
        http.post(f"/v1/jobs/{first}/cancel")

    second = asked(http, wanted(versioned, measure=True))["id"]
    assert second != first
    assert http.get(f"/v1/jobs/{first}").json()["state"] == how
    assert asked(http, wanted(versioned, measure=True))["id"] == second


def test_who_asks_for_what_is_paused_sets_it_going_again(http: TestClient, versioned: str, bell: Bell) -> None:
    job_id = asked(http, wanted(versioned, measure=True))["id"]
    assert http.post(f"/v1/jobs/{job_id}/pause").json()["state"] == "paused"
    again = asked(http, wanted(versioned, measure=True))
    assert (again["id"], again["state"]) == (job_id, "queued")
    assert bell.rung[-1] == ("gpu", job_id)


def test_who_asks_for_what_is_being_cancelled_gets_another_job(
    http: TestClient, versioned: str, database: Database
) -> None:
    first = asked(http, wanted(versioned, measure=True))["id"]
    claim = claimed(database, first)
    assert http.post(f"/v1/jobs/{first}/cancel").json()["state"] == "cancelling"

    second = asked(http, wanted(versioned, measure=True))["id"]
    assert second != first
    assert asked(http, wanted(versioned, measure=True))["id"] == second
    with database.write() as session:
        leases.confirm_cancel(session, claim, now=NOW)
    assert asked(http, wanted(versioned, measure=True))["id"] == second


def test_who_asks_for_what_is_being_paused_is_told_to_wait_and_sets_it_going_again_then(
    http: TestClient, versioned: str, database: Database
) -> None:
    job_id = asked(http, wanted(versioned, measure=True))["id"]
    claim = claimed(database, job_id)
    assert http.post(f"/v1/jobs/{job_id}/pause").json()["state"] == "pausing"

    told = problem(http.post("/v1/plans", json=wanted(versioned, measure=True)), 409)
    assert (told["code"], told["state"]) == ("job_in_other_state", "pausing")
    with database.write() as session:
        leases.confirm_pause(session, claim, now=NOW)
    again = asked(http, wanted(versioned, measure=True))
    assert (again["id"], again["state"]) == (job_id, "queued")


def test_a_request_to_measure_repeated_with_its_key_is_answered_with_its_job(
    http: TestClient, versioned: str, database: Database
) -> None:
    key = {"Idempotency-Key": "k"}
    first = asked(http, wanted(versioned, measure=True), **key)["id"]
    fail(database, first)

    assert asked(http, wanted(versioned, measure=True), **key)["id"] == first
    other = http.post("/v1/plans", json=wanted(versioned), headers=key)
    assert problem(other, 422)["code"] == "idempotency_key_reused"


def test_with_its_key_too_a_request_is_answered_with_the_plan_once_it_is_measured(
    http: TestClient, versioned: str, database: Database
) -> None:
    key = {"Idempotency-Key": "k"}
    body = wanted(versioned, measure=True)
    job_id = asked(http, body, **key)["id"]
    assert asked(http, body, **key)["id"] == job_id

    profile_id = measure(database, job_id)
    answer = http.post("/v1/plans", json=body, headers=key)
    assert answer.status_code == 200
    assert answer.json()["profile"]["id"] == profile_id


def test_a_key_stands_for_what_its_request_needs_next(http: TestClient, versioned: str, database: Database) -> None:
    key = {"Idempotency-Key": "k"}
    body = wanted(versioned, measure=True)
    first = asked(http, body, **key)["id"]
    claim = claimed(database, first)
    with database.write() as session:
        leases.succeed(session, claim, {}, now=NOW)  # and yet there is no profile

    second = asked(http, body, **key)["id"]
    assert second != first
    assert asked(http, body, **key)["id"] == second
