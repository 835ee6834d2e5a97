"""What one form makes of images, how fast it is, and how much memory it takes."""

import gc
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from app import errors
from app.optimisation import Figures, Runtime, Speed
from app.runtimes import memory
from app.runtimes.form import BATCH, Machine, Network
from worker.training import calibrate, data
from worker.training.events import Emit, Progress

_BATCHES = {"cpu": 1, "cuda": BATCH}
"""Images that a network is given at once: a CPU gains nothing by more, for it passes several side by side."""
_SECONDS = 1.0
_FEWEST_RUNS = 5
_MOST_RUNS = 100
_WINDOWS = 3


@dataclass(frozen=True)
class Pace:
    """How long a measurement of speed lasts, and on what."""

    machine: Machine
    seconds: float = _SECONDS

    @property
    def batch(self) -> int:
        return _BATCHES[torch.device(self.machine.device).type]


def logits(
    network: Network, images: NDArray[np.uint8], machine: Machine, *, phase: str, emit: Emit
) -> NDArray[np.float32]:
    """What `network` makes of `images (N, H, W, 3)`: `(N, K)`. Raises `Unavailable` where it is not all numbers."""
    size = _BATCHES[torch.device(machine.device).type]
    found: list[NDArray[np.float32]] = []
    done = 0

    def run(part: range) -> NDArray[np.float32]:
        return network.run(np.array(images[part.start : part.stop])).logits

    parts = data.parts_of(len(images), size)
    for values in data.prefetched(parts, run, threads=machine.threads, window=2 * machine.threads):
        found.append(values)
        done += len(values)
        emit(Progress(phase, done, len(images)))
    everything = np.concatenate(found)
    if not np.isfinite(everything).all():
        raise errors.Unavailable("its answers are not all numbers", code="runtime_unavailable")
    return everything


def figures(
    found: NDArray[np.float32], plain: NDArray[np.float32], targets: NDArray[np.int64], *, temperature: float
) -> Figures:
    """Of logits `(N, K)` against those of the plain form and the `targets (N,)`."""
    scaled = found.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    trust = calibrate.trust(powers / powers.sum(axis=1, keepdims=True), targets)
    said = found.argmax(axis=1)
    return Figures(
        accuracy=float((said == targets).mean()),
        agreement=float((said == plain.argmax(axis=1)).mean()),
        log_loss=trust.log_loss,
        calibration_error=trust.calibration_error,
    )


def speed(network: Network, images: NDArray[np.uint8], pace: Pace, *, memory_bytes: int | None) -> Speed:
    """Of `network`, which is widened, with nothing else going on in this process."""
    image, batch = np.array(images[:1]), np.array(images[np.arange(pace.batch) % len(images)])
    single = _median(lambda: network.run(image), pace.seconds)
    rate = _rate(network, batch, pace)
    alone = _median(lambda: network.run(image, alone=True), pace.seconds)
    return Speed(1000 * alone, 1000 * single, rate, memory_bytes)


class Memory:
    """By how much this process, or what it holds on a GPU, has grown since this was made, for a network that `runtime`
    executes."""

    def __init__(self, runtime: Runtime, device: str) -> None:
        self._runtime = runtime
        self._device = device
        self._before = self._used()

    def grown(self) -> int | None:
        """In bytes; None where the system does not tell."""
        now = self._used()
        return None if now is None or self._before is None else max(0, now - self._before)

    def _used(self) -> int | None:
        # Freed memory that the allocator keeps would be used again, and what is measured then is too small.
        gc.collect()
        memory.give_back()
        return memory.used_bytes(self._device) if memory.is_seen(self._runtime, self._device) else None


def _median(run: Callable[[], object], seconds: float) -> float:
    """Seconds of one run, after one that warms up."""
    run()
    took: list[float] = []
    while len(took) < _FEWEST_RUNS or (sum(took) < seconds and len(took) < _MOST_RUNS):
        started = time.perf_counter()
        run()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def _rate(network: Network, batch: NDArray[np.uint8], pace: Pace) -> float:
    """Images a second, in as many threads as the machine has for them: in the best of some windows, for what else the
    machine does meanwhile is no fault of the network's."""
    threads = pace.machine.threads
    ready = threading.Barrier(threads)

    def work(_worker: int) -> tuple[int, float, float]:
        try:
            network.run(batch)
        except BaseException:
            ready.abort()  # or the others would wait for ever
            raise
        with suppress(threading.BrokenBarrierError):  # what went wrong elsewhere is raised there
            ready.wait()
        started, done = time.perf_counter(), 0
        while done < _FEWEST_RUNS or time.perf_counter() - started < pace.seconds / _WINDOWS:
            network.run(batch)
            done += 1
        return done * len(batch), started, time.perf_counter()

    rates = []
    with ThreadPoolExecutor(threads, thread_name_prefix="measure") as pool:
        for _ in range(_WINDOWS):
            passed, started, ended = zip(*pool.map(work, range(threads)), strict=True)
            rates.append(float(sum(passed) / (max(ended) - min(started))))
    return max(rates)
