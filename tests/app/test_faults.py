"""What becomes of requests and networks where a runtime fails."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from app import errors
from app.predictions.scheduler import Scheduler
from app.runtimes.form import Images, Machine, Passed
from tests.app.scheduling import LIMITS, Net, ask, grey, hold, loaded


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(LIMITS)
    yield scheduler
    scheduler.close()


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_too_little_memory_for_a_pass_passes(scheduler: Scheduler, failure: Exception) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net, batch=4))
    net.failure = failure
    error = ask(scheduler, lane).wait().error
    assert isinstance(error, errors.Overloaded)
    assert "too little memory" in error.message

    net.failure = None
    assert ask(scheduler, lane).wait().error is None
    assert not lane.is_broken


class Small(Net):
    """A network with memory for `most` images at once, but for none that are black."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        passed = super().run(images, alone=alone)
        if len(images) > self.most or not images.any():
            raise MemoryError
        return passed


def test_images_for_which_there_is_no_memory_together_are_passed_one_by_one(scheduler: Scheduler) -> None:
    net = Small(most=4)
    lane = scheduler.lane(loaded(net, batch=4))
    net.most = 1
    release = hold(scheduler, net, lane)
    values = [9, 0, 30, 60, 90, 120, 150, 180]  # four for each thread
    asked = [ask(scheduler, lane, [grey(value)]) for value in values]
    release()
    tickets = [one.wait() for one in asked]
    assert 4 in net.batches
    for ticket, value in zip(tickets, values, strict=True):
        (answer,) = ticket.answers
        if value == 0:
            assert isinstance(ticket.error, errors.Overloaded)
        else:
            assert answer is not None
            assert answer.logits[0] * 255 == pytest.approx(value)
    assert not lane.is_broken


class Keeping(Small):
    """... and that tells how much is kept of passes that failed when another one begins."""

    def __init__(self) -> None:
        super().__init__(most=4)
        self.kept: list[bool] = []
        self._of_a_pass: weakref.ref[Images] | None = None

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        self.kept.append(self._of_a_pass is not None and self._of_a_pass() is not None)
        activations = images.astype(np.float32)
        self._of_a_pass = weakref.ref(activations)
        return super().run(images, alone=alone)


def test_what_a_pass_that_failed_had_in_memory_is_free_for_the_next_one(scheduler: Scheduler) -> None:
    net = Keeping()
    lane = scheduler.lane(loaded(net, batch=4, machine=Machine(threads=1)))
    net.most = 1
    net.kept.clear()
    (answered,) = [ask(scheduler, lane, [grey(value) for value in (9, 30, 60, 90)])]
    assert answered.wait().error is None
    assert net.kept == [False] * len(net.kept)
    assert 4 in net.batches


def test_a_pass_of_several_that_fails_otherwise_is_not_repeated(scheduler: Scheduler) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net, batch=4, machine=Machine(threads=1)))
    net.failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert isinstance(ask(scheduler, lane, [grey(9)] * 4).wait().error, errors.Unavailable)
    assert net.batches == [4]


def test_of_a_request_that_was_refused_for_want_of_memory_no_further_image_is_passed(scheduler: Scheduler) -> None:
    net = Small(most=4)
    lane = scheduler.lane(loaded(net, batch=4, machine=Machine(threads=1)))
    net.most = 1
    assert isinstance(ask(scheduler, lane, [grey(value) for value in (0, 30, 60, 90)]).wait().error, errors.Overloaded)
    scheduler.close()
    assert net.batches == [4, 1]


def test_a_network_that_fails_is_not_to_be_asked_again(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    net = Net()
    lane = scheduler.lane(loaded(net))
    net.failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    error = ask(scheduler, lane).wait().error
    assert isinstance(error, errors.Unavailable)
    assert not isinstance(error, errors.Overloaded)
    assert error.code == "runtime_unavailable"
    assert lane.is_broken
    assert "illegal memory access" in caplog.text
