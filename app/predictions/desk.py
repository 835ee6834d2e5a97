"""What answers predictions in one process, put together."""

import asyncio
import logging
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from anyio import CapacityLimiter

from app import cores, errors, libraries
from app.bodies import InFlight
from app.deps import Parts
from app.metrics import Metrics
from app.models.directory import Directory, Snapshot
from app.models.service import Served
from app.predictions.engine import Engine
from app.predictions.opener import FromStorage
from app.predictions.scheduler import Limits, Scheduler
from app.predictions.shelf import Opener, Shelf
from app.runtimes import memory
from app.runtimes.form import BATCH, Machine
from app.settings import Settings

logger = logging.getLogger(__name__)

DRAIN_SECONDS = 20
"""How long a process that is to stop may take to answer what it has accepted. Servers are started with the same."""

WARM_SECONDS = 300.0
"""How long a process that answers predictions alone may load what it keeps in memory before it listens."""

_LOOKING, _WATCHING = 4, 2
"""At once."""

_WAITING_THREADS = 1
"""More than there are cores, for one or the other always waits to have the interpreter back."""


@dataclass(frozen=True)
class Desk:
    """The parts of this process that predictions need."""

    parts: Parts
    directory: Directory
    engine: Engine
    in_flight: InFlight
    shelf: Shelf
    scheduler: Scheduler
    metrics: Metrics
    parsing: CapacityLimiter
    """Of threads that read large bodies; those of the framework are for what waits, and requests that do must not wait
    for requests that compute."""
    looking: CapacityLimiter
    """Of threads that look at what is told of a version: those of the framework may all be waiting for the database,
    without which predictions go on."""
    watching: CapacityLimiter
    """Of threads that look at the device, which may wait for neither the database nor the disk."""
    device: str
    """That models are run on, as torch names it."""
    keeps_loaded: bool
    """Whether what aliases keep in memory is kept here."""

    @property
    def kept_loaded(self) -> tuple[Served, ...]:
        """The versions that are to be in the memory of this process at any time."""
        return self._kept_of(self.directory.snapshot)

    @property
    def settings(self) -> Settings:
        return self.parts.settings

    def follow(self, snapshot: Snapshot) -> None:
        """Go on with what the registry has become."""
        self.engine.follow(snapshot.served, self._kept_of(snapshot))
        served = snapshot.served.values()
        # The first model of all will be one of torch, and asked for as soon as it is trained.
        if self.keeps_loaded and (not served or any(version.serving.is_of_torch for version in served)):
            _import_soon()

    async def warm_up(self, seconds: float) -> None:
        """Wait until it is known which versions are kept in memory, and each of them is there or could not be loaded,
        but no longer than `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self.directory.known()
                for version in self.kept_loaded:
                    with suppress(errors.Unavailable):
                        await self.engine.prepare(version)
        except TimeoutError:
            logger.warning("models that are kept in memory are not loaded after %g s; requests are taken in", seconds)

    def close(self) -> None:
        """Answer what was taken in, and end."""
        self.scheduler.close()
        self.shelf.close()

    def _kept_of(self, snapshot: Snapshot) -> tuple[Served, ...]:
        return snapshot.kept_loaded if self.keeps_loaded else ()


def assemble(parts: Parts, directory: Directory, metrics: Metrics, device: str, *, keeps_loaded: bool) -> Desk:
    """For this machine and a `device` as torch names it; its threads run until it is closed."""
    settings = parts.settings
    machine = Machine(settings.threads or cores.usable(), device, max(BATCH, settings.batch_size))
    scheduler = Scheduler(
        Limits(
            threads=machine.threads + _WAITING_THREADS,
            max_queued=settings.max_queued_images,
            batch_wait_seconds=settings.batch_wait_seconds,
            max_image_pixels=settings.max_image_pixels,
            drain_seconds=DRAIN_SECONDS,
        )
    )
    source = FromStorage(parts.storage, machine, settings.batch_size or None, metrics)
    opener = Opener(
        source.need,
        source.open,
        scheduler.lane,
        lambda: memory.used_bytes(machine.device),
        lambda form: metrics.fallbacks.labels(form).inc(),
    )
    shelf = Shelf(opener, max_bytes=settings.model_memory_bytes)
    metrics.queued.set_function(scheduler.queued)
    metrics.loaded.set_function(lambda: len(shelf.loaded()))
    metrics.memory.set_function(lambda: shelf.used_bytes)
    in_flight = InFlight(settings.max_predict_bytes_in_flight, stall_seconds=settings.predict_stall_seconds)
    engine = Engine(shelf, scheduler)
    found = Desk(
        parts,
        directory,
        engine,
        in_flight,
        shelf,
        scheduler,
        metrics,
        parsing=CapacityLimiter(machine.threads),
        looking=CapacityLimiter(_LOOKING),
        watching=CapacityLimiter(_WATCHING),
        device=device,
        keeps_loaded=keeps_loaded,
    )
    directory.subscribe(found.follow)
    return found


@cache
def _import_soon() -> None:
    """Begin to import, once, what the first request would wait for."""
    threading.Thread(target=libraries.import_deferred, name="import").start()
