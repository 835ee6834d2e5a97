"""How long the bodies of requests may take to arrive."""

import asyncio

from fastapi import Request

from app import errors
from app.endings import Block, Ending


class Arrivals(Ending):
    """Of one process, for its event loop alone. Their end is that of bodies which have yet to arrive."""

    def __init__(self, *, max_seconds: float) -> None:
        super().__init__()
        self._max_seconds = max_seconds

    def in_time(self) -> Block:
        """Raises `TooSlow` where the block, in which a body is read, takes longer than a body may, and `Overloaded` as
        `unless_stopped`."""
        return _Arrival(self._under_way, self._end, self._max_seconds)


class _Arrival(Block):
    """A body that is being read."""

    def __init__(self, under_way: set[Block], end: float, max_seconds: float) -> None:
        super().__init__(under_way, end, asyncio.get_running_loop().time() + max_seconds)
        self._max_seconds = max_seconds

    def _too_late(self) -> errors.GraftError:
        if self._end < self._deadline:
            return super()._too_late()
        return errors.TooSlow(
            f"the request did not arrive within {self._max_seconds:g} s", detail={"max_seconds": self._max_seconds}
        )


def of(request: Request) -> Arrivals:
    """Those of the process."""
    found: Arrivals = request.app.state.arrivals
    return found
