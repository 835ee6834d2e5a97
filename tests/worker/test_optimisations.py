"""Several optimisations of a version: which of them counts, what is pinned meanwhile, and what they give way to."""

import os
import signal
import threading
import time
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app.db import Database, utc_now
from app.jobs import leases, service
from app.jobs.leases import Claim
from app.jobs.schemas import OptimisationCreate
from app.models import service as models
from app.models import serving
from app.models.serving import Process
from app.optimisation import Pins, Serving
from app.runtimes.form import PLAIN
from app.settings import Settings
from app.storage import Storage
from tests.worker.conftest import Desk, on_sqlite
from tests.worker.optimised import ended, report_of, submit, trained
from tests.worker.test_runner import files_left, job_processes, until
from tests.worker.test_sweep import Bell
from worker import kinds, sweep
from worker.forkserver import Forkserver
from worker.runner import Runner
from worker.station import Station
from worker.sweep import Sweeper

__all__ = ["trained"]  # a fixture


@on_sqlite
def test_an_optimisation_of_some_forms_keeps_what_is_pinned_and_what_is_served(
    desk: Desk, runner: Runner, trained: str
) -> None:
    ended(desk, runner, OptimisationCreate(forms=["onnxruntime-fp32", "openvino-fp32"]))
    with desk.database.write() as session:
        serving.pin(session, "colours", 1, Pins("openvino", "fp32"), revision=None)
    ended(desk, runner, OptimisationCreate(forms=["torch-fp32"]))
    found = report_of(desk.database, trained)
    assert [form.name for form in found.forms] == [PLAIN.name, "openvino-fp32"]
    assert found.is_partial
    with desk.database.read() as session:
        version = models.find_version(session, "colours", 1)
        assert serving.of_version(session, version, Process()).forms[0] == "openvino-fp32"


def test_what_is_pinned_during_an_optimisation_of_other_forms_is_measured_before_that_counts(
    desk: Desk, runner: Runner, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(desk, runner, OptimisationCreate(forms=["onnxruntime-fp32", "openvino-fp32"]))
    is_first = report_of(desk.database, trained).order[0] == "openvino-fp32"
    pinned = "onnxruntime-fp32" if is_first else "openvino-fp32"
    kind = kinds.KINDS["optimise"]

    def pinned_meanwhile(session: Session, claim: Claim, settings: Settings, storage: Storage) -> Any:
        work = kind.prepare(session, claim, settings, storage)
        with desk.database.write() as other:
            serving.pin(other, "colours", 1, Pins(*pinned.split("-")), revision=None)
        return replace(work, kept_forms=(PLAIN.name,))

    job = submit(desk, OptimisationCreate(forms=["torch-fp32"]))
    with monkeypatch.context() as patched:
        patched.setitem(kinds.KINDS, "optimise", replace(kind, prepare=pinned_meanwhile))
        runner.run(job.id)
    waits = desk.job(job.id)
    assert (waits.state, waits.attempt, desk.history(job.id)[-1]) == ("queued", 0, "attempt_ended")
    assert list((desk.files.root / "jobs").iterdir()) == []

    runner.run(job.id)
    done = desk.job(job.id)
    assert done.state == "succeeded", done.error
    assert done.result is not None
    assert done.result["served"] == pinned
    with desk.database.read() as session:
        version = models.find_version(session, "colours", 1)
        served = serving.of_version(session, version, Process())
    assert (served.optimisation_id, served.forms[0]) == (done.result["optimisation"], pinned)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_what_is_pinned_at_the_moment_that_an_optimisation_of_other_forms_comes_to_count_is_not_lost(
    desk: Desk, runner: Runner, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(desk, runner, OptimisationCreate(forms=["onnxruntime-fp32", "openvino-fp32"]))
    served = report_of(desk.database, trained).order[0]
    pinned = "onnxruntime-fp32" if served == "openvino-fp32" else "openvino-fp32"
    kind = kinds.KINDS["optimise"]
    is_pinned, is_over = threading.Event(), threading.Event()

    def pin() -> None:
        with desk.database.write() as session:
            serving.pin(session, "colours", 1, Pins(*pinned.split("-")), revision=None)
            is_pinned.set()
            is_over.wait(1)  # whoever waits for the commit would wait for ever

    def published(session: Session, claim: Claim, outcome: Any, storage: Storage, now: datetime) -> None:
        pinning = threading.Thread(target=pin)
        pinning.start()
        assert is_pinned.wait(60)
        try:
            kind.publish(session, claim, outcome, storage, now)
        finally:
            is_over.set()
            pinning.join()

    job = submit(desk, OptimisationCreate(forms=["torch-fp32"]))
    monkeypatch.setitem(kinds.KINDS, "optimise", replace(kind, publish=published))
    runner.run(job.id)
    assert (desk.job(job.id).state, desk.history(job.id)[-1]) == ("queued", "attempt_ended")


def test_the_newest_optimisation_counts_and_the_sweep_keeps_what_has_a_row(
    desk: Desk, runner: Runner, trained: str, database: Database, files: Storage
) -> None:
    first, second = (ended(desk, runner, OptimisationCreate(forms=["onnxruntime-fp32"])) for _ in range(2))
    stray = files.optimisation("opt_stray")
    stray.mkdir()
    os.utime(stray, (0, 0))
    for name in (first, second):
        os.utime(files.optimisation(name), (0, 0))
    sweep.tidy(database, files)
    assert not stray.exists()
    assert files.optimisation(first).exists()
    with database.read() as session:
        version = models.find_version(session, "colours", 1)
        served = serving.of_version(session, version, Process())
        assert served.optimisation_id == second
        assert serving.Choices(Process()).of_all(session) == {trained: served}
        elsewhere = serving.of_version(session, version, Process("cuda"))
    assert elsewhere == Serving(None, (PLAIN.name,))


def test_a_cancelled_optimisation_leaves_no_row_and_no_files(
    desk: Desk, runner: Runner, trained: str, database: Database, files: Storage
) -> None:
    job = submit(desk, OptimisationCreate(forms=["onnxruntime-fp32"]))
    running = threading.Thread(target=runner.run, args=(job.id,))
    running.start()
    while "attempt_started" not in desk.history(job.id):
        time.sleep(0.01)
    desk.cancel(job.id)
    running.join()
    assert desk.job(job.id).state == "cancelled"
    with database.read() as session:
        assert serving.newest(session, trained) == {}
    assert list((files.root / "optimisations").glob("*")) == []


def test_a_training_is_followed_by_an_optimisation_in_the_same_transaction(
    desk: Desk, dataset_id: str, database: Database, files: Storage, settings: Settings, forkserver: Forkserver
) -> None:
    following = settings.model_copy(update={"optimise_after_training": True})
    job = desk.submit_training(dataset_id, epochs=1)
    later = desk.submit_training(dataset_id, epochs=1, model="later")
    Runner(database, files, following, forkserver).run(job.id)
    with database.read() as session:
        (queued,) = [
            row
            for row in service.newest_first(session, state="queued", dataset=None, limit=9, after=None)
            if row.kind == "optimise"
        ]
        version = models.find_version(session, "colours", 1)
        waiting = leases.waiting(session, ["gpu"], now=utc_now())
    assert queued.spec["version_id"] == version.id
    assert waiting == [later.id, queued.id]
    assert submit(desk, OptimisationCreate()).id == queued.id


@pytest.mark.parametrize("grace", [0.5, 30.0], ids=["killed", "asked"])
def test_an_optimisation_gives_way_to_a_training_and_costs_it_no_attempt(
    desk: Desk, settings: Settings, forkserver: Forkserver, dataset_id: str, trained: str, grace: float
) -> None:
    runner = Runner(desk.database, desk.files, settings.model_copy(update={"cancel_grace_seconds": grace}), forkserver)
    sweeper = Sweeper(desk.database, desk.files, settings, Bell(), ["gpu"], forkserver)
    station = Station(settings, desk.database, runner, sweeper)
    job = submit(desk, OptimisationCreate(forms=["onnxruntime-fp32"]))
    thread = threading.Thread(target=station.run_next, args=(["gpu"],))
    thread.start()
    until(lambda: bool(job_processes()))
    for process in job_processes():
        os.kill(process.pid, signal.SIGSTOP)  # so that it is not done meanwhile
    training = desk.submit_training(dataset_id, epochs=1)
    if grace > 1:
        time.sleep(6 * settings.heartbeat_seconds)
        for process in job_processes():
            os.kill(process.pid, signal.SIGCONT)
    thread.join(timeout=60)
    assert not thread.is_alive()
    waits = desk.job(job.id)
    assert (waits.state, waits.attempt, desk.history(job.id)[-1]) == ("queued", 0, "attempt_ended")
    assert files_left(desk.files) == []
    with desk.database.read() as session:
        assert leases.waiting(session, ["gpu"], now=utc_now()) == [training.id, job.id]
    assert station.run_next(["gpu"])
    assert station.run_next(["gpu"])
    assert (desk.job(training.id).state, desk.job(job.id).state) == ("succeeded", "succeeded")
