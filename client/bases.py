"""A model that a training starts from, beside the photos that it is to be trained on, before these are sent."""

import unicodedata
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from client import archives
from client.api import Client
from client.errors import Refused
from client.recipe import Recipe
from client.terminal import printable
from client.values import ModelVersion

_TOLD = 5


def of(client: Client, recipe: Recipe) -> ModelVersion | None:
    """The version that `recipe` starts from, where it names one."""
    return None if recipe.base is None else client.model_version(*client.resolve(recipe.base))


def with_its_backbone(recipe: Recipe, base: ModelVersion | None) -> Recipe:
    """`recipe` with the network of its base, where it has one."""
    return recipe if base is None else replace(recipe, backbone=base.backbone)


def check(client: Client, recipe: Recipe, base: ModelVersion | None, photos: Path, dataset: str) -> None:
    """Raise `Refused` where no label of the base, nor what it is called now, is that of a folder in `photos` or one
    that the data set has already. Which folders are classes is for the service to say, as is what is in an archive."""
    if base is None or not photos.is_dir():
        return
    renamed = recipe.label_map or {}
    kept = {renamed.get(label, label) for label in base.labels}
    folders = [unicodedata.normalize("NFC", name.strip()) for name in archives.folders(photos)]
    if kept.isdisjoint(folders) and kept.isdisjoint(_labels(client, dataset)):
        raise Refused(
            f"the base knows none of the labels: it has {_told(base.labels)}, and {printable(photos)} the folders "
            f"{_told(folders)}; name those that were renamed with --label-map OLD=NEW, or leave --base out"
        )


def _labels(client: Client, dataset: str) -> list[str]:
    found = client.dataset_named(dataset)
    newest = None if found is None else found.latest_version
    return [] if found is None or newest is None else client.dataset_version(found.id, newest).labels


def _told(names: Collection[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return f"{', '.join([*names][:_TOLD])}{more}"
