"""Searches: real trainings of very small networks, by a clock that goes by what they tell."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app import errors, space
from app.backbones.catalogue import Backbone
from app.backbones.weights import WeightsFile
from app.limits import Search
from app.plan import Plan
from app.recipe import Recipe
from app.space import Space, Ways
from tests.training import samples
from tests.training.samples import Recorder, Stopped
from tests.training.test_strategies import AT_32, LABELS, facts_of, plan_for, small, weights_of
from worker.training import checkpoint, evaluate, search, strategies, trials
from worker.training.data import Splits
from worker.training.events import (
    CheckpointSaved,
    CutShort,
    Emit,
    EpochFinished,
    Evaluated,
    Event,
    Progress,
    Resumed,
)
from worker.training.learner import Diverged
from worker.training.peers import PeerLost
from worker.training.rivals import Trained
from worker.training.search import Searching
from worker.training.searchevents import SearchEnded, TrialFinished, TrialStarted
from worker.training.trials import State

RECIPE = Recipe(backbone="tinynet", strategy="scratch", epochs=4, batch_size=6, search=Search(trials=6))


@pytest.fixture(scope="module")
def splits() -> Splits:
    return samples.split(samples.colours(20), LABELS, train=0.6, seed=0)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return small("tinynet", AT_32)


@dataclass
class Clock:
    """Time that passes when it is told to."""

    seconds: float = 100.0

    def __call__(self) -> float:
        return self.seconds


class Interrupted(Recorder):
    """Stops what it is told by after so many events of a kind."""

    def __init__(self, kind: type[Event], after: int) -> None:
        super().__init__()
        self._kind, self._after = kind, after

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if len(self.of(self._kind)) == self._after:
            raise Stopped


@dataclass
class Desk:
    """Where searches are carried out; a training takes as long as its epochs."""

    splits: Splits
    backbone: Backbone
    folder: Path
    epoch_seconds: Callable[[int], float] = lambda _trial: 1.0
    broken: dict[int, Exception] = field(default_factory=dict)
    """What the trial of that number raises."""
    step_seconds: float = 0.0
    idle: tuple[int, ...] = ()
    """Trials that learn nothing."""
    weights: WeightsFile | None = None
    epochs: int = 1000
    """After so many in all the search is asked to end."""
    is_cautious: bool = False

    def space(self, recipe: Recipe) -> Space:
        return space.of(recipe, plan_for(self.splits, recipe), facts_of(self.splits), self.backbone.facts)

    def search(self, told: Recorder, recipe: Recipe = RECIPE, *, within: Space | None = None) -> Trained:
        assert recipe.search is not None
        clock = Clock()

        def emit(event: Event) -> None:
            if isinstance(event, EpochFinished):
                clock.seconds += self.epoch_seconds(told.of(TrialStarted)[-1].number)
            elif isinstance(event, Progress) and event.phase == "train":
                clock.seconds += self.step_seconds
            told(event)

        searching = Searching(
            space=within or self.space(recipe),
            limits=recipe.search,
            splits=self.splits,
            carry_out=self.carry_out,
            fitted=lambda plan: plan,
            estimate=lambda _plan: None,
            folder=self.folder,
            seed=recipe.seed,
            clock=clock,
            began=clock.seconds,
            is_to_end=lambda: len(told.of(EpochFinished)) >= self.epochs,
            is_cautious=self.is_cautious,
            emit=emit,
        )
        return search.search(searching, trials.load(self.folder) or State(fingerprint="", costs=None))

    def carry_out(self, plan: Plan, folder: Path, emit: Emit) -> Trained:
        number = int(folder.name.rpartition("-")[2])
        if number in self.broken:
            raise self.broken[number]
        if number in self.idle:
            assert plan.descent is not None
            plan = replace(plan, descent=replace(plan.descent, learning_rate=1e-9))
        return strategies.train(
            self.splits,
            plan,
            backbone=self.backbone,
            weights=self.weights,
            feature_cache=self.folder.with_name("features"),
            workdir=folder,
            max_pixels=samples.MAX_PIXELS,
            max_activation_bytes=10**9,
            emit=emit,
            device=samples.CPU,
        )


@pytest.fixture
def desk(splits: Splits, backbone: Backbone, tmp_path: Path) -> Desk:
    return Desk(splits, backbone, tmp_path / "search")


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


def test_a_trial_that_would_not_end_in_time_is_not_begun(desk: Desk) -> None:
    told = Recorder()
    desk.search(told, replace(RECIPE, search=Search(seconds=11.5)))
    (ended,) = told.of(SearchEnded)
    assert (ended.trials, ended.seconds) == (2, 8)
    assert ended.reason == "another trial would take about 4 s, and 4 s are left"


def test_what_time_is_left_is_for_a_trial_of_fewer_epochs(desk: Desk) -> None:
    told = Recorder()
    base, epochs = desk.space(RECIPE), Ways({str(count): {"epochs": count} for count in (2, 4, 8)})
    opened = replace(base, recipe=replace(RECIPE, epochs=None), dimensions={**base.dimensions, "epochs": epochs})
    desk.search(told, replace(RECIPE, search=Search(seconds=6.5)), within=opened)
    assert [trial.epochs for trial in told.of(TrialFinished)] == [4, 2]
    (ended,) = told.of(SearchEnded)
    assert (ended.trials, ended.seconds) == (2, 6)


def test_the_clock_stops_a_trial_that_takes_longer_than_was_expected(desk: Desk) -> None:
    slow = replace(desk, epoch_seconds=lambda trial: 1.0 if trial == 1 else 3.0)
    told = Recorder()
    slow.search(told, replace(RECIPE, search=Search(seconds=10, trials=5)))
    assert [trial.outcome for trial in told.of(TrialFinished)] == ["finished", "out_of_time"]
    (ended,) = told.of(SearchEnded)
    assert (ended.kept, ended.reason, ended.seconds) == (1, "the time is up", 10)


def test_of_a_first_trial_that_takes_too_long_what_it_has_is_kept(desk: Desk, splits: Splits) -> None:
    told = Recorder()
    trained = desk.search(told, replace(RECIPE, search=Search(seconds=1.5)))
    assert told.of(CutShort) == [CutShort(epoch=2, epochs=4)]
    (first,) = told.of(TrialFinished)
    assert (first.outcome, first.epochs, first.accuracy) == (
        "finished",
        2,
        told.of(EpochFinished)[1].validation_accuracy,
    )
    (ended,) = told.of(SearchEnded)
    assert (ended.trials, ended.kept, ended.reason, ended.seconds) == (1, 1, "the time is up", 2)
    assert any("the one as planned, cut short after 2 epochs" in reason for reason in trained.plan.reasons)
    assert any("ended before its time, after 2 of 4 epochs" in reason for reason in trained.plan.reasons)
    assert trained.evaluation.accuracy == first.accuracy


def test_a_first_trial_that_is_cut_in_the_midst_of_an_epoch_goes_by_what_it_learnt_there(desk: Desk) -> None:
    told = Recorder()
    replace(desk, step_seconds=1.0).search(told, replace(RECIPE, search=Search(seconds=2.5)))
    assert len([event for event in told.of(Progress) if event.phase == "train"]) == 3
    assert told.of(CutShort) == [CutShort(epoch=0, epochs=4)]
    assert not told.of(EpochFinished)
    (ended,) = told.of(SearchEnded)
    assert (ended.trials, ended.reason, ended.seconds) == (1, "the time is up", 3)


@pytest.mark.parametrize("broken", [(), (1,), (1, 2)])
def test_a_search_that_is_to_risk_nothing_ends_with_the_first_success(desk: Desk, broken: tuple[int, ...]) -> None:
    told = Recorder()
    failures: dict[int, Exception] = {number: Diverged(1, 0.1) for number in broken}
    replace(desk, is_cautious=True, broken=failures).search(told)
    assert [trial.outcome for trial in told.of(TrialFinished)] == [*["failed"] * len(broken), "finished"]
    (ended,) = told.of(SearchEnded)
    assert ended.reason == "its process was lost before and no further attempt is left"
    assert ended.kept == len(broken) + 1


@pytest.mark.parametrize("full", [1, 3])
def test_a_disk_without_room_for_a_trial_ends_the_search(
    desk: Desk, full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.write

    def full_disk(path: Path, data: bytes) -> None:
        if path.name == f"trial-{full:04}.safetensors":
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoint, "write", full_disk)
    told = Recorder()
    if full == 1:
        with pytest.raises(errors.Unavailable, match="no room on the disk") as raised:
            desk.search(told)
        assert raised.value.code == "no_room"
        return
    trained = desk.search(told)
    assert [trial.outcome for trial in told.of(TrialFinished)] == ["finished", "finished", "failed"]
    (ended,) = told.of(SearchEnded)
    assert ended.reason == "the disk took no more trials ([Errno 28] No space left on device)"
    assert ended.finished == 2
    assert trained.evaluation.accuracy in {ended.default_accuracy, ended.best_accuracy}


def test_a_search_that_is_asked_to_ends_with_what_it_has(desk: Desk) -> None:
    told = Recorder()
    replace(desk, epochs=6).search(told)
    assert [trial.outcome for trial in told.of(TrialFinished)] == ["finished", "stopped"]
    early = Recorder()
    replace(desk, folder=desk.folder / "early", epochs=2).search(early)
    assert [(trial.outcome, trial.epochs) for trial in early.of(TrialFinished)] == [("finished", 2)]
    for ended in (*told.of(SearchEnded), *early.of(SearchEnded)):
        assert (ended.kept, ended.reason) == (1, "it was asked for what it had")


def test_time_before_an_interruption_counts(desk: Desk) -> None:
    recipe = replace(RECIPE, search=Search(seconds=11.5))
    with pytest.raises(Stopped):
        desk.search(Interrupted(EpochFinished, 3), recipe)
    told = Recorder()
    desk.search(told, recipe)
    (ended,) = told.of(SearchEnded)
    # The epoch that was told of last was not kept as one, so that its second counts twice.
    assert (ended.trials, ended.seconds) == (2, 9)


def test_a_trial_that_fails_ends_alone(desk: Desk) -> None:
    broken = replace(desk, broken={2: Diverged(1, 0.1), 3: torch.OutOfMemoryError("no memory")})
    told = Recorder()
    broken.search(told, replace(RECIPE, search=Search(trials=4)))
    assert [trial.outcome for trial in told.of(TrialFinished)] == ["finished", "failed", "failed", "finished"]


@pytest.mark.parametrize(("begun", "outcomes"), [(1, ["finished"]), (2, ["failed", "finished"])])
def test_a_trial_that_took_its_process_along_twice_is_not_begun_again(
    desk: Desk, begun: int, outcomes: list[str]
) -> None:
    recipe = replace(RECIPE, search=Search(trials=2 + len(outcomes) - 1))
    with pytest.raises(Stopped):
        desk.search(Interrupted(EpochFinished, 5), recipe)
    state = trials.load(desk.folder)
    assert state is not None
    assert state.running is not None
    assert (state.running.number, state.running.begun) == (2, 0)  # it was interrupted, which is no fault of its own
    trials.save(desk.folder, replace(state, running=replace(state.running, begun=begun)))
    told = Recorder()
    desk.search(told, recipe)
    assert [trial.outcome for trial in told.of(TrialFinished)] == outcomes


def test_a_trial_that_loses_a_process_which_shares_it_ends_the_attempt_once_and_then_alone(desk: Desk) -> None:
    recipe = replace(RECIPE, search=Search(trials=3))
    losing = replace(desk, broken={2: PeerLost()})
    with pytest.raises(PeerLost):
        losing.search(Recorder(), recipe)
    with pytest.raises(Stopped):  # and is paused then, which is no fault of its own
        desk.search(Interrupted(EpochFinished, 1), recipe)
    told = Recorder()
    losing.search(told, recipe)
    assert [(trial.number, trial.outcome) for trial in told.of(TrialFinished)] == [(2, "failed"), (3, "finished")]


def test_a_first_trial_ends_the_attempt_however_often_it_loses_a_process_which_shares_it(desk: Desk) -> None:
    recipe = replace(RECIPE, search=Search(trials=2))
    for _ in range(4):
        with pytest.raises(PeerLost):
            replace(desk, broken={1: PeerLost()}).search(Recorder(), recipe)
    told = Recorder()
    desk.search(told, recipe)
    assert [trial.outcome for trial in told.of(TrialFinished)] == ["finished", "finished"]


def test_a_first_trial_that_diverges_is_replaced_by_the_best(desk: Desk) -> None:
    told = Recorder()
    trained = replace(desk, broken={1: Diverged(1, 0.1)}).search(told, replace(RECIPE, search=Search(trials=3)))
    (ended,) = told.of(SearchEnded)
    assert ended.kept == ended.best > 1
    assert (ended.default_loss, ended.chance) == (None, None)
    assert any("The training as planned failed" in reason for reason in trained.plan.reasons)


def test_a_search_of_which_nothing_comes_fails(desk: Desk) -> None:
    recipe = replace(RECIPE, search=Search(trials=2))
    with pytest.raises(errors.Invalid) as raised:
        replace(desk, broken=dict.fromkeys((1, 2), Diverged(1, 0.1))).search(Recorder(), recipe)
    assert raised.value.code == "no_trial_finished"
    with pytest.raises(errors.BadImage):
        replace(desk, broken={1: errors.BadImage("torn")}, folder=desk.folder / "anew").search(Recorder(), recipe)


def test_a_search_ends_where_all_was_tried(desk: Desk) -> None:
    recipe = replace(RECIPE, epochs=1, learning_rate=0.02, weight_decay=0.0, search=Search(trials=50))
    told = Recorder()
    desk.search(told, recipe)
    (ended,) = told.of(SearchEnded)
    assert ended.reason == "what there is to try was tried"
    assert 2 <= ended.trials <= 4  # ways to change the images


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
