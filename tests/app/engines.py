"""Engines for versions whose networks are known."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.metrics import Metrics
from app.models.artifact import Calibration
from app.models.service import Served
from app.predictions.engine import Answered, Engine
from app.predictions.loaded import Answer
from app.predictions.opener import FromStorage
from app.predictions.scheduler import Limits, Scheduler
from app.predictions.shelf import Opener, Shelf
from app.runtimes.form import Machine
from app.storage import Storage
from tests import factories

PHOTO = factories.image(factories.COLOURS["red"])
LIMITS = Limits(threads=2, max_queued=100, batch_wait_seconds=0.01, max_image_pixels=1_000_000, drain_seconds=60)


@dataclass
class Versions:
    """Model versions on disk."""

    storage: Storage

    def add(self, name: str, calibration: Calibration | None = None) -> Served:
        factories.write_artifact(self.storage.model_version(name), calibration=calibration)
        return Served(name, name, 1)

    def remove(self, version: Served) -> None:
        self._manifest(version).unlink()

    def stall(self, version: Served) -> Callable[[], None]:
        """Let the loading of a version wait until the function that is returned is called."""
        manifest = self._manifest(version)
        content = manifest.read_text()
        manifest.unlink()
        os.mkfifo(manifest)

        def go_on() -> None:
            # One reader alone is served, so what is read again is the file.
            with manifest.open("w") as pipe:
                manifest.unlink()
                manifest.write_text(content)
                pipe.write(content)

        return go_on

    def _manifest(self, version: Served) -> Path:
        return self.storage.model_version(version.version_id) / "artifact.json"


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(Storage(tmp_path))


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(LIMITS)
    yield scheduler
    scheduler.close()


@pytest.fixture
def shelf(versions: Versions, scheduler: Scheduler) -> Iterator[Shelf]:
    """With room for two."""
    source = FromStorage(versions.storage, Machine(threads=2), 1, Metrics())
    need = source.need(versions.add("measured"))
    opener = Opener(source.need, source.open, scheduler.lane, lambda: None, lambda _form: None)
    shelf = Shelf(opener, max_bytes=need.kept + need.loading, retry_seconds=0)
    yield shelf
    shelf.close()


@pytest.fixture
def engine(shelf: Shelf, scheduler: Scheduler) -> Engine:
    return Engine(shelf, scheduler)


def ask(engine: Engine, version: Served, *, reference: str | None = None, photos: int = 1) -> Awaitable[Answered]:
    return engine.classify(reference or version.model_name, version, [PHOTO] * photos, timeout_seconds=60)


def one(engine: Engine, version: Served) -> Answer:
    async def asked() -> Answered:
        return await ask(engine, version)

    (answer,) = asyncio.run(asked()).answers
    return answer
