"""Batches that are cut for want of memory: of which what is learnt does not depend on when that was found out."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from app import errors
from app.backbones.classifier import Classifier, Normalisation
from app.backbones.preprocess import Preprocessing
from tests.training import samples
from tests.training.fitted import AT_32, DESCENT, MID_EPOCH, build, equal, fitting
from tests.training.samples import Recorder, Stopped
from worker.training import fit
from worker.training.data import Splits
from worker.training.events import BatchSplit, EpochFinished
from worker.training.learner import Learner


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), ("red", "blue"), train=0.75, seed=0)


class Cramped(Normalisation):
    """Has memory for so many images at once."""

    def __init__(self, preprocessing: Preprocessing, room: int) -> None:
        super().__init__(preprocessing)
        self._room = room

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self._room:
            samples.no_memory()
        return super().forward(images)


def test_batches_that_do_not_fit_the_memory_are_cut_and_told(splits: Splits, tmp_path: Path) -> None:
    network, told = build(), Recorder()
    network.normalisation = Cramped(AT_32, room=3)
    fit.fit(network, fitting(splits, tmp_path, told, descent=replace(DESCENT, epochs=1)))
    assert told.of(BatchSplit) == [BatchSplit(3)]
    assert len(told.of(EpochFinished)) == 1


def test_batches_are_cut_from_the_first_step_on_where_there_was_too_little_memory_before(
    splits: Splits, tmp_path: Path
) -> None:
    def cut(folder: str, told: Recorder) -> Mapping[str, Tensor]:
        network = build()
        network.normalisation = Cramped(AT_32, room=3)
        return fit.fit(network, replace(fitting(splits, tmp_path / folder, told), pieces=2)).state_dict()

    told = Recorder()
    whole = cut("whole", told)
    assert told.events[0] == BatchSplit(3)
    assert len(told.of(BatchSplit)) == 1
    with pytest.raises(Stopped):
        cut("parts", Recorder(MID_EPOCH))
    assert equal(cut("parts", Recorder()), whole)


def test_a_last_batch_smaller_than_the_pieces_of_the_others_is_cut_in_fewer(splits: Splits, tmp_path: Path) -> None:
    network, told = build(), Recorder()
    network.normalisation = Cramped(AT_32, room=3)
    fit.fit(network, fitting(splits, tmp_path, told, descent=replace(DESCENT, epochs=1, batch_size=16)))
    assert told.of(BatchSplit)[-1] == BatchSplit(2)
    assert len(told.of(EpochFinished)) == 1


def test_a_device_without_memory_for_two_images_is_reported(splits: Splits, tmp_path: Path) -> None:
    network = build()
    network.normalisation = Cramped(AT_32, room=1)
    with pytest.raises(errors.Unavailable) as raised:
        fit.fit(network, fitting(splits, tmp_path, Recorder(), descent=replace(DESCENT, epochs=1)))
    assert raised.value.code == "out_of_memory"


class CrampedHead(nn.Linear):
    """Has memory for so many images at once, which shows when all other layers have seen them."""

    def __init__(self, head: nn.Linear, room: int) -> None:
        super().__init__(head.in_features, head.out_features)
        self.load_state_dict(head.state_dict())
        self._room = room

    def forward(self, features: Tensor) -> Tensor:
        if self.training and len(features) > self._room:
            samples.no_memory()
        return super().forward(features)


def cramped_late(room: int) -> Classifier:
    network = build()
    network.head = CrampedHead(network.head, room)
    return network


def test_what_did_not_fit_the_memory_leaves_no_trace(splits: Splits, tmp_path: Path) -> None:
    told = Recorder()
    found = fit.fit(cramped_late(3), fitting(splits, tmp_path / "found", told))
    known = fit.fit(cramped_late(3), replace(fitting(splits, tmp_path / "known", Recorder()), pieces=2))
    assert told.of(BatchSplit) == [BatchSplit(3)]
    assert equal(found.state_dict(), known.state_dict())


def test_a_step_for_which_the_optimizer_would_have_no_room_leaves_no_trace_either(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = fit.fit(build(), replace(fitting(splits, tmp_path / "cut", Recorder()), pieces=2)).state_dict()
    left = iter([samples.no_memory])
    monkeypatch.setattr(Learner, "_ask_for_room", lambda _learner: next(left, lambda: None)())
    told = Recorder()
    found = fit.fit(build(), fitting(splits, tmp_path / "found", told)).state_dict()
    assert told.of(BatchSplit) == [BatchSplit(3)]
    assert equal(found, cut)


def test_batches_stay_cut_after_an_interruption_also_where_there_is_memory_again(
    splits: Splits, tmp_path: Path
) -> None:
    whole = fit.fit(cramped_late(3), fitting(splits, tmp_path / "whole", Recorder()))
    with pytest.raises(Stopped):
        fit.fit(cramped_late(3), fitting(splits, tmp_path / "parts", Recorder(MID_EPOCH)))
    told = Recorder()
    rest = fit.fit(cramped_late(100), fitting(splits, tmp_path / "parts", told))
    assert told.of(BatchSplit) == [BatchSplit(3)]
    assert equal(rest.state_dict(), whole.state_dict())


def test_batches_are_cut_down_to_two_images_where_these_fit(splits: Splits, tmp_path: Path) -> None:
    network, told = build(), Recorder()
    network.normalisation = Cramped(AT_32, room=2)
    fit.fit(network, fitting(splits, tmp_path, told, descent=replace(DESCENT, epochs=1)))
    assert told.of(BatchSplit) == [BatchSplit(3), BatchSplit(2)]
    assert len(told.of(EpochFinished)) == 1


def test_too_little_memory_in_the_midst_of_the_optimizers_work_ends_the_training(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_optimizer: torch.optim.Optimizer, *_arguments: object) -> None:
        samples.no_memory()

    monkeypatch.setattr(torch.optim.SGD, "step", full)
    told = Recorder()
    with pytest.raises(errors.Unavailable) as raised:
        fit.fit(build(), fitting(splits, tmp_path, told))
    assert raised.value.code == "out_of_memory"
    assert told.of(BatchSplit) == []
