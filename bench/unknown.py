"""Whether photos of other things are refused: a classifier of one photo set, shown the photos of another.

`python -m bench.unknown FOLDER` trains `head`, chooses the threshold on validation images as the service does, and
prints what it does to a test part that no training has seen and to the foreign photos.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app.backbones import catalogue, classifier, weights
from app.plan import resolve
from app.recipe import Recipe
from bench import photos
from bench.photos import Photos
from worker.training import separation, strategies, unknown
from worker.training.evaluate import Judge
from worker.training.rivals import Trained

_MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Found:
    """Shares are 0-1."""

    threshold: float
    accepted: float
    """Of the known photos of the test part."""
    refused: float
    """Of the foreign photos."""
    auroc: float
    """Known photos of the test part against foreign ones."""
    auroc_by_probability: float
    """The same for the probability of the label, which many services have nothing but."""


def measure(known: Path, foreign: Path, *, backbone: str, folder: Path, cache: Path, seed: int) -> Found:
    """Train on the archive `known`, and judge by its test part and by all of `foreign`."""
    seen, test = photos.splits(photos.read(known), seed=seed)
    entry = catalogue.find(backbone)
    file = weights.obtain(entry, weights_dir=folder, cache_dir=weights.default_cache_dir(), download=False)
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as workdir:
        trained = strategies.train(
            seen,
            resolve(Recipe(backbone=backbone, strategy="head", seed=seed), photos.facts(seen), entry.facts),
            backbone=entry,
            weights=file,
            feature_cache=cache,
            workdir=Path(workdir),
            max_pixels=_MAX_PIXELS,
            max_activation_bytes=0,
            emit=lambda _event: None,
            device=torch.device("cpu"),
        )
    least = unknown.threshold(trained.similarities.max(axis=1))
    ours, sure = _scores(trained, test)
    theirs, also_sure = _scores(trained, photos.read(foreign).photos)
    area, by_probability = separation.auroc(ours, theirs), separation.auroc(sure, also_sure)
    assert area is not None
    assert by_probability is not None
    return Found(least, 1 - unknown.refused(ours, least), unknown.refused(theirs, least), area, by_probability)


def _scores(trained: Trained, images: Photos) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How similar each image is to what was learned, and the probability of its label."""
    judge = Judge(
        network=classifier.inference_form(trained.classifier),
        preprocessing=trained.preprocessing,
        max_pixels=_MAX_PIXELS,
        device=torch.device("cpu"),
        emit=lambda _event: None,
    )
    similar, probable = [], []
    for values in judge.features(images, phase="test"):
        similar.append(unknown.similarities(values.numpy(), trained.means).max(axis=1))
        probable.append(judge.probabilities(values).max(axis=1))
    return np.concatenate(similar), np.concatenate(probable)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.unknown", description=__doc__)
    parser.add_argument("folder", type=Path, help="with weights/ and datasets/*.zip")
    parser.add_argument("--known", default="flowers5")
    parser.add_argument("--foreign", default="textures10")
    parser.add_argument("--backbones", nargs="+", default=["formnet", "squeezenet1_1"])
    parser.add_argument("--features", type=Path, default=Path("unknown.features"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.features.mkdir(exist_ok=True)
    sets = arguments.folder / "datasets"
    for backbone in arguments.backbones:
        found = measure(
            sets / f"{arguments.known}.zip",
            sets / f"{arguments.foreign}.zip",
            backbone=backbone,
            folder=arguments.folder / "weights",
            cache=arguments.features,
            seed=arguments.seed,
        )
        print(
            f"{backbone}: AUROC {found.auroc:.3f} (by probability {found.auroc_by_probability:.3f}); at the threshold "
            f"{found.threshold:.3f}, {found.accepted:.1%} of the known photos are accepted and {found.refused:.1%} of "
            "the foreign ones refused",
            flush=True,
        )


if __name__ == "__main__":
    main()
