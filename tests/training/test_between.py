"""The networks between where a training began and where it ended."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app.backbones.classifier import Classifier
from tests.training import samples
from tests.training.fitted import SEED, build, equal, fitting
from tests.training.layered import DESCENT, values
from tests.training.samples import Recorder, Stopped
from worker.training import between, evaluate, fit
from worker.training.data import Splits
from worker.training.events import CheckpointSaved, Event, Progress, StartEvaluated, StartKept, WeightsMixed
from worker.training.learner import Diverged


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), ("red", "blue"), train=0.75, seed=0)


class AfterTheLastEpoch(Recorder):
    """Stops at the first sign of progress after the last step's checkpoint."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and CheckpointSaved(DESCENT.epochs) in self.events:
            raise Stopped
        super().__call__(event)


def test_values_lie_on_the_straight_way_and_what_is_alike_stays_to_the_bit() -> None:
    start = {"weight": torch.tensor([0.0, 1 / 3]), "batches": torch.tensor(3)}
    end = {"weight": torch.tensor([1.0, 1 / 3]), "batches": torch.tensor(9)}
    for share in between.SHARES:
        mixed = between.mixed(start, end, share)
        assert mixed["weight"].tolist() == [share, start["weight"][1].item()]
        assert mixed["batches"] == 9
    assert equal(between.mixed(start, end, 0.0), start)
    assert equal(between.mixed(start, end, 1.0), end)


def test_each_is_judged_and_those_whose_loss_is_no_number_are_left_out() -> None:
    network = build()
    before = values(network)
    start = {name: torch.zeros_like(value) for name, value in before.items()}
    end = {name: torch.ones_like(value) for name, value in before.items()}

    def loss(tried: Classifier) -> float:
        share = tried.head.bias[0].item()
        if share == 0.5:
            raise Diverged(1, 0.1)
        return share

    assert between.judged(network, start, end, loss) == {0.25: 0.25, 0.75: 0.75}
    assert equal(network.state_dict(), before)


def test_networks_between_are_made_also_where_values_need_a_version() -> None:
    network = build("mnasnet0_5")
    start, end = values(network), values(build("mnasnet0_5", seed=SEED + 1))
    judged = between.judged(network, start, end, lambda tried: tried.head.bias[0].item())
    first, last = (one["head.bias"][0].item() for one in (start, end))
    assert judged == pytest.approx({share: first + share * (last - first) for share in between.SHARES})


@pytest.mark.parametrize("learning_rate", [0.001, 0.02, 0.1])
def test_what_is_kept_is_no_worse_than_the_start_the_end_or_a_network_between(
    splits: Splits, learning_rate: float, tmp_path: Path
) -> None:
    # A start that knows the labels, and training images that teach it half of them the wrong way round.
    known = fit.fit(build(), fitting(splits, tmp_path / "known", Recorder(), descent=replace(DESCENT, epochs=6)))
    targets = splits.train.targets.copy()
    targets[: len(targets) // 2] = 1 - targets[: len(targets) // 2]
    files = tuple(splits.train.read(range(len(targets))))
    spoilt = replace(splits, train=samples.MemoryImages(files, targets))
    told = Recorder()
    given = replace(
        fitting(spoilt, tmp_path / "one", told, descent=replace(DESCENT, learning_rate=learning_rate)),
        start_counts=True,
    )
    found = fit.fit(copy.deepcopy(known), given)

    losses = [loss for event in told.of(StartKept) for loss in (event.start_loss, event.end_loss)]
    losses += [loss for event in told.of(WeightsMixed) for loss in (event.start_loss, event.end_loss)]
    probabilities = given.feed.probabilities(found, Recorder())
    kept = evaluate.tempered_log_loss(probabilities, spoilt.validation.targets)
    assert all(kept <= loss + 1e-6 for loss in losses)
    for mixed in told.of(WeightsMixed):
        assert kept == pytest.approx(mixed.loss, abs=1e-6)
        assert not equal(found.state_dict(), known.state_dict())
    (begun,) = told.of(StartEvaluated)
    assert np.isfinite(begun.validation_loss)


def test_who_is_stopped_while_they_are_judged_ends_with_the_same(splits: Splits, tmp_path: Path) -> None:
    def trained(folder: str, told: Recorder) -> Classifier:
        given = fitting(splits, tmp_path / folder, told, descent=DESCENT)
        return fit.fit(build(), replace(given, start_counts=True))

    whole = trained("whole", Recorder())
    with pytest.raises(Stopped):
        trained("parts", AfterTheLastEpoch())
    assert equal(trained("parts", Recorder()).state_dict(), whole.state_dict())
