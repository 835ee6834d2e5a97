"""Workers in this process: real jobs in real processes, over each kind of database."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from app.backbones import catalogue
from app.datasets import service as datasets
from app.datasets.schemas import DatasetCreate
from app.db import Database, new_id, utc_now
from app.jobs import events, service
from app.jobs.schemas import JobCreate
from app.jobs.tables import Job
from app.limits import Search
from app.recipe import Recipe
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.worker.made import Shelf
from worker.forkserver import Forkserver
from worker.runner import Runner

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests that train for seconds, where others of the module do what touches the database on both kinds."""


@pytest.fixture
def runner(database: Database, files: Storage, settings: Settings, forkserver: Forkserver) -> Runner:
    return Runner(database, files, settings, forkserver)


@dataclass(frozen=True)
class Desk:
    """Where tests hand in jobs and look at what became of them."""

    database: Database
    files: Storage
    folder: Path

    def submit_import(self, photos: dict[str, bytes], *, dataset_id: str | None = None, max_attempts: int = 2) -> Job:
        archive_id = new_id("imp")
        factories.zip_of(self.folder, photos).rename(self.files.archive(archive_id))
        with self.database.write() as session:
            if dataset_id is None:
                dataset_id = datasets.create(session, DatasetCreate(name=archive_id), now=utc_now()).id
            archive = service.Archive(archive_id, None, 1, "0" * 64)
            _, job = service.submit_import(session, dataset_id, archive, max_attempts=max_attempts, now=utc_now())
            return job

    def submit_training(
        self,
        dataset_id: str,
        *,
        epochs: int,
        model: str = "colours",
        max_attempts: int = 2,
        search: Search | None = None,
    ) -> Job:
        recipe = Recipe(backbone="tinynet", strategy="full", weights="none", epochs=epochs, batch_size=8, search=search)
        wanted = JobCreate(dataset=dataset_id, model=model, recipe=recipe)
        with self.database.write() as session:
            return service.submit_training(
                session, wanted, max_activation_bytes=factories.ROOM, max_attempts=max_attempts, now=utc_now()
            )

    def submit_analysis(self, dataset_id: str, *, backbone: str = factories.SMALL, max_attempts: int = 2) -> Job:
        with self.database.write() as session:
            version = datasets.find_version(session, dataset_id, None)
            return service.submit_analysis(
                session,
                version,
                catalogue.find(backbone),
                choice="pretrained",
                max_attempts=max_attempts,
                now=utc_now(),
            )

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return service.find(session, job_id)

    def history(self, job_id: str) -> list[str]:
        with self.database.read() as session:
            return [event.type for event in events.after(session, job_id, 0, limit=1000)]

    def cancel(self, job_id: str) -> None:
        with self.database.write() as session:
            service.cancel(session, job_id, now=utc_now())


@pytest.fixture
def desk(database: Database, files: Storage, tmp_path: Path) -> Desk:
    return Desk(database, files, tmp_path)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("made"))


@pytest.fixture
def dataset_id(desk: Desk, runner: Runner, shelf: Shelf) -> str:
    """A dataset with a version 1 of 20 images."""

    def imported() -> str:
        job = desk.submit_import(factories.photos(each=10))
        assert runner.run(job.id)
        assert desk.job(job.id).state == "succeeded", desk.job(job.id).error
        return job.dataset_id

    return shelf.have("dataset", desk.database, desk.files, imported)
