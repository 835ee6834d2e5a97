"""The runner: takes a job, runs it in a process of its own, and ends it, whatever happens to that process."""

import dataclasses
import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from app import errors, storage
from app.controlgroups import ControlGroups
from app.db import Database
from app.experiments import service as experiments
from app.jobs import leases
from app.jobs.events import Line
from app.jobs.leases import Claim, Failure
from app.settings import Settings
from app.storage import Storage
from worker import entry, kinds, messages
from worker.crowd import AWAY, Crowd
from worker.forkserver import Forkserver, NotStarted
from worker.messages import Done, Failed, GaveUp, Happened, Lost, Message
from worker.training.events import Event, Progress

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_SECONDS = 1.0
_WORKER_STOPPED = Failure("worker_stopped", "the worker was stopped; the job goes on with the next one", {})


_GAVE_WAY = Failure("gave_way", "other jobs wait for this worker; the job is taken up again when none does", {})


class Runner:
    """Runs jobs, one for each thread that calls `run`."""

    def __init__(self, database: Database, files: Storage, settings: Settings, forkserver: Forkserver) -> None:
        self._database = database
        self._files = files
        self._settings = settings
        self._forkserver = forkserver
        self._stopping = threading.Event()

    def run(self, job_id: str, queues: Sequence[str] = ()) -> bool:
        """Run the job to its end, if this worker gets it; False where another one has it or it has ended. One that
        gives way is given back where others of these `queues` wait for the worker. Raises `NotStarted`, with the job
        given back, where this worker can run none."""
        if self._stopping.is_set():
            return False
        with self._database.write() as session:
            now = self._database.now(session)
            claim = leases.claim(session, job_id, now=now, lease_seconds=self._settings.lease_seconds)
        if claim is None:
            return False
        logger.info("job %s: attempt %d of %d at %s", job_id, claim.attempt, claim.max_attempts, claim.kind)
        crowd = Crowd(self._database, claim, queues, seconds=self._settings.heartbeat_seconds)
        attempt = _Attempt(claim, crowd, self._files, self._settings, self._forkserver, self._stopping)
        try:
            self._see_through(attempt)
        except errors.LeaseLost as error:
            logger.warning("job %s: %s; what this attempt did does not count", job_id, error)
        return True

    def _see_through(self, attempt: "_Attempt") -> None:
        try:
            attempt.run()
        except errors.LeaseLost:
            raise
        except NotStarted as error:
            attempt.give_back(
                Failure("process_not_started", f"{error}; the job waits for a worker that can", {}), counts=False
            )
            raise
        except Exception as error:
            # Without this the lease would run out, as if the worker had gone silent, and nobody would know why.
            logger.exception("an attempt failed unexpectedly")
            attempt.give_back(Failure("internal_error", f"{type(error).__name__}: {error}", {}), counts=True)

    def stop(self) -> None:
        """Take no further job, and give back those that run; `run` returns soon after."""
        self._stopping.set()


class _Attempt:
    """One claim from its process's start to the job's end, or to giving it back."""

    def __init__(
        self,
        claim: Claim,
        crowd: Crowd,
        files: Storage,
        settings: Settings,
        forkserver: Forkserver,
        stopping: threading.Event,
    ) -> None:
        self._claim = claim
        self._crowd = crowd
        self._database = crowd.database
        self._files = files
        self._settings = settings
        self._forkserver = forkserver
        self._stopping = stopping
        self._kind = kinds.KINDS[claim.kind]
        self._lines: list[Line] = []
        self._progress: dict[str, Any] | None = None
        self._last: Message | None = None
        self._renewed = time.monotonic()
        self._heard = time.monotonic()
        self._memory_kills = ControlGroups().memory_kills()
        self._stop_by: float | None = None
        self._is_asked_to_finish = False

    def run(self) -> None:
        try:
            with self._database.read() as session:
                work = self._kind.prepare(session, self._claim, self._settings, self._files)
        except errors.GraftError as error:
            self._fail(messages.failure(error))
            return
        connection, process = self._forkserver.start(
            entry.main,
            self._claim.kind,
            work,
            name=self._claim.job_id,
            threads=self._settings.threads,
            log_level=self._settings.log_level,
        )
        try:
            state = self._supervise(connection, process)
        finally:
            _kill(process)
            connection.close()
        self._conclude(state, process.exitcode)

    def _supervise(self, connection: Connection, process: ForkServerProcess) -> str:
        """Pass on events and renew the lease until the process is done or gone; the state the job was seen in last."""
        state = "running"
        while self._last is None and process.is_alive():
            wait([connection, process.sentinel], timeout=self._settings.heartbeat_seconds / 2)
            self._receive(connection)
            if self._lines or self._progress or time.monotonic() - self._renewed > self._settings.heartbeat_seconds:
                state = self._record(state)
            if state == "finishing":
                self._ask_to_finish()
            if state == "cancelling" or self._stopping.is_set() or self._crowd.is_waiting():
                self._ask_to_stop(connection, self._settings.cancel_grace_seconds)
            elif state == "pausing":
                self._ask_to_stop(connection, self._settings.pause_grace_seconds)
            if self._is_over():
                break
        self._receive(connection)
        return self._patiently(self._write_record)

    def _is_over(self) -> bool:
        """Whether the process has had its time: to stop after it was asked to, or to give any sign of life."""
        return self._has_not_stopped() or time.monotonic() - self._heard > self._settings.silence_seconds

    def _has_not_stopped(self) -> bool:
        return self._stop_by is not None and time.monotonic() > self._stop_by

    def _receive(self, connection: Connection) -> None:
        try:
            while connection.poll():
                message: Message = connection.recv()
                self._heard = time.monotonic()
                if not isinstance(message, Happened):
                    self._last = message
                elif isinstance(message.event, Progress):
                    self._progress = dataclasses.asdict(message.event)
                else:
                    self._lines.append(_line(message.event))
        except (EOFError, OSError):
            return  # the process is gone; its exit code says how

    def _record(self, state: str) -> str:
        """Write what has come in and renew the lease; a database that is away is tried again on the next round."""
        try:
            return self._write_record()
        except AWAY as error:
            self._check_lease(error)
            return state

    def _write_record(self) -> str:
        with self._database.write() as session:
            state = leases.record(
                session,
                self._claim,
                self._lines,
                progress=self._progress,
                plan=next((line.data["plan"] for line in self._lines if line.type == "planned"), None),
                now=self._database.now(session),
                lease_seconds=self._settings.lease_seconds,
            )
        self._lines, self._progress, self._renewed = [], None, time.monotonic()
        return state

    def _patiently(self, write: Callable[[], T]) -> T:
        """Do `write`, again and again while the database is away, as long as the lease may still be ours."""
        while True:
            try:
                return write()
            except AWAY as error:
                self._check_lease(error)
                time.sleep(_RETRY_SECONDS)

    def _check_lease(self, error: Exception) -> None:
        if time.monotonic() - self._renewed > self._settings.lease_seconds:
            raise errors.LeaseLost(f"the database is away and the lease is over ({error})") from error
        logger.warning("job %s: the database does not answer; trying again (%s)", self._claim.job_id, error)

    def _ask_to_stop(self, connection: Connection, grace_seconds: float) -> None:
        """Ask once; the process then has so long, or less where it is asked again in greater haste."""
        is_asked, stop_by = self._stop_by is not None, time.monotonic() + grace_seconds
        self._stop_by = stop_by if self._stop_by is None else min(self._stop_by, stop_by)
        if not is_asked:
            try:
                connection.send(messages.STOP)
            except OSError:
                return  # gone already

    def _ask_to_finish(self) -> None:
        if not self._is_asked_to_finish:
            self._is_asked_to_finish = True
            messages.ask_to_finish(self._files.job(self._claim.job_id))

    def _conclude(self, state: str, exit_code: int | None) -> None:
        """End the job as its last message says, or as its process ended without one."""
        match self._last:
            case _ if state == "cancelling":
                self._confirm_cancel()
            case Done(outcome):
                self._publish(outcome)
            case Failed(failure):
                self._fail(failure)
            case GaveUp() if state == "pausing":
                self._confirm_pause()
            case GaveUp() | Lost() | None if self._stopping.is_set():
                self.give_back(_WORKER_STOPPED, counts=False)
            case GaveUp() | None if self._crowd.was_waiting:
                self._clear()  # before another worker may begin anew there: nothing of such a job is gone on with
                self.give_back(_GAVE_WAY, counts=False)
            case Lost(failure):
                self.give_back(failure, counts=True)
            case None if state == "pausing" and self._has_not_stopped():
                self.give_back(_not_paused(self._settings.pause_grace_seconds), counts=False)
            case None if time.monotonic() - self._heard > self._settings.silence_seconds:
                self.give_back(_hung(self._settings.silence_seconds), counts=True)
            case _:
                out_of_memory = ControlGroups().memory_kills() > self._memory_kills
                self.give_back(_crash(exit_code, out_of_memory=out_of_memory), counts=True)

    def _fail(self, failure: Failure) -> None:
        def fail(session: Session, now: datetime) -> None:
            leases.fail(session, self._claim, failure, now=now)
            experiments.call_off(session, [self._claim.job_id], now=now)

        self._end(fail)

    def give_back(self, failure: Failure, *, counts: bool) -> None:
        """End the attempt without a result, for another one to come where one is left."""
        logger.warning("job %s: %s", self._claim.job_id, failure.message)
        try:
            state = self._patiently(lambda: self._release(failure, counts))
        except errors.LeaseLost:
            self._confirm_cancel()
        else:
            if state == "failed":
                self._clear()

    def _publish(self, outcome: Any) -> None:
        try:
            self._end(lambda session, now: self._kind.publish(session, self._claim, outcome, self._files, now))
        except errors.LeaseLost:
            self._confirm_cancel()
        except kinds.Outdated as error:
            self._clear()  # before another worker may begin anew there
            self.give_back(error.failure, counts=False)

    def _confirm_pause(self) -> None:
        try:
            self._patiently(lambda: self._write(lambda s, now: leases.confirm_pause(s, self._claim, now=now)))
        except errors.LeaseLost:
            self._confirm_cancel()

    def _confirm_cancel(self) -> None:
        """Where the lease was lost to a cancellation, it is still for this worker to say that the process is gone."""
        self._end(lambda session, now: leases.confirm_cancel(session, self._claim, now=now))

    def _release(self, failure: Failure, counts: bool) -> str:
        with self._database.write() as session:
            now = self._database.now(session)
            state = leases.release(session, self._claim, failure, counts=counts, now=now)
            if state == "failed":
                experiments.call_off(session, [self._claim.job_id], now=now)
            return state

    def _end(self, end: Callable[[Session, datetime], None]) -> None:
        self._patiently(lambda: self._write(end))
        self._clear()

    def _write(self, change: Callable[[Session, datetime], None]) -> None:
        with self._database.write() as session:
            change(session, self._database.now(session))

    def _clear(self) -> None:
        storage.discard(self._files.job(self._claim.job_id))
        if "import_id" in self._claim.spec:
            storage.discard(self._files.archive(self._claim.spec["import_id"]))


def _kill(process: ForkServerProcess) -> None:
    """See to it that the process is gone: it may finish by itself for a moment, and is killed then."""
    process.join(timeout=1)
    if process.is_alive():
        process.kill()
        process.join()


def _line(event: Event) -> Line:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(event).__name__).lower()
    return Line(name, dataclasses.asdict(event))


def _hung(silence_seconds: float) -> Failure:
    message = f"the job's process gave no sign of life for {silence_seconds:g} s and was ended"
    return Failure("process_hung", message, {"silence_seconds": silence_seconds})


def _not_paused(grace_seconds: float) -> Failure:
    message = (
        f"the job's process came to no point where it could pause in {grace_seconds:g} s and was ended; the job goes "
        "on from where it last kept what it had done"
    )
    return Failure("process_not_paused", message, {"grace_seconds": grace_seconds})


def _crash(exit_code: int | None, *, out_of_memory: bool) -> Failure:
    """What the end of the process says; `out_of_memory` where the system has killed one meanwhile, for want of that."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        detail: dict[str, Any] = {"signal": name}
        hint = ""
        if name == "SIGKILL":
            detail[kinds.OUT_OF_MEMORY] = out_of_memory
            hint = "; the memory ran out" if out_of_memory else "; most often the machine ran out of memory"
        return Failure("process_killed", f"the job's process was ended by {name}{hint}", detail)
    return Failure("process_died", f"the job's process ended with code {exit_code}", {"exit_code": exit_code})
