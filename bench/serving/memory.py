"""Memory of a server over time."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psutil

_EACH_SECONDS = 0.5
_MIB = 1024 * 1024
_SETTLED_MEGABYTES = 1.0
_SETTLED_SAMPLES = 8
_MOST_SAMPLES = 120


@dataclass
class Memory:
    """Resident memory of a process and its children, in MB, as it was sampled."""

    process_id: int
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def sample(self) -> float:
        """What it is now."""
        process = psutil.Process(self.process_id)
        found = 0.0
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += one.memory_info().rss / _MIB
        self.seconds.append(time.perf_counter())
        self.megabytes.append(found)
        return found

    @property
    def peak(self) -> float:
        return max(self.megabytes)

    def quarter(self, number: int) -> float:
        """The median of a quarter of the time, 0-3."""
        count = len(self.megabytes)
        return statistics.median(self.megabytes[count * number // 4 : max(count * (number + 1) // 4, 1)])


async def settled(process_id: int) -> None:
    """Return once the memory of the process has stayed as it is for some seconds: a service that is ready still imports
    what the first request would wait for. After a minute in any case."""
    memory = Memory(process_id)
    for _ in range(_MOST_SAMPLES):
        memory.sample()
        last = memory.megabytes[-_SETTLED_SAMPLES:]
        if len(last) == _SETTLED_SAMPLES and max(last) - min(last) < _SETTLED_MEGABYTES:
            return
        await asyncio.sleep(_EACH_SECONDS)


@asynccontextmanager
async def sampled(process_id: int) -> AsyncIterator[Memory]:
    """The memory of the process while the block runs."""
    memory = Memory(process_id)
    memory.sample()

    async def sample() -> None:
        while True:
            await asyncio.sleep(_EACH_SECONDS)
            memory.sample()

    task = asyncio.create_task(sample())
    try:
        yield memory
    finally:
        task.cancel()
        memory.sample()
