"""What a worker makes of trouble that nobody planned: the job says what it was, and another attempt is not spoiled."""

import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import safetensors
from sqlalchemy.orm import Session

from app import errors
from app.backbones import catalogue
from app.datasets import service as datasets
from app.datasets import store
from app.db import Database, utc_now
from app.jobs import leases
from app.jobs.leases import Claim
from app.limits import Search
from app.models import artifact
from app.models import service as models
from app.models.artifact import Artifact
from app.plan import resolve
from app.recipe import Recipe
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.training.samples import Recorder, Stopped
from tests.worker.conftest import Desk
from tests.worker.test_runner import MANY_EPOCHS, files_left, job_processes, running, until
from worker import child, entry, kinds
from worker.forkserver import Forkserver
from worker.ingest import ingest
from worker.messages import GaveUp
from worker.runner import Runner
from worker.train import train
from worker.training.events import BatchSplit, CheckpointSaved, Emit, Event, Progress, Resumed
from worker.training.peers import PeerLost
from worker.works import IngestWork, TrainOutcome, TrainWork


def test_an_outcome_that_cannot_be_published_fails_the_job_with_the_reason(
    desk: Desk, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(_session: Session, _claim: Claim, _outcome: object, _files: Storage, _now: datetime) -> None:
        raise ValueError("this outcome does not fit")

    monkeypatch.setitem(kinds.KINDS, "ingest", replace(kinds.KINDS["ingest"], publish=publish))
    job = desk.submit_import(factories.photos(each=4), max_attempts=2)
    assert runner.run(job.id)
    assert desk.job(job.id).state == "queued"
    assert runner.run(job.id)

    ended = desk.job(job.id)
    assert ended.state == "failed"
    assert ended.error is not None
    assert (ended.error["code"], ended.error["message"]) == ("internal_error", "ValueError: this outcome does not fit")


def test_a_job_cancelled_in_the_moment_it_is_given_back_is_cancelled(
    desk: Desk, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(_session: Session, claim: Claim, _settings: Settings, _files: Storage) -> Any:
        desk.cancel(claim.job_id)
        raise ValueError("nothing to work on")

    monkeypatch.setitem(kinds.KINDS, "ingest", replace(kinds.KINDS["ingest"], prepare=prepare))
    job = desk.submit_import(factories.photos(each=4))
    runner.run(job.id)

    assert desk.job(job.id).state == "cancelled"


def test_a_process_without_a_sign_of_life_is_ended_and_the_job_says_so(
    desk: Desk, database: Database, files: Storage, settings: Settings, forkserver: Forkserver, dataset_id: str
) -> None:
    watchful = Runner(database, files, settings.model_copy(update={"silence_seconds": 4.0}), forkserver)
    job = desk.submit_training(dataset_id, epochs=MANY_EPOCHS, max_attempts=1)
    with running(watchful, job.id):
        until(lambda: "epoch_finished" in desk.history(job.id))
        for process in job_processes():
            os.kill(process.pid, signal.SIGSTOP)

    ended = desk.job(job.id)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "process_hung"
    assert job_processes() == []


def test_a_model_whose_artifact_is_nowhere_is_not_registered(
    desk: Desk, dataset_id: str, database: Database, files: Storage, tmp_path: Path
) -> None:
    job = desk.submit_training(dataset_id, epochs=1)
    with database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
    assert claim is not None
    plan = kinds._PLAN.validate_python(claim.plan)
    outcome = TrainOutcome(tmp_path / "lost", "mv_lost", plan, ("green", "red"), {"accuracy": 1.0}, {}, None, None)
    with pytest.raises(FileNotFoundError), database.write() as session:
        kinds.KINDS["train"].publish(session, claim, outcome, files, utc_now())

    with pytest.raises(errors.NotFound), database.read() as session:
        models.find(session, "colours")
    assert desk.job(job.id).state == "running"


def test_a_stale_attempt_at_an_import_changes_nothing_of_the_one_that_counts(
    desk: Desk, runner: Runner, dataset_id: str, database: Database, files: Storage, settings: Settings
) -> None:
    job = desk.submit_import(factories.photos(each=5, first_seed=500), dataset_id=dataset_id, max_attempts=2)
    with database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=0)
        assert claim is not None
        stale: IngestWork = kinds.KINDS["ingest"].prepare(session, claim, settings, files)
    kept = desk.folder / "kept.zip"
    os.link(stale.archive, kept)
    until(lambda: runner.run(job.id))
    before = items(desk, files, dataset_id, 2)
    ingest(replace(stale, archive=kept), lambda _event: None)

    assert len(before) == 30
    assert items(desk, files, dataset_id, 2) == before
    runner.run(desk.submit_import(factories.photos(each=3, first_seed=700), dataset_id=dataset_id).id)
    assert len(items(desk, files, dataset_id, 3)) == 36


@pytest.mark.parametrize("search", [None, Search(trials=2)])
def test_an_attempt_leaves_nothing_of_earlier_ones_and_a_stale_one_leaves_it_alone(
    search: Search | None, desk: Desk, dataset_id: str, database: Database, files: Storage, settings: Settings
) -> None:
    job = desk.submit_training(dataset_id, epochs=4, search=search)
    checkpoints = "checkpoints" if search is None else "search/trial-0001"
    works: list[TrainWork] = []
    with database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
        assert claim is not None
        works += [kinds.KINDS["train"].prepare(session, claim, settings, files) for _ in range(3)]
    folder = works[0].folder
    for number, work in enumerate(works, start=1):
        told = Recorder(CheckpointSaved(number))
        with pytest.raises(Stopped):
            train(work, told)
        assert told.of(Resumed) == ([] if number == 1 else [Resumed(number - 1, 0)])
        assert [path.name for path in folder.iterdir()] == [work.version_id]
        # As one leaves them whose process was killed.
        (folder / work.version_id / checkpoints / "images").mkdir()
        (folder / work.version_id / "artifact").mkdir()

    before = sorted((folder / works[2].version_id).rglob("*"))
    with pytest.raises(Stopped):
        train(works[1], Recorder(CheckpointSaved(2)))
    assert sorted((folder / works[2].version_id).rglob("*")) == before


def test_a_batch_that_would_take_too_much_of_a_cpu_is_computed_in_pieces_from_the_beginning(
    desk: Desk, dataset_id: str, database: Database, files: Storage, settings: Settings
) -> None:
    job = desk.submit_training(dataset_id, epochs=1)
    with database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
        assert claim is not None
        work: TrainWork = kinds.KINDS["train"].prepare(session, claim, settings, files)
    recipe = Recipe(backbone="resnet50", strategy="scratch", epochs=1)
    plan = resolve(recipe, replace(work.facts, train_images=800), catalogue.find("resnet50").facts)
    assert plan.descent is not None
    assert plan.descent.batch_size == 32
    with pytest.raises(Stopped):
        train(replace(work, recipe=recipe, plan=plan), Recorder(BatchSplit(images=16)))


@pytest.mark.parametrize("search", [None, Search(trials=2)])
def test_a_model_that_has_no_room_besides_what_was_kept_on_the_way_takes_its_place(
    search: Search | None,
    desk: Desk,
    dataset_id: str,
    database: Database,
    files: Storage,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = desk.submit_training(dataset_id, epochs=1, search=search)
    with database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
        assert claim is not None
        work: TrainWork = kinds.KINDS["train"].prepare(session, claim, settings, files)
    write, folder = artifact.write, work.folder / work.version_id

    def with_little_room(target: Path, made: Artifact, *, thumbnails: Sequence[bytes]) -> None:
        is_crowded = any((folder / name).exists() for name in ("checkpoints", "search"))
        write(target, made, thumbnails=thumbnails)
        if is_crowded:
            (target / artifact.MANIFEST).unlink()
            raise safetensors.SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)}")

    monkeypatch.setattr(artifact, "write", with_little_room)
    outcome = train(work, Recorder())
    assert artifact.read(outcome.artifact).labels == ("green", "red")
    assert [path.name for path in folder.iterdir()] == ["artifact"]


def lose_a_peer(connection: Connection, kind: str, work: Any, *, threads: int, log_level: str) -> None:
    """The process of a training that loses another one, which shares it, after the first epoch."""

    def carry_out(work: TrainWork, emit: Emit) -> TrainOutcome:
        def losing(event: Event) -> None:
            emit(event)
            if isinstance(event, CheckpointSaved):
                raise PeerLost

        return train(work, losing)

    child._CARRIED_OUT["train"] = carry_out
    child.main(connection, kind, work, threads=threads, log_level=log_level)


def test_an_attempt_that_loses_a_process_which_shares_it_is_followed_by_another(
    desk: Desk, runner: Runner, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.submit_training(dataset_id, epochs=3)
    with monkeypatch.context() as patched:
        patched.setattr(entry, "main", lose_a_peer)
        runner.run(job.id)
    assert (desk.job(job.id).state, desk.job(job.id).attempt) == ("queued", 1)
    runner.run(job.id)
    assert desk.job(job.id).state == "succeeded"
    assert desk.history(job.id).count("resumed") == 1


def test_the_last_attempt_that_loses_a_process_which_shares_it_fails_the_job(
    desk: Desk, runner: Runner, dataset_id: str, files: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = desk.submit_training(dataset_id, epochs=3, max_attempts=1)
    monkeypatch.setattr(entry, "main", lose_a_peer)
    runner.run(job.id)
    ended = desk.job(job.id)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "peer_lost"
    assert files_left(files) == []


def items(desk: Desk, files: Storage, dataset_id: str, number: int) -> list[str]:
    with desk.database.read() as session:
        version = datasets.find_version(session, dataset_id, number)
    return [item.item_id for item in store.read(files.dataset(dataset_id), version.table_tag).items]


class StopsWhileWriting(child._Emitter):
    """Hears that the job is to stop when the first image has gone into the table."""

    def emit(self, event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "write":
            self._stop.set()
        super().emit(event)


def test_a_stop_that_comes_up_through_a_library_is_still_a_stop(
    desk: Desk, database: Database, files: Storage, settings: Settings
) -> None:
    job = desk.submit_import(factories.photos(each=4))
    with database.write() as session:
        claim = leases.claim(session, job.id, now=utc_now(), lease_seconds=60)
        assert claim is not None
        work = kinds.KINDS["ingest"].prepare(session, claim, settings, files)
    ours, theirs = Pipe()
    message = child._outcome(StopsWhileWriting(theirs), "ingest", work)
    ours.close()

    assert message == GaveUp()
