"""Trainings whose loss becomes no number: what they say, and what they keep."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.backbones.classifier import Classifier, Normalisation
from app.backbones.preprocess import Preprocessing
from tests.training import samples
from tests.training.fitted import AT_32, DESCENT, LABELS, MID_EPOCH, build, equal, fitting
from tests.training.samples import Recorder, Stopped
from worker.training import between, checkpoint, fit
from worker.training.data import Splits
from worker.training.events import CheckpointSaved, EpochFinished, StartKept, TrainingDiverged, WeightsMixed
from worker.training.learner import Diverged


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), LABELS, train=0.75, seed=0)


@pytest.mark.parametrize("batch_size", [6, 18])
def test_a_training_that_diverges_says_so(splits: Splits, batch_size: int, tmp_path: Path) -> None:
    told = Recorder()
    descent = replace(DESCENT, learning_rate=1e30, batch_size=batch_size)
    with pytest.raises(Diverged, match="diverged in epoch 1") as raised:
        fit.fit(build(), fitting(splits, tmp_path, told, descent=descent))
    assert raised.value.code == "training_diverged"
    assert told.of(TrainingDiverged) == [TrainingDiverged(epoch=1, kept_epoch=None)]
    assert raised.value.detail == {"epoch": 1, "learning_rate": 1e30}
    assert told.of(EpochFinished) == []
    assert checkpoint.load(tmp_path, fingerprint="one") is None


class Failing(Normalisation):
    """Gives no numbers any more after so many batches of training."""

    def __init__(self, preprocessing: Preprocessing, batches: int) -> None:
        super().__init__(preprocessing)
        self._left = batches

    def forward(self, images: Tensor) -> Tensor:
        self._left -= self.training
        return super().forward(images) * (float("nan") if self.training and self._left < 0 else 1.0)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 3600.0])
def test_a_training_that_diverges_later_keeps_the_last_finished_epoch(
    checkpoint_seconds: float, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_CHECKPOINT_SECONDS", checkpoint_seconds)
    before, network, told = build(), build(), Recorder()
    before.normalisation = Failing(AT_32, batches=1000)
    with pytest.raises(Stopped):
        fit.fit(before, fitting(splits, tmp_path / "stopped", Recorder(CheckpointSaved(2))))
    finished = checkpoint.load(tmp_path / "stopped", fingerprint="one")
    assert finished is not None
    network.normalisation = Failing(AT_32, batches=7)
    fit.fit(network, fitting(splits, tmp_path / "failing", told))
    assert told.of(TrainingDiverged) == [TrainingDiverged(epoch=3, kept_epoch=2)]
    assert len(told.of(EpochFinished)) == 2
    values = network.state_dict()
    assert all(torch.equal(values[name], finished.tensors[f"network.{name}"]) for name in values)


@pytest.mark.parametrize("start_counts", [False, True])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 3600.0])
def test_where_the_disk_took_the_last_finished_epoch_no_more_an_earlier_one_is_kept(
    checkpoint_seconds: float, start_counts: bool, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build()
    before.normalisation = Failing(AT_32, batches=1000)
    with pytest.raises(Stopped):
        fit.fit(before, fitting(splits, tmp_path / "stopped", Recorder(CheckpointSaved(1))))
    first = checkpoint.load(tmp_path / "stopped", fingerprint="one")
    assert first is not None
    told, network, write = Recorder(), build(), checkpoint.write

    def with_little_room(path: Path, content: bytes) -> None:
        if len(told.of(EpochFinished)) == 2:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(fit, "_CHECKPOINT_SECONDS", checkpoint_seconds)
    monkeypatch.setattr(checkpoint, "write", with_little_room)
    network.normalisation = Failing(AT_32, batches=7)
    given = replace(fitting(splits, tmp_path / "failing", told), start_counts=start_counts)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    fit.fit(network, given)
    end = {name: first.tensors[f"network.{name}"] for name in start}
    chosen = [event for event in told.events if isinstance(event, StartKept | WeightsMixed)]
    assert [event.end_loss for event in chosen] == [told.of(EpochFinished)[0].tempered_loss] * len(chosen)
    share = next((event.share if isinstance(event, WeightsMixed) else 0.0 for event in chosen), 1.0)
    kept = TrainingDiverged(3, kept_epoch=1 if share else 0, is_mixed=0 < share < 1)
    assert told.of(TrainingDiverged) == [kept]
    assert equal(network.state_dict(), between.mixed(start, end, share))


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("is_swapped", [False, True])
def test_where_a_training_diverges_later_the_start_and_the_last_finished_epoch_compete(
    is_swapped: bool, is_resumed: bool, splits: Splits, tmp_path: Path
) -> None:
    # With the labels swapped, the start does better than what knows the colours.
    used = replace(splits, validation=samples.swapped(splits.validation)) if is_swapped else splits
    descent = replace(DESCENT, learning_rate=0.05)

    def failing(folder: str, told: Recorder, batches: int) -> Classifier:
        network = build()
        network.normalisation = Failing(AT_32, batches)
        return fit.fit(network, replace(fitting(used, tmp_path / folder, told, descent=descent), start_counts=True))

    if is_resumed:
        with pytest.raises(Stopped):
            failing("failing", Recorder(MID_EPOCH), batches=1000)
    with pytest.raises(Stopped):
        failing("finished", Recorder(CheckpointSaved(2)), batches=1000)
    finished = checkpoint.load(tmp_path / "finished", fingerprint="one")
    assert finished is not None
    end = {name.removeprefix("network."): value for name, value in finished.tensors.items()}
    start, told = build().state_dict(), Recorder()
    network = failing("failing", told, batches=0 if is_resumed else 7)

    share = {WeightsMixed: None, StartKept: 0.0}.get(type(told.events[-2]), 1.0)
    share = told.of(WeightsMixed)[0].share if share is None else share
    kept = TrainingDiverged(3, kept_epoch=2 if share else 0, is_mixed=0 < share < 1)
    assert told.events[-1] == kept
    assert (share == 0) == is_swapped
    assert equal(network.state_dict(), between.mixed(start, {name: end[name] for name in start}, share))
