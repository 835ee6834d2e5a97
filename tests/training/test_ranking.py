"""Rankings of real networks: what suits better comes first, what cannot be had is told, and each takes one pass."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from app import errors
from app.backbones import classifier as classifiers
from app.backbones.classifier import Classifier
from app.profile import HEAD
from app.ranking import Ranking
from tests.training import samples
from tests.training.samples import Recorder, Stopped
from tests.training.test_strategies import AT_32, AT_64, small
from worker.training import depths, features, ranking, transferability
from worker.training.data import Splits
from worker.training.events import CandidateMeasured, CandidateRefused, Progress, Ranked
from worker.training.features import Extractor
from worker.training.ranking import Candidate, Network

BACKBONE = small("timm:test_resnet", AT_32)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(12), ("red", "blue"), train=0.75, seed=0)


def network(classes: int, *, seed: int = 3, blind: bool = False) -> Network:
    """Of random values, or of such that give the same for every image."""
    built = classifiers.build(BACKBONE, classes, state=None, seed=seed)
    if blind:
        with torch.no_grad():
            for parameter in built.body.parameters():
                parameter.zero_()
    return Network(built, "drawn", f"{seed}-{blind}", macs=7, has_seen=blind)


def unavailable(_classes: int) -> Network:
    raise errors.WeightsUnavailable("resnet18", ["downloading is switched off"])


BLIND = Candidate("blind", partial(network, blind=True))
SEEING = Candidate("seeing", network)
GONE = Candidate("gone", unavailable)


def rank(splits: Splits, folder: Path, *candidates: Candidate, emit: Recorder | None = None) -> Ranking:
    return ranking.rank(
        splits,
        candidates,
        feature_cache=folder,
        max_pixels=samples.MAX_PIXELS,
        seed=0,
        emit=emit or Recorder(),
        device=samples.CPU,
    )


def test_what_tells_the_labels_apart_comes_before_what_sees_nothing(splits: Splits, tmp_path: Path) -> None:
    told = Recorder()
    found = rank(splits, tmp_path, BLIND, GONE, SEEING, emit=told)

    assert [entry.name for entry in found.measured] == ["seeing", "blind"]
    best, worst = found.measured
    assert (best.probe.accuracy, best.neighbours) == (1, 1)
    assert worst.probe.accuracy <= 0.5
    assert worst.h_score == pytest.approx(0)
    assert worst.has_seen
    assert all(np.isfinite([entry.log_me, entry.h_score, entry.probe.log_loss]).all() for entry in found.measured)
    assert (found.setting.images, found.setting.measured_images, found.setting.classes) == (18, 18, 2)
    assert [event.name for event in told.of(CandidateMeasured)] == ["blind", "seeing"]
    assert told.of(Ranked) == [Ranked(("seeing", "blind"), found.remarks)]


def test_what_cannot_be_had_is_told_and_the_rest_is_ranked(splits: Splits, tmp_path: Path) -> None:
    told = Recorder()
    found = rank(splits, tmp_path, GONE, SEEING, emit=told)

    (refused,) = found.refused
    assert (refused.name, refused.code) == ("gone", "weights_unavailable")
    assert "downloading is switched off" in refused.message
    assert told.of(CandidateRefused) == [CandidateRefused("gone", refused.code, refused.message)]
    assert [entry.name for entry in found.measured] == ["seeing"]


def test_where_nothing_can_be_had_there_is_no_ranking(splits: Splits, tmp_path: Path) -> None:
    for candidates in ((GONE,), ()):
        with pytest.raises(errors.Unavailable) as raised:
            rank(splits, tmp_path, *candidates)
        assert raised.value.code == "nothing_to_rank"


def test_the_figures_are_those_of_the_features_in_front_of_the_head(splits: Splits, tmp_path: Path) -> None:
    (entry,) = rank(splits, tmp_path, SEEING).measured
    made = network(2).classifier
    found = features.extract(
        splits,
        Extractor(classifiers.inference_form(made), made.preprocessing, "again"),
        cache_dir=tmp_path,
        max_pixels=samples.MAX_PIXELS,
        emit=Recorder(),
        device=samples.CPU,
    )
    values, targets = found.at(HEAD).train[:], splits.train.targets
    scores = transferability.score(values, targets, classes=2, seed=0)
    assert (entry.log_me, entry.h_score, entry.neighbours) == (scores.log_me, scores.h_score, scores.neighbours)
    assert entry.probe == depths.linear(values, targets, seed=0, emit=Recorder())
    assert entry.features == values.shape[1]
    assert entry.cost.parameters == sum(value.numel() for value in made.parameters())
    assert entry.cost.size_bytes >= 4 * entry.cost.parameters
    assert entry.cost.macs == 7
    assert entry.cost.latency.seconds > 0


def test_each_takes_one_pass_that_later_rankings_share(splits: Splits, tmp_path: Path) -> None:
    first = rank(splits, tmp_path, SEEING)
    second = rank(splits, tmp_path, SEEING, Candidate("other", partial(network, seed=4)))

    assert [entry.cached for entry in first.measured] == [False]
    assert {entry.name: entry.cached for entry in second.measured} == {"seeing": True, "other": False}
    again = {entry.name: entry for entry in second.measured}["seeing"]
    assert (again.probe, again.log_me) == (first.measured[0].probe, first.measured[0].log_me)


def test_progress_rises_from_the_first_network_to_the_last(splits: Splits, tmp_path: Path) -> None:
    told = Recorder()
    rank(splits, tmp_path, SEEING, BLIND, emit=told)

    steps = told.of(Progress)
    assert {(step.phase, step.total) for step in steps} == {("rank", 2000)}
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert done[-1] > 1800


def test_a_ranking_can_be_stopped(splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        rank(splits, tmp_path, GONE, SEEING, emit=Recorder(CandidateRefused("gone", "weights_unavailable", GONE_SAID)))


def test_with_hardly_any_images_nothing_is_ranked(splits: Splits, tmp_path: Path) -> None:
    few = replace(splits, train=samples.images([(b"", 0), (b"", 1)]))
    with pytest.raises(errors.Invalid) as raised:
        rank(few, tmp_path, SEEING)
    assert raised.value.code == "too_few_images"


def test_costs_are_told_one_by_one_and_what_cannot_be_had_is_passed_over() -> None:
    told = Recorder()
    costs = ranking.costs_of([GONE, SEEING, Candidate("never", never)], classes=3, emit=told, device=samples.CPU)
    name, cost = next(costs)
    assert name == "seeing"
    assert (cost.macs, cost.latency.runs > 0) == (7, True)
    assert cost.size_bytes > 4 * cost.parameters
    assert [event.name for event in told.of(CandidateRefused)] == ["gone"]


def test_auxiliary_heads_which_no_prediction_has_are_not_counted() -> None:
    backbone = small("googlenet", AT_64)
    built = classifiers.build(backbone, 2, state=None, seed=0)
    served = classifiers.restore(backbone.name, 2, built.preprocessing, built.state())

    def candidate(name: str, made: Classifier) -> Candidate:
        return Candidate(name, lambda _classes: Network(made, "drawn", name, macs=None, has_seen=False))

    candidates = [candidate("built", built), candidate("served", served)]
    costs = dict(ranking.costs_of(candidates, classes=2, emit=Recorder(), device=samples.CPU))
    assert costs["built"].parameters == costs["served"].parameters
    assert costs["built"].parameters < sum(value.numel() for value in built.parameters())
    assert costs["built"].size_bytes == costs["served"].size_bytes


@pytest.mark.parametrize(("candidates", "refused"), [([], None), ([GONE], {"gone": "weights_unavailable"})])
def test_where_no_network_is_left_to_tell_the_costs_of_that_is_said(
    candidates: list[Candidate], refused: dict[str, str] | None
) -> None:
    with pytest.raises(errors.Unavailable) as raised:
        list(ranking.costs_of(candidates, classes=3, emit=Recorder(), device=samples.CPU))
    assert raised.value.code == "nothing_to_rank"
    assert raised.value.detail.get("refused") == refused


def never(_classes: int) -> Network:
    raise AssertionError("it was not asked for")


GONE_SAID = errors.WeightsUnavailable("resnet18", ["downloading is switched off"]).message
