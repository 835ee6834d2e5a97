"""Deleting model versions over HTTP: what is needed stays, what goes is gone everywhere, and no number comes again."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.datasets.tables import Dataset
from app.db import Database, utc_now
from app.models import directory, serving
from app.models import service as models
from app.models.tables import Alias, ModelVersion
from tests import factories
from tests.problems import problem

MODEL = "/v1/models/insects"
ALIAS = f"{MODEL}/aliases/production"
ANY = {"If-Match": "*"}


@pytest.fixture
def insects(http: TestClient, database: Database, versioned: str) -> list[str]:
    """Ids of the three versions of a model."""
    ids = [models.new_version_id() for _ in range(3)]
    for version_id in ids:
        factories.register_version(database, version_id, versioned, labels=("ants", "bees"))
    return ids


def point(http: TestClient, version: int) -> None:
    assert http.put(ALIAS, json={"version": version}, headers=ANY).is_success or (
        http.put(ALIAS, json={"version": version}).status_code == 201
    )


def train(http: TestClient, dataset: str, **recipe: object) -> Any:
    wanted = {"backbone": "tinynet", "strategy": "head", **recipe}
    return http.post("/v1/jobs", json={"dataset": dataset, "model": "later", "recipe": wanted})


def numbers(http: TestClient) -> list[int]:
    return [one["number"] for one in http.get(f"{MODEL}/versions").json()["data"]]


def known(database: Database) -> directory.Snapshot:
    with database.read() as session:
        return directory.load(session, serving.Choices(serving.PLAIN_PROCESS))


def test_a_deleted_version_is_gone_everywhere_and_the_others_stay(
    http: TestClient, database: Database, insects: list[str]
) -> None:
    before = known(database).revision
    assert http.delete(f"{MODEL}/versions/2").status_code == 204

    assert numbers(http) == [3, 1]
    assert problem(http.get(f"{MODEL}/versions/2"), 404)["code"] == "model_version_not_found"
    assert problem(http.delete(f"{MODEL}/versions/2"), 404)["code"] == "model_version_not_found"
    assert problem(http.get(f"{MODEL}/versions/2/evaluation"), 404)["code"] == "model_version_not_found"
    assert problem(http.post(f"{MODEL}@2/predict", content=b"x"), 404)["code"] == "model_version_not_found"
    assert problem(http.put(ALIAS, json={"version": 2}), 404)["code"] == "model_version_not_found"
    now = known(database)
    assert now.revision > before
    assert sorted(now.served) == ["insects", "insects@1", "insects@3"]


def test_a_name_stands_for_the_newest_that_is_left_and_no_number_comes_again(
    http: TestClient, database: Database, insects: list[str], versioned: str
) -> None:
    assert http.delete(f"{MODEL}/versions/3").status_code == 204
    assert http.get(MODEL).json()["latest_version"] == 2
    assert known(database).served["insects"].number == 2

    factories.register_version(database, models.new_version_id(), versioned, labels=("ants", "bees"))
    assert numbers(http) == [4, 2, 1]


def test_a_model_goes_with_its_last_version_and_its_numbers_go_on_if_it_comes_back(
    http: TestClient, database: Database, insects: list[str], versioned: str
) -> None:
    assert http.delete(MODEL, headers=ANY).status_code == 204

    assert problem(http.get(MODEL), 404)["code"] == "model_not_found"
    assert problem(http.delete(MODEL, headers=ANY), 404)["code"] == "model_not_found"
    assert http.get("/v1/models").json()["data"] == []
    assert (known(database).served, known(database).names) == ({}, ())
    factories.register_version(database, models.new_version_id(), versioned, labels=("ants", "bees"))
    assert numbers(http) == [4]
    assert http.delete(f"{MODEL}/versions/4").status_code == 204
    assert problem(http.get(MODEL), 404)["code"] == "model_not_found"


def test_a_model_is_deleted_as_its_caller_has_seen_it(
    http: TestClient, database: Database, insects: list[str], versioned: str
) -> None:
    seen = http.get(MODEL)
    assert (seen.headers["etag"], seen.json()["revision"]) == ('"3"', 3)
    factories.register_version(database, models.new_version_id(), versioned, labels=("ants", "bees"))

    assert problem(http.delete(MODEL), 428)["code"] == "precondition_required"
    assert problem(http.delete(MODEL, headers={"If-Match": seen.headers["etag"]}), 412)["code"] == "precondition_failed"
    assert numbers(http) == [4, 3, 2, 1]
    assert http.delete(f"{MODEL}/versions/4").status_code == 204
    assert http.get(MODEL).headers["etag"] == '"4"'  # that there was one is not forgotten
    assert http.delete(MODEL, headers={"If-Match": '"4"'}).status_code == 204


def test_a_deleted_version_is_not_among_the_nearest(
    http: TestClient, database: Database, insects: list[str], versioned: str
) -> None:
    assert http.delete(f"{MODEL}/versions/2").status_code == 204

    for number, nearest in ((1, ["insects@1"]), (2, [])):
        assert problem(http.get(f"{MODEL}/aliases/{number}x"), 404)["nearest"] == []
        for said in (
            problem(http.post(f"{MODEL}:{number}/predict", content=b"x"), 404),
            problem(train(http, versioned, base=f"insects:{number}"), 404),
        ):
            assert (said["code"], said["nearest"]) == ("alias_not_found", nearest)


def test_what_an_alias_points_to_stays(http: TestClient, insects: list[str]) -> None:
    point(http, 2)

    for url in (f"{MODEL}/versions/2", MODEL):
        document = problem(http.delete(url, headers=ANY), 409)
        assert (document["code"], document["needed_by"]) == ("model_version_has_alias", ["insects:production"])
        assert document["detail"] == "insects:production points to insects@2; move or remove the alias first"
    assert numbers(http) == [3, 2, 1]
    assert http.delete(f"{MODEL}/versions/3").status_code == 204
    assert http.delete(ALIAS, headers=ANY).status_code == 204
    assert http.delete(f"{MODEL}/versions/2").status_code == 204
    assert numbers(http) == [1]


def test_a_rollback_passes_deleted_versions_over(http: TestClient, insects: list[str]) -> None:
    for version in (1, 2, 1, 3):
        point(http, version)
    assert http.delete(f"{MODEL}/versions/2").status_code == 204

    rolled = http.post(f"{ALIAS}/rollback", headers=ANY)
    assert rolled.json()["version"] == 1
    # Before that it pointed to what is deleted, and before that to where it points now.
    document = problem(http.post(f"{ALIAS}/rollback", headers=ANY), 409)
    assert document["code"] == "nothing_to_roll_back_to"


@pytest.mark.parametrize("base", ["insects@1", "insects:production"])
def test_what_a_job_starts_from_stays_until_it_has_ended(
    http: TestClient, insects: list[str], versioned: str, base: str
) -> None:
    point(http, 1)
    job = train(http, versioned, base=base).json()["id"]
    assert http.delete(ALIAS, headers=ANY).status_code == 204

    document = problem(http.delete(f"{MODEL}/versions/1"), 409)
    assert (document["code"], document["needed_by"]) == ("model_version_in_use", [f"job {job}"])
    assert f"job {job} works with insects@1" in document["detail"]
    assert problem(http.delete(MODEL, headers=ANY), 409)["code"] == "model_version_in_use"
    assert http.delete(f"{MODEL}/versions/2").status_code == 204
    assert http.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert http.delete(f"{MODEL}/versions/1").status_code == 204
    # What it started from is gone, and so it is not done again.
    retried = problem(http.post(f"/v1/jobs/{job}/retry"), 404)
    assert (retried["code"], retried["detail"]) == ("model_version_deleted", "insects@1 was deleted")


@pytest.mark.parametrize("base", ["insects@2", "insects:production"])
def test_a_base_that_is_deleted_is_a_problem_at_the_field(
    http: TestClient, insects: list[str], versioned: str, base: str
) -> None:
    point(http, 2)
    assert http.delete(ALIAS, headers=ANY).status_code == 204
    assert http.delete(f"{MODEL}/versions/2").status_code == 204

    document = problem(train(http, versioned, base=base), 404)
    assert document["errors"][0]["location"] == ["body", "recipe", "base"]
    assert http.delete(MODEL, headers=ANY).status_code == 204
    assert problem(train(http, versioned, base=base), 404)["code"] == "model_not_found"


def test_what_is_compared_or_ranked_stays_meanwhile(http: TestClient, insects: list[str], versioned: str) -> None:
    compared = http.post(f"{MODEL}/versions/1/optimise", json={}).json()["id"]
    wanted: dict[str, Any] = {"kind": "rank", "dataset": versioned}
    ranked = http.post("/v1/jobs", json={**wanted, "candidates": [{"model": "insects"}, {"model": "insects@2"}]})
    assert ranked.status_code == 202, ranked.text

    for number, job in ((2, ranked.json()["id"]), (3, ranked.json()["id"])):
        assert problem(http.delete(f"{MODEL}/versions/{number}"), 409)["needed_by"] == [f"job {job}"]
    http.post(f"/v1/jobs/{ranked.json()['id']}/cancel")
    assert http.delete(f"{MODEL}/versions/2").status_code == 204
    # It is asked for by its number, and so it is missed.
    again = problem(http.post(f"/v1/jobs/{ranked.json()['id']}/retry"), 404)
    assert again["code"] == "model_version_not_found"
    document = problem(http.delete(f"{MODEL}/versions/1"), 409)
    assert document["needed_by"] == [f"job {compared}"]
    said = f"job {compared} compares the forms of insects@1, as after each training, which takes some minutes; "
    assert document["detail"] == f"{said}wait until it has ended, or cancel it"
    http.post(f"/v1/jobs/{compared}/cancel")
    assert http.delete(MODEL, headers=ANY).status_code == 204
    assert problem(http.post(f"/v1/jobs/{compared}/retry"), 404)["detail"] == "insects@1 was deleted"


def test_a_ranking_may_read_any_version_of_a_model_that_it_names_alone(
    http: TestClient, database: Database, insects: list[str], versioned: str
) -> None:
    wanted = {"kind": "rank", "dataset": versioned, "candidates": [{"model": "insects"}]}
    ranked = http.post("/v1/jobs", json=wanted).json()["id"]
    factories.register_version(database, models.new_version_id(), versioned, labels=("ants", "bees"))

    for number in (3, 4):
        assert problem(http.delete(f"{MODEL}/versions/{number}"), 409)["needed_by"] == [f"job {ranked}"]


def test_an_alias_and_a_removal_at_the_same_moment_never_leave_one_without_the_other(
    api: FastAPI, http: TestClient, database: Database, insects: list[str]
) -> None:
    async def race() -> tuple[list[httpx.Response], list[httpx.Response]]:
        transport = httpx.ASGITransport(app=api)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            pointed = [client.put(f"{MODEL}/aliases/a{place}", json={"version": place + 1}) for place in range(3)]
            gone = [client.delete(f"{MODEL}/versions/{place + 1}") for place in range(3)]
            answers = await asyncio.gather(*[one for pair in zip(pointed, gone, strict=True) for one in pair])
        return list(answers[::2]), list(answers[1::2])

    for put, deleted in zip(*asyncio.run(race()), strict=True):
        assert {put.status_code, deleted.status_code} in ({201, 409}, {404, 204})
    with database.read() as session:
        there = {version.number for version in models.versions_newest_first(session, "insects", limit=9, after=None)}
    assert {one.version.number for one in known(database).pointers} == there


def test_experiments_and_jobs_still_tell_of_what_is_deleted(
    http: TestClient, database: Database, insects: list[str]
) -> None:
    with database.read() as session:
        job_id = models.find_version(session, "insects", 2).job_id
    assert http.delete(f"{MODEL}/versions/2").status_code == 204

    assert http.get(f"/v1/jobs/{job_id}").json()["state"] == "succeeded"
    with database.read() as session:
        made = models.of_job(session, job_id)
    assert made is not None
    assert (made.number, made.deleted_at is not None) == (2, True)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_when_something_was_deleted_is_told_by_the_clock_of_the_database(
    http: TestClient, database: Database, insects: list[str], versioned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = utc_now() + timedelta(hours=1)
    for module in ("app.db", "app.jobs.removal_routes", "app.models.alias_routes"):
        monkeypatch.setattr(f"{module}.utc_now", lambda: ahead, raising=False)
    point(http, 1)
    assert http.delete(ALIAS, headers=ANY).status_code == 204
    assert http.delete(f"{MODEL}/versions/1").status_code == 204
    assert http.delete(f"/v1/datasets/{versioned}", headers=ANY).status_code == 204

    with database.read() as session:
        rows = (session.get_one(ModelVersion, insects[0]), session.get_one(Dataset, versioned))
        times = [row.deleted_at for row in (*rows, *session.scalars(select(Alias)))]
    assert len(times) == 3
    assert all(moment is not None and moment < ahead - timedelta(minutes=30) for moment in times)


def test_a_data_set_stays_until_the_jobs_that_work_with_it_have_ended(
    http: TestClient, insects: list[str], versioned: str
) -> None:
    url = f"/v1/datasets/{versioned}"
    paused, queued = (train(http, versioned, base=base).json()["id"] for base in ("insects@1", "insects@2"))
    http.post(f"/v1/jobs/{paused}/pause")
    before = http.get(url).headers["etag"]

    document = problem(http.delete(url, headers=ANY), 409)
    assert (document["code"], document["needed_by"]) == ("dataset_in_use", [f"job {paused}", f"job {queued}"])
    assert f"job {queued} works with dataset photos; wait until it has ended, or cancel it" in document["detail"]
    assert http.get(url).headers["etag"] == before
    assert problem(http.delete(url, headers={"If-Match": '"77"'}), 412)["code"] == "precondition_failed"
    assert problem(http.delete(url), 428)["code"] == "precondition_required"
    for job in (paused, queued):
        http.post(f"/v1/jobs/{job}/cancel")
    assert http.delete(url, headers=ANY).status_code == 204
    assert problem(http.get(url), 404)["code"] == "dataset_not_found"


def test_who_deletes_a_data_set_after_a_training_is_told_what_still_reads_it(
    http: TestClient, insects: list[str], versioned: str
) -> None:
    compared = http.post(f"{MODEL}/versions/1/optimise", json={}).json()["id"]

    document = problem(http.delete(f"/v1/datasets/{versioned}", headers=ANY), 409)
    assert (document["code"], document["needed_by"]) == ("dataset_in_use", [f"job {compared}"])
    said = f"job {compared} compares the forms of insects@1 on images of dataset photos, as after each training, which"
    assert document["detail"] == f"{said} takes some minutes; wait until it has ended, or cancel it"


def test_a_data_set_stays_while_a_training_goes_on_from_a_model_that_was_made_from_it(
    http: TestClient, database: Database, insects: list[str], versioned: str
) -> None:
    other = http.post("/v1/datasets", json={"name": "origin"}).json()["id"]
    factories.register_version(database, models.new_version_id(), other, labels=("ants", "bees"))
    job = train(http, versioned, base="insects@4").json()["id"]

    assert problem(http.delete(f"/v1/datasets/{other}", headers=ANY), 409)["needed_by"] == [f"job {job}"]
    http.post(f"/v1/jobs/{job}/cancel")
    assert http.delete(f"/v1/datasets/{other}", headers=ANY).status_code == 204
