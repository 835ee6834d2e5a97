"""Networks that torch compiles: each is compiled in its own right, however many there are and whoever calls it."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit

from app.runtimes import convolutions, in_torch
from app.runtimes.activations import Pool
from app.runtimes.form import Files, Machine
from app.runtimes.in_torch import Compiled, Whole
from tests import factories

SIZES = (4, 1)
THREADS = 4


class Counting:
    """Compiles nothing, and counts how often it was to."""

    def __init__(self) -> None:
        self.compiled = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: Sequence[Tensor]) -> Callable[..., Any]:
        self.compiled += 1
        return graph.forward


@pytest.fixture
def network(tmp_path: Path) -> Whole:
    factories.write_artifact(tmp_path / "artifact")
    return in_torch.whole(Files(tmp_path / "artifact"))


@pytest.fixture
def backend() -> Counting:
    return Counting()


def images(count: int, side: int = 64) -> Tensor:
    return torch.zeros(count, side, side, 3)


def test_a_network_is_compiled_whatever_others_were_before_it(network: Whole, backend: Counting) -> None:
    with torch.inference_mode(), torch._dynamo.config.patch(recompile_limit=len(SIZES)):
        for one in (Compiled(network, backend), Compiled(network, backend)):
            for count in SIZES:
                one(images(count))
    assert backend.compiled == 2 * len(SIZES)


def test_a_batch_that_others_have_left_is_not_compiled_for(network: Whole, backend: Counting) -> None:
    compiled = Compiled(network, backend)
    with torch.inference_mode():
        for count in (1, 4):  # as a version is warmed up
            compiled(images(count))
        assert backend.compiled == 2
        for count in (3, 2):
            compiled(images(count))
    assert backend.compiled == 2


def test_a_network_for_larger_images_is_compiled_for_their_size_alone(network: Whole) -> None:
    changing: list[bool] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        changing.append(any(isinstance(value, torch.SymInt) for value in inputs))
        return graph.forward

    with torch.inference_mode():
        for side in (64, 96):
            Compiled(network, backend)(images(1, side))
    assert changing == [False, False]


def test_threads_that_meet_a_number_of_images_at_once_have_it_compiled_once(network: Whole, backend: Counting) -> None:
    compiled, ready = Compiled(network, backend), threading.Barrier(THREADS)

    def run(_thread: int) -> None:
        ready.wait()
        torch.set_num_threads(1)
        with torch.inference_mode():
            compiled(images(4))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, range(THREADS)))
    assert backend.compiled == 1


def test_a_network_that_torch_would_no_longer_compile_fails(network: Whole, backend: Counting) -> None:
    compiled = Compiled(network, backend)
    with torch.inference_mode(), torch._dynamo.config.patch(recompile_limit=1):
        compiled(images(1))
        with pytest.raises(FailOnRecompileLimitHit):
            compiled(images(4))


def test_a_network_with_our_convolutions_settles_so_that_no_thread_keeps_memory_of_its_largest_passes(
    network: Whole,
) -> None:
    ours = in_torch.InOwn(network, Machine(1), convolutions.compute_own(network))
    pool = Pool()
    pool.empty(2**20)
    assert len(pool._free) == 1
    ours.settle()
    assert pool._free == []


def test_a_thread_computes_for_a_network_in_as_many_threads_as_that_asks_for_whatever_came_before(
    network: Whole,
) -> None:
    one, other = (in_torch.InTorch(network, Machine(2), torch.float32) for _ in range(2))
    other.widen()
    blank = np.zeros((1, 64, 64, 3), np.uint8)

    def asked() -> list[int]:
        found = []
        for network, alone in ((one, False), (other, True), (one, False)):
            network.run(blank, alone=alone)
            found.append(torch.get_num_threads())
        return found

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asked).result() == [1, 2, 1]
