"""The main job from end to end, for a first look: sample photos, an upload, a fine-tune, predictions."""

import random
import shlex
import tempfile
from pathlib import Path

from rich.console import Console

from client import samples, show, steps
from client.api import Client
from client.recipe import Recipe
from client.values import Backbone

MODEL = "patterns"
_EACH = 60
_SEED = 7
_NEW_PHOTOS_SEED = 8
_PACKAGE = "package"


def run(client: Client, console: Console, *, folder: Path) -> None:
    """Do the main job on the service of `client`, telling each step with its time; new photos go to `folder`."""
    recipe = _recipe(client.backbones(), console)
    dataset_id = _upload(client, console)
    _train(client, console, dataset_id, recipe)
    photos = _draw_new(folder)
    _predict(client, console, photos)
    _say_how_to_go_on(client, console, photos[0])


def _recipe(catalogue: list[Backbone], console: Console) -> Recipe:
    """The cheapest pre-trained backbone at hand; the one that comes with the package where there is no other."""
    at_hand = [entry for entry in catalogue if entry.weights and entry.weights[0].at_hand]
    chosen = min(at_hand, key=lambda entry: (_comes_with_graft(entry), entry.gmac))
    if _comes_with_graft(chosen):
        console.print(
            "No other pre-trained weights are at hand, so the small network is used that comes with Graft.\n"
            "(GRAFT_WEIGHTS_DIR may name a folder with weights; `graft train` downloads what it needs.)",
            highlight=False,
        )
    return Recipe(backbone=chosen.name, strategy="head")


def _comes_with_graft(entry: Backbone) -> bool:
    return entry.weights[0].at_hand == _PACKAGE


def _upload(client: Client, console: Console) -> str:
    with tempfile.TemporaryDirectory(prefix="graft-") as folder:
        archive = Path(folder) / "patterns.zip"
        with steps.step(console, "draw sample photos") as step:
            samples.write_archive(archive, each=_EACH, seed=_SEED)
            step.outcome = f"{_EACH} each of {', '.join(samples.PATTERNS)}"
        with steps.step(console, "upload them, and check every image") as step:
            existing = client.dataset_named(MODEL)
            dataset = existing or client.create_dataset(MODEL)
            if existing is None or existing.latest_version is None:
                show.succeeded(client.wait(client.upload(dataset.id, archive).job.id, step.tell))
            version = client.dataset_version(dataset.id, client.dataset(dataset.id).latest_version or 1)
            train = sum(count.train for count in version.counts.values())
            step.outcome = f"{train} to train on, {version.images - train} held out, labels by name"
    return dataset.id


def _train(client: Client, console: Console, dataset_id: str, recipe: Recipe) -> None:
    what = "train its head" if recipe.strategy == "head" else "train all its layers"
    with steps.step(console, f"{recipe.backbone}: {what}") as step:
        job = client.train(dataset_id, MODEL, recipe)
        ended = show.succeeded(client.wait(job.id, step.tell))
        step.notes = list(ended.plan.reasons) if ended.plan else []
        found = client.model(MODEL)
        evaluation = client.model_version(MODEL, found.latest_version).evaluation
        step.outcome = (
            f"{100 * evaluation['accuracy']:.1f} % of {evaluation['images']} held-out photos are right, "
            f"{MODEL}@{found.latest_version}"
        )
        step.notes.append(f"job {ended.id}")


def _draw_new(folder: Path) -> list[Path]:
    rng = random.Random(_NEW_PHOTOS_SEED)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for label in samples.PATTERNS:
        path = folder / f"a-{label}.jpg"
        path.write_bytes(samples.photo(label, rng))
        paths.append(path)
    return paths


def _predict(client: Client, console: Console, photos: list[Path]) -> None:
    with steps.step(console, f"predict {len(photos)} new photos") as step:
        predictions = client.predict(MODEL, photos, top_k=2)
        step.notes = [
            f"{path.name:15} {show.best(prediction)}" for path, prediction in zip(photos, predictions, strict=True)
        ]


def _say_how_to_go_on(client: Client, console: Console, photo: Path) -> None:
    request = (
        f"curl -H 'Content-Type: image/jpeg' --data-binary @{shlex.quote(str(photo))} "
        f"{client.url}/v1/models/{MODEL}/predict"
    )
    console.print(f"\nIn a browser {client.url}", highlight=False)
    console.print(f"Every route  {client.url}/docs", highlight=False)
    console.print("Try it       ", end="")
    console.print(request, highlight=False, soft_wrap=True)
