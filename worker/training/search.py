"""A search for a better way to train: trials one after another, of which the first is the plan as it stands."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from app import errors
from app.limits import Search
from app.plan import Plan
from app.space import Space
from app.wording import counted
from worker.training import comparison, evaluate, searchtold, study, trials
from worker.training.data import Splits
from worker.training.events import (
    CheckpointNotKept,
    CutShort,
    Emit,
    Enough,
    EpochFinished,
    Evaluated,
    Event,
    Progress,
)
from worker.training.learner import Diverged
from worker.training.peers import PeerLost
from worker.training.rivals import Trained
from worker.training.searchevents import SearchEnded, TrialStarted
from worker.training.trials import FIRST, Outcome, Running, State, Trial

CHANCE = 0.05
"""A trial takes the place of the first one where luck alone would let the best of so many gain as much more seldom."""

_PROPOSALS = 8
"""That are looked at for one that is new and would end in time."""

_MOST_BEGUN = 2
"""A trial that has taken its process along so often, or one that shares it, is not begun again."""

CarryOut = Callable[[Plan, Path, Emit], Trained]
"""Train as planned, with a folder of the training's own."""


@dataclass(frozen=True, kw_only=True)
class Searching:
    """What stays the same from the first trial to the last."""

    space: Space
    limits: Search
    splits: Splits
    carry_out: CarryOut
    fitted: Callable[[Plan], Plan]
    """A plan with batches that fit the device."""
    estimate: Callable[[Plan], float | None]
    """The seconds a plan will take, None where nothing was measured."""
    folder: Path
    """For the trials and what they keep; one that has a state with the same fingerprint is gone on with."""
    seed: int
    clock: Callable[[], float]
    """Seconds from any beginning."""
    began: float
    """When this attempt did, by that clock."""
    is_to_end: Callable[[], bool]
    """Whether it was asked for what there is."""
    emit: Emit
    is_cautious: bool = False
    """Whether to put nothing at risk: it ends as soon as there is a trial to keep."""


def search(searching: Searching, state: State) -> Trained:
    """Go on from `state` until the limits are reached, and give what is to be kept: what the first trial came to, or
    what explains the labels of the validation images better by more than chance.

    A trial is not begun where it would not end in time, and the clock stops it where that was misjudged; of the first
    one what it has by then is kept. An exception out of `emit` leaves all that was done in the folder. Raises what the
    first trial raises, but for `Diverged`; a `GraftError` of another one, or its `OutOfMemoryError`, ends that one
    alone, and so does its second `PeerLost`. A disk that takes no more trials ends the search; `Unavailable` where it
    does not take the first one.
    """
    return _Search(searching, state).run()


@dataclass(frozen=True)
class _Candidate:
    plan: Plan
    running: Running


class _TrialEnded(Exception):
    """Raised out of a trial's `emit`."""


class _Search:
    def __init__(self, searching: Searching, state: State) -> None:
        self._searching = searching
        self._space = searching.space
        self._state = state
        self._before = state.seconds
        self._fixed = [searching.fitted(plan) for plan in self._space.fixed()]
        self._reason = ""
        self._full: OSError | None = None
        """Why the disk did not take what came of a trial."""

    def run(self) -> Trained:
        while (candidate := self._next()) is not None:
            self._try(candidate)
        return self._conclude()

    def _seconds(self) -> float:
        return self._before + self._searching.clock() - self._searching.began

    def _left(self) -> float | None:
        """Seconds; None where the time is not limited."""
        limit = self._searching.limits.seconds
        return None if limit is None else limit - self._seconds()

    def _next(self) -> _Candidate | None:
        """What to try now; None, with the reason, where the search is over."""
        if self._state.running is not None:
            return _Candidate(self._plan(self._state.running), self._state.running)
        number, most, left = len(self._state.trials) + 1, self._searching.limits.trials, self._left()
        if number == FIRST:
            values = self._space.values(self._space.default)
            return _Candidate(self._space.default, Running(number=number, values=values))
        if self._full is not None:
            self._reason = f"the disk took no more trials ({self._full})"
        elif self._searching.is_to_end():
            self._reason = "it was asked for what it had"
        elif self._searching.is_cautious and self._state.best is not None:
            self._reason = "its process was lost before and no further attempt is left"
        elif most is not None and number > most:
            self._reason = f"it was given {counted(most, 'trial')}"
        elif left is not None and left <= 0:
            self._reason = "the time is up"
        elif number - 2 < len(self._fixed):
            return self._in_time(Running(number=number, values=None))
        else:
            return self._proposed(number)
        return None

    def _plan(self, running: Running) -> Plan:
        if running.number == FIRST:
            return self._space.default
        if running.values is None:
            return self._fixed[running.number - 2]
        return self._searching.fitted(self._space.plan(running.values))

    def _in_time(self, running: Running) -> _Candidate | None:
        candidate = _Candidate(self._plan(running), running)
        expected, left = self._expected(candidate.plan), self._left()
        if expected is not None and left is not None and expected > left:
            self._reason = f"another trial would take about {expected:.0f} s, and {left:.0f} s are left"
            return None
        return candidate

    def _proposed(self, number: int) -> _Candidate | None:
        done = [trial.settings for trial in self._state.trials]
        reasons = []
        for place in range(_PROPOSALS):
            seed = (self._searching.seed, number, place)
            proposed = study.proposal(self._space, self._state.trials, seed=seed)
            # What time is left is for fewer epochs, if it is not enough for all.
            for values in (proposed, *self._space.shorter(proposed)):
                running = Running(number=number, values=values)
                if settings(self._plan(running)) in done:
                    continue
                candidate = self._in_time(running)
                if candidate is not None:
                    return candidate
                reasons.append(self._reason)
        self._reason = reasons[0] if reasons else "what there is to try was tried"
        return None

    def _expected(self, plan: Plan) -> float | None:
        """The seconds that `plan` will take: by trials of the same layers, or else by the estimate."""
        wanted = settings(plan)
        for trial in reversed(self._state.trials):
            if trial.epochs and all(trial.settings[name] == wanted[name] for name in ("strategy", "freeze")):
                return trial.seconds / trial.epochs * float(wanted["epochs"])
        return self._searching.estimate(plan)

    def _try(self, candidate: _Candidate) -> None:
        number, wanted = candidate.running.number, settings(candidate.plan)
        self._searching.emit(TrialStarted(number, wanted, self._expected(candidate.plan)))
        folder = trials.workdir(self._searching.folder, number)
        begun = replace(candidate.running, begun=candidate.running.begun + 1)
        self._save_running(begun)
        watch = _Watch(begun, self._searching, save=self._save_running, verdict=self._verdict)
        try:
            trained, outcome = self._carried_out(candidate.plan, folder, watch)
            outcome = outcome if trained is None or self._is_kept(number, trained) else "failed"
            trial = _trial(watch.running_now(), outcome, wanted, trained, self._searching.splits)
            self._searching.emit(searchtold.finished(trial))
        except BaseException as error:
            # Paused or stopped: whoever goes on later has what was done, and counts the time it took.
            counted_as = begun if isinstance(error, PeerLost) else candidate.running
            self._save_running(replace(watch.running_now(), begun=counted_as.begun))
            raise
        self._save(replace(self._state, trials=(*self._state.trials, trial), running=None))
        shutil.rmtree(folder, ignore_errors=True)

    def _is_kept(self, number: int, trained: Trained) -> bool:
        """Keep what came of a trial, and say whether the disk had room for it."""
        folder, targets = self._searching.folder, self._searching.splits.validation.targets
        try:
            try:
                trials.keep(folder, number, trained, targets)
            except OSError:
                # Its checkpoints are larger, and would be of use only if all was lost now.
                shutil.rmtree(trials.workdir(folder, number), ignore_errors=True)
                trials.keep(folder, number, trained, targets)
        except OSError as error:
            if number == FIRST:
                said = f"what the first training of the search came to has no room on the disk: {error}"
                raise errors.Unavailable(said, code="no_room") from error
            self._full = error
            return False
        return True

    def _carried_out(self, plan: Plan, folder: Path, watch: "_Watch") -> tuple[Trained | None, Outcome]:
        if watch.running.begun > _MOST_BEGUN and watch.running.number != FIRST:
            return None, "failed"
        try:
            return self._searching.carry_out(plan, folder, watch), "finished"
        except Exception as error:
            if watch.verdict is not None:  # libraries that call back dress the exception up as one of their own
                return None, watch.verdict
            if not isinstance(error, _forgiven(watch.running)):
                raise
            return None, "failed"

    def _verdict(self, running: Running, event: Event) -> Outcome | None:
        """How a trial is to be ended that has told this; None where it is to go on."""
        left = self._left()
        if running.number == FIRST:
            is_over = self._searching.is_to_end() or (left is not None and left <= 0)
            if is_over and _is_of_steps(event):
                raise Enough
            return None
        if self._searching.is_to_end():
            return "stopped"
        if left is not None and left <= 0:
            return "out_of_time"
        if running.values is None or not isinstance(event, EpochFinished) or event.epoch == event.epochs:
            return None
        hopeless = study.is_hopeless(self._space, self._state.trials, running.values, running.reported)
        return "pruned" if hopeless else None

    def _save_running(self, running: Running) -> None:
        self._save(replace(self._state, running=running))

    def _save(self, state: State) -> None:
        self._state = replace(state, seconds=self._seconds())
        try:
            trials.save(self._searching.folder, self._state)
        except OSError as error:
            self._searching.emit(CheckpointNotKept(reason=str(error)))

    def _conclude(self) -> Trained:
        state, best = self._state, self._state.best
        if best is None:
            raise errors.Invalid(
                f"of {counted(len(state.trials), 'trial')} none gave a classifier; smaller learning rates may help",
                code="no_trial_finished",
            )
        first = next((trial for trial in state.finished if trial.number == FIRST), None)
        chance = self._chance(first, best)
        kept = best if first is None or (chance is not None and chance <= CHANCE) else first
        trained = trials.restore(self._searching.folder, kept.number, self._searching.splits)
        ended = _ended(state, self._reason, first=first, best=best, kept=kept, chance=chance, seconds=self._seconds())
        figures = trained.evaluation
        ended = replace(ended, reasons=tuple(searchtold.told(ended, state, best, images=figures.images)))
        self._searching.emit(ended)
        self._searching.emit(Evaluated(figures.images, figures.accuracy, figures.log_loss))
        return _with_reasons(trained, ended, self._space.default)

    def _chance(self, first: Trial | None, best: Trial) -> float | None:
        others = [trial for trial in self._state.finished if trial is not first]
        if first is None or best is first:
            return None
        folder = self._searching.folder
        before = trials.losses(folder, [first])[0]
        return comparison.chance(before, trials.losses(folder, others), seed=self._searching.seed)


class _Watch:
    """The `emit` of a trial: it keeps what is reported, and ends the trial where there is reason to."""

    def __init__(
        self,
        running: Running,
        searching: Searching,
        *,
        save: Callable[[Running], None],
        verdict: Callable[[Running, Event], Outcome | None],
    ) -> None:
        self.running = running
        self.verdict: Outcome | None = None
        self._emit = searching.emit
        self._clock = searching.clock
        self._before = running.seconds
        self._began = searching.clock()
        self._save = save
        self._judge = verdict

    def __call__(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            return  # said of what is kept in the end
        self._emit(event)
        if isinstance(event, EpochFinished):
            reported = {**self.running.reported, round(100 * event.epoch / event.epochs): event.tempered_loss}
            self.running = replace(self.running_now(), reported=reported, epochs=event.epoch)
            self._save(self.running)
        elif isinstance(event, CutShort):
            self.running = replace(self.running_now(), is_cut=True)
        self.verdict = self._judge(self.running, event)
        if self.verdict is not None:
            raise _TrialEnded(self.verdict)

    def running_now(self) -> Running:
        """The trial with the seconds it has taken so far."""
        return replace(self.running, seconds=self._before + self._clock() - self._began)


def _is_of_steps(event: Event) -> bool:
    """Whether it is told of where steps are trained, which can end at any of them."""
    return isinstance(event, EpochFinished) or (isinstance(event, Progress) and event.phase == "train")


def _forgiven(running: Running) -> tuple[type[Exception], ...]:
    """What ends a trial alone that raises it."""
    if running.number == FIRST:
        return (Diverged,)
    known = (errors.GraftError, torch.OutOfMemoryError)
    return (*known, PeerLost) if running.begun >= _MOST_BEGUN else known


def settings(plan: Plan) -> dict[str, Any]:
    """What a person is told of a trial's plan, and what tells it from that of another."""
    descent = plan.descent
    found: dict[str, Any] = {"strategy": plan.strategy, "stage": plan.stage, "freeze": plan.freeze}
    if descent is not None:
        found |= {name: getattr(descent, name) for name in ("learning_rate", "weight_decay", "epochs")}
        found["augmentation"] = asdict(descent.augmentation)
    return found


def _trial(
    running: Running, outcome: Outcome, wanted: dict[str, Any], trained: Trained | None, splits: Splits
) -> Trial:
    targets = splits.validation.targets
    return Trial(
        number=running.number,
        values=running.values,
        settings=wanted,
        outcome=outcome,
        loss=None if trained is None else evaluate.tempered_log_loss(trained.probabilities, targets),
        accuracy=None if trained is None else trained.evaluation.accuracy,
        reported=running.reported,
        epochs=running.epochs,
        seconds=running.seconds,
        is_cut=running.is_cut,
    )


def _ended(
    state: State, reason: str, *, first: Trial | None, best: Trial, kept: Trial, chance: float | None, seconds: float
) -> SearchEnded:
    assert best.loss is not None
    assert best.accuracy is not None
    return SearchEnded(
        reason=reason,
        trials=len(state.trials),
        finished=len(state.finished),
        kept=kept.number,
        best=best.number,
        default_loss=None if first is None else first.loss,
        default_accuracy=None if first is None else first.accuracy,
        best_loss=best.loss,
        best_accuracy=best.accuracy,
        chance=chance,
        seconds=seconds,
    )


def _with_reasons(trained: Trained, ended: SearchEnded, default: Plan) -> Trained:
    plan = trained.plan
    if ended.kept == FIRST:
        return replace(trained, plan=replace(plan, reasons=(*plan.reasons, *ended.reasons)))
    plan = replace(
        plan,
        quadrant=default.quadrant,
        expected=default.expected,
        estimate=default.estimate,
        reasons=(*default.reasons, *ended.reasons, *plan.reasons),
    )
    return replace(trained, plan=plan)
