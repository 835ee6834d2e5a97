"""What one image costs on this machine: decoding, a pass through a network, and a training step."""

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.backbones import crops, footprint
from app.backbones.classifier import Classifier, InferenceForm
from app.backbones.preprocess import Pixels
from app.backbones.walk import Walk
from app.controlgroups import ControlGroups
from app.profile import Costs, StageCosts
from app.ranking import Latency
from app.runtimes import memory
from app.runtimes.in_graphs import InGraphs
from worker.training import dropout, features, graphs, precision
from worker.training.data import Images
from worker.training.learner import Criterion

_IMAGES = 32
_STEP_IMAGES = {"cpu": 16, "cuda": 32}
_FEWEST_IN_A_STEP = 4
"""Fewer are not halved any more."""
_COUNTED = 2
"""Images by which it is counted what a step keeps: BatchNorm refuses to train on a single one."""
_MOST_RUNS, _LONG_ENOUGH = 5, 0.5
_MOST_SINGLE_RUNS, _SINGLE_RUNS_SECONDS = 50, 0.2
_FEWEST_SINGLE_RUNS = 3
_CRITERION = Criterion(smoothing=0.0, weights=None)


def measure(
    classifier: Classifier, network: InferenceForm, images: Images, *, max_pixels: int, device: torch.device
) -> Costs:
    """The costs of some of `images` with `classifier`, whose form for inference is `network`; both end on `device`."""
    places = np.unique(np.linspace(0, len(images) - 1, _IMAGES).round().astype(int))
    files = images.read(places.tolist())

    def decode(file: bytes) -> Pixels:
        return crops.load(file, classifier.preprocessing, max_pixels=max_pixels)

    decode(files[0])  # the first one ever also pays for what is loaded along
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        started = time.perf_counter()
        pixels = list(pool.map(decode, files))
        seconds = time.perf_counter() - started
    views = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    passed, stepped = _Passage(device), _Passage(device)
    forward = _forward(network.to(device), views, passed)
    step = _step(classifier, views[: _STEP_IMAGES[device.type]], images.targets[places], stepped)
    return Costs(
        decode=seconds / len(files),
        forward=forward,
        step=step.seconds,
        device=device.type,
        threads=threads,
        gain=step.gain,
        full_precision=step.full_precision,
        full_gain=step.full_gain,
        stages=tuple(_stages(passed, stepped)),
        kept_bytes_per_pixel=_kept_bytes_per_pixel(classifier, views[:_COUNTED], device),
        memory_bytes=device_bytes(device),
        devices=torch.cuda.device_count() if device.type == "cuda" else None,
    )


def latency(network: InferenceForm, size: int, *, device: torch.device) -> Latency:
    """The time of one image of `size` pixels by itself through `network`, as in serving; it ends on `device`."""
    run = _single(network.to(device), size, device)
    took: list[float] = []
    run()
    while len(took) < _FEWEST_SINGLE_RUNS or (sum(took) < _SINGLE_RUNS_SECONDS and len(took) < _MOST_SINGLE_RUNS):
        started = time.perf_counter()
        run()
        took.append(time.perf_counter() - started)
    return Latency(seconds=statistics.median(took), runs=len(took))


def _single(network: InferenceForm, size: int, device: torch.device) -> Callable[[], object]:
    """Passes one image of `size` pixels, and waits for what comes of it."""
    if device.type == "cuda":
        image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        served = InGraphs(partial(_outputs, network), device, torch.float32, most=1)
        return lambda: served.run(image)
    view = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)

    def run() -> None:
        with torch.inference_mode():
            network(view)

    return run


def _outputs(network: InferenceForm, images: Tensor) -> tuple[Tensor, Tensor]:
    features = network.features(images.permute(0, 3, 1, 2))
    return features, network.head(features)


@dataclass(frozen=True)
class _Step:
    """What a step takes: as `Costs` has it, `seconds` an image."""

    seconds: float
    gain: float
    full_precision: float
    full_gain: float | None


@dataclass
class _Passage:
    """When the output of each stage was there, and when its gradient was, in seconds from the beginning of a pass and
    summed over passes of so many `images` in all."""

    device: torch.device
    there: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    back: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    images: int = 0
    began: float = 0.0

    @contextmanager
    def watching(self, network: Classifier | InferenceForm) -> Iterator[None]:
        """Inside, passes through `network` are watched, if it can be entered between stages."""
        ends = _ends(network.body, network.walk) if network.walk.can_enter else {}
        hooks = [network.register_forward_pre_hook(self._begin)]
        for stage, name in ends.items():
            hooks.append(network.body.get_submodule(name).register_forward_hook(partial(self._pass, stage)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, _network: nn.Module, inputs: tuple[Tensor]) -> None:
        _finish(self.device)
        self.images += len(inputs[0])
        self.began = time.perf_counter()

    def _pass(self, stage: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.there[stage] += self._since()
        if output.requires_grad:
            output.register_hook(partial(self._return, stage))  # type: ignore[no-untyped-call]

    def _return(self, stage: str, _gradient: Tensor) -> None:
        self.back[stage] += self._since()

    def _since(self) -> float:
        _finish(self.device)
        return time.perf_counter() - self.began


def _ends(body: nn.Module, walk: Walk) -> dict[str, str]:
    """The name of the last module of each stage."""
    ends: dict[str, str] = {}
    before: set[str] = set()
    for stage in walk.stages:
        names = [name for name in walk.part(body, stage).modules if name not in before]
        before.update(names)
        if names:
            ends[stage] = names[-1]
    return ends


def _stages(passed: _Passage, stepped: _Passage) -> Iterator[StageCosts]:
    befores, backs = dict(stepped.there), dict(stepped.back)
    for name, there in passed.there.items():
        before, back = befores[name], backs[name]
        yield StageCosts(
            name=name,
            forward=there / passed.images,
            step_before=before / stepped.images,
            step_behind=(back - before) / stepped.images,
        )


def _forward(network: InferenceForm, views: Tensor, passage: _Passage) -> float:
    batches = torch.split(views, features.batch_size(passage.device))

    def run(parts: Sequence[Tensor]) -> None:
        with torch.inference_mode():
            for part in parts:
                network(part.to(passage.device))

    run(batches[:1])
    with passage.watching(network):
        return _seconds(lambda: run(batches), passage.device) / len(views)


def _step(classifier: Classifier, views: Tensor, targets: NDArray[np.int64], passage: _Passage) -> _Step:
    """By a step over `views (N, 3, H, W)`, or over fewer of them where the memory is too small."""
    try:
        with memory.told_alike():
            return _stepped(classifier, views, targets, passage)
    except torch.OutOfMemoryError:
        if len(views) < _FEWEST_IN_A_STEP:
            raise
    # Not above, where the error still holds what was computed.
    torch.cuda.empty_cache()
    return _step(classifier, views[: len(views) // 2], targets, passage)


def _stepped(classifier: Classifier, views: Tensor, targets: NDArray[np.int64], passage: _Passage) -> _Step:
    device = passage.device
    inputs, labels = views.to(device), torch.from_numpy(targets[: len(views)]).to(device)
    half = precision.is_half_quicker(device)
    classifier.to(device).to(memory_format=torch.channels_last).train()
    dropout.quicken(classifier)

    def compute(images: Tensor, wanted: Tensor, *, half: bool = half) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = _CRITERION(classifier(images), wanted)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def run(way: graphs.Compute) -> None:
        classifier.zero_grad()
        way(inputs, labels)

    def gain(way: graphs.Compute, seconds: float) -> float:
        if not graphs.are_wanted(device):
            return 1.0
        replayed = graphs.Replayed(way, list(classifier.parameters()), graphs.Graphs())
        for _ in range(graphs.BEFORE + 1):
            run(replayed)
        return max(1.0, seconds / _seconds(lambda: run(replayed), device))

    run(compute)
    with passage.watching(classifier):
        seconds = _seconds(lambda: run(compute), device)
    each = seconds / len(views)
    if not half:
        return _Step(each, gain(compute, seconds), full_precision=1.0, full_gain=None)
    exact = partial(compute, half=False)
    run(exact)
    full_seconds = _seconds(lambda: run(exact), device)
    return _Step(each, gain(compute, seconds), full_seconds / seconds, gain(exact, full_seconds))


def _kept_bytes_per_pixel(classifier: Classifier, views: Tensor, device: torch.device) -> float:
    """What a step over `views (N, 3, H, W)` in single precision keeps of each of their pixels for the way back."""
    kept = footprint.kept_of(classifier.to(device).train(), views.to(device))
    return kept.bytes(1, torch.float32.itemsize) / views[0, 0].numel()


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    """How long `run` takes, what it leaves to a GPU included: the mean of some runs where they are short."""
    _finish(device)
    started, seconds, done = time.perf_counter(), 0.0, 0
    while done < _MOST_RUNS and seconds < _LONG_ENOUGH:
        run()
        _finish(device)
        done += 1
        seconds = time.perf_counter() - started
    return seconds / done


def device_bytes(device: torch.device, groups: ControlGroups | None = None) -> int:
    """The memory of `device`, or of the machine where it is a CPU, or as much of that as its container or service may
    take."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(groups or ControlGroups()).memory_bytes()])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
