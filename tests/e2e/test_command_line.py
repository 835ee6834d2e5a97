"""The command line against a real service, and the demo from its start to its end."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from client import archives, samples
from client.api import Client
from client.errors import Problem
from client.recipe import Recipe
from client.values import Event
from tests import factories
from tests.e2e import service
from tests.e2e.conftest import ELSEWHERE
from tests.e2e.service import Service

ROOT = Path(__file__).parents[2]
# What it sends and shows is the same for both forms of the service, which another module takes through a whole job.
on_one_form = pytest.mark.parametrize("running", ["embedded"], indirect=True, scope="session")


def graft(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    return subprocess.run(
        [sys.executable, "-m", "client", *arguments],
        env={
            **inherited,
            "GRAFT_DOWNLOAD_WEIGHTS": "false",
            "GRAFT_OPTIMISE_AFTER_TRAINING": "false",
            "COLUMNS": "200",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=service.JOB_SECONDS,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos of two classes, with a file that is no use."""
    folder = tmp_path_factory.mktemp("photos")
    samples.write_archive(folder / "all.zip", each=12, seed=3)
    with zipfile.ZipFile(folder / "all.zip") as packed:
        packed.extractall(
            folder / "photos", [name for name in packed.namelist() if name.startswith(("dots", "stripes"))]
        )
    (folder / "photos" / "dots" / "readme.txt").write_text("no photo")
    return folder / "photos"


@on_one_form
def test_photos_become_a_model_that_predicts(running: Service, photos: Path, tmp_path: Path) -> None:
    name = f"woven-{service.free_port()}"
    options = [
        "--backbone",
        "tinynet",
        "--strategy",
        "full",
        "--weights",
        "none",
        "--epochs",
        "2",
        "--url",
        running.url,
    ]
    trained = graft("train", str(photos), "--model", name, *options)
    assert trained.returncode == 0, trained.stderr
    assert "24 images became version 1" in trained.stdout
    assert "refused dots/readme.txt: not a JPEG, PNG or WebP image" in trained.stdout
    assert f"{name}@1, accuracy" in trained.stdout
    page = trained.stdout.splitlines()[-1].removeprefix("In a browser: ")
    assert page == f"{running.url}/v1/models/{name}/versions/1/evaluation"
    assert httpx.get(page, headers={"Accept": "text/html"}).headers["content-type"].startswith("text/html")

    again = graft("train", str(photos), "--model", name, *options, "--search", "3")
    assert f"nothing new for data set '{name}'" in again.stdout
    assert "left out 24 images that it has already" in again.stdout
    assert re.search(r"A search of \d+ s (tried \d+ trainings|ended after the first)", again.stdout), again.stdout
    assert f"{name}@2, accuracy" in again.stdout

    def pointed(*asked: str) -> str:
        return graft(*asked, "--url", running.url).stdout

    assert pointed("alias", name, "production", "1", "--keep-loaded") == f"{name}:production is {name}@1\n"
    assert pointed("alias", name, "production", "2") == f"{name}:production is {name}@2\n"
    assert re.search(rf"{name}:production +2 +yes", pointed("aliases", name))
    begun = ("--base", f"{name}:production", "--strategy", "head", "--url", running.url)
    warm = graft("train", str(photos), "--model", name, *begun)
    assert f"{name}@3, accuracy" in warm.stdout, warm.stderr
    assert "points forgotten" in " ".join(warm.stdout.split())

    assert pointed("rollback", name, "production") == f"{name}:production is {name}@1\n"
    refused = graft("rollback", name, "production", "--url", running.url)
    assert refused.returncode == 1
    assert "nothing to roll back to" in refused.stderr

    images = sorted(photos.glob("*/*.jpg"))[:3]
    predicted = graft("predict", f"{name}:production", *map(str, images), "--url", running.url)
    assert predicted.returncode == 0, predicted.stderr
    assert [line.partition(":")[0] for line in predicted.stdout.splitlines()] == [str(image) for image in images]
    assert re.search(r"(dots|stripes) \d+\.\d %", predicted.stdout)
    compared = graft("optimise", name, "--form", "onnxruntime-fp32", "--url", running.url)
    assert compared.returncode == 0, compared.stderr
    assert re.search(r"onnxruntime-fp32 +\d+\.\d %", compared.stdout), compared.stdout
    pinned = graft("runtimes", f"{name}@3", "--runtime", "onnxruntime", "--url", running.url)
    assert "Served on cpu: onnxruntime-fp32. As runtime onnxruntime and precision auto are pinned." in pinned.stdout
    refused = graft("runtimes", name, "--runtime", "openvino", "--url", running.url)
    assert (refused.returncode, "built are onnxruntime-fp32, torch-fp32" in refused.stderr) == (1, True)

    taken = graft("download", f"{name}@3", "--to", str(tmp_path / "taken"), "--url", running.url)
    assert taken.returncode == 0, taken.stderr
    assert {"weights.safetensors", "labels.json", "fp32.onnx"} <= {path.name for path in (tmp_path / "taken").iterdir()}
    refused = graft("download", name, "--file", "weights", "--to", str(tmp_path), "--url", running.url)
    assert (refused.returncode, "has no file 'weights'" in refused.stderr) == (1, True)

    for command, expected in (
        ("models", name),
        ("datasets", name),
        ("jobs", "succeeded"),
        ("backbones", "mobilenet_v2"),
    ):
        assert expected in graft(command, GRAFT_URL=running.url).stdout

    stays = graft("delete", f"{name}@1", "--url", running.url)
    assert (stays.returncode, f"{name}:production points to {name}@1" in stays.stderr) == (1, True), stays.stderr
    with Client(running.url) as client:
        for job in [job for job in client.jobs() if job.model_name == name]:
            client.wait(job.id)
    assert pointed("delete", f"{name}:production") == f"{name}:production is deleted\n"
    assert pointed("delete", f"{name}@3") == f"{name}@3 is deleted\n"
    assert graft("delete", name, "--url", running.url).returncode == 1  # nobody was there to say yes
    assert f"{name} " in pointed("models")
    assert pointed("delete", name, "--yes") == f"{name} is deleted\n"
    assert f"{name} " not in pointed("models")

    assert graft("delete-dataset", name, "--url", running.url).returncode == 1
    assert pointed("delete-dataset", name, "--yes") == f"{name} is deleted\n"
    assert f"{name} " not in pointed("datasets")
    gone = graft("delete-dataset", name, "--yes", "--url", running.url)
    assert (gone.returncode, name in gone.stderr) == (1, True), gone.stderr


@on_one_form
def test_what_an_import_refuses_is_told_whatever_becomes_of_it(running: Service, photos: Path, tmp_path: Path) -> None:
    name = f"again-{service.free_port()}"
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder, ignore=shutil.ignore_patterns("*.txt"))
    with Client(running.url) as client, archives.archive(folder) as archive:
        assert client.wait(client.upload(client.create_dataset(name).id, archive).job.id).state == "succeeded"
    asked = ("train", str(folder), "--model", name, "--backbone", "formnet", "--strategy", "head", "--url", running.url)
    again = graft(*asked)
    assert f"data set '{name}' has them all" in again.stdout, again.stderr

    for number in range(12):
        (folder / "dots" / f"zz {number:02}.jpg").write_bytes(b"broken")
    broken = graft(*asked)
    assert broken.returncode == 0, broken.stderr
    assert "has them all" not in broken.stdout
    for told in (
        f"nothing new for data set '{name}'",
        "refused dots/zz 00.jpg: not a JPEG, PNG or WebP image",
        "and 2 more refused",
        "left out 24 images that it has already",
    ):
        assert told in broken.stdout

    (folder / "rings").mkdir()
    (folder / "rings" / "one.jpg").write_bytes(b"broken")
    failed = graft(*asked)
    assert (failed.returncode, "empty_class" in failed.stderr) == (1, True), failed.stderr
    assert "refused dots/zz 00.jpg: not a JPEG, PNG or WebP image" in failed.stdout
    assert f"{name}@3" not in failed.stdout


@on_one_form
def test_a_plan_is_shown_with_what_was_measured(running: Service, photos: Path, tmp_path: Path) -> None:
    name = f"measured-{service.free_port()}"
    with Client(running.url) as client, archives.archive(photos) as archive:
        assert client.wait(client.upload(client.create_dataset(name).id, archive).job.id).state == "succeeded"
    asked = ("plan", name, "--backbone", factories.SMALL, "--strategy", "head", "--url", running.url)
    before = graft(*asked)
    assert before.returncode == 0, before.stderr
    assert "Not measured with this backbone yet" in before.stdout
    assert "Every layer of timm:test_resnet stays as pre-trained" in before.stdout

    measured = graft(*asked, "--measure")
    assert measured.returncode == 0, measured.stderr
    assert "measure " in measured.stdout
    for told in (
        r"head +\d+ +\d+\.\d ± \d+\.\d %",
        "all together",
        "With fewer images",
        "Every layer of timm:test_resnet",
    ):
        assert re.search(told, measured.stdout), (told, measured.stdout)
    decided = graft("plan", name, "--backbone", factories.SMALL, "--url", running.url)
    assert re.search(r"head +\d+", decided.stdout), decided.stdout
    assert "Little data:" in decided.stdout


@on_one_form
def test_control_runs_end_with_a_verdict(running: Service, photos: Path) -> None:
    name = f"control-{service.free_port()}"
    with Client(running.url) as client, archives.archive(photos) as archive:
        assert client.wait(client.upload(client.create_dataset(name).id, archive).job.id).state == "succeeded"
    asked = ("control", name, "--model", name, "--backbone", "formnet", "--epochs", "1", "--scratch-epochs", "2")
    told = graft(*asked, "--url", running.url)
    assert told.returncode == 0, told.stderr
    for run in ("probe", "fine_tune", "scratch"):
        assert re.search(rf"{run} +\d+\.\d % +\d+\.\d to \d+\.\d %", told.stdout), told.stdout
    assert "final score" in told.stdout
    assert f"{running.url}/v1/experiments/exp_" in told.stdout


@on_one_form
def test_networks_are_ranked_and_one_is_chosen(running: Service, photos: Path) -> None:
    name = f"ranked-{service.free_port()}"
    with Client(running.url) as client, archives.archive(photos) as archive:
        assert client.wait(client.upload(client.create_dataset(name).id, archive).job.id).state == "succeeded"
    chosen = ("--backbone", "formnet", "--backbone", "resnet18", "--model", "none-such")
    ranked = graft("rank", name, *chosen, "--url", running.url)
    assert ranked.returncode == 0, ranked.stderr
    for told in (
        r"1 +formnet +\d+\.\d ± \d+\.\d % \(1\)",
        "resnet18 is not ranked: no usable weights for resnet18",
        "none-such is not ranked: no model 'none-such'",
        r"/v1/rankings/rnk_\w+ shows it as a page",
    ):
        assert re.search(told, ranked.stdout), (told, ranked.stdout)

    planned = graft("plan", name, "--backbone", "auto", "--max-size", "1000", "--url", running.url)
    assert planned.returncode == 0, planned.stderr
    assert "rank backbones on" in planned.stdout
    assert re.search(r"Backbone \w+: (first|best)", planned.stdout), planned.stdout
    refused = graft("plan", name, "--backbone", "auto", "--max-size", "0.01", "--url", running.url)
    assert refused.returncode == 1
    assert "backbones fits: " in refused.stderr


def test_a_problem_is_told_in_its_own_words(running: Service, photos: Path) -> None:
    name = f"wrong-{service.free_port()}"
    failed = graft("train", str(photos), "--model", name, "--backbone", "mobilnet_v2", "--url", running.url)

    assert failed.returncode == 1
    assert "no backbone 'mobilnet_v2'; did you mean mobilenet_v2" in failed.stderr
    assert (
        "no model 'none-such'"
        in graft("predict", "none-such", str(next(photos.glob("*/*.jpg"))), "--url", running.url).stderr
    )


def test_the_client_follows_a_job_and_cancels_it(running: Service, photos: Path, tmp_path: Path) -> None:
    archive = tmp_path / "two.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in photos.glob("*/*.jpg"):
            packed.write(path, path.relative_to(photos))
    with Client(running.url) as client:
        dataset = client.create_dataset(f"followed {service.free_port()}")
        assert client.wait(client.upload(dataset.id, archive).job.id).state == "succeeded"
        recipe = Recipe(backbone="tinynet", strategy="full", weights="none", epochs=1000)
        job = client.train(dataset.id, "followed", recipe)
        seen: list[int] = []
        for told in client.follow(job.id):
            if isinstance(told, Event):
                seen.append(told.seq)
                if told.type == "epoch_finished":
                    client.cancel(job.id)
        assert client.job(job.id).state == "cancelled"
        assert seen == list(range(1, len(seen) + 1))
        with pytest.raises(Problem) as refusal:
            client.train(dataset.id, "followed", Recipe(backbone="resnet81"))
        assert (refusal.value.status, refusal.value.code) == (422, "unknown_backbone")


@pytest.mark.slow
@pytest.mark.skipif(bool(ELSEWHERE), reason="the demo starts a service of its own")
def test_the_demo_goes_from_nothing_to_predictions(tmp_path: Path) -> None:
    data, port = tmp_path / "data", service.free_port()
    shown = graft("demo", "--exit", "--data-dir", str(data), "--port", str(port), GRAFT_THREADS="1")

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "No other pre-trained weights are at hand" in shown.stdout
    assert "formnet: train its head" in shown.stdout
    accuracy = re.search(r"(\d+\.\d) % of 60 held-out photos are right, patterns@1", shown.stdout)
    assert accuracy is not None, shown.stdout
    assert float(accuracy[1]) > 75
    for label in samples.PATTERNS:
        assert f"a-{label}.jpg" in shown.stdout
    assert f"http://127.0.0.1:{port}/docs" in shown.stdout
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")
