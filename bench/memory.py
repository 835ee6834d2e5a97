"""Whether the memory of a training depends on the size of the data set: `python -m bench.memory`.

A version of many small photos lies in a table as the service writes it. Each strategy is carried out on it, and on one
of a tenth of the photos, in a process of its own with values that are drawn at random; printed is the most memory that
the process had at one time. Of files that are mapped the system takes the memory back when it is short of it. The last
row is the report on a classifier of very many labels, whose answers are drawn.
"""

import argparse
import hashlib
import io
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from app import estimates
from app.backbones import catalogue, networks
from app.backbones import classifier as classifiers
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.datasets import store
from app.datasets.archive import Split
from app.datasets.store import Item
from app.plan import resolve
from app.recipe import Recipe
from app.runtimes import memory
from bench.photos import facts
from worker import analyse
from worker.splits import splits_of
from worker.training import costs, evaluate, probe, report, strategies, table
from worker.training.events import Event
from worker.training.rivals import Trained
from worker.training.table import Taken

LIMIT_MB = 4096
RECIPES: dict[str, dict[str, object]] = {
    "head": {"strategy": "head"},
    "stage_probe best": {"strategy": "stage_probe", "stage": "best"},
    "stage_probe all": {"strategy": "stage_probe", "stage": "all"},
    "top": {"strategy": "top", "epochs": 1},
    "full": {"strategy": "full", "epochs": 1},
}
READ, PROFILE, PROBE, REPORT = "the version alone", "profile of auto", "probe alone", "many labels"

_PENALTIES = (0.1, 1.0)
"""Two are enough to be chosen from; more take longer, not more memory."""
_PROBE_WIDTH = 2048
_CLASSES, _MANY_CLASSES = 10, 3000
_ANSWERED_AT_ONCE = 1000
_PICTURES = 60
_SIDE = 64
_MAX_PIXELS = 10_000_000
_MAX_ACTIVATION_BYTES = 8 * 2**30
_SAMPLE_SECONDS = 0.02
_TAG = store.tag_for(1, "bench")


@dataclass(frozen=True)
class Work:
    """What one process is to do."""

    name: str
    images: int
    backbone: str
    folder: Path

    @property
    def classes(self) -> int:
        return _MANY_CLASSES if self.name == REPORT else _CLASSES

    @property
    def table(self) -> Path:
        return self.folder / f"{self.images}-{self.classes}.lance"


@dataclass(frozen=True)
class Peak:
    """The most memory of a process, in MB, and how long it took."""

    own: float
    """Of its own, without mapped files; looked at many times a second."""
    resident: float
    """With mapped files and libraries."""
    seconds: float


def write_version(path: Path, *, images: int, classes: int) -> None:
    """A table with a version of so many photos of 64 x 64 pixels, a fifth of them for validation."""
    pictures = [_picture(number) for number in range(_PICTURES)]

    def rows() -> Iterator[tuple[Item, bytes]]:
        for number in range(images):
            picture = pictures[number % _PICTURES]
            # A comment makes another file of the same picture.
            file = picture[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + picture[2:]
            digest = hashlib.sha256(file).hexdigest()
            label = f"label{number % classes}"
            split: Split = "validation" if number // max(_PICTURES, classes) % 5 == 0 else "train"
            name = f"photos/{label}/{number:06}.jpg"
            yield Item(f"item_{number}", name, label, split, digest, number, "JPEG", _SIDE, _SIDE, len(file)), file

    store.append(path, rows(), versions=[], tag=_TAG, folder=path.parent)


def measure(work: Work) -> Peak:
    """Carry out `work` in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=carry_out, args=(work,))
    started = time.perf_counter()
    process.start()
    own = resident = 0.0
    while process.is_alive():
        status = _status(process)
        own, resident = max(own, status.get("RssAnon", 0)), max(resident, status.get("VmHWM", 0))
        process.join(_SAMPLE_SECONDS)
    if process.exitcode:
        raise SystemExit(f"{work.name} failed")
    return Peak(own / 1024, resident / 1024, time.perf_counter() - started)


def carry_out(work: Work) -> None:
    """One training, or the profile, or a part of what they do."""
    memory.keep_freed()  # as the process of a job does
    {READ: _read, PROFILE: _profile, PROBE: _probe, REPORT: _report}.get(work.name, _train)(work)


def _picture(number: int) -> bytes:
    rng = np.random.default_rng(number)
    tint = np.random.default_rng(number % _CLASSES).integers(0, 120, 3)
    pixels = (rng.integers(0, 136, (_SIDE, _SIDE, 3)) + tint).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()


def _status(process: BaseProcess) -> dict[str, int]:
    """The figures in kB that the system gives of a process; none of one that has just ended."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines) if "kB" in value}


def _read(work: Work) -> None:
    splits = splits_of(work.table, _TAG)
    splits.train.read(range(8))


def _train(work: Work) -> None:
    splits = splits_of(work.table, _TAG)
    backbone, file = _small(work)
    recipe = Recipe(backbone=work.backbone, **RECIPES[work.name])  # type: ignore[arg-type]
    plan, cpu = resolve(recipe, facts(splits), backbone.facts), torch.device("cpu")
    with tempfile.TemporaryDirectory(dir=work.folder) as workdir:
        strategies.train(
            splits,
            replace(plan, l2_grid=_PENALTIES),
            backbone=backbone,
            weights=file,
            feature_cache=work.folder / "features",
            workdir=Path(workdir),
            max_pixels=_MAX_PIXELS,
            max_activation_bytes=_MAX_ACTIVATION_BYTES,
            emit=_say_nothing,
            device=cpu,
            pieces=estimates.pieces(plan, backbone, device="cpu", memory_bytes=costs.device_bytes(cpu)),
        )


def _profile(work: Work) -> None:
    backbone, file = _small(work)
    splits, cache = splits_of(work.table, _TAG), work.folder / "features"
    analyse.measure(splits, backbone, file, feature_cache=cache, max_pixels=_MAX_PIXELS, emit=_say_nothing)


def _probe(work: Work) -> None:
    """A linear classifier on drawn features."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, _CLASSES, work.images)
    centres = 0.05 * rng.standard_normal((_CLASSES, _PROBE_WIDTH), np.float32)
    values = table.nameless(work.folder, (work.images, _PROBE_WIDTH), np.float32)
    for start in range(0, len(values), 1000):
        some = targets[start : start + 1000]
        values[start : start + 1000] = centres[some] + rng.standard_normal((len(some), _PROBE_WIDTH), np.float32)
    features = Taken((values,), np.arange(work.images))
    probe.fit(features, targets, classes=_CLASSES, l2_grid=_PENALTIES, folds=5, seed=0, emit=_say_nothing)


def _report(work: Work) -> None:
    """The evaluation of drawn answers."""
    splits, backbone = splits_of(work.table, _TAG), catalogue.find(work.backbone)
    targets, labels = splits.validation.targets, splits.labels
    drawn = np.random.default_rng(0)
    probabilities = np.empty((len(targets), len(labels)))
    for start in range(0, len(targets), _ANSWERED_AT_ONCE):
        some = targets[start : start + _ANSWERED_AT_ONCE]
        powers = drawn.exponential(size=(len(some), len(labels)))
        powers[np.arange(len(some)), some] *= len(labels)
        probabilities[start : start + len(some)] = powers / powers.sum(axis=1, keepdims=True)
    recipe = Recipe(backbone=work.backbone, strategy="head")
    trained = Trained(
        classifier=classifiers.build(backbone, len(labels), state=None, seed=0),
        evaluation=evaluate.evaluate(probabilities, targets, labels),
        probabilities=probabilities,
        similarities=probabilities.copy(),
        means=np.zeros((len(labels), 1), np.float32),
        plan=resolve(recipe, facts(splits), backbone.facts),
    )
    report.report(trained, splits, also_chosen_by=False, max_pixels=_MAX_PIXELS, emit=_say_nothing)


def _small(work: Work) -> tuple[Backbone, WeightsFile]:
    """The backbone as it sees small images, and drawn values for it."""
    backbone = catalogue.find(work.backbone)
    preprocessing = replace(backbone.scratch_preprocessing, resize=_SIDE, crop=_SIDE)
    published = tuple(replace(weights, preprocessing=preprocessing) for weights in backbone.weights)
    torch.manual_seed(0)
    path = work.folder / "drawn.pth"
    torch.save(networks.make(backbone, auxiliary=True).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    small = replace(backbone, scratch_preprocessing=preprocessing, weights=published)
    return small, WeightsFile(path, digest, "weights_dir", published[0])


def _say_nothing(_event: Event) -> None:
    pass


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--images", type=int, default=100_000, help="of the larger version (default: 100000)")
    parser.add_argument("--backbone", default="formnet")
    parser.add_argument(
        "--only", nargs="+", default=[READ, *RECIPES, PROFILE, PROBE, REPORT], help="some of what is measured"
    )
    arguments = parser.parse_args()
    sizes = (arguments.images // 10, arguments.images)
    print(f"{'MB at most':20}{'photos':>9}{'own':>8}{'with files':>12}{'seconds':>9}")
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder:
        for name in arguments.only:
            for images in sizes:
                work = Work(name, images, arguments.backbone, Path(folder))
                if not work.table.exists():
                    write_version(work.table, images=images, classes=work.classes)
                peak = measure(work)
                worst = max(worst, peak.own)
                print(f"{name:20}{images:9}{peak.own:8.0f}{peak.resident:12.0f}{peak.seconds:9.0f}", flush=True)
    print(f"most of all {worst:.0f} MB, limit {LIMIT_MB} MB: {worst <= LIMIT_MB}")
    return 0 if worst <= LIMIT_MB else 1


if __name__ == "__main__":
    raise SystemExit(main())
