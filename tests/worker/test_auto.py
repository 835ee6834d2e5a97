"""Strategy `auto`, from the job to the model: measured, decided, told, carried out."""

from typing import Any

import pytest

from app import errors
from app.backbones import catalogue
from app.datasets import service as datasets
from app.db import Database, utc_now
from app.jobs import leases, service
from app.jobs.leases import Claim, Failure
from app.jobs.schemas import JobCreate
from app.jobs.tables import Job
from app.models import artifact
from app.models import service as models
from app.profiles import service as profiles
from app.profiles.tables import StoredProfile
from app.recipe import Recipe
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.training.samples import Recorder, Stopped
from tests.worker.conftest import Desk, on_sqlite
from worker import analyse, kinds
from worker.runner import Runner
from worker.train import train
from worker.training.events import Event, Planned
from worker.works import TrainWork


def submit(desk: Desk, dataset_id: str) -> Job:
    wanted = JobCreate(dataset=dataset_id, model="colours", recipe=Recipe(backbone="formnet", epochs=3))
    with desk.database.write() as session:
        return service.submit_training(
            session, wanted, max_activation_bytes=factories.ROOM, max_attempts=1, now=utc_now()
        )


@on_sqlite
def test_a_training_measures_decides_and_tells(desk: Desk, runner: Runner, dataset_id: str, files: Storage) -> None:
    job = submit(desk, dataset_id)
    assert job.plan is None

    assert runner.run(job.id)

    done = desk.job(job.id)
    assert done.state == "succeeded", done.error
    assert done.plan is not None
    assert done.plan["quadrant"]["amount"] == "little"
    assert done.plan["strategy"] in ("head", "stage_probe", "full")
    assert 0 <= done.plan["expected"]["low"] <= done.plan["expected"]["high"] <= 1
    assert done.plan["estimate"]["seconds"] > 0
    history = desk.history(job.id)
    assert history.index("profiled") < history.index("planned") < history.index("evaluated")
    stored = artifact.read(files.model_version(newest_version(desk.database, "colours")))
    assert stored.plan["quadrant"] == done.plan["quadrant"]


@on_sqlite
def test_what_a_training_decides_by_stays_that_of_the_job_that_measured_it(
    desk: Desk, runner: Runner, dataset_id: str
) -> None:
    measuring = desk.submit_analysis(dataset_id, backbone="formnet")
    runner.run(measuring.id)
    before = kept_profile(desk, dataset_id)
    training = submit(desk, dataset_id)
    runner.run(training.id)

    assert desk.job(training.id).state == "succeeded", desk.job(training.id).error
    assert "profiled" not in desk.history(training.id)
    after = kept_profile(desk, dataset_id)
    assert (after.id, after.job_id, after.created_at) == (before.id, measuring.id, before.created_at)


class StopsOncePlanned(Recorder):
    """Ends an attempt as soon as it has told its plan."""

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Planned):
            raise Stopped


def taken(desk: Desk, job: Job, files: Storage, settings: Settings) -> tuple[Claim, TrainWork]:
    """An attempt at the job, and what it has to work on."""
    with desk.database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
        assert claim is not None
        return claim, kinds.KINDS["train"].prepare(session, claim, settings, files)


@on_sqlite
def test_what_an_attempt_has_measured_is_kept_by_the_one_that_goes_on_with_its_plan(
    desk: Desk, runner: Runner, dataset_id: str, files: Storage, settings: Settings
) -> None:
    job, told = submit(desk, dataset_id), StopsOncePlanned()
    claim, work = taken(desk, job, files, settings)
    with pytest.raises(Stopped):
        train(work, told)
    (planned,) = told.of(Planned)
    with desk.database.write() as session:
        leases.record(session, claim, [], plan=planned.plan, now=utc_now(), lease_seconds=60)
        leases.release(session, claim, Failure("worker_stopped", "stopped", {}), counts=False, now=utc_now())
    runner.run(job.id)

    assert desk.job(job.id).state == "succeeded", desk.job(job.id).error
    assert "profiled" not in desk.history(job.id)  # in this attempt
    assert kept_profile(desk, dataset_id).job_id == job.id


def test_an_image_that_cannot_be_read_ends_a_training_before_there_is_a_plan(
    desk: Desk, dataset_id: str, files: Storage, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_args: Any, **_kwargs: Any) -> None:
        raise errors.BadImage("the image has 2000000 pixels, of at most 1000000")

    monkeypatch.setattr(analyse, "measure", unreadable)
    _, work = taken(desk, submit(desk, dataset_id), files, settings)
    told = Recorder()
    with pytest.raises(errors.BadImage):
        train(work, told)
    assert told.of(Planned) == []


def kept_profile(desk: Desk, dataset_id: str) -> StoredProfile:
    with desk.database.read() as session:
        version = datasets.find_version(session, dataset_id, 1)
        found = profiles.newest(session, version, catalogue.find("formnet"), choice="pretrained")
    assert found is not None
    return found


def newest_version(database: Database, name: str) -> str:
    with database.read() as session:
        return models.find_version(session, name, None).id
