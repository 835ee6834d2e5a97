import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.typing import NDArray

from app import errors
from app.backbones import catalogue
from app.backbones import classifier as classifiers
from app.backbones.preprocess import Preprocessing
from app.backbones.taps import Outlet
from tests.training import samples
from tests.training.samples import MemoryImages, Recorder, Stopped
from worker.training import features
from worker.training.data import Splits
from worker.training.events import FeaturesNotKept, FeaturesReady, Progress
from worker.training.features import Extractor, Features

LABELS = ("red", "blue")
AT_32 = Preprocessing(resize=36, crop=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


@dataclass(frozen=True)
class CountedImages(MemoryImages):
    """Images that keep a list of the positions that were read."""

    reads: list[int] = field(default_factory=list)

    def read(self, positions: Sequence[int]) -> list[bytes]:
        self.reads.extend(positions)
        return super().read(positions)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    network = classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=0)
    return Extractor(classifiers.inference_form(network), AT_32, weights_sha256="0123abcd")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(10), LABELS, train=0.7, seed=0)


def extract(splits: Splits, extractor: Extractor, folder: Path, emit: Recorder | None = None) -> Features:
    return features.extract(
        splits,
        extractor,
        cache_dir=folder,
        max_pixels=samples.MAX_PIXELS,
        emit=emit or Recorder(),
        device=samples.CPU,
    )


def is_cached(splits: Splits, extractor: Extractor, folder: Path) -> bool:
    """Whether the features of `splits` were there already."""
    told = Recorder()
    extract(splits, extractor, folder, told)
    (ready,) = told.of(FeaturesReady)
    return ready.cached


def equal(one: Features, other: Features) -> bool:
    return np.array_equal(one.train[:], other.train[:]) and np.array_equal(one.validation[:], other.validation[:])


def cache_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def alone(file: bytes, extractor: Extractor) -> NDArray[np.float32]:
    """The features of one image by itself."""
    with torch.inference_mode():
        found: NDArray[np.float32] = extractor.network.features(samples.seen(file, extractor.preprocessing)).numpy()[0]
    return found


def test_features_are_those_of_each_image_in_the_order_of_the_splits(
    splits: Splits, extractor: Extractor, tmp_path: Path
) -> None:
    every = extract(splits, extractor, tmp_path)
    assert list(every.columns) == ["stem", "stage1", "stage2", features.HEAD]
    found = every.at(features.HEAD)
    assert (found.train.shape, found.validation.shape) == ((14, 128), (6, 128))
    assert found.train[:].dtype == found.validation[:].dtype == np.float32
    for images, rows in ((splits.train, found.train[:]), (splits.validation, found.validation[:])):
        expected = [alone(file, extractor) for file in images.read(range(len(images)))]
        assert rows == pytest.approx(np.stack(expected), rel=1e-4, abs=1e-4)


def test_features_are_computed_once_and_then_read_bit_for_bit(
    splits: Splits, extractor: Extractor, tmp_path: Path
) -> None:
    first, second = Recorder(), Recorder()
    computed = extract(splits, extractor, tmp_path / "cache", first)
    read = extract(splits, extractor, tmp_path / "cache", second)
    assert equal(computed, read)
    (ready,), (again,) = first.of(FeaturesReady), second.of(FeaturesReady)
    assert (ready.images, ready.cached) == (20, False)
    assert (again.images, again.cached) == (20, True)
    assert [type(event) for event in second.events] == [FeaturesReady]
    assert ready.seconds >= ready.pass_seconds > 0
    assert again.pass_seconds == pytest.approx(ready.pass_seconds, abs=0.001)


def test_progress_is_told_batch_by_batch(splits: Splits, extractor: Extractor, tmp_path: Path) -> None:
    told = Recorder()
    extract(splits, extractor, tmp_path, told)
    assert told.of(Progress) == [Progress("features", done, 20) for done in (6, 14, 20)]


def test_the_same_images_in_another_order_or_split_are_read_from_the_cache(
    splits: Splits, extractor: Extractor, tmp_path: Path
) -> None:
    found = extract(splits, extractor, tmp_path)
    together = np.concatenate([found.train[:], found.validation[:]])
    files = [file for images in (splits.train, splits.validation) for file in images.read(range(len(images)))]
    order = np.random.default_rng(3).permutation(20).tolist()
    moved = Splits(
        LABELS,
        samples.images([(files[place], 0) for place in order[:5]]),
        samples.images([(files[place], 1) for place in order[5:]]),
    )
    assert is_cached(moved, extractor, tmp_path)
    again = extract(moved, extractor, tmp_path)
    assert np.array_equal(np.concatenate([again.train[:], again.validation[:]]), together[order])


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", None),
        ("squeezenet1_1", None),
        ("timm:resnet10t", None),
        ("vit_b_32", "layers12"),
        ("timm:test_vit", "blocks.5"),
        ("timm:test_convnext", "stages.3"),
    ],
)
def test_the_last_stage_is_a_depth_of_its_own_where_the_classifier_gets_something_else_than_its_mean(
    name: str, last: str | None, tmp_path: Path
) -> None:
    backbone = catalogue.find(name)
    network = classifiers.inference_form(classifiers.build(backbone, 2, state=None, seed=0))
    size = backbone.input_size if backbone.fixed_size else 64
    extractor = Extractor(network, replace(AT_32, resize=size, crop=size), weights_sha256="0123abcd")
    few = Splits(LABELS, samples.images(samples.colours(2)), samples.images(samples.colours(1)))
    found = extract(few, extractor, tmp_path)

    stages = network.walk.stages
    assert list(found.columns) == [*(stages[:-1] if last is None else stages), features.HEAD]
    files = few.train.read(range(len(few.train)))
    with torch.inference_mode():
        survey = network.survey(torch.cat([samples.seen(file, extractor.preprocessing) for file in files]))
    assert found.at(features.HEAD).train[:] == pytest.approx(survey.features.numpy(), rel=1e-3, abs=1e-4)
    if last is not None:
        assert found.at(last).train[:] == pytest.approx(survey.stages[-1].numpy(), rel=1e-3, abs=1e-4)
        assert found.at(last).train[:] != pytest.approx(survey.features.numpy(), rel=0.1, abs=1e-2)


@pytest.mark.parametrize("name", ["timm:test_vit", "timm:test_convnext"])
def test_a_network_that_was_cut_ends_in_the_mean_over_its_last_stage(name: str, tmp_path: Path) -> None:
    backbone = catalogue.find(name)
    stages = [stage.name for stage in backbone.stages]
    cut = classifiers.build(backbone, 2, state=None, seed=0, outlet=Outlet(stage=stages[-1]))
    preprocessing = replace(AT_32, resize=backbone.input_size, crop=backbone.input_size)
    few = Splits(LABELS, samples.images(samples.colours(1)), samples.images(samples.colours(1)))
    found = extract(few, Extractor(classifiers.inference_form(cut), preprocessing, "0123abcd"), tmp_path)
    assert list(found.columns) == [*stages[:-1], features.HEAD]


def test_equal_files_are_read_and_computed_once(extractor: Extractor, tmp_path: Path) -> None:
    one, two, three = (file for file, _ in samples.colours(2)[:3])
    train = CountedImages((one, two, one, one), np.array([0, 0, 1, 0]))
    validation = CountedImages((two, three, three), np.array([0, 1, 1]))
    told = Recorder()
    found = extract(Splits(LABELS, train, validation), extractor, tmp_path, told)
    assert (train.reads, validation.reads) == ([0], [0, 1])
    assert told.of(Progress)[-1] == Progress("features", 3, 3)
    assert np.array_equal(found.train[[0, 0]], found.train[[2, 3]])
    assert np.array_equal(found.validation[0], found.train[1])
    assert np.array_equal(found.validation[1], found.validation[2])
    assert not np.array_equal(found.validation[1], found.validation[0])


def test_a_validation_split_of_nothing_new_is_taken_from_the_training_images(
    extractor: Extractor, tmp_path: Path
) -> None:
    images = samples.images(samples.colours(2))
    found = extract(Splits(LABELS, images, images), extractor, tmp_path)
    assert np.array_equal(found.train[:], found.validation[:])


def test_other_weights_have_features_of_their_own(splits: Splits, extractor: Extractor, tmp_path: Path) -> None:
    extract(splits, extractor, tmp_path)
    assert not is_cached(splits, replace(extractor, weights_sha256="4567cdef"), tmp_path)
    assert is_cached(splits, extractor, tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        replace(AT_32, resize=40),
        replace(AT_32, crop=30),
        replace(AT_32, mean=(0.5, 0.5, 0.4)),
        replace(AT_32, std=(0.3, 0.2, 0.2)),
    ],
)
def test_another_preprocessing_has_features_of_its_own(
    splits: Splits, extractor: Extractor, other: Preprocessing, tmp_path: Path
) -> None:
    extract(splits, extractor, tmp_path)
    assert not is_cached(splits, replace(extractor, preprocessing=other), tmp_path)
    assert is_cached(splits, extractor, tmp_path)


def test_other_images_have_features_of_their_own(splits: Splits, extractor: Extractor, tmp_path: Path) -> None:
    extract(splits, extractor, tmp_path)
    fewer = replace(splits, validation=samples.images([(splits.validation.read([0])[0], 0)]))
    assert not is_cached(fewer, extractor, tmp_path)
    assert is_cached(splits, extractor, tmp_path)


def test_a_truncated_cache_is_computed_anew(splits: Splits, extractor: Extractor, tmp_path: Path) -> None:
    found = extract(splits, extractor, tmp_path).train[:]
    whole = cache_file(tmp_path).read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        cache_file(tmp_path).write_bytes(whole[:size])
        assert not is_cached(splits, extractor, tmp_path)
        assert is_cached(splits, extractor, tmp_path)
    assert extract(splits, extractor, tmp_path).train[:] == pytest.approx(found, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("place", [0, 20, -1, -5000])
def test_a_cache_with_a_changed_byte_is_computed_anew(
    splits: Splits, extractor: Extractor, place: int, tmp_path: Path
) -> None:
    found = extract(splits, extractor, tmp_path).train[:]
    content = bytearray(cache_file(tmp_path).read_bytes())
    content[place] ^= 1
    cache_file(tmp_path).write_bytes(content)
    told = Recorder()
    again = extract(splits, extractor, tmp_path, told)
    assert [ready.cached for ready in told.of(FeaturesReady)] == [False]
    assert again.train[:] == pytest.approx(found, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "table",
    [
        np.zeros((19, 128), np.float32),
        np.zeros((20, 128), np.float64),
        np.zeros(20, np.float32),
        np.array(1.0, np.float32),
    ],
    ids=["too few rows", "float64", "a vector", "a number"],
)
def test_a_cache_that_holds_something_else_is_computed_anew(
    splits: Splits, extractor: Extractor, table: NDArray[np.float32], tmp_path: Path
) -> None:
    extract(splits, extractor, tmp_path)
    digest = hashlib.sha256(table.tobytes()).hexdigest()
    safetensors.numpy.save_file({"features": table}, cache_file(tmp_path), metadata={"sha256": digest})
    assert not is_cached(splits, extractor, tmp_path)
    assert is_cached(splits, extractor, tmp_path)


def test_a_cache_without_a_digest_is_computed_anew(splits: Splits, extractor: Extractor, tmp_path: Path) -> None:
    found = extract(splits, extractor, tmp_path).train[:]
    zeros = np.zeros((20, 128), np.float32)
    safetensors.numpy.save_file({"features": zeros}, cache_file(tmp_path))
    assert extract(splits, extractor, tmp_path).train[:] == pytest.approx(found, rel=1e-4, abs=1e-4)


def test_a_cache_under_another_name_is_computed_anew(splits: Splits, extractor: Extractor, tmp_path: Path) -> None:
    extract(splits, extractor, tmp_path)
    safetensors.numpy.save_file({"other": np.zeros((20, 128), np.float32)}, cache_file(tmp_path))
    assert not is_cached(splits, extractor, tmp_path)


def test_a_computation_that_stops_half_way_leaves_nothing(splits: Splits, extractor: Extractor, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        extract(splits, extractor, tmp_path, Recorder(stop_at=Progress("features", 14, 20)))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_image_leaves_nothing(extractor: Extractor, tmp_path: Path) -> None:
    images = samples.images([*samples.colours(2), (b"no image", 1)])
    with pytest.raises(errors.BadImage):
        extract(Splits(LABELS, images, samples.images(samples.colours(1))), extractor, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_kept_the_features_are_there_and_that_is_told(
    splits: Splits, extractor: Extractor, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    told = Recorder()
    found = extract(splits, extractor, tmp_path / "cache", told)
    assert len(told.of(FeaturesNotKept)) == 1
    assert [ready.cached for ready in told.of(FeaturesReady)] == [False]
    assert equal(found, extract(splits, extractor, tmp_path / "elsewhere"))


def test_a_depth_is_read_from_a_part_of_the_file_alone(splits: Splits, extractor: Extractor, tmp_path: Path) -> None:
    every = extract(splits, extractor, tmp_path)
    whole = every.train[:]
    for depth, columns in every.columns.items():
        found = every.at(depth)
        assert found.train.shape == (14, columns.stop - columns.start)
        assert np.array_equal(found.train[:], whole[:, columns])
        assert np.array_equal(found.at(depth).train[[3, 1]], whole[[3, 1], columns])


def test_gpus_get_larger_batches() -> None:
    assert features.batch_size(samples.CPU) == features.BATCH
    assert features.batch_size(torch.device("cuda")) == features.CUDA_BATCH
