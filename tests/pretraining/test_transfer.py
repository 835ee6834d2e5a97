"""What the weights of the package are for: they tell photos apart better than random values do."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from app.backbones import catalogue, classifier, weights
from app.backbones.preprocess import Preprocessing
from pretraining import evaluate

pytestmark = pytest.mark.slow

BACKBONE = catalogue.find("formnet")
SEEDS = (0,)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    file = weights.obtain(BACKBONE, weights_dir=None, cache_dir=tmp_path_factory.mktemp("cache"), download=False)
    return classifier.read_state(file.path)


@pytest.fixture(scope="module")
def preprocessing() -> Preprocessing:
    return BACKBONE.find_weights(catalogue.PRETRAINED).preprocessing


def test_digits_are_read_better_from_few_than_with_random_values(
    state: dict[str, Tensor], preprocessing: Preprocessing
) -> None:
    every = evaluate.digits(preprocessing)
    few = replace(every, pixels=every.pixels[::2], targets=every.targets[::2], train_each=10)
    assert evaluate.compare(BACKBONE, state, few, seeds=SEEDS).gain > 5


@pytest.mark.parametrize(("name", "least"), [("textures10", 20), ("sign_digits", 15)])
def test_photos_are_told_apart_much_better_than_with_random_values(
    name: str, least: float, state: dict[str, Tensor], preprocessing: Preprocessing, test_data: Path
) -> None:
    photos = evaluate.photos(test_data / "datasets" / f"{name}.zip", preprocessing, most=40)
    row = evaluate.compare(BACKBONE, state, photos, seeds=SEEDS)
    assert row.gain > least
