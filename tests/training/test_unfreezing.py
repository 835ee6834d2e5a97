"""Stages that join a training one by one."""

import itertools
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from app.backbones.classifier import Classifier
from tests.training import samples
from tests.training.fitted import build, fitting
from tests.training.layered import DESCENT, LABELS, begun, inside, values
from tests.training.samples import Recorder, Stopped
from worker.training import fit, schedule
from worker.training.data import Splits
from worker.training.events import (
    CheckpointSaved,
    Event,
    StoppedEarly,
)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), LABELS, train=0.75, seed=0)


def test_stages_join_one_by_one_from_the_last_to_the_first() -> None:
    found = [schedule.held_stages(step, steps=40, stages=5) for step in range(40)]
    assert found[:20] == [5] * 4 + [4] * 4 + [3] * 4 + [2] * 4 + [1] * 4
    assert found[20:] == [0] * 20
    assert [schedule.held_stages(step, steps=2, stages=5) for step in range(2)] == [5, 0]
    assert schedule.held_stages(0, steps=1, stages=5) == 5
    assert schedule.held_stages(0, steps=0, stages=3) == 3


def test_all_stages_have_joined_after_half_of_the_epochs() -> None:
    for epochs, per_epoch, stages in itertools.product(range(1, 10), (1, 2, 3, 7), (1, 4, 5)):
        gradual = replace(DESCENT, epochs=epochs, unfreeze="gradual")
        joined = schedule.epochs_to_join(gradual)
        steps = epochs * per_epoch
        assert schedule.held_stages(joined * per_epoch, steps=steps, stages=stages) == 0
        assert schedule.held_stages((joined - 1) * per_epoch, steps=steps, stages=stages) > 0
    assert schedule.epochs_to_join(DESCENT) == 0


@pytest.mark.parametrize("is_resumed", [False, True])
def test_patience_is_counted_from_when_all_stages_have_joined(is_resumed: bool, splits: Splits, tmp_path: Path) -> None:
    # So slow that nothing gets better.
    descent = replace(DESCENT, epochs=8, unfreeze="gradual", patience=1, learning_rate=1e-12)
    if is_resumed:
        with pytest.raises(Stopped):
            fit.fit(build(), begun(splits, tmp_path, Recorder(CheckpointSaved(2)), descent))
    told = Recorder()
    fit.fit(build(), begun(splits, tmp_path, told, descent))
    (stopped,) = told.of(StoppedEarly)
    assert 4 < stopped.epoch < 8


class Watched(Recorder):
    """Notes the values of a network after each epoch."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self._network = network
        self.after = [values(network)]

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, CheckpointSaved):
            self.after.append(values(self._network))


def test_stages_that_have_not_joined_yet_stay_to_the_bit(splits: Splits, tmp_path: Path) -> None:
    network = build("mobilenet_v3_small")
    count = len(network.stages)
    descent = replace(DESCENT, epochs=2 * count + 2, unfreeze="gradual", learning_rate=1e-3)
    told = Watched(network)
    fit.fit(network, fitting(splits, tmp_path, told, descent=descent))

    joined = []
    for epoch, (before, after) in enumerate(pairwise(told.after), start=1):
        last = (epoch * 3) - 1
        still = schedule.held_stages(last, steps=3 * descent.epochs, stages=count)
        kept = set(inside(network, network.stages[still - 1])) if still else set()
        if still == count:
            kept = {name for name in before if name.startswith("body.")}
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        if epoch < descent.epochs:
            assert not changed & kept
            joined.append(still)
        if not still and epoch < descent.epochs:
            assert {name for name in before if "running_mean" in name} <= changed
    assert joined == sorted(joined, reverse=True)
    assert {*joined} == {*range(count)} | {joined[0]}
    assert all(parameter.requires_grad for parameter in network.parameters())
