"""How good the features are: a linear classifier on them, against the same network with random values.

`python -m pretraining.evaluate` prints the table; photos come from zips with a folder per class. The random network is
measured twice, with the statistics of BatchNorm that it is built with and with those of the images it is tested on.
"""

import argparse
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from app.backbones import catalogue, classifier, crops, weights
from app.backbones.catalogue import Backbone
from app.backbones.classifier import Classifier
from app.backbones.preprocess import Pixels, Preprocessing
from pretraining import statistics
from pretraining.export import NAME
from worker.training import probe

PHOTOS = ("hymenoptera", "flowers5", "textures10", "sign_digits")
SEEDS = (0, 1, 2)

_HELD_OUT = 0.3
_FOLDS = 5
_L2_GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_BATCH = 32
_STATISTICS_BATCHES = 8
_STATISTICS_BATCH = 64
_MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Labelled:
    """Images as the network sees them `(N, S, S, 3) uint8`, with their labels `(N,)`."""

    name: str
    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]
    train_each: int | None = None
    """How many images of each class the linear classifier may learn from; None for all that are not held out."""

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.targets.max()) + 1


@dataclass(frozen=True)
class Accuracy:
    """Of a linear classifier on held-out images, in %, over several splits."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Row:
    """What one set of images gives."""

    labelled: Labelled
    pretrained: Accuracy
    random: Accuracy
    """With the statistics of BatchNorm that the network is built with."""
    random_adapted: Accuracy
    """With statistics of the images."""

    @property
    def gain(self) -> float:
        """Points over the better of the two random networks."""
        return self.pretrained.mean - max(self.random.mean, self.random_adapted.mean)


def digits(preprocessing: Preprocessing) -> Labelled:
    """scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, enlarged."""
    found = load_digits()
    grey = (found.images * (255 / 16)).astype(np.uint8)
    views = [crops.centre_crop(image[:, :, None].repeat(3, axis=2), preprocessing) for image in grey]
    return Labelled("digits", np.stack(views), found.target.astype(np.int64))


def photos(path: Path, preprocessing: Preprocessing, *, most: int | None = None) -> Labelled:
    """Images of a zip with a folder per class; of each class `most` at most."""
    files: dict[str, list[str]] = {}
    with zipfile.ZipFile(path) as packed:
        for name in sorted(packed.namelist()):
            if not name.endswith("/"):
                files.setdefault(name.split("/")[-2], []).append(name)
        views: list[Pixels] = []
        targets: list[int] = []
        for target, label in enumerate(sorted(files)):
            for name in files[label][:most]:
                views.append(crops.load(packed.read(name), preprocessing, max_pixels=_MAX_PIXELS))
                targets.append(target)
    return Labelled(path.stem, np.stack(views), np.array(targets, np.int64))


def compare(backbone: Backbone, state: dict[str, Tensor], labelled: Labelled, *, seeds: Sequence[int] = SEEDS) -> Row:
    """The pre-trained values `state` against random ones; each seed is a split, and a random network."""
    pretrained = classifier.build(backbone, labelled.classes, state=state, seed=0)
    known = features(pretrained, labelled.pixels)
    found: list[list[float]] = [[], [], []]
    for seed in seeds:
        random = classifier.build(backbone, labelled.classes, state=None, seed=seed)
        as_built = features(random, labelled.pixels)
        adapt(random, labelled.pixels, seed=seed)
        for values, table in zip(found, (known, as_built, features(random, labelled.pixels)), strict=True):
            values.append(accuracy(table, labelled, seed=seed))
    return Row(labelled, *(Accuracy(float(np.mean(values)), float(np.std(values))) for values in found))


@torch.inference_mode()
def features(network: Classifier, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of images `(N, S, S, 3)`, the pooled features `(N, D)`."""
    network.eval()
    parts = (pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH))
    return torch.cat([network.features(_batch(part)) for part in parts]).numpy()


def adapt(network: Classifier, pixels: NDArray[np.uint8], *, seed: int) -> None:
    """Give the BatchNorm layers the mean statistics of a few random batches of images."""
    rng = np.random.default_rng(seed)
    size = min(_STATISTICS_BATCH, len(pixels))
    chosen = (rng.choice(len(pixels), size, replace=False) for _ in range(_STATISTICS_BATCHES))
    statistics.measure(network, (_batch(pixels[positions]) for positions in chosen))


def accuracy(table: NDArray[np.float32], labelled: Labelled, *, seed: int) -> float:
    """In %, of the features `table (N, D)`, on a stratified part that the linear classifier has not seen."""
    train, held_out = _split(labelled, seed=seed)
    targets = labelled.targets
    linear = probe.fit(
        table[train],
        targets[train],
        classes=labelled.classes,
        l2_grid=_L2_GRID,
        folds=_FOLDS,
        seed=seed,
        emit=lambda _event: None,
    )
    guesses = (table[held_out] @ linear.weight.T + linear.bias).argmax(axis=1)
    return 100 * float((guesses == targets[held_out]).mean())


def _split(labelled: Labelled, *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to train on and positions held out, each class divided alike."""
    rng = np.random.default_rng(seed)
    train, held_out = [], []
    for target in range(labelled.classes):
        members = rng.permutation(np.flatnonzero(labelled.targets == target))
        border = round(_HELD_OUT * len(members))
        held_out.append(members[:border])
        train.append(members[border:][: labelled.train_each])
    return np.concatenate(train), np.concatenate(held_out)


def _batch(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = [
        "| images | count | classes | pre-trained | random | random, adapted BatchNorm | gain |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        figures = " | ".join(
            f"{found.mean:.1f} ± {found.deviation:.1f}" for found in (row.pretrained, row.random, row.random_adapted)
        )
        facts = f"{row.labelled.name} | {len(row.labelled.targets):,} | {row.labelled.classes}"
        lines.append(f"| {facts} | {figures} | {row.gain:+.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pretraining.evaluate", description=__doc__)
    parser.add_argument("photos", type=Path, nargs="?", help="folder with hymenoptera.zip and the other photo sets")
    arguments = parser.parse_args()
    backbone = catalogue.find(NAME)
    preprocessing = backbone.find_weights(catalogue.PRETRAINED).preprocessing
    file = weights.obtain(backbone, weights_dir=None, cache_dir=weights.default_cache_dir(), download=False)
    state = classifier.read_state(file.path)
    written = digits(preprocessing)
    sets = [written, replace(written, name="digits, 10 of each class", train_each=10)]
    if arguments.photos is not None:
        sets += [photos(arguments.photos / f"{name}.zip", preprocessing) for name in PHOTOS]
    print(table([compare(backbone, state, labelled) for labelled in sets]))


if __name__ == "__main__":
    main()
