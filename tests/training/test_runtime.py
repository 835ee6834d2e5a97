"""A compiled network gives the features that torch gives."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.classifier import InferenceForm
from app.backbones.walk import Survey
from tests.backbones.samples import live_in
from tests.training import samples
from tests.training.samples import CPU, Recorder
from worker.training import features, precision, runtime
from worker.training.data import Splits
from worker.training.features import Extractor, Features
from worker.training.runtime import Surveyor

MANY = runtime.LEAST_IMAGES
LABELS = ("red", "blue")


@pytest.fixture
def in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """What need not be exact is computed in bf16, also where this CPU is not quicker with it."""
    if not any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16")):
        pytest.skip("this CPU has no instructions for bf16")
    monkeypatch.setattr(precision, "is_half_quicker", lambda _device: True)


def network(name: str) -> InferenceForm:
    made = classifiers.build(catalogue.find(name), 2, state=None, seed=0)
    live_in(made)
    return classifiers.inference_form(made)


@pytest.fixture(scope="module")
def tinynet() -> InferenceForm:
    return network("tinynet")


def batches(*sizes: int, size: int = 32) -> list[Tensor]:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (count, size, size, 3), np.uint8) for count in sizes]
    return [torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in pixels]


def joined(surveys: Iterator[Survey]) -> list[Tensor]:
    """The features of all batches at each depth, the last one last."""
    return [torch.cat(values) for values in zip(*((*one.stages, one.features) for one in surveys), strict=True)]


def in_torch(form: InferenceForm, images: list[Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        return joined(iter([form.survey(batch) for batch in images]))


def apart(images: list[Tensor]) -> list[Tensor]:
    """Each of the images of batches as one by itself."""
    return [image for batch in images for image in batch.tensor_split(len(batch))]


def distances(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    pairs = zip(found, expected, strict=True)
    return [float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs]


@pytest.mark.parametrize("name", ["tinynet", "formnet", "mobilenet_v3_small", "squeezenet1_1", "resnet18"])
def test_exact_features_of_a_compiled_network_are_those_of_torch_at_every_depth(name: str) -> None:
    form, images = network(name), batches(3, 2, size=64)
    surveyor = Surveyor(form, 64, images=MANY, device=CPU)
    assert surveyor.prepare(exact=True) is not None
    found = joined(surveyor.surveys(iter(images), exact=True))
    assert max(distances(found, in_torch(form, images))) < 1e-5


@pytest.mark.usefixtures("in_bf16")
def test_features_that_need_not_be_exact_are_rounded(tinynet: InferenceForm) -> None:
    images = batches(8, 8, 3)
    found = joined(Surveyor(tinynet, 32, images=MANY, device=CPU).surveys(iter(images), exact=False))
    assert 1e-5 < max(distances(found, in_torch(tinynet, images))) < 0.05


def test_features_do_not_depend_on_the_images_beside_them(tinynet: InferenceForm) -> None:
    images = batches(6)
    together = joined(Surveyor(tinynet, 32, images=MANY, device=CPU).surveys(iter(images), exact=False))
    apart = joined(Surveyor(tinynet, 32, images=MANY, device=CPU).surveys(iter(torch.chunk(images[0], 6)), exact=False))
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))


def test_few_images_go_through_torch(tinynet: InferenceForm) -> None:
    images, surveyor = batches(4, 1), Surveyor(tinynet, 32, images=MANY - 1, device=CPU)
    assert surveyor.prepare(exact=False) is None
    found = joined(surveyor.surveys(iter(images), exact=False))
    assert all(torch.equal(one, other) for one, other in zip(found, in_torch(tinynet, images), strict=True))


def test_gpus_and_very_large_networks_stay_with_torch(tinynet: InferenceForm) -> None:
    assert runtime.pays_off(tinynet, MANY, CPU)
    assert not runtime.pays_off(tinynet, MANY, torch.device("cuda"))
    with torch.device("meta"):
        large = classifiers.build(catalogue.find("vgg16"), 2, state=None, seed=0)
    assert not runtime.pays_off(classifiers.inference_form(large), MANY, CPU)


def test_no_images_give_nothing(tinynet: InferenceForm) -> None:
    assert list(Surveyor(tinynet, 32, images=MANY, device=CPU).surveys(iter([]), exact=True)) == []


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        factor: Tensor = torch.linalg.qr(x)[0]
        return factor


def test_what_cannot_be_compiled_goes_through_torch_image_by_image() -> None:
    form = network("tinynet")
    name = next(name for name, module in form.body.named_modules() if isinstance(module, nn.ReLU))
    form.body.set_submodule(name, Untraceable())
    surveyor, images = Surveyor(form, 32, images=MANY, device=CPU), batches(2, 2)
    assert surveyor.prepare(exact=True) is None
    found = joined(surveyor.surveys(iter(images), exact=True))
    assert all(torch.equal(one, other) for one, other in zip(found, in_torch(form, apart(images)), strict=True))


class Moody(nn.Module):
    """Gives something else after it was written down."""

    def forward(self, x: Tensor) -> Tensor:
        return x if torch.onnx.is_in_onnx_export() else 2 * x


def test_a_compiled_network_that_gives_something_else_is_not_used() -> None:
    form = network("tinynet")
    name = next(name for name, module in form.body.named_modules() if isinstance(module, nn.ReLU))
    form.body.set_submodule(name, Moody())
    surveyor, images = Surveyor(form, 32, images=MANY, device=CPU), batches(2, 2)
    assert surveyor.prepare(exact=True) is not None
    found = joined(surveyor.surveys(iter(images), exact=True))
    assert all(torch.equal(one, other) for one, other in zip(found, in_torch(form, apart(images)), strict=True))


def extract(splits: Splits, extractor: Extractor, folder: Path) -> Features:
    return features.extract(
        splits, extractor, cache_dir=folder, max_pixels=samples.MAX_PIXELS, emit=Recorder(), device=CPU
    )


def test_validation_images_have_the_features_that_serving_computes(tinynet: InferenceForm, tmp_path: Path) -> None:
    splits = samples.split(samples.colours(MANY // 2), LABELS, train=0.7, seed=0)
    preprocessing = replace(catalogue.find("tinynet").scratch_preprocessing, resize=36, crop=32)
    found = extract(splits, Extractor(tinynet, preprocessing, "0123abcd"), tmp_path).at(features.HEAD)
    files = splits.validation.read(range(len(splits.validation)))
    with torch.inference_mode():
        served: NDArray[np.float32] = np.concatenate(
            [tinynet.features(samples.seen(file, preprocessing)).numpy() for file in files]
        )
    assert np.asarray(found.validation) == pytest.approx(served, rel=1e-4, abs=1e-5)


@pytest.mark.usefixtures("in_bf16")
def test_another_split_of_the_same_images_does_not_get_rounded_features_for_its_validation(
    tinynet: InferenceForm, tmp_path: Path
) -> None:
    splits = samples.split(samples.colours(MANY // 2), LABELS, train=0.7, seed=0)
    preprocessing = replace(catalogue.find("tinynet").scratch_preprocessing, resize=36, crop=32)
    extractor = Extractor(tinynet, preprocessing, "0123abcd")
    extract(splits, extractor, tmp_path)
    swapped = Splits(LABELS, splits.validation, splits.train)
    extract(swapped, extractor, tmp_path)
    extract(splits, extractor, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("in_bf16")
def test_exact_features_are_not_taken_for_rounded_ones(tinynet: InferenceForm, tmp_path: Path) -> None:
    splits = samples.split(samples.colours(MANY // 2), LABELS, train=0.7, seed=0)
    preprocessing = replace(catalogue.find("tinynet").scratch_preprocessing, resize=36, crop=32)
    extractor = Extractor(tinynet, preprocessing, "0123abcd")
    rounded = extract(splits, extractor, tmp_path).at(features.HEAD)
    exact = extract(splits, replace(extractor, is_exact=True), tmp_path).at(features.HEAD)
    assert len(list(tmp_path.iterdir())) == 2
    files = splits.train.read(range(len(splits.train)))
    with torch.inference_mode():
        served = np.concatenate([tinynet.features(samples.seen(file, preprocessing)).numpy() for file in files])
    assert np.asarray(exact.train) == pytest.approx(served, rel=1e-4, abs=1e-5)
    assert np.asarray(rounded.train) != pytest.approx(served, rel=1e-4, abs=1e-5)
