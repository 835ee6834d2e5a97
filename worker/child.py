"""What runs in a job's own process: the work of its kind, with events and the outcome going out over a pipe.

The process ends with its worker: when the pipe closes, nobody wants its outcome any more.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from app import errors, files, logs
from app.jobs.leases import Failure
from app.runtimes import devices, memory
from worker.analyse import analyse
from worker.ingest import ingest
from worker.messages import STOP, Done, Failed, GaveUp, Happened, Lost, Message, failure
from worker.optimise import optimise
from worker.rank import rank
from worker.train import train
from worker.training.events import Emit, Event, Progress
from worker.training.peers import PeerLost

logger = logging.getLogger(__name__)

_CARRIED_OUT: dict[str, Callable[[Any, Emit], Any]] = {
    "ingest": ingest,
    "analyse": analyse,
    "rank": rank,
    "train": train,
    "optimise": optimise,
}
"""What does the work of each kind; its return value is the outcome."""
_PROGRESS_SECONDS = 0.5
_NICENESS = 10


class Stopped(Exception):
    """Raised out of `emit` when the job is to end here: cancelled, or its worker is going down."""


def main(connection: Connection, kind: str, work: Any, *, threads: int, log_level: str) -> None:
    """Run the work of `kind` and say over `connection` how it went."""
    logs.configure(log_level, process="job")
    # Whoever answers requests on this machine goes first.
    os.nice(_NICENESS)
    devices.compute_in(threads)
    devices.compute_exactly()
    if kind != "optimise":  # which measures what memory each candidate takes
        memory.keep_freed()
    emitter = _Emitter(connection)
    threading.Thread(target=emitter.listen, name="listen", daemon=True).start()
    connection.send(_outcome(emitter, kind, work))


def _outcome(emitter: "_Emitter", kind: str, work: Any) -> Message:
    try:
        return Done(_CARRIED_OUT[kind](work, emitter.emit))
    except Stopped:
        return GaveUp()
    except PeerLost as error:
        logger.warning("%s", error)
        return Lost(Failure("peer_lost", str(error), {}))
    except errors.GraftError as error:
        return Failed(failure(error))
    except Exception as error:
        if emitter.is_stopping:  # libraries that call back into our code dress `Stopped` up as errors of their own
            return GaveUp()
        if memory.is_of_memory(error):
            logger.exception("the job had too little memory")
            return Failed(Failure("out_of_memory", f"there was too little memory for the job: {error}", {}))
        if files.is_of_full_disk(error):
            logger.exception("the job had no room on the disk")
            return Failed(Failure("no_room", f"there was no room on the disk for the job: {error}", {}))
        logger.exception("the job failed unexpectedly")
        return Failed(Failure("internal_error", f"{type(error).__name__}: {error}", {}))


class _Emitter:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stop = threading.Event()
        self._progress_at = 0.0

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def emit(self, event: Event) -> None:
        """Send `event`; progress at most twice a second. Raises `Stopped` once the worker has asked for it."""
        if self._stop.is_set():
            raise Stopped
        if isinstance(event, Progress) and not self._is_time(event):
            return
        self._connection.send(Happened(event))

    def listen(self) -> None:
        """Wait for the word to stop, or for the end of the worker."""
        try:
            while self._connection.recv() != STOP:
                pass
        except (EOFError, OSError):
            os._exit(1)
        self._stop.set()
        self.listen()

    def _is_time(self, progress: Progress) -> bool:
        now = time.monotonic()
        if progress.done < progress.total and now - self._progress_at < _PROGRESS_SECONDS:
            return False
        self._progress_at = now
        return True
