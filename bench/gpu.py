"""What a training on a GPU reaches of what its bare step would: `python -m bench.gpu [FOLDER]`.

An epoch of strategy `full` of ResNet-50 at 224 x 224 pixels in bf16, from image files, with random crops, validation
aside, beside forward, backward and step of torchvision's network alone, over and over on one batch that lies on the GPU
already; in images a second, in one run. Random weights do, as time does not depend on them. The photos are those of the
`hymenoptera.zip` in FOLDER/datasets, or drawn. Gives 1 where a ratio misses its limit, and 2 without a GPU.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from torchvision import models

from app.augmentation import Augmentation
from app.backbones import catalogue
from app.descent import Descent
from app.facts import VersionFacts
from app.plan import Plan, resolve
from app.recipe import Recipe
from bench import photos
from bench.photos import Photos
from worker.training import strategies
from worker.training.data import Splits
from worker.training.events import EpochFinished, Event

LIMIT = 0.85
"""The least share of the bare step's images a second."""

_BACKBONE = "resnet50"
_SIDE = 224
_CLASSES = 2
_DRAWN = 300
"""Different photos, where none are given."""
_MAX_PIXELS = 100_000_000
_MAX_BYTES = 40 * 2**30
_WARM_UP, _STEPS = 10, 40


@dataclass(frozen=True)
class Shown:
    """The files of a few photos, each of them shown several times as if they were others."""

    photos: Photos
    count: int

    @property
    def sha256(self) -> tuple[str, ...]:
        return tuple(self.photos.sha256[place % len(self.photos)] for place in range(self.count))

    @property
    def targets(self) -> NDArray[np.int64]:
        return np.arange(self.count) % _CLASSES

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.arange(self.count)

    def __len__(self) -> int:
        return self.count

    def read(self, positions: Sequence[int]) -> list[bytes]:
        return self.photos.read([position % len(self.photos) for position in positions])


def drawn() -> Photos:
    """Photos of 500 x 375 pixels: noise of many scales, which takes as long to decode as what cameras take."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(_DRAWN):
        picture = np.zeros((375, 500, 3))
        for cells in (4, 16, 64):
            cell = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            picture += np.asarray(cell.resize((500, 375), Image.Resampling.BICUBIC)) / 3
        packed = io.BytesIO()
        Image.fromarray(picture.astype(np.uint8)).save(packed, "JPEG", quality=90)
        files.append(packed.getvalue())
    return Photos(tuple(files), np.zeros(len(files), np.int64), tuple(str(place) for place in range(len(files))))


def ours(given: Photos, plan: Plan, images: int) -> list[float]:
    """Images a second of each epoch of our training; the first one also decodes them."""
    splits = Splits(("one", "other"), Shown(given, images), Shown(given, 64))
    found: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, EpochFinished):
            found.append(event.images_per_second)

    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder:
        strategies.train(
            splits,
            plan,
            backbone=catalogue.find(_BACKBONE),
            weights=None,
            feature_cache=Path(folder) / "features",
            workdir=Path(folder) / "work",
            max_pixels=_MAX_PIXELS,
            max_activation_bytes=_MAX_BYTES,
            emit=note,
            device=torch.device("cuda", 0),
        )
    return found


def bare_step(descent: Descent) -> Callable[[], None]:
    """Forward, backward and step of torchvision's network on a batch that lies on the GPU."""
    network = models.resnet50(num_classes=_CLASSES).cuda().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=descent.weight_decay
    )
    images = torch.randn(descent.batch_size, 3, _SIDE, _SIDE, device="cuda").to(memory_format=torch.channels_last)
    targets = torch.randint(_CLASSES, (descent.batch_size,), device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = functional.cross_entropy(network(images), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def bare(descent: Descent, rounds: int) -> list[float]:
    """Images a second of some tens of bare steps, several times."""
    step = bare_step(descent)
    for _ in range(_WARM_UP):
        step()
    found = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(_STEPS):
            step()
        torch.cuda.synchronize()
        found.append(_STEPS * descent.batch_size / (time.perf_counter() - started))
    return found


def plan_for(images: int, *, batch_size: int, epochs: int, policy: str) -> Plan:
    """Strategy `full` as it is by default, from random values."""
    recipe = Recipe(
        backbone=_BACKBONE,
        strategy="full",
        weights="none",
        epochs=epochs,
        batch_size=batch_size,
        augmentation=Augmentation(policy=policy),  # type: ignore[arg-type]
    )
    facts = VersionFacts(classes=_CLASSES, train_images=images, validation_images=64, smallest_class=images // _CLASSES)
    return resolve(recipe, facts, catalogue.find(_BACKBONE).facts)


def compared(given: Photos, arguments: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """For each batch size, what was seen, and the ratio."""
    for batch_size in arguments.batch_sizes:
        plan = plan_for(arguments.images, batch_size=batch_size, epochs=arguments.epochs, policy=arguments.policy)
        assert plan.descent is not None
        before = bare(plan.descent, arguments.rounds)
        first, *epochs = ours(given, plan, arguments.images)
        theirs = statistics.median(before + bare(plan.descent, arguments.rounds))
        reached = statistics.median(epochs)
        told = f"{reached:7.0f} images/s (the first epoch {first:.0f}), bare step {theirs:.0f}"
        yield f"full {_BACKBONE}, batches of {batch_size:4}, {arguments.policy}: {told}", reached / theirs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="with datasets/hymenoptera.zip")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--policy", choices=["crop", "trivial", "rand"], default="crop")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here that torch can use, and without one there is nothing to compare.", file=sys.stderr)
        return 2
    given = drawn() if arguments.folder is None else photos.read(arguments.folder / "datasets/hymenoptera.zip").photos
    print(torch.cuda.get_device_name(0), "torch", torch.__version__, "threads", torch.get_num_threads(), flush=True)
    missed = 0
    for told, ratio in compared(given, arguments):
        missed += ratio < LIMIT
        print(f"{told}; ratio {ratio:.2f} >= {LIMIT} {'yes' if ratio >= LIMIT else 'NO'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
