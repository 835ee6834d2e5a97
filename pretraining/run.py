"""The training run: steps, averages of the weights, a log, checkpoints that a stopped run goes on from.

Each process takes its share of every step and computes on one thread; they add up their gradients in shared memory. On
a machine with other work to do that is several times faster than the threads of one process, which wait for each other
in every layer.
"""

import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from app.backbones import catalogue
from app.backbones.classifier import Normalisation
from app.backbones.formnet import FEATURES, FormNet
from pretraining import description, statistics, views
from pretraining.export import NAME
from pretraining.pictures import Pictures
from pretraining.task import Questions, Weighting

_CHECKPOINT = "checkpoint.pt"
_PATIENCE_SECONDS = 900.0
_STATISTICS_BATCHES = 32


@dataclass(frozen=True)
class Run:
    """How to train."""

    steps: int
    batch: int
    """Images a step, each seen twice."""
    size: int
    """Side of the views in pixels; half of what the network sees later, which costs a quarter."""
    peak_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 300
    average_over: int = 400
    """Steps that the average of the weights looks back, about."""
    log_every: int = 25
    save_every: int = 100
    half: bool = False
    """Convolutions in bfloat16, which some processors do faster."""
    processes: int = 2
    seed: int = 0
    weighting: Weighting = field(default_factory=Weighting)


class Together:
    """Processes that exchange their gradients."""

    def __init__(self, processes: int, values: int) -> None:
        context = multiprocessing.get_context("forkserver")
        self.processes = processes
        self._shared = torch.zeros(processes, values).share_memory_()  # type: ignore[no-untyped-call]
        self._barrier = context.Barrier(processes, timeout=_PATIENCE_SECONDS)

    def average(self, rank: int, gradients: list[Tensor]) -> None:
        """Put the mean over all processes into `gradients`, which are alike in number and shape everywhere."""
        if self.processes == 1:
            return
        self._shared[rank] = torch.cat([gradient.flatten() for gradient in gradients])
        self._barrier.wait()
        mean = self._shared.mean(dim=0)
        # Nobody may write the next step's values before all have read these.
        self._barrier.wait()
        start = 0
        for gradient in gradients:
            gradient.copy_(mean[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()


@dataclass
class _Training:
    network: FormNet
    questions: Questions
    average: FormNet
    optimizer: torch.optim.Optimizer
    step: int = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.network.parameters(), *self.questions.parameters()]


def train(pictures: Callable[[], Pictures], run: Run, *, shapes: int, textures: int, folder: Path) -> dict[str, Tensor]:
    """The averaged values of the network after `run`, without its head; goes on where `folder` has a checkpoint.

    Each process opens the `pictures` itself. Raises `RuntimeError` where one of them fails.
    """
    values = sum(value.numel() for value in _begin(run, shapes, textures).parameters)
    together = Together(run.processes, values)
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pretraining.run"])
    workers = [
        context.Process(target=_work, args=(rank, together, pictures, run, shapes, textures, folder))
        for rank in range(run.processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"the processes of the run ended with {[worker.exitcode for worker in workers]}")
    training = _begin(run, shapes, textures)
    _restore(training, folder / _CHECKPOINT)
    _settle(training.average, pictures(), run)
    return training.average.state_dict()


def _settle(network: FormNet, pictures: Pictures, run: Run) -> None:
    """Measure the statistics of BatchNorm for averaged weights and whole images, which are larger than the views."""
    rng = np.random.default_rng(run.seed)
    chosen = (rng.choice(len(pictures.pixels), run.batch) for _ in range(_STATISTICS_BATCHES))
    images = (torch.from_numpy(pictures.pixels[np.sort(positions)]) for positions in chosen)
    statistics.measure(network, (_normalised(batch.permute(0, 3, 1, 2)) for batch in images))


def _work(
    rank: int,
    together: Together,
    pictures: Callable[[], Pictures],
    run: Run,
    shapes: int,
    textures: int,
    folder: Path,
) -> None:
    torch.set_num_threads(1)
    seen = pictures()
    training = _begin(run, shapes, textures)
    if (folder / _CHECKPOINT).is_file():
        _restore(training, folder / _CHECKPOINT)
    log = Log(folder / "log.jsonl")
    if training.step == 0 and rank == 0:
        log.write({"run": asdict(run), "images": len(seen.pixels), "shapes": shapes, "textures": textures})
    meter = _Meter()
    while training.step < run.steps:
        meter.add(_step(training, rank, together, seen, run))
        if rank == 0 and (training.step % run.log_every == 0 or training.step == run.steps):
            log.write({"step": training.step, **meter.read(2 * run.batch)})
        if rank == 0 and (training.step % run.save_every == 0 or training.step == run.steps):
            _save(training, folder / _CHECKPOINT)


class Log:
    """Lines of JSON at the end of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, facts: Mapping[str, object]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(facts) + "\n")


class _Meter:
    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = time.perf_counter()

    def add(self, losses: Mapping[str, Tensor]) -> None:
        self._count += 1
        for name, loss in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(loss)

    def read(self, views_a_step: int) -> dict[str, float]:
        """The means since the last reading."""
        now = time.perf_counter()
        result = {name: round(total / self._count, 4) for name, total in self._sums.items()}
        result["views_per_second"] = round(views_a_step * self._count / (now - self._since), 1)
        self._sums, self._count, self._since = {}, 0, now
        return result


def _begin(run: Run, shapes: int, textures: int) -> _Training:
    torch.manual_seed(run.seed)
    network, average = _headless(), _headless()
    average.load_state_dict(network.state_dict())
    questions = Questions(FEATURES, shapes=shapes, textures=textures)
    parameters = [*network.parameters(), *questions.parameters()]
    groups = [
        {"params": [value for value in parameters if value.ndim > 1], "weight_decay": run.weight_decay},
        {"params": [value for value in parameters if value.ndim <= 1], "weight_decay": 0.0},
    ]
    return _Training(network.train(), questions.train(), average.eval(), torch.optim.AdamW(groups))


def _headless() -> FormNet:
    network = FormNet(1)
    network.set_submodule("head", nn.Identity())
    return network.to(memory_format=torch.channels_last)


def _step(training: _Training, rank: int, together: Together, pictures: Pictures, run: Run) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed((run.seed * 1_000_003 + training.step) * run.processes + rank)
    chosen = _positions(training.step, len(pictures.pixels), run)[rank :: run.processes]
    pixels = torch.from_numpy(pictures.pixels[chosen]).repeat(2, 1, 1, 1)
    seen = views.take(pixels, size=run.size, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=run.half):
        features = training.network(_normalised(seen.spoilt * 255))
    losses = training.questions.losses(
        features.float(), description.describe(seen.clean), torch.from_numpy(pictures.categories[chosen])
    )
    weights = asdict(run.weighting)
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    training.optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    together.average(rank, [value.grad for value in training.parameters if value.grad is not None])
    _update(training, run)
    return {name: loss.detach() for name, loss in losses.items()}


def _normalised(images: Tensor) -> Tensor:
    """Of values 0 to 255."""
    result: Tensor = Normalisation(catalogue.find(NAME).scratch_preprocessing)(images)
    return result


def _update(training: _Training, run: Run) -> None:
    for group in training.optimizer.param_groups:
        group["lr"] = _rate(training.step, run)
    training.optimizer.step()
    training.step += 1
    _follow(training, run)


def _positions(step: int, images: int, run: Run) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The images of a step: each pass over all of them has an order of its own."""
    per_pass = images // run.batch
    order = np.random.default_rng((run.seed, step // per_pass)).permutation(images)
    start = step % per_pass * run.batch
    return np.sort(order[start : start + run.batch])


def _rate(step: int, run: Run) -> float:
    if step < run.warmup:
        return run.peak_rate * (step + 1) / run.warmup
    done = (step - run.warmup) / max(run.steps - run.warmup, 1)
    return run.peak_rate * (0.5 + 0.5 * math.cos(math.pi * done))


@torch.no_grad()
def _follow(training: _Training, run: Run) -> None:
    """Move the average towards the network; in the beginning quickly."""
    share = 1 / min(training.step / 4 + 1, run.average_over)
    values = training.network.state_dict()
    for name, average in training.average.state_dict().items():
        if average.is_floating_point():
            average.lerp_(values[name], share)
        else:
            average.copy_(values[name])


def _save(training: _Training, path: Path) -> None:
    part = path.with_suffix(".part")
    names = ("network", "questions", "average", "optimizer")
    torch.save({"step": training.step, **{name: getattr(training, name).state_dict() for name in names}}, part)
    os.replace(part, path)


def _restore(training: _Training, path: Path) -> None:
    saved = torch.load(path, weights_only=True)
    for name in ("network", "questions", "average", "optimizer"):
        getattr(training, name).load_state_dict(saved[name])
    training.step = saved["step"]
