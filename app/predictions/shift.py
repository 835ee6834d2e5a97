"""Threads that wait for work."""

import threading
from contextlib import suppress
from types import TracebackType


class Shift:
    """Like `threading.Condition`, but those that have waited least go first: what they worked with last is still in
    the caches and in the memory that they have of their own, and with little to do the others are not needed."""

    def __init__(self) -> None:
        # One that its thread may take again: whatever it lets go of inside may end something that comes back here.
        self._lock = threading.RLock()
        self._waiting: list[threading.Lock] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def wait(self, seconds: float | None) -> None:
        """Let go of the lock until somebody notifies this thread, for so many seconds at most; None for ever."""
        mine = threading.Lock()
        mine.acquire()
        self._waiting.append(mine)
        self._lock.release()
        try:
            mine.acquire(timeout=-1 if seconds is None else max(0.0, seconds))
        finally:
            self._lock.acquire()
            with suppress(ValueError):  # whoever has notified it has taken it out
                self._waiting.remove(mine)

    def notify(self, count: int = 1) -> None:
        """Wake so many of those that wait."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.pop().release()

    def notify_all(self) -> None:
        """Wake all that wait."""
        self.notify(len(self._waiting))
