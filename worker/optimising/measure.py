"""What one form makes of images, how fast it is, and how much memory it takes."""

import gc
import logging
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from app import errors
from app.optimisation import Figures, Runtime, Speed
from app.runtimes import memory
from app.runtimes.form import BATCH, SIDE_BY_SIDE, Machine, Network
from worker.training import calibrate, data, unknown
from worker.training.events import Emit, Progress

logger = logging.getLogger(__name__)

SIZES = {"cpu": (1, SIDE_BY_SIDE), "cuda": (BATCH,)}
"""Images that a network is given at once, the first of which are enough to have its answers: a CPU passes several side
by side, and what it gains by more is little for some networks and much for others."""
_FEWEST_RUNS = 5
"""Of one image, or so many images in batches."""
_MOST_RUNS = 100
_WINDOWS = 3
_HOPEFUL = 0.5
"""Of the rate of a rival, image by image: four together gave some networks more than twice as many images a second, but
no network so far behind came to be the faster one by that."""


@dataclass(frozen=True)
class Pace:
    """How long a measurement of speed lasts, and on what."""

    machine: Machine
    seconds: float

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the batches that are tried."""
        sizes = SIZES[torch.device(self.machine.device).type]
        return sizes if self.machine.threads > 1 else sizes[:1]


@dataclass(frozen=True)
class Scale:
    """What the answers of a classifier are read by, in whatever form."""

    temperature: float
    """That logits are divided by."""
    means: NDArray[np.float32] | None
    """The mean direction of each label's features `(K, D)`; None for versions of old."""
    unknown_below: float
    """The similarity to the nearest of them below which the plain form says that an image is unknown."""


@dataclass(frozen=True)
class Answers:
    """What a form says of N images."""

    logits: NDArray[np.float32]
    """`(N, K)`."""
    similarities: NDArray[np.float64] | None
    """`(N,)`: to what was learned; None where there are no means."""

    def at(self, places: NDArray[np.int64]) -> "Answers":
        """Those for the images at `places`."""
        return Answers(self.logits[places], None if self.similarities is None else self.similarities[places])


def answers(
    network: Network, images: NDArray[np.uint8], machine: Machine, scale: Scale, *, phase: str, emit: Emit
) -> Answers:
    """What `network` makes of `images (N, H, W, 3)`. Raises `Unavailable` where it is not all numbers."""
    size = SIZES[torch.device(machine.device).type][0]
    found: list[Answers] = []
    done = 0

    def run(part: range) -> Answers:
        passed = network.run(np.array(images[part.start : part.stop]))
        if scale.means is None:
            return Answers(passed.logits, None)
        # Features are not kept: of many images they would take much memory.
        return Answers(passed.logits, unknown.similarities(passed.features, scale.means).max(axis=1))

    parts = data.parts_of(len(images), size)
    for values in data.prefetched(parts, run, threads=machine.threads, window=2 * machine.threads):
        found.append(values)
        done += len(values.logits)
        emit(Progress(phase, done, len(images)))
    similar = [values.similarities for values in found if values.similarities is not None]
    everything = Answers(
        np.concatenate([values.logits for values in found]), np.concatenate(similar) if similar else None
    )
    for numbers in (everything.logits, everything.similarities):
        if numbers is not None and not np.isfinite(numbers).all():
            raise errors.Unavailable("its answers are not all numbers", code="runtime_unavailable")
    return everything


def figures(found: Answers, plain: Answers, targets: NDArray[np.int64], scale: Scale) -> Figures:
    """Of answers against those of the plain form and the `targets (N,)`."""
    scaled = found.logits.astype(np.float64) / scale.temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    trust = calibrate.trust(powers / powers.sum(axis=1, keepdims=True), targets)
    said = found.logits.argmax(axis=1)
    labelled = Figures(
        accuracy=float((said == targets).mean()),
        agreement=float((said == plain.logits.argmax(axis=1)).mean()),
        log_loss=trust.log_loss,
        calibration_error=trust.calibration_error,
    )
    if found.similarities is None or plain.similarities is None:
        return labelled
    least = moved(scale.unknown_below, plain.similarities, found.similarities)
    is_refused = found.similarities < least
    return replace(
        labelled,
        refused=float(is_refused.mean()),
        unknown_agreement=float((is_refused == (plain.similarities < scale.unknown_below)).mean()),
        unknown_below=least,
    )


def moved(threshold: float, plain: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """The `threshold` on similarities of the plain form `(N,)`, for a form that finds others for the same images
    `(N,)`: where as many of them are below. Those of a lower precision are a little lower, as what it rounds turns
    features away from the mean, and at the same threshold more images would be refused."""
    ordered = np.sort(plain)
    inside = np.clip(threshold, ordered[0], ordered[-1])
    return float(np.interp(inside, ordered, np.sort(found)) + (threshold - inside))


def speed(
    network: Network, images: NDArray[np.uint8], pace: Pace, *, memory_bytes: int | None, rival: float = 0.0
) -> Speed:
    """Of `network`, which is widened, with nothing else going on in this process. Where it is hopelessly slower than
    a `rival`, in images a second, larger batches are not tried, for which some would be compiled anew."""
    image = np.array(images[:1])
    single = _median(lambda: network.run(image), pace.seconds)
    sizes = pace.sizes if pace.machine.threads / single >= _HOPEFUL * rival else pace.sizes[:1]
    sizes = (sizes[0], *(size for size in sizes[1:] if _can(network, _some(images, size))))
    rate, batch = max(zip(rates([(network, size) for size in sizes], images, pace), sizes, strict=True))
    alone = _median(lambda: network.run(image, alone=True), pace.seconds)
    return Speed(1000 * alone, 1000 * single, rate, memory_bytes, batch)


def rates(contenders: Sequence[tuple[Network, int]], images: NDArray[np.uint8], pace: Pace) -> list[float]:
    """Images a second of each network in batches of its size, in as many threads as the machine has for them: in the
    best of some windows, which they have in turn, for what else the machine does meanwhile is no fault of any."""
    given = [(network, _some(images, size)) for network, size in contenders]
    seconds = pace.seconds / _WINDOWS / len(given)
    found = [0.0] * len(given)
    with ThreadPoolExecutor(pace.machine.threads, thread_name_prefix="measure") as pool:
        for _ in range(_WINDOWS):
            for place, (network, batch) in enumerate(given):
                found[place] = max(
                    found[place], _window(network, batch, pool, threads=pace.machine.threads, seconds=seconds)
                )
    return found


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


def _some(images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.array(images[np.arange(count) % len(images)])


def _can(network: Network, batch: NDArray[np.uint8]) -> bool:
    """Whether there is a way, and memory, to pass so many images together."""
    try:
        network.run(batch)
    except Exception as error:  # runtimes raise what they like
        logger.warning("%d images cannot be passed together: %s", len(batch), error)
        return False
    return True


def _window(
    network: Network, batch: NDArray[np.uint8], pool: ThreadPoolExecutor, *, threads: int, seconds: float
) -> float:
    """Images a second."""
    fewest = max(1, _FEWEST_RUNS // len(batch))
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
        while done < fewest or time.perf_counter() - started < seconds:
            network.run(batch)
            done += 1
        return done * len(batch), started, time.perf_counter()

    passed, started, ended = zip(*pool.map(work, range(threads)), strict=True)
    return float(sum(passed) / (max(ended) - min(started)))
