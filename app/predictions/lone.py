"""Whether an image that nobody else's waits beside is best passed on all threads of the machine, or on one.

That depends on more than the network: threads that wait for each other after every layer lose where others want the
cores, where a container may use less of them than there are, or where they share no cache. So it is taken from what
such passes took, and tried again now and then.
"""

from collections import deque
from collections.abc import Callable
from statistics import median

_REMEMBERED = 5
"""Passes of each way, whose median counts: one that was held up says nothing."""
_AGAIN_AFTER = 100
"""Passes, after which the other way is tried again, if it took no longer; by the square of that more where it did."""


class Lone:
    """What passes of one image took on all threads and on one; for any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        """The time in seconds, since whenever."""
        self._seconds = {is_wide: deque[float](maxlen=_REMEMBERED) for is_wide in (True, False)}
        self._passes = 0

    def next_is_wide(self) -> bool:
        """Whether the next such pass is to be made on all threads."""
        wide, single = self._usual(is_wide=True), self._usual(is_wide=False)
        better, worse = sorted((wide, single))
        self._passes += 1
        if self._passes * better**2 < _AGAIN_AFTER * worse**2:
            return wide <= single
        self._passes = 0
        return wide > single

    def took(self, seconds: float, *, is_wide: bool) -> None:
        """Such a pass took so long. At least one of each way is to be told of before `next_is_wide` is asked."""
        self._seconds[is_wide].append(seconds)

    def _usual(self, *, is_wide: bool) -> float:
        return median(self._seconds[is_wide].copy())
