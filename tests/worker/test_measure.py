"""How forms are timed."""

import threading

import numpy as np
import pytest

from app.runtimes.form import Images, Machine, Passed
from worker.optimising import measure
from worker.optimising.measure import Pace

THREADS = 3
BATCH = np.zeros((2, 8, 8, 3), np.uint8)


class FailsInOneThread:
    """A network that works but in the first thread of several that want it to warm up at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self._has_failed = False

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        with self._lock:
            fails = threading.get_ident() != self._main and not self._has_failed
            self._has_failed = self._has_failed or fails
        if fails:
            raise MemoryError("no room for another thread")
        return Passed(np.zeros((len(images), 1), np.float32), np.zeros((len(images), 2), np.float32))

    def widen(self) -> None:
        """Nothing."""

    def settle(self) -> None:
        """Nothing."""


@pytest.mark.timeout(60)
def test_what_fails_in_one_of_the_threads_that_time_a_network_is_raised() -> None:
    with pytest.raises(MemoryError, match="another thread"):
        measure.speed(FailsInOneThread(), BATCH, Pace(Machine(THREADS), seconds=0.01), memory_bytes=None)
