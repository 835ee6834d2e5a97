"""Real photos and real pre-trained weights, through HTTP alone: as good as the reference."""

import io
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from client import demo
from client.api import Client
from tests.e2e import service
from tests.e2e.conftest import ELSEWHERE
from tests.e2e.service import Service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(ELSEWHERE), reason="needs weights at hand"),
]

REFERENCE_ACCURACY = 0.942
"""Frozen mobilenet_v2 features with standardised logistic regression, mean over three 70/30 splits."""
SEEDS = (0, 1, 2)
THREADS = 2


@pytest.fixture(scope="module")
def running(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"GRAFT_WEIGHTS_DIR": str(test_data / "weights"), "GRAFT_THREADS": str(THREADS)}
    with service.embedded(tmp_path_factory.mktemp("photos"), **settings) as here:
        yield here


@pytest.fixture(scope="module")
def photos(test_data: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(test_data / "datasets" / "hymenoptera.zip") as packed:
        return {name: packed.read(name) for name in packed.namelist() if name.endswith(".jpg")}


def divided(photos: dict[str, bytes], seed: int, path: Path) -> dict[str, bytes]:
    """Write the photos with a stratified 70/30 split as folders; the validation photos by `label/name`."""
    held_out: dict[str, bytes] = {}
    with zipfile.ZipFile(path, "w") as packed:
        for label in ("ants", "bees"):
            names = sorted(name for name in photos if f"/{label}/" in name)
            random.Random(seed).shuffle(names)
            for place, name in enumerate(names):
                where = "val" if place < round(0.3 * len(names)) else "train"
                packed.writestr(f"{where}/{label}/{Path(name).name}", photos[name])
                if where == "val":
                    held_out[f"{label}/{Path(name).name}"] = photos[name]
    return held_out


def run_main_job(http: httpx.Client, archive: Path, name: str) -> dict[str, object]:
    dataset_id = service.create_dataset(http, name=name)
    service.succeeded(http, service.upload(http, dataset_id, archive)["job"]["id"])
    job = service.train(http, dataset_id, name, backbone="mobilenet_v2", strategy="head")
    return service.succeeded(http, job["id"])


def predicted(http: httpx.Client, model: str, photos: dict[str, bytes]) -> dict[str, str]:
    """The top label of each photo."""
    labels = {}
    for name, photo in photos.items():
        answer = http.post(f"/v1/models/{model}/predict?top_k=1", content=photo, headers={"Content-Type": "image/jpeg"})
        assert answer.status_code == 200, answer.text
        labels[name] = answer.json()["predictions"][0]["labels"][0]["label"]
    return labels


def test_head_reaches_the_reference_and_serves_what_it_evaluated(
    running: Service, photos: dict[str, bytes], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    accuracies = []
    with running.http() as http:
        for seed in SEEDS:
            archive = tmp_path / f"split{seed}.zip"
            held_out = divided(photos, seed, archive)
            job = run_main_job(http, archive, f"insects-{seed}")
            evaluation = http.get(f"/v1/models/insects-{seed}/versions/1").json()["evaluation"]
            accuracies.append(evaluation["accuracy"])
            assert evaluation["images"] == len(held_out)
            assert job["attempt"] == 1
        # To the image: the served classifier is the evaluated one, preprocessing and label index included.
        labels = predicted(http, f"insects-{seed}", held_out)
        right = sum(name.startswith(f"{label}/") for name, label in labels.items())
        assert right == round(evaluation["accuracy"] * evaluation["images"])
    mean = sum(accuracies) / len(accuracies)
    record_property("figures", f"accuracy {accuracies}, mean {mean:.4f}")
    assert abs(mean - REFERENCE_ACCURACY) <= 0.02 or mean > REFERENCE_ACCURACY


def test_the_network_that_is_cut_behind_the_stages_used_serves_what_it_evaluated(
    running: Service, photos: dict[str, bytes], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    archive = tmp_path / "split.zip"
    # Every third, of each label as many as there are: another test looks at how good all of them make a classifier.
    held_out = divided(dict(sorted(photos.items())[::3]), SEEDS[0], archive)
    with running.http() as http:
        dataset_id = service.create_dataset(http, name="insects-stages")
        service.succeeded(http, service.upload(http, dataset_id, archive)["job"]["id"])
        for stage in ("best", "all"):
            name = f"insects-{stage}"
            recipe = {"backbone": "mobilenet_v2", "strategy": "stage_probe", "stage": stage}
            job = service.train(http, dataset_id, name, **recipe)
            service.succeeded(http, job["id"])
            evaluation = http.get(f"/v1/models/{name}/versions/1").json()["evaluation"]
            labels = predicted(http, name, held_out)
            right = sum(photo.startswith(f"{label}/") for photo, label in labels.items())
            record_property(stage, evaluation["accuracy"])
            assert right == round(evaluation["accuracy"] * evaluation["images"])
            assert evaluation["accuracy"] > 0.6
            told = {event["type"] for event in service.follow(http, job["id"])}
            assert {"best": "stage_chosen", "all": "features_selected"}[stage] in told


def test_the_demo_uses_weights_that_are_at_hand(running: Service, tmp_path: Path) -> None:
    with io.StringIO() as shown, Client(running.url) as client:
        demo.run(client, Console(file=shown, width=200), folder=tmp_path)
        told = shown.getvalue()
    assert "mobilenet_v2: train its head" in told
    assert "100.0 % of 60 held-out photos are right" in told
