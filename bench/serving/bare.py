"""What the cores could do without a server: the decoding and the network of the service in a bare loop."""

import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.backbones import classifier as classifiers
from app.backbones import preprocess
from app.models import artifact as artifacts
from app.models import service as models
from bench.serving.subjects import MAX_PIXELS, Folder, Subject

_ROUNDS = 3


@dataclass(frozen=True)
class Opened:
    """The classifier as the service runs it."""

    decode: Callable[[bytes], Tensor]
    """A photo to what the network sees, `(3, H, W) uint8`."""
    forward: Callable[[Tensor], object]
    """Of `(N, 3, H, W) uint8`; may be called from several threads."""


@dataclass(frozen=True)
class Bare:
    """Photos per second on all cores."""

    whole: float
    """Decoded and sent through the network."""
    forward: float
    """Through the network alone."""
    cpu_ms: float
    """CPU time for a photo that is decoded and sent through the network."""


def opened(folder: Folder, subject: Subject) -> Opened:
    """The newest version of the model, in the runtime in which the service has it."""
    with folder.database.read() as session:
        version = models.served(session, subject.model)
    artifact = artifacts.read(folder.storage.model_version(version.version_id))
    restored = classifiers.restore(
        artifact.backbone, len(artifact.labels), artifact.preprocessing, artifact.state, outlet=artifact.outlet
    )
    form = classifiers.inference_form(restored)

    def decode(photo: bytes) -> Tensor:
        seen = preprocess.load(photo, artifact.preprocessing, max_pixels=MAX_PIXELS)
        return torch.from_numpy(seen).permute(2, 0, 1)

    def forward(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = form(images)
            return logits.softmax(dim=1)

    return Opened(decode, forward)


def measure(opened: Opened, photo: bytes, *, cores: Sequence[int], seconds: float) -> Bare:
    """As many threads as cores, each with one photo after the other and a network of one thread: the most that these
    cores can do, since none ever waits for another. Medians of a few rounds."""
    before = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(1)
    image = opened.decode(photo)[None]
    both = functools.partial(_rate, threads=len(cores), seconds=seconds / _ROUNDS)
    try:
        whole = [both(lambda: opened.forward(opened.decode(photo)[None])) for _ in range(_ROUNDS)]
        forward = [both(lambda: opened.forward(image)) for _ in range(_ROUNDS)]
    finally:
        os.sched_setaffinity(0, before[0])
        torch.set_num_threads(before[1])
    rate, cpu_ms = np.median(whole, axis=0)
    return Bare(float(rate), float(np.median(forward, axis=0)[0]), float(cpu_ms))


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
