"""How forms are timed, and what they take."""

import errno
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app import errors
from app.backbones.preprocess import Preprocessing
from app.runtimes.form import Images, Machine, Passed
from tests.training import samples
from worker.optimising import measure, pixels
from worker.optimising.measure import Memory, Pace
from worker.training import table

THREADS = 3
BATCH = np.zeros((2, 8, 8, 3), np.uint8)


class FailsInOneThread:
    """A network that works but in the first thread of several that want it to warm up at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._main = threading.get_ident()
        self._has_failed = False

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        with self._lock:
            fails = threading.get_ident() != self._main and not self._has_failed
            self._has_failed = self._has_failed or fails
        if fails:
            raise MemoryError("no room for another thread")
        return Passed(np.zeros((len(images), 1), np.float32), np.zeros((len(images), 2), np.float32))

    def widen(self) -> None:
        """Nothing."""

    def settle(self) -> None:
        """Nothing."""


class Constant(FailsInOneThread):
    """A network that always works."""

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        return Passed(np.zeros((len(images), 1), np.float32), np.zeros((len(images), 2), np.float32))


class Mapped:
    """Images of which no more may be read than are asked for."""

    shape = (10**9, 8, 8, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        count = len(range(*key.indices(len(self)))) if isinstance(key, slice) else len(key)
        return np.zeros((count, *self.shape[1:]), np.uint8)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_of_very_many_images_a_measurement_takes_one_batch(device: str) -> None:
    images = cast("NDArray[np.uint8]", Mapped())
    found = measure.speed(Constant(), images, Pace(Machine(1, device), seconds=0.01), memory_bytes=7)
    assert found.memory_bytes == 7


def test_a_disk_without_room_for_decoded_images_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(table, "reserve", full)
    images = samples.images(samples.colours(1))
    preprocessing = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    with pytest.raises(errors.Unavailable, match=r"3,072 bytes .* No space left") as raised:
        pixels.decode(
            images, np.array([0]), preprocessing, tmp_path / "decoded", max_pixels=10**6, emit=samples.Recorder()
        )
    assert raised.value.code == "no_room"


class ByTheImage(Constant):
    """A network that sleeps `by_count[N]` seconds for N images."""

    def __init__(self, by_count: dict[int, float]) -> None:
        super().__init__()
        self._by_count = by_count
        self.given: set[int] = set()

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        self.given.add(len(images))
        time.sleep(self._by_count[len(images)])
        return super().run(images, alone=alone)


@pytest.mark.parametrize(("four", "batch", "rate"), [(0.01, 4, 800), (0.06, 1, 200)])
def test_a_rate_is_that_of_the_better_of_one_by_one_and_four_together(four: float, batch: int, rate: float) -> None:
    network = ByTheImage({1: 0.01, 4: four})
    found = measure.speed(network, BATCH, Pace(Machine(threads=2), seconds=0.06), memory_bytes=None)
    assert found.batch == batch
    assert 0.4 * rate < found.images_per_second <= rate


@pytest.mark.parametrize(("rival", "given"), [(200.0, {1, 4}), (500.0, {1})])
def test_batches_are_not_tried_where_another_form_is_out_of_reach(rival: float, given: set[int]) -> None:
    network = ByTheImage({1: 0.01, 4: 0.01})
    measure.speed(network, BATCH, Pace(Machine(threads=2), seconds=0.03), memory_bytes=None, rival=rival)
    assert network.given == given


class OneByOne(Constant):
    """A network with memory for one image at a time."""

    def run(self, images: Images, *, alone: bool = False) -> Passed:
        if len(images) > 1:
            raise MemoryError
        return super().run(images, alone=alone)


def test_a_network_that_cannot_pass_several_images_together_is_timed_one_by_one() -> None:
    found = measure.speed(OneByOne(), BATCH, Pace(Machine(threads=2), seconds=0.01), memory_bytes=None)
    assert found.batch == 1


@pytest.mark.parametrize(
    ("machine", "sizes"),
    [(Machine(1), (1,)), (Machine(2), (1, 4)), (Machine(1, "cuda"), (32,)), (Machine(8, "cuda"), (32,))],
)
def test_sizes_are_those_that_are_passed_so_in_serving(machine: Machine, sizes: tuple[int, ...]) -> None:
    assert Pace(machine, 1.0).sizes == sizes


def test_a_rate_is_of_as_much_time_whatever_a_pass_has_of_images() -> None:
    passes = 0

    class Counting(Constant):
        def run(self, images: Images, *, alone: bool = False) -> Passed:
            nonlocal passes
            passes += 1
            time.sleep(0.001)
            return super().run(images, alone=alone)

    measure.rates([(Counting(), 32)], BATCH, Pace(Machine(1, "cuda"), seconds=0.3))
    assert passes > 30


def test_networks_are_timed_in_turn() -> None:
    order: list[str] = []

    class Named(Constant):
        def __init__(self, name: str) -> None:
            super().__init__()
            self._name = name

        def run(self, images: Images, *, alone: bool = False) -> Passed:
            if not order or order[-1] != self._name:
                order.append(self._name)
            return super().run(images, alone=alone)

    rates = measure.rates([(Named("a"), 1), (Named("b"), 4)], BATCH, Pace(Machine(threads=1), seconds=0.01))
    assert order == ["a", "b"] * 3
    assert min(rates) > 0


@pytest.mark.timeout(60)
def test_what_fails_in_one_of_the_threads_that_time_a_network_is_raised() -> None:
    with pytest.raises(MemoryError, match="another thread"):
        measure.speed(FailsInOneThread(), BATCH, Pace(Machine(THREADS), seconds=0.01), memory_bytes=None)


@dataclass
class Gpu:
    """A GPU's memory as torch takes it: what is freed is kept until it is given back."""

    allocated: int = 0
    reserved: int = 0

    def take(self, size: int) -> None:
        self.allocated += size
        self.reserved = max(self.reserved, self.allocated)

    def free(self, size: int) -> None:
        self.allocated -= size

    def give_back(self) -> None:
        self.reserved = self.allocated


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: gpu.allocated)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: gpu.reserved)
    monkeypatch.setattr(torch.cuda, "empty_cache", gpu.give_back)
    return gpu


def test_a_network_on_a_gpu_takes_what_it_takes_whatever_was_there_before_it(gpu: Gpu) -> None:
    for _ in range(2):
        memory = Memory("torch", "cuda")
        gpu.take(100)
        gpu.take(500)
        gpu.free(500)  # of a pass
        assert memory.grown() == 100
        gpu.free(100)
    Memory("torch", "cuda")
    assert gpu.reserved == 0


def test_what_others_than_torch_take_of_a_gpu_is_not_told(gpu: Gpu) -> None:
    memory = Memory("tensorrt", "cuda")
    gpu.take(1)
    assert memory.grown() is None


def test_what_any_runtime_takes_of_main_memory_is_told() -> None:
    assert Memory("openvino", "cpu").grown() is not None
