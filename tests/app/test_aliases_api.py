"""Aliases over HTTP: put, moved, rolled back, removed, and never lost to whoever acts at the same moment."""

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from app.db import Database
from app.models import service as models
from app.models.aliases import MAX_ALIASES
from app.models.tables import ModelVersion
from tests import factories
from tests.problems import problem

ALIASES = "/v1/models/insects/aliases"
URL = f"{ALIASES}/production"
ANY = {"If-Match": "*"}


@pytest.fixture
def insects(http: TestClient, database: Database, dataset_id: str) -> list[str]:
    """Ids of the three versions of a model."""
    ids = [models.new_version_id() for _ in range(3)]
    for version_id in ids:
        factories.register_version(database, version_id, dataset_id, labels=("ants", "bees"))
    return ids


def put(http: TestClient, version: int, url: str = URL, **headers: str) -> Any:
    return http.put(url, json={"version": version}, headers={name.replace("_", "-"): v for name, v in headers.items()})


def addressed(database: Database, reference: str) -> int:
    with database.read() as session:
        return models.served(session, reference).number


def test_an_alias_is_made_read_and_listed(http: TestClient, database: Database, insects: list[str]) -> None:
    made = http.put(URL, json={"version": 2, "keep_loaded": True})

    assert (made.status_code, made.headers["location"], made.headers["etag"]) == (201, URL, '"1"')
    assert made.json()["version"] == 2
    assert made.json()["keep_loaded"] is True
    read = http.get(URL)
    assert read.json() == made.json()
    assert read.headers["etag"] == made.headers["etag"]
    assert put(http, 3, f"{ALIASES}/canary", If_None_Match="*").status_code == 201
    names = ["canary", "production"]
    assert [one["name"] for one in http.get(ALIASES).json()["data"]] == names
    page = http.get(ALIASES, params={"limit": 1}).json()
    assert (page["has_more"], http.get(ALIASES, params={"after": page["data"][0]["name"]}).json()["data"]) == (
        True,
        [made.json()],
    )
    for model in (http.get("/v1/models/insects").json(), http.get("/v1/models").json()["data"][0]):
        assert [one["name"] for one in model["aliases"]] == names
    assert [addressed(database, name) for name in ("insects", "insects@1", "insects:production")] == [3, 1, 2]


def test_an_alias_that_is_there_is_moved_only_from_a_state_that_is_named(http: TestClient, insects: list[str]) -> None:
    first = put(http, 1).headers["etag"]

    assert problem(put(http, 2), 428)["code"] == "precondition_required"
    assert problem(put(http, 2, If_None_Match="*"), 412)["code"] == "precondition_failed"
    moved = put(http, 2, If_Match=first)
    assert (moved.status_code, moved.json()["version"]) == (200, 2)
    assert problem(put(http, 3, If_Match=first), 412)["code"] == "precondition_failed"
    assert problem(put(http, 3, If_Match="*", If_None_Match="*"), 412)["code"] == "precondition_failed"
    assert put(http, 3, If_Match="*").json()["version"] == 3
    assert problem(put(http, 3, f"{ALIASES}/none", If_Match="*"), 412)["code"] == "precondition_failed"
    assert problem(put(http, 3, If_None_Match='"1"'), 422)["code"] == "invalid_request"


def test_what_a_put_leaves_out_stays_as_it_is(http: TestClient, insects: list[str]) -> None:
    http.put(URL, json={"version": 1, "keep_loaded": True})

    assert put(http, 2, If_Match="*").json()["keep_loaded"] is True
    off = http.put(URL, json={"version": 2, "keep_loaded": False}, headers=ANY).json()
    assert (off["keep_loaded"], off["revision"]) == (False, 3)
    assert [move["version"] for move in http.get(f"{URL}/history").json()["data"]] == [2, 1]


@pytest.mark.parametrize(
    ("url", "version", "code", "nearest"),
    [
        ("/v1/models/insect/aliases/production", 1, "model_not_found", ["insects"]),
        (URL, 7, "model_version_not_found", ["insects@3"]),
    ],
)
def test_what_an_alias_cannot_point_to_is_answered_with_the_nearest(
    http: TestClient, insects: list[str], url: str, version: int, code: str, nearest: list[str]
) -> None:
    for headers in ({}, ANY):
        document = problem(http.put(url, json={"version": version}, headers=headers), 404)
        assert (document["code"], document["nearest"]) == (code, nearest)


@pytest.mark.parametrize("name", ["12", "_a", "-a", "Production", "a" * 64, "a b", "ä"])
def test_an_alias_that_could_be_taken_for_something_else_is_refused(
    http: TestClient, insects: list[str], name: str
) -> None:
    document = problem(put(http, 1, f"{ALIASES}/{name}"), 422)
    assert document["code"] == "invalid_request"
    (wrong,) = document["errors"]
    assert wrong["location"] == ["path", "alias"]
    assert "digits alone" in wrong["message"] or "at most 63" in wrong["message"]


@pytest.mark.parametrize("version", [True, "1", 1.5])
def test_a_version_is_a_whole_number(http: TestClient, insects: list[str], version: object) -> None:
    (wrong,) = problem(http.put(URL, json={"version": version}), 422)["errors"]
    assert wrong["location"] == ["body", "version"]


@pytest.mark.parametrize("name", ["a", "9-1", "2_", "v2", "2026-11", "a" * 63])
def test_an_alias_may_look_like_this(http: TestClient, database: Database, insects: list[str], name: str) -> None:
    assert put(http, 1, f"{ALIASES}/{name}").status_code == 201
    assert addressed(database, f"insects:{name}") == 1


def test_rolling_back_goes_to_where_it_pointed_before_and_on_to_what_was_before_that(
    http: TestClient, database: Database, insects: list[str]
) -> None:
    put(http, 1)
    for version in (2, 3):
        put(http, version, If_Match="*")
    url = f"{URL}/rollback"

    assert problem(http.post(url), 428)["code"] == "precondition_required"
    back = http.post(url, headers={"If-Match": '"3"'})
    assert (back.status_code, back.json()["version"]) == (200, 2)
    assert problem(http.post(url, headers={"If-Match": '"3"'}), 412)["code"] == "precondition_failed"
    assert http.post(url, headers={"If-Match": back.headers["etag"]}).json()["version"] == 1
    assert problem(http.post(url, headers=ANY), 409)["code"] == "nothing_to_roll_back_to"
    assert addressed(database, "insects:production") == 1
    put(http, 3, If_Match="*")
    assert http.post(url, headers=ANY).json()["version"] == 1

    history = http.get(f"{URL}/history").json()["data"]
    assert [(move["action"], move["version"]) for move in history] == [
        ("rolled_back", 1), ("moved", 3), ("rolled_back", 1), ("rolled_back", 2), ("moved", 3), ("moved", 2),
        ("moved", 1),
    ]  # fmt: skip
    older = http.get(f"{URL}/history", params={"after": history[4]["revision"], "limit": 1}).json()
    assert ([move["version"] for move in older["data"]], older["has_more"]) == ([2], True)


def test_a_removed_alias_addresses_nothing_and_its_old_etags_are_never_valid_again(
    http: TestClient, database: Database, insects: list[str]
) -> None:
    old = put(http, 1).headers["etag"]

    assert problem(http.delete(URL), 428)["code"] == "precondition_required"
    assert problem(http.delete(URL, headers={"If-Match": '"9"'}), 412)["code"] == "precondition_failed"
    assert http.delete(URL, headers={"If-Match": old}).status_code == 204
    for gone in (http.get(URL), http.delete(URL, headers=ANY), http.post(f"{URL}/rollback", headers=ANY)):
        assert problem(gone, 404)["code"] == "alias_not_found"
    assert problem(http.get(f"{URL}/history"), 404)["code"] == "alias_not_found"
    assert http.get(ALIASES).json()["data"] == []

    assert put(http, 2).status_code == 201
    assert problem(put(http, 3, If_Match=old), 412)["code"] == "precondition_failed"
    assert problem(http.post(f"{URL}/rollback", headers=ANY), 409)["code"] == "nothing_to_roll_back_to"
    moves = http.get(f"{URL}/history").json()["data"]
    assert [(move["action"], move["version"]) for move in moves] == [("moved", 2), ("removed", None), ("moved", 1)]


def test_a_model_has_only_so_many_aliases(http: TestClient, insects: list[str]) -> None:
    for number in range(MAX_ALIASES):
        assert put(http, 1, f"{ALIASES}/a{number}").status_code == 201
    assert problem(put(http, 1), 409)["code"] == "too_many_aliases"
    assert problem(put(http, 2, f"{ALIASES}/a0"), 428)["code"] == "precondition_required"
    assert put(http, 2, f"{ALIASES}/a0", If_Match="*").status_code == 200
    assert put(http, 2, f"{ALIASES}/a0", If_Match="*").status_code == 200


def test_no_version_can_vanish_under_an_alias(http: TestClient, database: Database, insects: list[str]) -> None:
    put(http, 1)
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(delete(ModelVersion).where(ModelVersion.id == insects[0]))


@pytest.mark.parametrize(
    ("reference", "code", "nearest"),
    [
        ("insect:production", "model_not_found", ["insects"]),
        ("insects:prodution", "alias_not_found", ["insects:production"]),
        ("insects:2", "alias_not_found", ["insects@2"]),
        ("insects@9", "model_version_not_found", ["insects@3"]),
    ],
)
def test_a_wrong_reference_is_answered_with_the_nearest_wherever_it_is_taken(
    http: TestClient, versioned: str, insects: list[str], reference: str, code: str, nearest: list[str]
) -> None:
    put(http, 1)
    recipe = {"backbone": "formnet", "strategy": "head", "base": reference}
    ranked = {"kind": "rank", "dataset": versioned, "candidates": [{"backbone": "formnet"}, {"model": reference}]}
    for document in (
        problem(http.post(f"/v1/models/{reference}/predict", content=b"", headers={"Content-Type": "image/jpeg"}), 404),
        problem(http.post("/v1/jobs", json={"dataset": versioned, "model": "insects", "recipe": recipe}), 404),
        problem(http.post("/v1/jobs", json=ranked), 404),
    ):
        assert (document["code"], document["nearest"]) == (code, nearest)


def test_a_job_keeps_the_version_that_an_alias_pointed_to_when_it_was_asked_for(
    http: TestClient, database: Database, versioned: str, insects: list[str]
) -> None:
    put(http, 2)
    recipe = {"backbone": "tinynet", "strategy": "head", "base": "insects:production"}
    training = http.post("/v1/jobs", json={"dataset": versioned, "model": "insects", "recipe": recipe})
    assert training.json()["spec"]["base"] == "insects@2"
    candidates = [{"model": "insects:production"}, {"model": "insects@1"}, {"model": "insects"}]
    ranking = http.post("/v1/jobs", json={"kind": "rank", "dataset": versioned, "candidates": candidates})
    assert [(one["model"], one["version"]) for one in ranking.json()["spec"]["candidates"]] == [
        ("insects", 2), ("insects", 1), ("insects", None),
    ]  # fmt: skip
    twice = [{"model": "insects:production", "version": 1}]
    refused = http.post("/v1/jobs", json={"kind": "rank", "dataset": versioned, "candidates": twice})
    assert "says its version already" in problem(refused, 422)["detail"]


MANY = 200


@pytest.mark.parametrize("action", ["move", "create", "roll_back"])
def test_of_many_that_act_on_the_same_state_one_wins(
    api: FastAPI, http: TestClient, database: Database, insects: list[str], action: str
) -> None:
    if action != "create":
        put(http, 1)
        put(http, 2, If_Match="*")
    asked: dict[str, Any] = {
        "move": {"method": "PUT", "url": URL, "json": {"version": 3}, "headers": {"If-Match": '"2"'}},
        "create": {"method": "PUT", "url": URL, "json": {"version": 3}, "headers": {"If-None-Match": "*"}},
        "roll_back": {"method": "POST", "url": f"{URL}/rollback", "headers": {"If-Match": '"2"'}},
    }[action]
    with database.read() as session:
        before = models.revision(session)

    async def all_at_once() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=api)
        async with httpx.AsyncClient(transport=transport, base_url="http://graft", timeout=60) as client:
            return await asyncio.gather(*(client.request(**asked) for _ in range(MANY)))

    statuses = Counter(answer.status_code for answer in asyncio.run(all_at_once()))

    assert statuses == {201 if action == "create" else 200: 1, 412: MANY - 1}
    with database.read() as session:
        assert models.revision(session) == before + 1
    assert len(http.get(f"{URL}/history").json()["data"]) == (1 if action == "create" else 3)
