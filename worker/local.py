"""The worker of the embedded mode: a child of the service, woken by lines on its standard input, which end with it."""

import logging
import signal
import sys
import threading
from types import FrameType

from app import logs
from app.jobs.service import CPU_QUEUE, GPU_QUEUE
from app.settings import from_environment
from worker import station
from worker.forkserver import NotStarted
from worker.station import Station

logger = logging.getLogger(__name__)

_QUEUES = (CPU_QUEUE, GPU_QUEUE)


def main() -> None:
    """Run jobs until the service ends it, or has gone, with which standard input ends."""
    settings = from_environment()
    logs.configure(settings.log_level, process="worker")
    slots: list[_Slot] = []
    here = station.build(settings, _Bells(slots), _QUEUES)
    slots += [_Slot(here, queue) for queue in _QUEUES]
    # Until here there is nothing to give back, and a signal ends the process as it does by default.
    signal.signal(signal.SIGTERM, _leave)
    try:
        here.start()
        for slot in slots:
            slot.start()
        for _ring in sys.stdin.buffer:
            for slot in slots:
                slot.wake()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come twice, and what follows is to be done
        here.stop()
        for slot in slots:
            slot.join()


class _Bells:
    """The doorbell of the sweep, which is in the same process as those it wakes."""

    def __init__(self, slots: "list[_Slot]") -> None:
        self._slots = slots

    def ring(self, queue: str, job_id: str) -> None:
        for slot in self._slots:
            slot.wake()


class _Slot:
    """Runs the jobs of one queue, one at a time, the longest-waiting first."""

    def __init__(self, here: Station, queue: str) -> None:
        self._station = here
        self._queue = queue
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{queue} slot")
        self._stopping = False

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._awake.set()

    def join(self) -> None:
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._awake.clear()
            try:
                ran = self._station.run_next([self._queue])
            except NotStarted:
                return  # and so does the worker
            except Exception:
                logger.exception("a job could not be taken or ended; trying again")
                ran = False
            if not ran:
                self._awake.wait(self._station.settings.sweep_seconds)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
