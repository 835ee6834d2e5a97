"""Searches: real trainings of very small networks, by a clock that goes by what they tell."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app import space
from app.backbones.catalogue import Backbone
from app.limits import Search
from app.recipe import Recipe
from tests.training.samples import Recorder, Stopped
from tests.training.searched import RECIPE, Desk, Interrupted, backbone, desk, splits
from tests.training.test_strategies import AT_32, facts_of, plan_for, small, weights_of
from worker.training import evaluate, search, trials
from worker.training.data import Splits
from worker.training.events import (
    CheckpointSaved,
    Evaluated,
    Resumed,
)
from worker.training.rivals import Trained
from worker.training.searchevents import SearchEnded, TrialFinished, TrialStarted

__all__ = ["backbone", "desk", "splits"]  # fixtures


@dataclass(frozen=True)
class Whole:
    """An uninterrupted search."""

    trained: Trained
    told: Recorder
    folder: Path

    @property
    def ended(self) -> SearchEnded:
        (ended,) = self.told.of(SearchEnded)
        return ended


@pytest.fixture(scope="module")
def whole(splits: Splits, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder, told = tmp_path_factory.mktemp("whole") / "search", Recorder()
    return Whole(Desk(splits, backbone, folder).search(told), told, folder)


def same(one: Trained, other: Trained) -> bool:
    states = one.classifier.state(), other.classifier.state()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][name]) for name, value in states[0].items()
    )


def timeless(event: TrialFinished | SearchEnded) -> TrialFinished | SearchEnded:
    return replace(event, seconds=0.0)


def test_the_first_trial_is_the_plan_as_it_would_be_without_a_search(whole: Whole, desk: Desk, splits: Splits) -> None:
    plain = desk.carry_out(plan_for(splits, replace(RECIPE, search=None)), desk.folder / "trial-0001", Recorder())
    first = trials.restore(whole.folder, 1, splits)
    assert same(first, plain)
    assert np.array_equal(first.probabilities, plain.probabilities)
    assert (first.evaluation, first.plan) == (plain.evaluation, plain.plan)
    assert whole.told.of(TrialStarted)[0].settings["learning_rate"] == plan_for(splits, RECIPE).descent.learning_rate  # type: ignore[union-attr]


def test_what_is_kept_is_never_worse_than_the_first_trial(whole: Whole, splits: Splits) -> None:
    losses = {trial.number: trial.loss for trial in whole.told.of(TrialFinished) if trial.loss is not None}
    kept = evaluate.tempered_log_loss(whole.trained.probabilities, splits.validation.targets)
    assert kept == losses[whole.ended.kept] <= losses[1]
    assert whole.ended.best == min(losses, key=lambda number: losses[number])
    assert whole.told.of(Evaluated) == [
        Evaluated(whole.trained.evaluation.images, whole.trained.evaluation.accuracy, whole.trained.evaluation.log_loss)
    ]


def test_every_trial_tries_something_else_and_is_told(whole: Whole) -> None:
    started, finished = whole.told.of(TrialStarted), whole.told.of(TrialFinished)
    assert [trial.number for trial in started] == [trial.number for trial in finished] == [1, 2, 3, 4, 5, 6]
    assert len({trial.settings["learning_rate"] for trial in started}) == 6
    assert {trial.settings["epochs"] for trial in started} == {4}
    assert whole.ended.reason == "it was given 6 trials"
    assert any("tried 6 trainings" in reason for reason in whole.trained.plan.reasons)


def test_no_more_is_left_on_disk_than_may_be_kept(whole: Whole) -> None:
    found = {path.name for path in whole.folder.iterdir()}
    finished = [trial.number for trial in whole.told.of(TrialFinished) if trial.outcome == "finished"]
    classifiers = {f"trial-{number:04}.safetensors" for number in (1, whole.ended.best)}
    assert found == {"search.json", *classifiers, *(f"losses-{number:04}.safetensors" for number in finished)}


def test_an_interrupted_search_ends_as_if_it_never_was(whole: Whole, desk: Desk) -> None:
    stops: list[Recorder] = [Interrupted(CheckpointSaved, 10), Interrupted(TrialFinished, 2), Recorder()]
    for place, told in enumerate(stops):
        attempt = replace(desk, folder=desk.folder.with_name(f"attempt-{place}"))
        trials.take_over(attempt.folder, [desk.folder.with_name(f"attempt-{number}") for number in range(place)])
        if place < 2:
            with pytest.raises(Stopped):
                attempt.search(told)
        else:
            trained = attempt.search(told)
    assert stops[1].of(Resumed)
    ended = {trial.number: trial for told in stops for trial in told.of(TrialFinished)}
    # What is told at the moment of an interruption takes its time again.
    assert [timeless(trial) for trial in ended.values()] == [timeless(t) for t in whole.told.of(TrialFinished)]
    (again,) = stops[2].of(SearchEnded)
    assert timeless(again) == timeless(replace(whole.ended, reasons=again.reasons))
    assert same(trained, whole.trained)


def test_a_trial_without_prospects_is_ended_early(desk: Desk) -> None:
    told = Recorder()
    replace(desk, idle=(5,)).search(told, replace(RECIPE, search=Search(trials=5)))
    *others, last = told.of(TrialFinished)
    assert (last.outcome, last.loss, last.accuracy) == ("pruned", None, None)
    assert 2 <= last.epochs < 4
    (ended,) = told.of(SearchEnded)
    assert ended.best != 5
    pruned = [trial for trial in (*others, last) if trial.outcome == "pruned"]
    assert ended.finished == 5 - len(pruned)
    assert f"{len(pruned)} ended early as hopeless" in ended.reasons[0]


def test_what_beats_the_first_trial_by_more_than_chance_is_kept(desk: Desk) -> None:
    told = Recorder()
    trained = replace(desk, idle=(1,)).search(told)
    (ended,) = told.of(SearchEnded)
    assert ended.kept == ended.best != 1
    assert ended.chance is not None
    assert ended.chance <= search.CHANCE
    assert ended.default_loss is not None
    assert ended.best_loss < ended.default_loss
    assert trained.evaluation.accuracy == ended.best_accuracy
    assert trained.plan.descent is not None
    assert trained.plan.descent.learning_rate != 1e-9
    assert any("Kept is the best: trial" in reason for reason in trained.plan.reasons)
    assert any("promise a little too much" in reason for reason in trained.plan.reasons)


def test_a_search_over_layers_looks_at_fixed_features_first(splits: Splits, tmp_path: Path) -> None:
    backbone = small("mobilenet_v3_small", AT_32)
    recipe = Recipe(backbone=backbone.name, epochs=1, batch_size=6, search=Search(trials=3))
    desk = Desk(splits, backbone, tmp_path / "search", weights=weights_of(backbone, tmp_path))
    default = plan_for(splits, replace(recipe, strategy="full"))
    told = Recorder()
    trained = desk.search(told, recipe, within=space.of(recipe, default, facts_of(splits), backbone.facts))
    tried = [trial.settings["strategy"] for trial in told.of(TrialStarted)]
    assert tried[:2] == ["full", "stage_probe"]
    assert set(tried[2:]) <= {"top", "full"}
    assert trained.evaluation.images == len(splits.validation)
    assert not [path for path in desk.folder.iterdir() if path.is_dir()]


def test_a_state_that_is_damaged_is_none(whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole.folder, folder)
    assert trials.load(folder) == trials.load(whole.folder)
    (folder / "trial-0001.safetensors").write_bytes(b"torn")
    assert trials.load(folder) is None
    (folder / "search.json").write_text("{}")
    assert trials.load(folder) is None
    assert trials.load(tmp_path / "nowhere") is None
