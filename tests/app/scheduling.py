"""Networks that tell what they are given, and a scheduler that is asked to pass images through them."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from app.backbones.preprocess import Preprocessing
from app.predictions.lanes import Lane
from app.predictions.loaded import Loaded
from app.predictions.scheduler import Limits, Scheduler
from app.predictions.tickets import Ticket
from app.runtimes.form import PLAIN, Form, Images, Machine, Passed
from tests import factories

PREPROCESSING = Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PHOTO = factories.image(factories.COLOURS["red"])
LIMITS = Limits(threads=2, max_queued=10, batch_wait_seconds=0.005, max_image_pixels=1_000_000, drain_seconds=60)
PATIENCE = 60.0
TWO_THREADS = Machine(threads=2)


@dataclass
class Net:
    """A network whose logits are the mean of the red channel, that can be held up, and that tells what it was given."""

    batches: list[int] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    name: str = ""
    failure: Exception | None = None
    """What a pass raises."""
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.gate.set()

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        self.begun.release()
        assert self.gate.wait(PATIENCE)
        self.batches.append(len(images))
        self.alone.append(alone)
        self.order.append(self.name)
        if self.failure is not None:
            raise self.failure
        red = images[..., 0].astype(np.float32).mean(axis=(1, 2))
        logits = (np.stack([red, -red], axis=1) / 255).astype(np.float32)
        return Passed(features=logits, logits=logits)

    def widen(self) -> None:
        raise AssertionError("a network as quick as this needs no second copy")

    def settle(self) -> None:
        pass


def loaded(net: Net, *, batch: int = 1, form: Form = PLAIN, machine: Machine = TWO_THREADS) -> Loaded:
    found = Loaded(net, form, labels=("a", "b"), preprocessing=PREPROCESSING, calibration=None, machine=machine)
    found.measure(batch=batch)
    for told in (net.batches, net.alone, net.order):
        told.clear()
    net.begun = threading.Semaphore(0)
    return found


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(LIMITS)
    yield scheduler
    scheduler.close()


@dataclass
class Asked:
    """A ticket, and the moment it ended."""

    ticket: Ticket
    ended: threading.Event

    def wait(self) -> Ticket:
        assert self.ended.wait(PATIENCE)
        return self.ticket


def ask(
    scheduler: Scheduler, lane: Lane, images: Sequence[bytes | Images] = (PHOTO,), *, seconds: float = PATIENCE
) -> Asked:
    ended = threading.Event()
    now = time.monotonic()
    ticket = Ticket(images, deadline=now + seconds, now=now, done=lambda _ticket: ended.set())
    scheduler.submit(lane, ticket)
    return Asked(ticket, ended)


def grey(value: int) -> Images:
    return np.full((8, 8, 3), value, np.uint8)


def hold(scheduler: Scheduler, net: Net, lane: Lane, *, threads: int = 2) -> Callable[[], None]:
    """Keep all threads busy with `net` until the function returned is called."""
    net.gate.clear()
    held = [ask(scheduler, lane) for _ in range(threads)]
    for _ in held:
        assert net.begun.acquire(timeout=PATIENCE)

    def go_on() -> None:
        net.gate.set()
        for asked in held:
            asked.wait()

    return go_on


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come to pass")


@dataclass
class Slow(Net):
    """One that takes its time for each image."""

    seconds: float = 0.0

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        time.sleep(self.seconds * len(images))
        return super().run(images, alone=alone)

    def widen(self) -> None:
        pass
