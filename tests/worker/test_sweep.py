"""The sweep: what waits is rung for, what is dead is ended, and what nobody needs is removed."""

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from app import idempotency
from app.datasets import service as datasets
from app.db import Database, utc_now
from app.jobs import leases, service
from app.models import service as models
from app.models import serving
from app.models.serving import Choices, NewOptimisation, Process
from app.optimisation import DEFAULT_TOLERANCE, DeviceKind, Machine, Report
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.app.test_optimisation import form
from tests.worker.conftest import Desk
from worker import sweep
from worker.forkserver import Forkserver
from worker.runner import Runner
from worker.sweep import Sweeper

TWO_DAYS = 2 * 24 * 3600


class Bell:
    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, queue: str, job_id: str) -> None:
        self.rung.append(job_id)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def sweeper(database: Database, files: Storage, settings: Settings, bell: Bell, forkserver: Forkserver) -> Sweeper:
    hasty = settings.model_copy(update={"ring_again_seconds": 0.05})
    return Sweeper(database, files, hasty, bell, ["cpu"], forkserver)


def test_a_job_that_nobody_was_told_of_is_rung_for(desk: Desk, sweeper: Sweeper, bell: Bell) -> None:
    job = desk.submit_import(factories.photos())
    time.sleep(0.1)
    sweeper.sweep()

    assert bell.rung == [job.id]


def test_a_job_whose_last_worker_went_silent_is_ended(desk: Desk, sweeper: Sweeper, database: Database) -> None:
    job = desk.submit_import(factories.photos(), max_attempts=1)
    with database.write() as session:
        assert leases.claim(session, job.id, now=utc_now() - timedelta(hours=1), lease_seconds=1)
    sweeper.sweep()

    assert desk.job(job.id).state == "failed"


def test_the_cache_of_features_keeps_what_was_used_last(
    database: Database, files: Storage, settings: Settings, bell: Bell, forkserver: Forkserver
) -> None:
    little = settings.model_copy(update={"max_feature_cache_bytes": 250})
    bounded = Sweeper(database, files, little, bell, ["cpu"], forkserver)
    for name, minutes in (("old", 30), ("newer", 20), ("newest", 10)):
        path = files.features() / f"{name}.safetensors"
        path.write_bytes(b"x" * 100)
        os.utime(path, (time.time() - 60 * minutes,) * 2)
    aged(files.features() / "features.abc.part")
    aged(files.features() / "small.unfinished.safetensors")
    bounded.sweep()

    assert {path.name for path in files.features().iterdir()} == {"newer.safetensors", "newest.safetensors"}


def test_keys_of_requests_are_forgotten_after_a_week(database: Database, sweeper: Sweeper) -> None:
    requests = {age: idempotency.Request("POST /v1/jobs", f"{age} days", "0") for age in (6, 8)}
    with database.write() as session:
        for age, request in requests.items():
            idempotency.take(session, request, now=utc_now() - timedelta(days=age))
            idempotency.remember(session, request, "job_1")
    sweeper.sweep()

    with database.read() as session:
        assert idempotency.recall(session, requests[6]) == "job_1"
        assert idempotency.recall(session, requests[8]) is None


@pytest.mark.slow
def test_more_files_than_a_statement_takes_values_are_tidied(database: Database, files: Storage) -> None:
    many = files.root / "models"
    many.mkdir(parents=True)
    for number in range(33_000):
        os.mknod(many / f"mv_{number}")
    fresh = aged(many / "mv_old")
    sweep.tidy(database, files)

    assert not fresh.exists()
    assert len(list(many.iterdir())) == 33_000


def test_a_worker_is_listed_while_it_sweeps(database: Database, sweeper: Sweeper) -> None:
    sweeper.start()
    deadline = time.monotonic() + 20
    while not listed(database):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert listed(database) == [["cpu"]]
    sweeper.stop()
    assert listed(database) == []


def test_a_worker_that_ranks_says_which_weights_it_has(
    database: Database,
    files: Storage,
    settings: Settings,
    bell: Bell,
    forkserver: Forkserver,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    ranking = Sweeper(database, files, settings, bell, ["cpu", "gpu"], forkserver)
    Sweeper(database, files, settings, bell, ["cpu"], forkserver).sweep()
    ranking.sweep()
    assert weights_told(database)[("cpu",)] is None
    told = weights_told(database)["cpu", "gpu"]
    assert told is not None
    assert list(told) == ["formnet"]
    assert settings.weights_dir is not None
    digest = factories.write_weights(settings.weights_dir, backbone="squeezenet1_1")
    ranking.sweep()

    more = weights_told(database)["cpu", "gpu"]
    assert more is not None
    assert more.keys() == {"squeezenet1_1", "formnet"}
    assert more["squeezenet1_1"].startswith(f"{digest[:8]} ")
    assert more["formnet"] == told["formnet"]


def test_a_worker_that_cannot_read_its_weights_folder_is_listed_all_the_same(
    database: Database, files: Storage, settings: Settings, bell: Bell, forkserver: Forkserver, tmp_path: Path
) -> None:
    unreadable = settings.model_copy(update={"weights_dir": factories.unreadable(tmp_path)})
    Sweeper(database, files, unreadable, bell, ["gpu"], forkserver).sweep()

    assert "formnet" in (weights_told(database)[("gpu",)] or {})


def weights_told(database: Database) -> dict[tuple[str, ...], dict[str, str] | None]:
    """By the queues of each worker the weights that it has."""
    with database.read() as session:
        return {tuple(worker.queues): worker.weights for worker in service.workers(session)}


def listed(database: Database) -> list[list[str]]:
    with database.read() as session:
        return [worker.queues for worker in service.workers(session)]


def aged(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return aged_as_it_is(path)


def aged_as_it_is(path: Path) -> Path:
    os.utime(path, (time.time() - TWO_DAYS,) * 2)
    return path


def test_uploads_broken_off_long_ago_are_removed_and_fresh_ones_stay(database: Database, files: Storage) -> None:
    old, fresh = aged(files.upload("imp_old")), files.upload("imp_fresh")
    fresh.write_bytes(b"x")
    sweep.tidy(database, files)

    assert not old.exists()
    assert fresh.exists()


def test_what_a_killed_import_left_half_written_in_a_table_goes_after_a_day(
    desk: Desk, sweeper: Sweeper, files: Storage, dataset_id: str
) -> None:
    table = files.dataset(dataset_id)
    whole = {path for path in table.rglob("*") if path.is_file()}
    for path in whole:
        aged_as_it_is(path)
    names = (
        "_versions/.tmp34BPiZ",
        "_versions/17.manifest#1",
        "_transactions/.tmpQyQ",
        "_refs/tags/v2-a.json.tmp.f5d4",
    )
    left = [aged(table / name) for name in names]
    fresh = table / "_versions" / ".tmpVZeOd6"
    fresh.write_bytes(b"x")
    sweeper.sweep()

    assert whole
    assert not [path for path in left if path.exists()]
    assert {path for path in table.rglob("*") if path.is_file()} == {*whole, fresh}
    again = aged(left[0])
    sweeper.sweep()
    assert again.exists()  # an hour has to pass: there may be very many files to look at


def test_what_a_killed_worker_left_is_removed_and_what_a_living_one_needs_stays(
    database: Database, files: Storage, settings: Settings, bell: Bell, forkserver: Forkserver
) -> None:
    left = files.sockets() / "pymp-left"
    aged(left / "listener")
    for folder in (left, forkserver.folder):
        os.utime(folder, (time.time() - TWO_DAYS,) * 2)
    Sweeper(database, files, settings, bell, ["cpu"], forkserver).sweep()

    assert not left.exists()
    assert time.time() - forkserver.folder.stat().st_mtime < TWO_DAYS / 2


def test_archives_of_jobs_that_wait_stay_and_those_of_ended_ones_go(
    desk: Desk, database: Database, files: Storage
) -> None:
    job = desk.submit_import(factories.photos())
    archive = files.archive(job.spec["import_id"])
    os.utime(archive, (time.time() - TWO_DAYS,) * 2)
    sweep.tidy(database, files)
    assert archive.exists()

    desk.cancel(job.id)
    sweep.tidy(database, files)
    assert not archive.exists()


def test_a_deleted_dataset_goes_from_disk_once_no_job_reads_it(
    desk: Desk, runner: Runner, database: Database, files: Storage, dataset_id: str
) -> None:
    job = desk.submit_training(dataset_id, epochs=1)
    with database.write() as session:
        datasets.delete(session, dataset_id, revision=None, now=utc_now())
    sweep.tidy(database, files)
    assert files.dataset(dataset_id).exists()

    desk.cancel(job.id)
    sweep.tidy(database, files)
    assert not files.dataset(dataset_id).exists()


def test_a_model_that_was_never_registered_is_removed_after_a_day(database: Database, files: Storage) -> None:
    lost, fresh = files.model_version("mv_lost"), files.model_version("mv_fresh")
    for folder in (lost, fresh):
        folder.mkdir(parents=True)
    os.utime(lost, (time.time() - TWO_DAYS,) * 2)
    sweep.tidy(database, files)

    assert not lost.exists()
    assert fresh.exists()


def test_what_another_sweep_removes_meanwhile_is_done(database: Database, files: Storage, sweeper: Sweeper) -> None:
    gone, lost = files.model_version("mv_gone"), files.model_version("mv_lost")
    for path in (gone, files.features() / "gone"):
        path.symlink_to("nowhere")  # listed, and not there when it is looked at
    lost.mkdir(parents=True)
    os.utime(lost, (time.time() - TWO_DAYS,) * 2)
    sweeper.sweep()
    assert list((files.root / "models").iterdir()) == []


def record(
    database: Database,
    files: Storage,
    optimisation_id: str,
    *,
    version_id: str = "mv_1",
    device: DeviceKind,
    at: datetime,
) -> None:
    """An optimisation with a folder that was written long ago."""
    plain = form("torch", "fp32", 1)
    report = Report(Machine(device, "a machine", 1), 1, 1.0, DEFAULT_TOLERANCE, (plain,), (plain.name,))
    folder = files.optimisation(optimisation_id)
    folder.mkdir(parents=True)
    os.utime(folder, (0, 0))
    with database.write() as session:
        job_id = models.find_version(session, "insects", 1).job_id
        serving.record(session, NewOptimisation(optimisation_id, version_id, job_id, report), now=at)


def test_an_optimisation_goes_some_time_after_a_newer_one_for_its_device(
    desk: Desk, database: Database, files: Storage, sweeper: Sweeper
) -> None:
    factories.register_version(database, "mv_1", desk.submit_import(factories.photos()).dataset_id, labels=["a", "b"])
    now = utc_now()
    record(database, files, "opt_1", device="cpu", at=now - timedelta(days=3))
    record(database, files, "opt_2", device="cuda", at=now - timedelta(days=3))
    record(database, files, "opt_3", device="cpu", at=now - timedelta(days=2))
    record(database, files, "opt_4", device="cpu", at=now)

    sweeper.sweep()
    assert on_disk(files) == ["opt_2", "opt_3", "opt_4"]  # who serves the third may not know of the fourth yet
    with database.read() as session:
        assert {device: row.id for device, row in serving.newest(session, "mv_1").items()} == {
            "cpu": "opt_4",
            "cuda": "opt_2",
        }
    with database.write() as session:
        assert serving.forget_unserved(session, before=now + timedelta(seconds=1)) == ["opt_3"]
    sweeper.sweep()
    assert on_disk(files) == ["opt_2", "opt_4"]


def test_of_two_optimisations_at_once_the_one_that_ended_last_counts(
    desk: Desk, database: Database, files: Storage
) -> None:
    factories.register_version(database, "mv_1", desk.submit_import(factories.photos()).dataset_id, labels=["a", "b"])
    now = utc_now()
    record(database, files, "opt_2", device="cpu", at=now - timedelta(seconds=1))
    record(database, files, "opt_1", device="cpu", at=now)
    with database.write() as session:
        assert serving.newest(session, "mv_1")["cpu"].id == "opt_1"
        assert Choices(Process()).of_all(session)["mv_1"].optimisation_id == "opt_1"
        assert serving.forget_unserved(session, before=now + timedelta(seconds=1)) == ["opt_2"]


def test_a_deleted_version_and_its_optimisations_go_some_time_after(
    desk: Desk, database: Database, files: Storage, sweeper: Sweeper
) -> None:
    dataset_id = desk.submit_import(factories.photos()).dataset_id
    now = utc_now()
    for version_id in ("mv_1", "mv_2", "mv_3"):
        factories.register_version(database, version_id, dataset_id, labels=["a", "b"])
        record(database, files, f"opt_{version_id}", version_id=version_id, device="cpu", at=now - timedelta(days=3))
        aged(files.model_version(version_id))
    for version_id, hours in (("mv_1", 2), ("mv_2", 0)):
        delete(database, version_id, at=now - timedelta(hours=hours))

    for _ in range(2):
        sweeper.sweep()
    assert on_disk(files) == ["opt_mv_2", "opt_mv_3"]  # who serves the second may not know yet that it is deleted
    assert sorted(path.name for path in (files.root / "models").iterdir()) == ["mv_2", "mv_3"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_when_a_deleted_version_goes_is_told_by_the_clock_of_the_database(
    desk: Desk, database: Database, files: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_id = desk.submit_import(factories.photos()).dataset_id
    for version_id in ("mv_1", "mv_2"):
        factories.register_version(database, version_id, dataset_id, labels=["a", "b"])
        aged(files.model_version(version_id))
    delete(database, "mv_1", at=utc_now())
    ahead = utc_now() + timedelta(hours=3)
    for module in ("app.db", "worker.sweep"):
        monkeypatch.setattr(f"{module}.utc_now", lambda: ahead)

    sweep.tidy(database, files)
    assert sorted(path.name for path in (files.root / "models").iterdir()) == ["mv_1", "mv_2"]


def delete(database: Database, version_id: str, *, at: datetime) -> None:
    with database.write() as session:
        model = models.hold(session, "insects")
        models.remove(session, model, models.by_id(session, version_id, "insects"), now=at)


def on_disk(files: Storage) -> list[str]:
    return sorted(path.name for path in (files.root / "optimisations").iterdir())
