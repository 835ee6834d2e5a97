"""What is given up when a process that is to stop has no more time for it."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import errors


class Ending:
    """Of one kind of what is under way in a process; for its event loop alone."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Timeout] = set()
        self._end = math.inf
        """On the clock of the event loop."""

    @asynccontextmanager
    async def unless_stopped(self) -> AsyncIterator[None]:
        """Raise `Overloaded` where the end comes before the block has ended."""
        limit = asyncio.timeout_at(None if self._end == math.inf else self._end)
        try:
            async with limit:
                self._under_way.add(limit)
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise errors.Overloaded("the service is stopping; send this to another one") from error
        finally:
            self._under_way.discard(limit)

    def end_in(self, seconds: float) -> None:
        """Let what has not ended by then be given up."""
        self._end = asyncio.get_running_loop().time() + seconds
        for limit in self._under_way:
            if not limit.expired():
                limit.reschedule(self._end)
