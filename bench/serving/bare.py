"""What the cores could do without a server: the decoding and the network of the service in a bare loop."""

import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from app.metrics import Metrics
from app.models import directory
from app.models.serving import Choices, Process
from app.optimisation import Pins
from app.predictions.loaded import Loaded
from app.predictions.opener import FromStorage
from app.runtimes.form import Images, Machine
from bench.serving.subjects import MAX_PIXELS, Folder, Subject

_ROUNDS = 3


@dataclass(frozen=True)
class Bare:
    """Photos per second on all cores."""

    whole: float
    """Decoded and sent through the network."""
    forward: float
    """Through the network alone."""
    cpu_ms: float
    """CPU time for a photo that is decoded and sent through the network."""


def opened(folder: Folder, subject: Subject, *, precision: str, threads: int) -> Loaded:
    """The newest version of the model, in the form in which the service has it at `precision` (`best` or `fp32`)."""
    pins = Pins() if precision == "best" else Pins(precision=precision)
    with folder.database.read() as session:
        snapshot = directory.load(session, Choices(Process("cpu", pins)))
    source = FromStorage(folder.storage, Machine(threads), 1, Metrics())
    return source.open(snapshot.served[subject.model])


def measure(loaded: Loaded, photo: bytes, *, cores: Sequence[int], seconds: float) -> Bare:
    """As many threads as cores, each with one photo after the other and a network of one thread: the most that these
    cores can do, since none ever waits for another. Medians of a few rounds."""
    before = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)
    image = _decoded(loaded, photo)
    both = functools.partial(_rate, threads=len(cores), seconds=seconds / _ROUNDS)
    try:
        whole = [
            both(lambda: loaded.network.run(loaded.pixels(photo, max_pixels=MAX_PIXELS)[None])) for _ in range(_ROUNDS)
        ]
        forward = [both(lambda: loaded.network.run(image)) for _ in range(_ROUNDS)]
    finally:
        os.sched_setaffinity(0, before[0])
        torch.set_num_threads(before[1])
    rate, cpu_ms = np.median(whole, axis=0)
    return Bare(float(rate), float(np.median(forward, axis=0)[0]), float(cpu_ms))


def _decoded(loaded: Loaded, photo: bytes) -> Images:
    return loaded.pixels(photo, max_pixels=MAX_PIXELS)[None]


def _rate(work: Callable[[], object], *, threads: int, seconds: float) -> tuple[float, float]:
    """How often per second, and in how many milliseconds of CPU time."""

    def repeated() -> int:
        torch.set_num_threads(1)  # each thread has a number of its own
        count = 0
        while time.perf_counter() < end:
            work()
            count += 1
        return count

    started, cpu = time.perf_counter(), time.process_time()
    end = started + seconds
    with ThreadPoolExecutor(threads) as pool:
        done = sum(future.result() for future in [pool.submit(repeated) for _ in range(threads)])
    return done / (time.perf_counter() - started), 1000 * (time.process_time() - cpu) / done
