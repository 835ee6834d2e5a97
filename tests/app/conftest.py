"""The HTTP application in this process, over each kind of database."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.datasets import service as datasets
from app.datasets.service import NewVersion
from app.db import Database
from app.jobs import leases, service
from app.main import build, equip
from app.settings import Settings
from tests import databases

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Bell:
    """A doorbell that remembers who was rung for."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str]] = []

    def ring(self, queue: str, job_id: str) -> None:
        self.rung.append((queue, job_id))


def sqlite_url(folder: Path) -> str:
    """URL of a migrated SQLite database, for tests that are not about databases."""
    return databases.sqlite_copy(folder / "graft.db")


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture(scope="session")
def built() -> FastAPI:
    """The application for one test after the other: to build it, and its routes when they are first asked for, takes
    longer than most tests."""
    return build()


@pytest.fixture
def api(built: FastAPI, settings: Settings, bell: Bell) -> FastAPI:
    equip(built, settings, bell)
    return built


@pytest.fixture
def http(api: FastAPI) -> Iterator[TestClient]:
    with TestClient(api, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def versioned(database: Database, dataset_id: str) -> str:
    """A dataset with a version 1, as an import leaves it."""
    with database.write() as session:
        archive = service.Archive("imp_1", None, 10, "0" * 64)
        _, job = service.submit_import(session, dataset_id, archive, max_attempts=1, now=NOW)
        counts = {"ants": {"train": 14, "validation": 6}, "bees": {"train": 7, "validation": 3}}
        version = NewVersion(1, ("ants", "bees"), counts, 30, "0" * 64, "v1-first")
        datasets.add_version(session, "imp_1", dataset_id, version, accepted=30, ignored=0, now=NOW)
        claim = leases.claim(session, job.id, now=NOW, lease_seconds=60)
        assert claim is not None
        leases.succeed(session, claim, {"dataset_version": 1, "accepted": 30}, now=NOW)
    return dataset_id


@pytest.fixture
def dataset_id(http: TestClient) -> str:
    created = http.post("/v1/datasets", json={"name": "photos"})
    assert created.status_code == 201
    identifier: str = created.json()["id"]
    return identifier
