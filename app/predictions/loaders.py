"""Threads that load models. Those of concurrent.futures keep a process from ending for as long as a load takes."""

import threading
import time
from collections.abc import Callable

Work = Callable[[], None]
"""It raises nothing."""


class Loaders:
    """So many threads that do one thing after the other, each what `next_work` gives it, until that is None; each calls
    `prepare` first."""

    def __init__(self, count: int, *, prepare: Callable[[], None], next_work: Callable[[], Work | None]) -> None:
        self._prepare = prepare
        self._next_work = next_work
        self._threads = [
            threading.Thread(target=self._run, name=f"load {number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def join(self, *, seconds: float) -> None:
        """Wait so long for what is under way."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        self._prepare()
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Whether there was something to do. Whoever waits for it is not to know what was loaded last, which would stay
        in memory."""
        work = self._next_work()
        if work is None:
            return False
        work()
        return True
