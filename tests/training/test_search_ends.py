"""What ends a search, or a trial of it: the clock, the disk, a person, and failure."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app import errors
from app.limits import Search
from app.space import Ways
from tests.training.samples import Recorder, Stopped
from tests.training.searched import RECIPE, Desk, Interrupted, backbone, desk, splits
from worker.training import checkpoint, trials
from worker.training.data import Splits
from worker.training.events import (
    CutShort,
    EpochFinished,
    Progress,
)
from worker.training.learner import Diverged
from worker.training.peers import PeerLost
from worker.training.searchevents import SearchEnded, TrialFinished

__all__ = ["backbone", "desk", "splits"]  # fixtures


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
