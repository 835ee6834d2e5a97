"""What becomes of requests and networks where a runtime fails."""

from collections.abc import Iterator

import pytest
import torch

from app import errors
from app.predictions.scheduler import Scheduler
from tests.app.test_scheduler import LIMITS, Net, ask, loaded


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
