"""The embedded service: the API in this process and one worker as its child, with nothing to install beside them."""

import argparse
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import migrations
from app import address, logs
from app.db import Database
from app.settings import from_environment

logger = logging.getLogger(__name__)

_RESTART_SECONDS = 1.0
_HEARD_SECONDS = 2.0
"""After which a signal has been heard, if it is."""


def main() -> None:
    """Bring the database up to date, start the worker, and serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m worker.embedded", description=__doc__)
    address.add_to(parser)
    arguments = parser.parse_args()
    asked = _AskedToEnd()
    settings = from_environment()
    logs.configure(settings.log_level, process="api")
    database = Database(settings.sqlalchemy_url)
    with asked.ends_at_once(lambda: None):
        migrations.upgrade(database)
    database.close()
    where = address.url(arguments.host, arguments.port)
    print(f"Graft will be at {where}, every route at /docs; Ctrl-C stops it.", flush=True)  # noqa: T201 -- no line of a log
    worker = LocalWorker(stop_seconds=settings.cancel_grace_seconds + 10)
    try:
        worker.start()
        with asked.ends_at_once(worker.stop):
            # Which take seconds to import, while the worker imports as much.
            application, server = (importlib.import_module(f"app.{name}") for name in ("main", "server"))
            assembled = application.assemble(settings, worker)
        server.serve(assembled, host=arguments.host, port=arguments.port)
    finally:
        _hear_no_more()
        worker.stop()


def _hear_no_more() -> None:
    """Whoever asks twice is not heard: a worker that is left alone would have a second one beside it at a restart."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _AskedToEnd:
    """Ends this process when it is told to, by Ctrl-C or by SIGTERM; so also when the server, which hears them while it
    runs, raises again what has ended it."""

    def __init__(self) -> None:
        self._clear_up: Callable[[], None] | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as Ctrl-C is for what runs in the background
                signal.signal(number, self._hear)

    @contextmanager
    def ends_at_once(self, clear_up: Callable[[], None]) -> Iterator[None]:
        """Inside, the process ends without anything being raised, once `clear_up` has been called. In an import others
        may catch what is raised, and compiled code that cannot pass it on prints it and goes on."""
        self._clear_up = clear_up
        try:
            yield
        finally:
            self._clear_up = None

    def _hear(self, _signal: int, _frame: FrameType | None) -> None:
        if self._clear_up is not None:
            _hear_no_more()
            try:
                self._clear_up()
            finally:
                os._exit(0)
        raise SystemExit(0)


class LocalWorker:
    """The worker process and the doorbell to it; started anew whenever it dies."""

    def __init__(self, *, stop_seconds: float) -> None:
        self._stop_seconds = stop_seconds
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = _spawn()
        threading.Thread(target=self._watch, name="watch worker", daemon=True).start()

    def ring(self, queue: str, job_id: str) -> None:
        """Wake the worker. One that is just being restarted looks for jobs by itself."""
        with self._lock:
            if self._process is None or self._process.stdin is None:
                return
            try:
                self._process.stdin.write(f"{queue} {job_id}\n".encode())
                self._process.stdin.flush()
            except OSError as error:
                logger.warning("the worker did not hear the ring for job %s (%s); its sweep will", job_id, error)

    def stop(self) -> None:
        """End the worker, which gives back the job it runs; one that still imports has none, and ends at once."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is None:
            return
        process.terminate()
        if _ends(process, _HEARD_SECONDS):
            return
        with self._lock:
            _close_quietly(process)  # for a worker in which something that it called has caught that
        if not _ends(process, self._stop_seconds):
            logger.warning("the worker did not stop in %g s and is killed", self._stop_seconds)
            process.kill()
            process.wait()

    def _watch(self) -> None:
        while self._process is not None:
            code = self._process.wait()
            if self._stopping.wait(_RESTART_SECONDS):
                return
            logger.error("the worker ended with code %s; starting it again", code)
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process = _spawn()


def _spawn() -> subprocess.Popen[bytes]:
    # Threads that spin while they wait for each other are a little faster on an idle machine, and many times slower on
    # one whose cores others want too. OpenMP reads this when it is loaded.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    # In a group of its own, where the terminal's Ctrl-C does not reach it: the service decides when its worker ends.
    return subprocess.Popen([sys.executable, "-m", "worker"], stdin=subprocess.PIPE, env=environment, process_group=0)


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _close_quietly(process: subprocess.Popen[bytes]) -> None:
    try:
        process.stdin.close()  # type: ignore[union-attr]
    except OSError as error:
        logger.debug("the worker had closed its end already (%s)", error)


if __name__ == "__main__":
    main()
