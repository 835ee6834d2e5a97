"""The runner: jobs end as they should, whatever happens to their process, their worker or their database row."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import psutil
import pytest
import torch

from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.datasets import service as datasets
from app.db import Database, utc_now
from app.jobs import leases, retries, service
from app.models import artifact
from app.models import service as models
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.backbones.samples import equal
from tests.worker.conftest import Desk
from worker import kinds
from worker.forkserver import Forkserver
from worker.runner import Runner
from worker.train import train

MANY_EPOCHS = 1000


@contextmanager
def running(runner: Runner, job_id: str) -> Iterator[threading.Thread]:
    """The job being run by another thread, as a worker does."""
    thread = threading.Thread(target=runner.run, args=(job_id,))
    thread.start()
    yield thread
    thread.join(timeout=60)
    assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.02)


def job_processes() -> list[psutil.Process]:
    """The processes that the forkserver of this process has forked."""
    return [
        grandchild
        for child in psutil.Process().children()
        if "forkserver" in " ".join(child.cmdline())
        for grandchild in child.children()
    ]


def files_left(files: Storage) -> list[str]:
    kept = ("datasets", "features", "models")
    found = (path for path in files.root.rglob("*") if path.is_file())
    return [str(path) for path in found if path.relative_to(files.root).parts[0] not in kept]


def state_of(desk: Desk, number: int) -> Mapping[str, torch.Tensor]:
    """The values of a version of the model that trainings make."""
    with desk.database.read() as session:
        version_id = models.find_version(session, "colours", number).id
    return artifact.read(desk.files.model_version(version_id)).state


def test_a_worker_imports_nothing_that_only_jobs_need() -> None:
    program = "import sys, worker.local, worker.tasks; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "worker.runner" in modules
    assert not {"torch", "torchvision", "timm", "lance", "worker.child"} & set(modules)


def test_an_import_makes_a_version_and_leaves_no_archive(desk: Desk, runner: Runner, files: Storage) -> None:
    job = desk.submit_import({**factories.photos(each=10), "red/bad.jpg": b"x"})
    assert runner.run(job.id)

    ended = desk.job(job.id)
    assert (ended.state, ended.error) == ("succeeded", None)
    assert ended.result is not None
    assert (ended.result["dataset_version"], ended.result["accepted"], ended.result["refused"]) == (1, 20, 1)
    assert desk.history(job.id) == ["queued", "attempt_started", "version_written", "succeeded"]
    assert files_left(files) == []
    assert not runner.run(job.id)


def test_an_import_whose_archive_is_gone_asks_for_it_at_its_first_attempt(
    desk: Desk, runner: Runner, files: Storage
) -> None:
    job = desk.submit_import(factories.photos(each=2))
    files.archive(job.spec["import_id"]).unlink()
    assert runner.run(job.id)

    ended = desk.job(job.id)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "archive_gone"
    assert "upload it again" in ended.error["message"]


def test_a_training_ends_with_a_model_version_in_the_same_transaction(
    desk: Desk, runner: Runner, dataset_id: str, database: Database, files: Storage
) -> None:
    job = desk.submit_training(dataset_id, epochs=2)
    runner.run(job.id)

    ended = desk.job(job.id)
    assert ended.state == "succeeded", ended.error
    with database.read() as session:
        version = models.find_version(session, "colours", None)
    assert (version.number, version.job_id, version.labels) == (1, job.id, ["green", "red"])
    assert ended.plan == artifact.read(files.model_version(version.id)).plan
    assert files_left(files) == []


def test_mistakes_say_which_files_they_are(desk: Desk, runner: Runner) -> None:
    archive = factories.photos(each=20)
    # Twelve red ones in the other folder, which nobody has noticed.
    archive |= {f"green/odd {n}.jpg": factories.image(factories.COLOURS["red"], seed=500 + n) for n in range(12)}
    imported = desk.submit_import(archive)
    assert runner.run(imported.id)
    assert runner.run(desk.submit_training(imported.dataset_id, epochs=4).id)
    with desk.database.read() as session:
        version_id = models.find_version(session, "colours", 1).id
    found = artifact.read(desk.files.model_version(version_id)).evaluation["mistakes"]
    assert found
    for one in found:
        assert hashlib.sha256(archive[one["path"]]).hexdigest() == one["sha256"]


def test_cancelling_stops_the_process_and_leaves_nothing(
    desk: Desk, runner: Runner, dataset_id: str, files: Storage
) -> None:
    job = desk.submit_training(dataset_id, epochs=MANY_EPOCHS)
    with running(runner, job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        desk.cancel(job.id)

    assert desk.job(job.id).state == "cancelled"
    assert job_processes() == []
    assert files_left(files) == []


def test_a_failed_training_is_retried_with_all_its_attempts(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    job = desk.submit_training(dataset_id, epochs=12, max_attempts=1)
    with running(runner, job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        for process in job_processes():
            process.kill()
    assert desk.job(job.id).state == "failed"
    with database.write() as session:
        retries.retry(session, job.id, now=utc_now())
    assert runner.run(job.id)

    ended = desk.job(job.id)
    assert (ended.state, ended.attempt, ended.error) == ("succeeded", 1, None)
    anew = desk.history(job.id)[desk.history(job.id).index("retried") :]
    assert "resumed" not in anew
    assert anew.count("epoch_finished") == 12


def test_a_paused_training_keeps_its_steps_and_goes_on_with_them(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    job = desk.submit_training(dataset_id, epochs=12)
    with running(runner, job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        with database.write() as session:
            service.pause(session, job.id, now=utc_now())
    paused = desk.job(job.id)
    assert (paused.state, paused.attempt) == ("paused", 0)
    assert job_processes() == []
    assert not runner.run(job.id)
    with database.write() as session:
        service.resume(session, job.id, now=utc_now())
    assert runner.run(job.id)

    ended = desk.job(job.id)
    assert (ended.state, ended.attempt) == ("succeeded", 1)
    history = desk.history(job.id)
    assert "resumed" in history
    assert history.count("epoch_finished") == 12

    assert runner.run(desk.submit_training(dataset_id, epochs=12).id)
    begun = classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=0).state()
    paused_once, never_paused = (state_of(desk, number) for number in (1, 2))
    assert not torch.equal(paused_once["head.weight"], begun["head.weight"])
    assert equal(paused_once, never_paused)


def test_a_process_that_does_not_listen_is_killed_after_its_grace(
    desk: Desk, database: Database, files: Storage, settings: Settings, forkserver: Forkserver, dataset_id: str
) -> None:
    impatient = Runner(database, files, settings.model_copy(update={"cancel_grace_seconds": 0.5}), forkserver)
    job = desk.submit_training(dataset_id, epochs=MANY_EPOCHS)
    with running(impatient, job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        for process in job_processes():
            os.kill(process.pid, signal.SIGSTOP)
        desk.cancel(job.id)

    assert desk.job(job.id).state == "cancelled"
    assert job_processes() == []


def test_a_process_that_comes_to_no_pause_is_killed_and_costs_no_attempt(
    desk: Desk, database: Database, files: Storage, settings: Settings, forkserver: Forkserver, dataset_id: str
) -> None:
    impatient = Runner(database, files, settings.model_copy(update={"pause_grace_seconds": 0.5}), forkserver)
    job = desk.submit_training(dataset_id, epochs=MANY_EPOCHS, max_attempts=1)
    with running(impatient, job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        for process in job_processes():
            os.kill(process.pid, signal.SIGSTOP)
        with database.write() as session:
            service.pause(session, job.id, now=utc_now())

    paused = desk.job(job.id)
    assert (paused.state, paused.attempt) == ("paused", 0)
    assert job_processes() == []


def test_a_job_that_is_cancelled_while_it_is_to_pause_stops_as_fast_as_any(
    desk: Desk, database: Database, files: Storage, settings: Settings, forkserver: Forkserver, dataset_id: str
) -> None:
    patient = settings.model_copy(update={"pause_grace_seconds": 3600, "cancel_grace_seconds": 0.5})
    job = desk.submit_training(dataset_id, epochs=MANY_EPOCHS)
    with running(Runner(database, files, patient, forkserver), job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        for process in job_processes():
            os.kill(process.pid, signal.SIGSTOP)
        with database.write() as session:
            service.pause(session, job.id, now=utc_now())
        desk.cancel(job.id)

    assert desk.job(job.id).state == "cancelled"


def test_a_stopped_worker_gives_its_job_back_for_the_next(desk: Desk, runner: Runner, dataset_id: str) -> None:
    job = desk.submit_training(dataset_id, epochs=MANY_EPOCHS)
    with running(runner, job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        runner.stop()

    given_back = desk.job(job.id)
    assert (given_back.state, given_back.attempt) == ("queued", 0)
    assert not runner.run(job.id)


def test_a_worker_whose_lease_was_taken_over_stops_and_writes_nothing(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    job = desk.submit_training(dataset_id, epochs=MANY_EPOCHS)
    with running(runner, job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        with database.write() as session:
            # Another worker's clock says that the lease is over.
            taken = leases.claim(session, job.id, now=utc_now() + timedelta(hours=1), lease_seconds=3600)
        assert taken is not None
        lines = len(desk.history(job.id))

    assert job_processes() == []
    assert len(desk.history(job.id)) == lines
    current = desk.job(job.id)
    assert (current.state, current.attempt, current.lease_token) == ("running", 2, taken.token)


def test_a_model_is_published_by_the_second_try_where_the_first_commit_failed(
    desk: Desk, dataset_id: str, database: Database, files: Storage, settings: Settings
) -> None:
    job = desk.submit_training(dataset_id, epochs=1)
    kind = kinds.KINDS["train"]
    with database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
        assert claim is not None
        work = kind.prepare(session, claim, settings, files)
    outcome = train(work, lambda _event: None)

    def publish_and_lose_the_connection() -> None:
        with database.write() as session:
            kind.publish(session, claim, outcome, files, utc_now())
            raise ConnectionError

    with pytest.raises(ConnectionError):
        publish_and_lose_the_connection()
    assert desk.job(job.id).state == "running"
    with database.write() as session:
        kind.publish(session, claim, outcome, files, utc_now())

    assert desk.job(job.id).state == "succeeded"
    with database.read() as session:
        version = models.find_version(session, "colours", 1)
    assert artifact.read(files.model_version(version.id)).labels == ("green", "red")


def test_a_job_on_a_deleted_dataset_fails_with_the_reason(
    desk: Desk, runner: Runner, dataset_id: str, database: Database
) -> None:
    job = desk.submit_training(dataset_id, epochs=1)
    with database.write() as session:
        datasets.delete(session, dataset_id, revision=None, now=utc_now())
    runner.run(job.id)

    error = desk.job(job.id).error
    assert error is not None
    assert error["code"] == "dataset_not_found"
    assert re.fullmatch(r"dataset 'imp_\w+' was deleted", error["message"])
