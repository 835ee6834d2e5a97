"""The sweep: every few seconds, each worker says that it is alive, rings again for jobs that wait, ends those whose
worker went silent, and removes files that nothing needs any more. Any number of sweeps at once do no harm.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app import idempotency, storage
from app.datasets.tables import Dataset, Import
from app.db import Database, new_id, utc_now
from app.doorbell import Doorbell
from app.experiments import service as experiments
from app.jobs import leases, removals
from app.jobs.schemas import ENDED
from app.jobs.service import GPU_QUEUE
from app.jobs.tables import Job
from app.models import serving
from app.models.tables import ModelVersion, Optimisation
from app.settings import Settings
from app.storage import Storage
from worker import places
from worker.forkserver import Forkserver
from worker.training import tablefile

logger = logging.getLogger(__name__)

_ABANDONED_SECONDS = 24 * 3600.0
_KEYS_LAST = timedelta(days=7)
"""How long an `Idempotency-Key` is remembered."""
_UNSERVED_LAST = timedelta(hours=1)
"""How long an optimisation stays when there is a newer one, and a version when it was deleted: a process that serves
may be on the way with it, or may not have heard of the change while it could not reach the database."""
_NAMES_AT_ONCE = 1000
"""SQLite takes some ten thousand values in a statement."""
_TABLES_SECONDS = 3600.0
"""How often all files of all tables are looked at, of which there may be very many."""
_UNPUBLISHED_SECONDS = 3600.0
"""How long a file may wait for the row that names it; the commit comes within seconds, or not at all."""


class Sweeper:
    """Sweeps in a thread of its own between `start` and `stop`."""

    def __init__(
        self,
        database: Database,
        files: Storage,
        settings: Settings,
        doorbell: Doorbell,
        queues: Sequence[str],
        forkserver: Forkserver,
    ) -> None:
        self._database = database
        self._files = files
        self._settings = settings
        self._doorbell = doorbell
        self._queues = queues
        self._forkserver = forkserver
        self._worker_id = f"{new_id('worker')}@{socket.gethostname()}:{os.getpid()}"
        self._started_at = utc_now()
        self._tables_due = 0.0
        """By the clock of `time.monotonic`."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and strike this worker off the list."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.sweep_seconds)
        try:
            with self._database.write() as session:
                leases.forget_worker(session, self._worker_id)
        except SQLAlchemyError as error:
            logger.warning("the database did not hear that this worker leaves (%s); it will be missed in time", error)

    def sweep(self) -> None:
        """One round."""
        weights = places.of(self._settings, self._files).weights_at_hand() if GPU_QUEUE in self._queues else None
        with self._database.write() as session:
            now = self._database.now(session)
            leases.saw_worker(
                session, self._worker_id, self._queues, weights=weights, started_at=self._started_at, now=now
            )
            ended = leases.fail_out_of_attempts(session, now=now)
            for job_id in ended:
                logger.warning("job %s: its worker went silent and no attempt is left", job_id)
            experiments.call_off(session, ended, now=now)
            waiting = leases.due(session, now=now, ring_again_seconds=self._settings.ring_again_seconds)
            idempotency.forget(session, before=now - _KEYS_LAST)
            for optimisation_id in serving.forget_unserved(session, before=now - _UNSERVED_LAST):
                logger.info("optimisation %s is not served any more; its files go next", optimisation_id)
        for job in waiting:
            self._doorbell.ring(job.queue, job.job_id)
        self._forkserver.touch()
        tidy(self._database, self._files)
        if time.monotonic() >= self._tables_due:
            tidy_tables(self._files)
            self._tables_due = time.monotonic() + _TABLES_SECONDS
        _bound(self._files.features(), max_bytes=self._settings.max_feature_cache_bytes)

    def _run(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception:
                logger.exception("a sweep failed; the next one comes in %g s", self._settings.sweep_seconds)
            if self._stopping.wait(self._settings.sweep_seconds):
                return


def tidy(database: Database, files: Storage) -> None:
    """Remove what jobs that have ended, deleted datasets, broken-off uploads and killed workers left on disk."""
    for path in files.abandoned(older_than_seconds=_ABANDONED_SECONDS):
        storage.discard(path)
    for folder, needed in _NEEDED.items():
        present = {path.stem: path for path in (files.root / folder).glob("*")}
        if not present:
            continue
        kept: set[str] = set()
        for names in _portions(list(present)):
            with database.read() as session:
                kept |= needed(session, names, database.now(session))
        for name in present.keys() - kept:
            if folder in _PUBLISHED_LATER and _is_recent(present[name]):
                continue  # its row may be on the way
            logger.info("removing %s, which nothing needs any more", present[name])
            storage.discard(present[name])


def tidy_tables(files: Storage) -> None:
    """Remove what killed processes left in tables."""
    for path in files.unfinished_in_tables(older_than_seconds=_ABANDONED_SECONDS):
        storage.discard(path)


def _portions(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _NAMES_AT_ONCE):
        yield names[start : start + _NAMES_AT_ONCE]


def _bound(cache: Path, *, max_bytes: int) -> None:
    """Remove what was used longest ago until `cache` is no larger than that, and what was never finished."""
    total = 0
    for facts, path in sorted(_facts(cache), key=lambda entry: entry[0].st_mtime, reverse=True):
        total += facts.st_size
        is_unfinished = path.suffix == ".part" or tablefile.UNFINISHED in path.suffixes
        if total > max_bytes or (is_unfinished and time.time() - facts.st_mtime > _ABANDONED_SECONDS):
            logger.info("removing %s from the cache of features", path.name)
            storage.discard(path)


def _facts(folder: Path) -> Iterator[tuple[os.stat_result, Path]]:
    """Of each file that is there, and that another sweep does not remove meanwhile."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            yield path.stat(), path


def _needed_jobs(session: Session, names: Sequence[str], _now: datetime) -> set[str]:
    return set(session.scalars(select(Job.id).where(Job.id.in_(names), Job.state.not_in(ENDED))))


def _needed_archives(session: Session, names: Sequence[str], _now: datetime) -> set[str]:
    query = select(Import.id).join(Job, Job.id == Import.job_id).where(Import.id.in_(names), Job.state.not_in(ENDED))
    return set(session.scalars(query))


def _needed_datasets(session: Session, names: Sequence[str], _now: datetime) -> set[str]:
    existing = select(Dataset.id).where(Dataset.id.in_(names), Dataset.deleted_at.is_(None))
    return {*session.scalars(existing), *removals.readers(session, names)}


def _needed_models(session: Session, names: Sequence[str], now: datetime) -> set[str]:
    is_kept = or_(ModelVersion.deleted_at.is_(None), ModelVersion.deleted_at > now - _UNSERVED_LAST)
    return set(session.scalars(select(ModelVersion.id).where(ModelVersion.id.in_(names), is_kept)))


def _needed_optimisations(session: Session, names: Sequence[str], _now: datetime) -> set[str]:
    return set(session.scalars(select(Optimisation.id).where(Optimisation.id.in_(names))))


def _is_recent(path: Path) -> bool:
    """Whether it was written so lately; not so where another sweep has just removed it."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime < _UNPUBLISHED_SECONDS
    return False


_NEEDED: dict[str, Callable[[Session, Sequence[str], datetime], set[str]]] = {
    "jobs": _needed_jobs,
    "archives": _needed_archives,
    "datasets": _needed_datasets,
    "models": _needed_models,
    "optimisations": _needed_optimisations,
}
_PUBLISHED_LATER = ("archives", "models", "optimisations")
