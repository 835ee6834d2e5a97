"""A worker process put together: database, files, runner, sweep, and a forkserver that is warm."""

import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from app.db import Database
from app.doorbell import Doorbell
from app.jobs import leases
from app.settings import Settings
from app.storage import Storage
from worker.forkserver import Forkserver, NotStarted
from worker.runner import Runner
from worker.sweep import Sweeper

logger = logging.getLogger(__name__)


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
        return any(self.run(job_id, queues) for job_id in waiting)

    def run(self, job_id: str, queues: Sequence[str]) -> bool:
        """Run the job as `Runner.run` does. Where this worker can run none, it ends, for a new one to be started."""
        try:
            return self.runner.run(job_id, queues)
        except NotStarted:
            logger.critical("this worker can run no jobs any more, and ends")
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    def stop(self) -> None:
        """Give back what runs, and close. Threads within `runner.run` return soon after."""
        self.runner.stop()
        self.sweeper.stop()


def build(settings: Settings, doorbell: Doorbell, queues: Sequence[str]) -> Station:
    """A station for `queues`; returns once its forkserver has imported what jobs need."""
    database = Database(settings.sqlalchemy_url)
    files = Storage(settings.data_dir)
    forkserver = Forkserver(files.sockets())
    return Station(
        settings=settings,
        database=database,
        runner=Runner(database, files, settings, forkserver),
        sweeper=Sweeper(database, files, settings, doorbell, queues, forkserver),
    )
