"""Images that are decoded once: the same batches wherever an epoch is begun, and what serving sees for judging."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app.augmentation import Augmentation
from app.backbones import catalogue
from app.backbones import classifier as classifiers
from tests.training import samples
from tests.training.fitted import AT_32, LABELS
from tests.training.samples import Recorder
from worker.training import batchviews, keptfeed, order
from worker.training.data import Splits
from worker.training.feed import Batch, ImageFeed
from worker.training.keptfeed import KeptFeed

EVERYTHING = Augmentation(policy="trivial", erasing=0.5, mixup=0.3, cutmix=0.3)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), LABELS, train=0.75, seed=0)


def images(splits: Splits, wanted: Augmentation = EVERYTHING) -> ImageFeed:
    return ImageFeed(splits, AT_32, wanted, 3, samples.MAX_PIXELS, samples.CPU)


def batches(feed: KeptFeed, epoch: int, *, skipped: int = 0) -> list[Batch]:
    shown = order.of_epoch(epoch, feed.splits, "none", seed=3)
    return list(feed.batches(epoch, shown, order.batches_of(np.arange(len(shown)), 6)[skipped:]))


def same(some: list[Batch], others: list[Batch]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) for one, other in pairs)


def test_an_epoch_that_is_gone_on_with_has_the_batches_of_a_whole_one(splits: Splits, tmp_path: Path) -> None:
    whole = batches(keptfeed.kept(images(splits), folder=tmp_path / "one"), 2)
    rest = batches(keptfeed.kept(images(splits), folder=tmp_path / "other"), 2, skipped=1)

    assert len(whole) == 3
    assert same(whole[1:], rest)


def test_another_process_has_the_same_batches_and_another_epoch_has_not(splits: Splits, tmp_path: Path) -> None:
    feed = keptfeed.kept(images(splits), folder=tmp_path / "images")
    first = batches(feed, 1)
    other = pickle.loads(pickle.dumps(feed)).elsewhere(samples.CPU)

    assert isinstance(other, KeptFeed)
    assert same(first, batches(other, 1))
    assert not same(first, batches(feed, 2))


def test_images_that_cannot_be_changed_together_are_changed_batch_by_batch(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = keptfeed.kept(images(splits), folder=tmp_path / "images")
    together, views, most = batches(feed, 1), batchviews.views, 6

    def cramped(pixels: Tensor, *arguments: Any, **named: Any) -> Tensor:
        if len(pixels) > most:
            samples.no_memory()
        return views(pixels, *arguments, **named)

    monkeypatch.setattr(batchviews, "views", cramped)
    assert same(together, batches(feed, 1))
    most = 5
    with pytest.raises(torch.OutOfMemoryError):
        batches(feed, 1)


def test_a_batch_has_the_targets_of_its_images(splits: Splits, tmp_path: Path) -> None:
    feed = keptfeed.kept(images(splits, Augmentation(policy="crop")), folder=tmp_path / "images")
    for pixels, targets in batches(feed, 1):
        red, blue = (pixels[:, channel].float().mean(dim=(1, 2)) for channel in (0, 2))
        assert torch.equal(targets, (blue > red).long())


def test_validation_images_are_judged_as_serving_sees_them(splits: Splits, tmp_path: Path) -> None:
    network = classifiers.build(catalogue.find("tinynet"), 2, state=None, seed=0).eval()
    plain = images(splits)
    feed = keptfeed.kept(plain, folder=tmp_path / "images")

    for _ in range(2):
        assert np.allclose(feed.probabilities(network, Recorder()), plain.probabilities(network, Recorder()), atol=1e-6)


def test_its_files_are_as_large_as_was_said(splits: Splits, tmp_path: Path) -> None:
    keptfeed.kept(images(splits), folder=tmp_path / "images")
    size = sum(path.stat().st_size for path in (tmp_path / "images").iterdir())

    assert 0 <= size - keptfeed.kept_bytes(splits, AT_32) < 2000
