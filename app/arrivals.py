"""How long the bodies of requests may take to arrive."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from app import errors


class Arrivals:
    """Of one process, for its event loop alone."""

    def __init__(self, *, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._under_way: set[asyncio.Timeout] = set()
        self._end = math.inf
        """On the clock of the event loop."""

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Raise `TooSlow` where the block, in which a body is read, takes longer than a body may, and `Overloaded` as
        `unless_stopped`."""
        deadline = asyncio.get_running_loop().time() + self._max_seconds
        try:
            async with self.unless_stopped(), asyncio.timeout_at(deadline):
                yield
        except TimeoutError as error:
            raise errors.TooSlow(
                f"the request did not arrive within {self._max_seconds:g} s",
                detail={"max_seconds": self._max_seconds},
            ) from error

    @asynccontextmanager
    async def unless_stopped(self) -> AsyncIterator[None]:
        """Raise `Overloaded` where the process stops before the block, in which a body is read, has ended."""
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
        """Let what has not arrived by then be given up: the process stops."""
        self._end = asyncio.get_running_loop().time() + seconds
        for limit in self._under_way:
            if not limit.expired():
                limit.reschedule(self._end)


def of(request: Request) -> Arrivals:
    """Those of the process."""
    found: Arrivals = request.app.state.arrivals
    return found
