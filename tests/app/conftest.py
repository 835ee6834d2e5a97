"""The HTTP application in this process, over each kind of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import migrations
from app.db import Database
from app.main import assemble
from app.settings import Settings


class Bell:
    """A doorbell that remembers who was rung for."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str]] = []

    def ring(self, queue: str, job_id: str) -> None:
        self.rung.append((queue, job_id))


def sqlite_url(folder: Path) -> str:
    """URL of a migrated SQLite database, for tests that are not about databases."""
    url = f"sqlite:///{folder / 'graft.db'}"
    database = Database(url)
    migrations.upgrade(database)
    database.close()
    return url


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def api(settings: Settings, bell: Bell) -> FastAPI:
    return assemble(settings, bell)


@pytest.fixture
def http(api: FastAPI) -> Iterator[TestClient]:
    with TestClient(api, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def dataset_id(http: TestClient) -> str:
    created = http.post("/v1/datasets", json={"name": "photos"})
    assert created.status_code == 201
    identifier: str = created.json()["id"]
    return identifier
