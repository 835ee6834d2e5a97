"""A worker process put together: database, files, runner, sweep, and a forkserver that is warm."""

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext

from app.db import Database
from app.doorbell import Doorbell
from app.jobs import leases
from app.settings import Settings
from app.storage import Storage
from worker.runner import Runner
from worker.sweep import Sweeper


@dataclass(frozen=True)
class Station:
    """What a worker process consists of, whoever wakes it."""

    settings: Settings
    database: Database
    runner: Runner
    sweeper: Sweeper

    def start(self) -> None:
        self.sweeper.start()

    def run_next(self, queues: Sequence[str]) -> bool:
        """Run the job of `queues` that has waited longest, to its end; False where none waits."""
        with self.database.read() as session:
            waiting = leases.waiting(session, queues, now=self.database.now(session))
        return any(self.runner.run(job_id) for job_id in waiting)

    def stop(self) -> None:
        """Give back what runs, and close. Threads within `runner.run` return soon after."""
        self.runner.stop()
        self.sweeper.stop()


def build(settings: Settings, doorbell: Doorbell, queues: Sequence[str]) -> Station:
    """A station for `queues`; returns once its forkserver has imported what jobs need."""
    database = Database(settings.sqlalchemy_url)
    files = Storage(settings.data_dir)
    return Station(
        settings=settings,
        database=database,
        runner=Runner(database, files, settings, warm_context()),
        sweeper=Sweeper(database, files, settings, doorbell, queues),
    )


def warm_context() -> ForkServerContext:
    """A forkserver that has imported what jobs need; without it the first job would wait for that."""
    # Lance would warn of every new table that it is new.
    os.environ.setdefault("LANCE_LOG", "error")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worker.preload"])
    first = context.Process(target=_nothing)
    first.start()
    first.join()
    return context


def _nothing() -> None:
    """The first process of a forkserver waits for its imports."""
