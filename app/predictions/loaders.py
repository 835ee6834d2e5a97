"""Threads that load models. Those of concurrent.futures keep a process from ending for as long as a load takes."""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue


class Loaders:
    """So many at once, in the order of asking; each thread calls `prepare` first. For any thread."""

    def __init__(self, count: int, *, prepare: Callable[[], None]) -> None:
        self._prepare = prepare
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"load {number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], None]) -> None:
        """Have `work` done, which raises nothing."""
        self._asked.put(work)

    def close(self, *, seconds: float) -> None:
        """Begin nothing more, and wait so long for what is under way."""
        self._is_closed = True
        for _ in self._threads:
            self._asked.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        self._prepare()
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """What was asked for next, waited for; False at the end. Whoever waits is not to know what was loaded last,
        which would stay in memory."""
        work = self._asked.get()
        if work is None:
            return False
        if not self._is_closed:
            work()
        return True
