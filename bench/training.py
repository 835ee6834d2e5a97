"""What trainings take beside the plain loops that they stand for: `python -m bench.training FOLDER`.

Each comparison is a ratio within one run: strategy `top` against a tutorial's loop that computes the frozen layers anew
in every epoch, an epoch of `full` against the same loop's, and `head` against one bare pass of its images through the
network at the fastest runtime. `top` and `full` run in a process that is set up as that of a job, the plain loops in
one as it comes. Gives 1 where a ratio misses its limit.
"""

import argparse
import hashlib
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from app.backbones import catalogue, networks, weights
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.classifier import Classifier
from app.backbones.weights import WeightsFile
from app.errors import WeightsUnavailable
from app.plan import Plan, resolve
from app.recipe import Recipe
from app.runtimes import memory
from app.wording import percent
from bench import passes, photos, plain
from bench.photos import Photos, PhotoSet
from worker.training import strategies
from worker.training.data import Splits
from worker.training.events import Emit, EpochFinished, Event
from worker.training.rivals import Trained
from worker.training.runtime import Surveyor

TOP_LIMIT = 5.0
"""How many times as long the plain loop must take, at least."""
FULL_LIMIT = 1.05
"""How many times as long as the plain loop's an epoch may take."""
HEAD_LIMIT = 1.3
"""How many times as long as one bare pass it may take, the making of the network aside."""

_CPU = torch.device("cpu")
_MAX_PIXELS = 100_000_000
_MAX_ACTIVATION_BYTES = 20 * 2**30


@dataclass(frozen=True)
class Subject:
    """A network and the photos to train it on."""

    backbone: Backbone
    file: WeightsFile
    splits: Splits
    train: Photos
    validation: Photos

    def plan(self, recipe: Recipe) -> Plan:
        return resolve(recipe, photos.facts(self.splits), self.backbone.facts)


@dataclass(frozen=True)
class Ratio:
    """One comparison."""

    what: str
    value: float
    limit: float
    least: bool = False
    """Whether `limit` is the least it may be, and not the most."""
    details: str = ""

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    def line(self) -> str:
        sign = ">=" if self.least else "<="
        return (
            f"{self.what:44}{self.value:6.2f}  {sign} {self.limit:.2f} {'yes' if self.holds else 'NO':4}{self.details}"
        )


def subject(name: str, chosen: PhotoSet, folder: Path, *, scratch: Path) -> Subject:
    """`chosen` divided, and the backbone with its published weights, or with random ones where those are not there."""
    backbone = catalogue.find(name)
    splits, _ = photos.splits(chosen, seed=0)
    assert isinstance(splits.train, Photos)
    assert isinstance(splits.validation, Photos)
    try:
        file = weights.obtain(backbone, weights_dir=folder, cache_dir=weights.default_cache_dir(), download=False)
    except WeightsUnavailable:
        file = _random_weights(backbone, scratch)
    return Subject(backbone, file, splits, splits.train, splits.validation)


def _random_weights(backbone: Backbone, folder: Path) -> WeightsFile:
    """Values as time does not depend on them."""
    published = backbone.find_weights(catalogue.PRETRAINED)
    path = folder / published.file_name
    torch.save(networks.make(backbone, auxiliary=True).state_dict(), path)
    return WeightsFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), "weights_dir", published)


def top(subject: Subject, epochs: int) -> Iterator[Ratio]:
    """Strategy `top` as it is by default beside the plain loop that trains the same layers."""
    plan = subject.plan(Recipe(backbone=subject.backbone.name, strategy="top", epochs=epochs))
    assert plan.descent is not None
    assert plan.freeze is not None
    frozen = _classifier(subject).walk.part(_classifier(subject).body, plan.freeze).modules
    ours = _as_a_job(subject, plan)
    started = time.perf_counter()
    passed = list(_plain(subject, plan, frozen))
    theirs = time.perf_counter() - started
    best = max(epoch.accuracy for epoch in passed)
    yield Ratio(
        f"top {subject.backbone.name}, {epochs} epochs: times faster",
        theirs / ours.seconds,
        TOP_LIMIT,
        least=True,
        details=f"{ours.seconds:.1f} s; plain {theirs:.1f} s",
    )
    # As good as the plain loop's best epoch, but for what the few validation images cannot tell.
    chance = math.sqrt(2 * best * (1 - best) / len(subject.validation))
    yield Ratio(
        f"top {subject.backbone.name}, {epochs} epochs: more right, in points",
        100 * (ours.accuracy - best),
        -100 * chance,
        least=True,
        details=f"{percent(ours.accuracy)}; plain, its best epoch {percent(best)}",
    )


def full(subject: Subject, rounds: int) -> Iterator[Ratio]:
    """An epoch of strategy `full`, in full precision and as it is by default, beside one of the plain loop."""
    recipe = Recipe(backbone=subject.backbone.name, strategy="full", epochs=2)
    plans = {precision: subject.plan(replace(recipe, precision=precision)) for precision in ("fp32", "auto")}
    took: dict[str, list[float]] = {name: [] for name in (*plans, "plain")}
    for _ in range(rounds):
        for precision, plan in plans.items():
            took[precision].extend(_as_a_job(subject, plan).epochs)
        took["plain"].extend(epoch.seconds for epoch in _plain(subject, plans["fp32"], frozen=()))
    for precision in plans:
        ours, theirs = statistics.median(took[precision]), statistics.median(took["plain"])
        told = f"{ours:.1f} s, plain {theirs:.1f} s; best of each {min(took[precision]) / min(took['plain']):.2f}"
        yield Ratio(f"full {subject.backbone.name}, {precision}: an epoch", ours / theirs, FULL_LIMIT, details=told)


def head(subject: Subject, rounds: int) -> Iterator[Ratio]:
    """Strategy `head` from photos to the judged classifier beside one bare pass of them."""
    everything = Photos(
        (*subject.train.files, *subject.validation.files),
        np.concatenate([subject.train.targets, subject.validation.targets]),
        (*subject.train.sha256, *subject.validation.sha256),
    )
    preprocessing, plan = (
        subject.file.preprocessing,
        subject.plan(Recipe(backbone=subject.backbone.name, strategy="head")),
    )
    form = classifiers.inference_form(_classifier(subject))
    runtime, tried = passes.fastest(passes.runtimes(form, preprocessing.crop), everything, preprocessing)
    ours, loads, theirs = [], [], []
    for _ in range(rounds):
        theirs.append(_took(lambda: passes.seconds(runtime, everything, preprocessing)))
        loads.append(_took(lambda: _load(subject, preprocessing.crop, len(everything))))
        ours.append(_took(lambda: _trained(subject, plan)))
    whole, load, bare = (np.median(one, axis=0) for one in (ours, loads, theirs))
    # Round by round, since what else goes on changes meanwhile.
    ratio, of_cpu = np.median((np.array(ours) - np.array(loads)) / np.array(theirs), axis=0)
    told = f"of CPU time {of_cpu:.2f}; {whole[0] - load[0]:.2f} s and {load[0]:.2f} s to make the network; "
    told += f"{runtime.name} {bare[0]:.2f} s; ms an image: "
    told += ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in tried.items())
    yield Ratio(f"head {subject.backbone.name}, {len(everything)} images", float(ratio), HEAD_LIMIT, details=told)


def _took(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, which other work on the machine changes less."""
    started = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def _load(subject: Subject, size: int, images: int) -> None:
    """Read the network and compile it, for as many precisions as a training of so many images does."""
    form = classifiers.inference_form(_classifier(subject))
    surveyor = Surveyor(form, size, images=images, device=_CPU)
    for exact in (True, False):
        surveyor.prepare(exact=exact)


def _classifier(subject: Subject) -> Classifier:
    state = classifiers.read_state(subject.file.path)
    return classifiers.build(
        subject.backbone, len(subject.splits.labels), state=state, seed=0, weights=subject.file.weights
    )


def _plain(subject: Subject, plan: Plan, frozen: Sequence[str]) -> Iterator[plain.Epoch]:
    assert plan.descent is not None
    torch.manual_seed(0)
    network = plain.network(subject.backbone.name, subject.file, classes=len(subject.splits.labels), frozen=frozen)
    return plain.train(network, subject.train, subject.validation, subject.file.preprocessing, plan.descent)


@dataclass(frozen=True)
class Taken:
    """What a training took, in seconds, and how good its classifier is, 0-1."""

    seconds: float
    epochs: tuple[float, ...]
    accuracy: float


def _as_a_job(subject: Subject, plan: Plan) -> Taken:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), memory.keep_freed) as process:
        return process.submit(_timed, subject, plan).result()


def _timed(subject: Subject, plan: Plan) -> Taken:
    found: list[Event] = []
    started = time.perf_counter()
    trained = _trained(subject, plan, emit=found.append)
    seconds = time.perf_counter() - started
    epochs = tuple(event.seconds for event in found if isinstance(event, EpochFinished))
    return Taken(seconds, epochs, trained.evaluation.accuracy)


def _trained(subject: Subject, plan: Plan, *, emit: Emit = lambda _event: None) -> Trained:
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder:
        return strategies.train(
            subject.splits,
            plan,
            backbone=subject.backbone,
            weights=subject.file,
            feature_cache=Path(folder) / "features",
            workdir=Path(folder) / "work",
            max_pixels=_MAX_PIXELS,
            max_activation_bytes=_MAX_ACTIVATION_BYTES,
            emit=emit,
            device=_CPU,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("folder", type=Path, help="with weights/ and datasets/*.zip")
    parser.add_argument("--only", nargs="+", choices=["top", "full", "head"], default=["head", "full", "top"])
    parser.add_argument("--set", default="hymenoptera", help="the photos (default: hymenoptera)")
    parser.add_argument("--top", nargs="+", default=["squeezenet1_1", "mobilenet_v2"], help="backbones")
    parser.add_argument("--full", nargs="+", default=["squeezenet1_1", "mobilenet_v2"], help="backbones")
    parser.add_argument("--head", nargs="+", default=["formnet", "squeezenet1_1", "mobilenet_v2"], help="backbones")
    parser.add_argument("--epochs", nargs="+", type=int, default=[10, 25], help="of top (default: 10 25)")
    parser.add_argument("--rounds", type=int, default=3, help="of head and full (default: 3)")
    arguments = parser.parse_args()
    chosen = photos.read(arguments.folder / "datasets" / f"{arguments.set}.zip")
    holds = True
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        for what in arguments.only:
            for name in getattr(arguments, what):
                found = subject(name, chosen, arguments.folder / "weights", scratch=Path(scratch))
                for ratio in _ratios(what, found, arguments.epochs, arguments.rounds):
                    print(ratio.line(), flush=True)
                    holds = holds and ratio.holds
    return 0 if holds else 1


def _ratios(what: str, subject: Subject, epochs: Sequence[int], rounds: int) -> Iterator[Ratio]:
    if what == "top":
        for count in epochs:
            yield from top(subject, count)
    else:
        yield from {"full": full, "head": head}[what](subject, rounds)


if __name__ == "__main__":
    raise SystemExit(main())
