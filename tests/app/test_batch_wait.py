"""How long a decoded image waits for others to make up a batch, where one pass is made at a time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from app.predictions.lanes import Lane
from app.predictions.loaded import Given, Loaded, Opened
from app.predictions.scheduler import Scheduler
from app.runtimes.form import Machine
from tests.app.scheduling import LIMITS, PATIENCE, PHOTO, Asked, Net, ask, grey, loaded, until

A_MOMENT = 0.05


@dataclass(frozen=True)
class Scene:
    """A request of two images: one that is decoded, and a file that is being decoded until the gate is open."""

    lane: Lane
    net: Net
    asked: Asked
    gate: threading.Event


@contextmanager
def half_decoded(patch: pytest.MonkeyPatch, *, batch_wait_seconds: float) -> Iterator[Scene]:
    gate, net = threading.Event(), Net()
    found = loaded(net, batch=4, machine=Machine(1, "cuda"))
    patch.setattr(found, "opened", gated(found, gate))
    scheduler = Scheduler(replace(LIMITS, batch_wait_seconds=batch_wait_seconds))
    lane = scheduler.lane(found)
    try:
        yield Scene(lane, net, ask(scheduler, lane, [PHOTO, grey(0)]), gate)
    finally:
        gate.set()
        scheduler.close()


def gated(found: Loaded, gate: threading.Event) -> Callable[..., Opened]:
    """How it opens images, but that files wait for the gate."""
    opened = found.opened

    def wait(image: Given, *, max_pixels: int) -> Opened:
        assert not isinstance(image, bytes) or gate.wait(PATIENCE)
        return opened(image, max_pixels=max_pixels)

    return wait


def test_what_is_decoded_waits_for_what_is_being_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    with half_decoded(monkeypatch, batch_wait_seconds=PATIENCE) as scene:
        until(lambda: bool(scene.lane.ready or scene.net.batches))
        assert not scene.net.begun.acquire(timeout=A_MOMENT)
        scene.gate.set()
        assert scene.asked.wait().error is None
    assert scene.net.batches == [2]


def test_it_waits_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with half_decoded(monkeypatch, batch_wait_seconds=A_MOMENT) as scene:
        assert scene.net.begun.acquire(timeout=PATIENCE / 10)  # while the other one is still being decoded
        assert time.monotonic() - began >= A_MOMENT
        scene.gate.set()
        assert scene.asked.wait().error is None
    assert scene.net.batches == [1, 1]
