"""Optimisations of the model `colours`, and what came of them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from app.backbones import crops
from app.datasets import service as datasets
from app.db import Database, utc_now
from app.jobs import service
from app.jobs.schemas import OptimisationCreate
from app.jobs.tables import Job
from app.models import artifact, serving
from app.models import service as models
from app.optimisation import Report
from app.runtimes.form import Machine
from tests.worker.conftest import Desk
from tests.worker.made import Shelf
from worker.runner import Runner
from worker.splits import splits_of

MACHINE = Machine(threads=1)


def submit(desk: Desk, wanted: OptimisationCreate) -> Job:
    with desk.database.write() as session:
        version = models.find_version(session, "colours", 1)
        return service.submit_optimisation(session, "colours", version, wanted, max_attempts=1, now=utc_now())


def ended(desk: Desk, runner: Runner, wanted: OptimisationCreate) -> str:
    """Id of the optimisation."""
    job = submit(desk, wanted)
    assert runner.run(job.id)
    done = desk.job(job.id)
    assert done.state == "succeeded", done.error
    assert done.result is not None
    return str(done.result["optimisation"])


def report_of(database: Database, version_id: str) -> Report:
    with database.read() as session:
        return serving.report_of(serving.newest(session, version_id)["cpu"])


def pixels(desk: Desk, dataset_id: str, version_id: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The validation images as serving sees them, and their targets."""
    known = artifact.read(desk.files.model_version(version_id))
    with desk.database.read() as session:
        tag = datasets.find_version(session, dataset_id, 1).table_tag
    validation = splits_of(desk.files.dataset(dataset_id), tag).validation
    files = validation.read(range(len(validation)))
    return np.stack([crops.load(file, known.preprocessing, max_pixels=10**7) for file in files]), validation.targets


@pytest.fixture
def trained(desk: Desk, runner: Runner, dataset_id: str, shelf: Shelf) -> str:
    """Id of a version of the model `colours`."""

    def learned() -> str:
        job = desk.submit_training(dataset_id, epochs=12)
        runner.run(job.id)
        assert desk.job(job.id).state == "succeeded", desk.job(job.id).error
        with desk.database.read() as session:
            return models.find_version(session, "colours", 1).id

    return shelf.have("trained", desk.database, desk.files, learned)
