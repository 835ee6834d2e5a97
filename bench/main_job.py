"""What the main job takes from the upload on until a model answers: `python -m bench.main_job FOLDER`.

The embedded service runs as `graft up` starts it, and everything goes over HTTP: an archive is uploaded, `head` is
trained, a photo is labelled. Beside it stands one plain pass by torch, which decodes every photo and sends it through
the same network once: what anybody has to do who trains on frozen features. Gives 1 where the ratio misses its limit.
"""

import argparse
import os
import tempfile
import time
import zipfile
from pathlib import Path

import torch

from app.backbones import catalogue, weights
from app.backbones import classifier as classifiers
from bench import passes, photos
from bench.photos import PhotoSet
from client import local
from client.api import Client
from client.recipe import Recipe

LIMIT = 2.0
"""How many times as long as the pass it may take."""


def main_job(client: Client, archive: Path, folder: Path, backbone: str) -> float:
    """Seconds from the upload to the first label."""
    name, photo = "photos", folder / "photo.jpg"
    with zipfile.ZipFile(archive) as packed:
        photo.write_bytes(packed.read(next(entry for entry in packed.namelist() if entry.endswith(".jpg"))))
    started = time.perf_counter()
    dataset = client.create_dataset(name)
    client.wait(client.upload(dataset.id, archive).job.id)
    client.wait(client.train(dataset.id, name, Recipe(backbone=backbone, strategy="head")).id)
    client.predict(name, [photo])
    return time.perf_counter() - started


def plain_pass(chosen: PhotoSet, backbone: str, folder: Path) -> float:
    """Seconds that one plain pass takes."""
    entry = catalogue.find(backbone)
    file = weights.obtain(entry, weights_dir=folder, cache_dir=weights.default_cache_dir(), download=False)
    state = classifiers.read_state(file.path)
    classifier = classifiers.build(entry, len(chosen.labels), state=state, seed=0, weights=file.weights).eval()
    runtime = next(
        found
        for found in passes.runtimes(classifiers.inference_form(classifier), classifier.preprocessing.crop)
        if found.name == "torch"
    )
    return passes.seconds(runtime, chosen.photos, classifier.preprocessing)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.main_job", description=__doc__)
    parser.add_argument("folder", type=Path, help="with weights/ and datasets/*.zip")
    parser.add_argument("--set", default="hymenoptera", help="photos to train on (default: %(default)s)")
    parser.add_argument("--backbone", default="mobilenet_v2", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of both in turn, the least counts (default: 3)")
    arguments = parser.parse_args()
    weights_dir = arguments.folder.absolute() / "weights"
    os.environ["GRAFT_WEIGHTS_DIR"] = str(weights_dir)
    os.environ["GRAFT_OPTIMISE_AFTER_TRAINING"] = "false"
    archive = arguments.folder / "datasets" / f"{arguments.set}.zip"
    chosen = photos.read(archive)
    torch.set_num_threads(os.cpu_count() or 1)
    jobs, plain = [], []
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        for number in range(arguments.rounds):
            # A service keeps what a network made of images.
            data = Path(scratch) / str(number)
            with local.service(data, port=local.port_or_free(None)) as url, Client(url) as client:
                jobs.append(main_job(client, archive, data, arguments.backbone))
            plain.append(plain_pass(chosen, arguments.backbone, weights_dir))
    ratio = min(jobs) / min(plain)
    told = f"{len(chosen.photos)} photos, {arguments.backbone}"
    print(f"{told}: main job {min(jobs):.1f} s, plain pass {min(plain):.1f} s, ratio {ratio:.2f}, limit {LIMIT}")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
