"""How long the bodies of requests may take to arrive."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from app import errors
from app.endings import Ending


class Arrivals(Ending):
    """Of one process, for its event loop alone. Their end is that of bodies which have yet to arrive."""

    def __init__(self, *, max_seconds: float) -> None:
        super().__init__()
        self._max_seconds = max_seconds

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


def of(request: Request) -> Arrivals:
    """Those of the process."""
    found: Arrivals = request.app.state.arrivals
    return found
