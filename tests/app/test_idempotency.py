"""Repeats of a creating request while the first is under way: both are answered with what that creates."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app import idempotency
from app.db import Database
from tests import factories
from tests.app.scheduling import until

KEY = {"Idempotency-Key": "k1"}
SECONDS = 30
TRAINING = {"model": "insects", "recipe": {"backbone": "tinynet", "strategy": "scratch"}}
MEASURED = {"measure": True, "recipe": {"backbone": "mobilenet_v2", "strategy": "head"}}

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
"""SQLite has one writer at a time."""


def both(send: Callable[[], httpx2.Response], database: Database, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What two requests at once are answered with; the first does not commit before the second waits for it."""
    keep, has_created, may_commit = idempotency.remember, threading.Event(), threading.Event()

    def remember(*args: Any, **kwargs: Any) -> None:
        keep(*args, **kwargs)
        if not has_created.is_set():
            has_created.set()
            assert may_commit.wait(SECONDS)

    def waits() -> bool:
        with database.read() as session:
            of_this = "datname = current_database() AND wait_event_type = 'Lock'"
            return bool(session.scalar(text(f"SELECT count(*) FROM pg_stat_activity WHERE {of_this}")))

    monkeypatch.setattr(idempotency, "remember", remember)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(send)
        try:
            assert has_created.wait(SECONDS)
            second = pool.submit(send)
            until(waits)
        finally:
            may_commit.set()
        answers = [first.result(SECONDS), second.result(SECONDS)]
    return [(answer.status_code, answer.json()) for answer in answers]


@on_postgresql
def test_data_sets(http: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = both(lambda: http.post("/v1/datasets", json={"name": "x"}, headers=KEY), database, monkeypatch)
    assert first == second
    assert first[0] == 201


@on_postgresql
def test_imports(
    http: TestClient, dataset_id: str, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = factories.zip_of(tmp_path, factories.photos()).read_bytes()
    headers = {"Content-Type": "application/zip", **KEY}

    def send() -> httpx2.Response:
        return http.post(f"/v1/datasets/{dataset_id}/imports", content=body, headers=headers)

    first, second = both(send, database, monkeypatch)
    assert first == second
    assert first[0] == 202


@on_postgresql
@pytest.mark.parametrize(("path", "body"), [("/v1/jobs", TRAINING), ("/v1/plans", MEASURED)])
def test_jobs(
    http: TestClient,
    versioned: str,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    body: dict[str, object],
) -> None:
    first, second = both(
        lambda: http.post(path, json={"dataset": versioned, **body}, headers=KEY), database, monkeypatch
    )
    assert first == second
    assert first[0] == 202
