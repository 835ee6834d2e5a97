"""What is given up when a process that is to stop has no more time for it."""

import asyncio
import math
from types import TracebackType

from app import errors


class Ending:
    """Of one kind of what is under way in a process; for its event loop alone."""

    def __init__(self) -> None:
        self._under_way: set[Block] = set()
        self._end = math.inf
        """On the clock of the event loop."""

    def unless_stopped(self) -> "Block":
        """Raises `Overloaded` where the end comes before the block has ended."""
        return Block(self._under_way, self._end)

    def end_in(self, seconds: float) -> None:
        """Let what has not ended by then be given up."""
        self._end = asyncio.get_running_loop().time() + seconds
        for block in self._under_way:
            block.end_at(self._end)


class Block:
    """What is under way; entered once. A class of its own, since a prediction goes through two, and a decorated
    generator takes several times as long."""

    def __init__(self, under_way: "set[Block]", end: float, deadline: float = math.inf) -> None:
        self._under_way = under_way
        self._deadline, self._end = deadline, end
        first = min(deadline, end)
        self._limit = asyncio.timeout_at(None if first == math.inf else first)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._under_way.add(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._under_way.discard(self)
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise self._too_late() from late

    def end_at(self, end: float) -> None:
        """Be given up then, if not before."""
        self._end = end
        if end < self._deadline and not self._limit.expired():
            self._limit.reschedule(end)

    def _too_late(self) -> errors.GraftError:
        """What is said where there is no more time."""
        return errors.Overloaded("the service is stopping; send this to another one")
