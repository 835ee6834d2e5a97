"""Whether an image that nobody else's waits beside is best passed on all threads of the machine, or on one.

That depends on more than the network: threads that wait for each other after every layer lose where others want the
cores, where a container may use less of them than there are, or where they share no cache. So it is taken from what
such passes took, and tried again now and then.
"""

from collections import deque

_REMEMBERED = 5
"""Passes of each way, the quickest of which counts: one that was held up says nothing."""
_AGAIN_AFTER = 100
"""Passes, of which the last is made the other way."""


class Lone:
    """What passes of one image took on all threads and on one; for any thread."""

    def __init__(self) -> None:
        self._seconds = {is_wide: deque[float](maxlen=_REMEMBERED) for is_wide in (True, False)}
        self._passes = 0

    def next_is_wide(self) -> bool:
        """Whether the next such pass is to be made on all threads."""
        self._passes += 1
        better = self._least(is_wide=True) <= self._least(is_wide=False)
        return better if self._passes % _AGAIN_AFTER else not better

    def took(self, seconds: float, *, is_wide: bool) -> None:
        """Such a pass took so long."""
        self._seconds[is_wide].append(seconds)

    def _least(self, *, is_wide: bool) -> float:
        return min(self._seconds[is_wide].copy(), default=0.0)
