"""Files of weights, and what is found of them."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from app import errors
from app.backbones import catalogue, weights
from app.backbones.catalogue import Backbone

CONTENT = b"the values of a network" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def backbone(url: str = "http://127.0.0.1:1/none.pth") -> Backbone:
    """A backbone of the catalogue whose published file is `CONTENT`, to be had at `url`."""
    real = catalogue.find("resnet18")
    published = dataclasses.replace(real.weights[0], file_name=f"resnet18-{SHA256[:8]}.pth", url=url)
    return dataclasses.replace(real, weights=(published,))


def at_hand(entry: Backbone, weights_dir: Path | None, cache_dir: Path) -> str | None:
    published = entry.weights[0]
    return weights.at_hand(
        entry, published, weights_dir=weights_dir, cache_dir=cache_dir, hub_cache_dir=cache_dir / "none"
    )


def known(entry: Backbone, weights_dir: Path | None, cache_dir: Path) -> str | None:
    return weights.identify(
        entry, entry.weights[0], weights_dir=weights_dir, cache_dir=cache_dir, hub_cache_dir=cache_dir / "none"
    )


def identified(entry: Backbone, weights_dir: Path | None, cache_dir: Path) -> str | None:
    """The digits of what is known."""
    found = known(entry, weights_dir, cache_dir)
    return None if found is None else found.partition(" ")[0]


def refusal(entry: Backbone, weights_dir: Path | None, cache_dir: Path, *, download: bool = False) -> list[str]:
    with pytest.raises(errors.WeightsUnavailable) as caught:
        weights.obtain(entry, weights_dir=weights_dir, cache_dir=cache_dir, download=download)
    tried = caught.value.detail["tried"]
    assert isinstance(tried, list)
    return [str(place) for place in tried]
