"""Several processes that share a training, of which one has too little memory, on the CPU."""

import gc
import multiprocessing
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from app import errors
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier, Normalisation
from app.limits import Search
from tests.training import adding, samples
from tests.training.samples import Recorder
from tests.training.searched import RECIPE, Desk
from tests.training.test_peers import AT_32, DESCENT, LABELS, build, fitting
from tests.training.test_strategies import small
from worker.training import feed, fit, peers
from worker.training.data import Splits
from worker.training.events import BatchShared, BatchSplit, EpochFinished, Resumed
from worker.training.feed import Batch, ImageFeed
from worker.training.learner import Learner
from worker.training.peers import Group
from worker.training.searchevents import TrialFinished

pytestmark = pytest.mark.usefixtures("forkserver")

TWELVES = replace(DESCENT, batch_size=12, accumulate=1)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(16), LABELS, train=0.75, seed=0)


class Cramped(Normalisation):
    """In one of the processes, has memory for so many images at once, from the forward pass of that number on."""

    def __init__(self, room: int, *, leads: bool, after: int = 0) -> None:
        super().__init__(AT_32)
        self._room, self._leads, self._after = room, leads, after
        self._passed = 0

    def forward(self, images: Tensor) -> Tensor:
        is_leading = not multiprocessing.current_process().name.startswith("peer")
        if self.training:
            self._passed += 1
            if is_leading == self._leads and self._passed > self._after and len(images) > self._room:
                samples.no_memory()
        return super().forward(images)


def cramped(room: int, *, leads: bool, after: int = 0) -> Classifier:
    network = build()
    network.normalisation = Cramped(room, leads=leads, after=after)
    return network


def equal(one: Classifier, other: Classifier) -> bool:
    values = other.state_dict()
    return all(torch.equal(value, values[name]) for name, value in one.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("leads", [True, False], ids=["the leading one", "another one"])
def test_a_share_that_does_not_fit_the_memory_of_one_process_is_cut_in_all(
    splits: Splits, tmp_path: Path, leads: bool
) -> None:
    told = Recorder()
    given = fitting(splits, tmp_path / "found", told, others=1, descent=TWELVES)
    found = fit.fit(cramped(3, leads=leads), given)
    known = fitting(splits, tmp_path / "known", Recorder(), others=1, descent=TWELVES)
    assert equal(found, fit.fit(cramped(99, leads=leads), replace(known, pieces=2)))
    assert told.of(BatchShared) == [BatchShared(2)]
    assert told.of(BatchSplit) == [BatchSplit(3)]
    assert [epoch.epoch for epoch in told.of(EpochFinished)] == [1, 2, 3]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_shared_training_goes_on_from_its_last_checkpoint_when_shares_are_cut(splits: Splits, tmp_path: Path) -> None:
    told = Recorder()
    per_epoch = len(splits.train) // 12
    network = cramped(3, leads=False, after=per_epoch)
    fit.fit(network, fitting(splits, tmp_path, told, others=1, descent=TWELVES))
    assert told.of(Resumed) == [Resumed(1, 0)]
    assert told.of(BatchSplit) == [BatchSplit(3)]
    assert [epoch.epoch for epoch in told.of(EpochFinished)] == [1, 2, 3]
    again = Recorder()
    fit.fit(network, fitting(splits, tmp_path, again, others=1, descent=TWELVES))
    assert again.of(BatchSplit) == [BatchSplit(3)]


@pytest.mark.slow
def test_shares_that_cannot_be_cut_any_more_are_reported(splits: Splits, tmp_path: Path) -> None:
    told = Recorder()
    with pytest.raises(errors.Unavailable, match="2 images at a time are too many") as raised:
        fit.fit(cramped(1, leads=False), fitting(splits, tmp_path, told, others=1, descent=TWELVES))
    assert raised.value.code == "out_of_memory"
    assert told.of(BatchSplit) == [BatchSplit(3), BatchSplit(2)]
    assert not multiprocessing.active_children()


def test_shares_of_a_batch_are_cut_in_as_many_pieces_whether_they_have_one_image_more_or_not() -> None:
    def shares(sizes: Sequence[int], pieces: int, fewest: Sequence[int]) -> list[int]:
        batches = [(torch.zeros(size, 1), torch.zeros(size)) for size in sizes]
        return [len(images) for images, _ in feed.cut(batches, pieces, fewest=fewest)]

    assert shares([4, 3], 2, [3, 3]) == [4, 3]
    assert shares([5, 4], 2, [4, 4]) == [3, 2, 2, 2]
    assert shares([9], 8, [8]) == [3, 2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rooms", "outcomes"),
    [((3, 99), ["finished", "finished"]), ((99, 1), ["finished", "failed"])],
    ids=["cut in the first trial", "not to be cut in the second"],
)
def test_a_search_goes_on_where_another_process_has_too_little_memory_for_its_shares(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rooms: tuple[int, ...], outcomes: list[str]
) -> None:
    left = iter(rooms)

    def built(*arguments: Any, **settings: Any) -> Classifier:
        network = original(*arguments, **settings)
        network.normalisation = Cramped(next(left), leads=False)
        return network

    original = classifiers.build
    monkeypatch.setattr(classifiers, "build", built)
    told = Recorder()
    desk = Desk(splits, small("tinynet", AT_32), tmp_path / "search", others=(samples.CPU,))
    desk.search(told, replace(RECIPE, batch_size=12, search=Search(trials=2)))
    assert [trial.outcome for trial in told.of(TrialFinished)] == outcomes
    assert BatchSplit(3) in told.of(BatchSplit)


class Poor(ImageFeed):
    """Images for which another process has no memory."""

    def elsewhere(self, device: torch.device) -> "ImageFeed":
        return _Poorer(self.splits, self.preprocessing, self.augmentation, self.seed, self.max_pixels, device)


class _Poorer(ImageFeed):
    def batches(self, epoch: int, order: NDArray[np.int64], parts: Sequence[Sequence[int]]) -> Iterator[Batch]:
        raise MemoryError


@pytest.mark.slow
def test_another_process_without_memory_besides_the_steps_is_told_as_of_the_leading_one(
    splits: Splits, tmp_path: Path
) -> None:
    given = fitting(splits, tmp_path, Recorder(), others=1)
    images = Poor(splits, AT_32, DESCENT.augmentation, 3, samples.MAX_PIXELS, samples.CPU)
    with pytest.raises(torch.OutOfMemoryError, match="MemoryError"):
        fit.fit(build(), replace(given, feed=images))


@pytest.mark.slow
def test_too_little_memory_of_the_leading_process_is_told_at_once(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_learner: Learner) -> None:
        raise torch.OutOfMemoryError("there is too little memory")

    monkeypatch.setattr(Learner, "state", full)
    began = time.monotonic()
    with pytest.raises(torch.OutOfMemoryError):
        fit.fit(build(), fitting(splits, tmp_path, Recorder(), others=1))
    assert time.monotonic() - began < peers._PATIENCE_SECONDS


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU that is there can be had")
def test_a_device_that_another_process_cannot_have_is_reported_before_that_is_waited_for() -> None:
    works = [(torch.device("cuda", 0), 2.0)]
    with (
        pytest.raises(RuntimeError, match=r"CUDA|NVIDIA"),
        peers.gathered(adding.bring, works, device=samples.CPU) as group,
    ):
        group.tell("once")


@pytest.mark.slow
@pytest.mark.parametrize("leads", [True, False], ids=["the leading one", "another one"])
def test_nothing_is_left_of_an_attempt_that_did_not_fit_when_the_next_begins(
    splits: Splits, tmp_path: Path, leads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[weakref.ref[Learner]] = []
    left: list[Learner | None] = []
    gathered = peers.gathered

    def noted(*arguments: Any, **settings: Any) -> AbstractContextManager[Group]:
        left.extend(known() for known in begun)
        return gathered(*arguments, **settings)

    def made(learner: Learner, *arguments: Any, **settings: Any) -> None:
        begun.append(weakref.ref(learner))
        make(learner, *arguments, **settings)

    make = Learner.__init__
    monkeypatch.setattr(Learner, "__init__", made)
    monkeypatch.setattr(peers, "gathered", noted)
    gc.collect()
    gc.disable()
    try:
        fit.fit(cramped(3, leads=leads), fitting(splits, tmp_path, Recorder(), others=1, descent=TWELVES))
    finally:
        gc.enable()
    assert left == [None]
