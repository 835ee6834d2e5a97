import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from app.backbones import catalogue, classifier
from app.backbones.preprocess import Preprocessing
from pretraining import evaluate
from pretraining.evaluate import Accuracy, Labelled, Row
from tests.training import samples

SMALL = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
NAMED = Labelled("numbers", np.zeros((120, 1, 1, 3), np.uint8), np.repeat(np.arange(3), 40))


def test_features_that_tell_the_classes_apart_are_found_out_and_others_too() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(120, 10)).astype(np.float32)
    telling = noise.copy()
    telling[np.arange(120), NAMED.targets] += 2.5
    assert evaluate.accuracy(telling, NAMED, seed=0) > 80
    assert evaluate.accuracy(noise, NAMED, seed=0) < 60
    assert evaluate.accuracy(telling, NAMED, seed=0) > evaluate.accuracy(telling, replace(NAMED, train_each=5), seed=0)


def test_adapting_gives_batchnorm_the_statistics_of_the_images() -> None:
    network = classifier.build(catalogue.find("formnet"), 2, state=None, seed=0)
    pixels = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    before = evaluate.features(network, pixels)
    evaluate.adapt(network, pixels, seed=0)
    assert not np.allclose(evaluate.features(network, pixels), before)
    assert not network.training
    inner = torch.cat([value.flatten() for name, value in network.body.named_buffers() if name.endswith("running_var")])
    assert not torch.allclose(inner, torch.ones_like(inner))


def test_the_gain_is_that_over_the_better_of_the_random_networks() -> None:
    labelled = Labelled("spots", np.zeros((3, 1, 1, 3), np.uint8), np.array([0, 1, 1]))
    row = Row(labelled, Accuracy(90, 1), Accuracy(70, 2), Accuracy(75, 3))
    assert row.gain == 15
    assert "| spots | 3 | 2 | 90.0 ± 1.0 | 70.0 ± 2.0 | 75.0 ± 3.0 | +15.0 |" in evaluate.table([row])


def test_photos_of_a_zip_are_read_with_their_folders_as_labels(tmp_path: Path) -> None:
    path = tmp_path / "shapes.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for label, count in {"b": 3, "a": 5}.items():
            for number in range(count):
                packed.writestr(f"shapes/{label}/{number}.jpg", samples.plain((30 * number, 0, 0)))
    found = evaluate.photos(path, SMALL, most=4)
    assert (found.name, found.classes) == ("shapes", 2)
    assert found.targets.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert found.pixels.shape == (7, 32, 32, 3)


def test_digits_are_enlarged_to_the_size_of_the_network() -> None:
    found = evaluate.digits(SMALL)
    assert found.pixels.shape == (1797, 32, 32, 3)
    assert found.classes == 10
    assert found.pixels.max() > 200
