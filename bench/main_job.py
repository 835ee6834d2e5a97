"""What the main job takes from the upload on until a model answers: `python -m bench.main_job FOLDER`.

The embedded service runs as `graft up` starts it, and everything goes over HTTP: an archive is uploaded, `head` is
trained, a photo is labelled. Beside it stands one plain pass by torch, which decodes every photo and sends it through
the same network once: what anybody has to do who trains on frozen features; and beside what it takes once the upload
is done, what the network takes to be loaded for the pass and for serving aside, one pass at the fastest runtime. Gives
1 where a ratio misses its limit.
"""

import argparse
import os
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from app.backbones import catalogue, weights
from app.backbones import classifier as classifiers
from bench import passes, photos
from bench.photos import PhotoSet
from client import local
from client.api import Client
from client.recipe import Recipe
from worker.training.runtime import Surveyor

LIMIT = 2.0
"""How many times as long as the plain pass all may take."""

TRAINING_LIMIT = 1.3
"""How many times as long as the fastest pass it may take once the upload is done, model load aside."""


@dataclass(frozen=True)
class Took:
    """Seconds until a label."""

    whole: float
    """From the upload until the first one."""
    training: float
    """From when the upload is done, by a service that has loaded the model."""
    load: float
    """By which the first label takes longer than another one."""


@dataclass(frozen=True)
class Passed:
    """Seconds of one pass, and of making the network ready for it."""

    plain: float
    fastest: float
    name: str
    load: float
    """From the weights file on."""


def main_job(client: Client, archive: Path, folder: Path, backbone: str) -> Took:
    """Seconds from the upload to labels."""
    name, photo = "photos", folder / "photo.jpg"
    with zipfile.ZipFile(archive) as packed:
        photo.write_bytes(packed.read(next(entry for entry in packed.namelist() if entry.endswith(".jpg"))))
    started = time.perf_counter()
    dataset = client.create_dataset(name)
    client.wait(client.upload(dataset.id, archive).job.id)
    uploaded = time.perf_counter()
    client.wait(client.train(dataset.id, name, Recipe(backbone=backbone, strategy="head")).id)
    trained = time.perf_counter()
    list(client.predict(name, [photo]))
    ended = time.perf_counter()
    list(client.predict(name, [photo]))
    label = time.perf_counter() - ended
    return Took(whole=ended - started, training=trained - uploaded + label, load=max(0.0, ended - trained - label))


def passed(chosen: PhotoSet, backbone: str, folder: Path) -> Passed:
    """One plain pass, and one at the fastest runtime."""
    entry = catalogue.find(backbone)
    file = weights.obtain(entry, weights_dir=folder, cache_dir=weights.default_cache_dir(), download=False)
    started = time.perf_counter()
    state = classifiers.read_state(file.path)
    classifier = classifiers.build(entry, len(chosen.labels), state=state, seed=0, weights=file.weights).eval()
    form, preprocessing = classifiers.inference_form(classifier), classifier.preprocessing
    # As a training does: for the precision that counts, and for a quicker one.
    for exact in (True, False):
        Surveyor(form, preprocessing.crop, images=len(chosen.photos), device=torch.device("cpu")).prepare(exact=exact)
    load = time.perf_counter() - started
    runtimes = list(passes.runtimes(form, preprocessing.crop))
    plain = next(found for found in runtimes if found.name == "torch")
    fastest, _ = passes.fastest(runtimes, chosen.photos, preprocessing)
    return Passed(
        plain=passes.seconds(plain, chosen.photos, preprocessing),
        fastest=passes.seconds(fastest, chosen.photos, preprocessing),
        name=fastest.name,
        load=load,
    )


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
    jobs, bare = [], []
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as scratch:
        for number in range(arguments.rounds):
            # A service keeps what a network made of images.
            data = Path(scratch) / str(number)
            with local.service(data, port=local.port_or_free(None)) as running, Client(running.url) as client:
                jobs.append(main_job(client, archive, data, arguments.backbone))
            bare.append(passed(chosen, arguments.backbone, weights_dir))
    whole, plain = min(job.whole for job in jobs), min(one.plain for one in bare)
    training, load = min(job.training for job in jobs), min(one.load for one in bare)
    served = min(job.load for job in jobs)
    fastest = min(bare, key=lambda one: one.fastest)
    ratio, of_training = whole / plain, (training - load) / fastest.fastest
    print(f"{len(chosen.photos)} photos, {arguments.backbone}:")
    print(f"from the upload on {whole:.1f} s, plain pass {plain:.1f} s, ratio {ratio:.2f}, limit {LIMIT}")
    print(
        f"once the upload is done {training:.1f} s, {load:.1f} s of them to make the network ready for the pass, and "
        f"{served:.1f} s more to load the model for serving; pass by {fastest.name} {fastest.fastest:.1f} s, "
        f"ratio {of_training:.2f}, limit {TRAINING_LIMIT}"
    )
    return 0 if ratio <= LIMIT and of_training <= TRAINING_LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
