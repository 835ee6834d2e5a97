"""What control runs say: a function of the curves and the final scores alone."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from app import intervals
from app.described import described
from app.intervals import Interval, Pairs, Score
from app.wording import counted, duration

Arm = Literal["probe", "fine_tune", "scratch"]
ARMS: tuple[Arm, ...] = ("probe", "fine_tune", "scratch")
_COMPARED: tuple[Arm, Arm] = ("fine_tune", "scratch")
Finding = Literal["higher", "faster", "no_difference", "lower", "open"]

FEWEST = 6
"""Images that two runs must differ on before a difference counts as shown: of five, all may speak for one of them by
chance more often than 1 time in 20 (the sign test, which is exact where intervals for few images are not)."""
CLEARLY = 1.5
"""By how much more time than fine-tuning scratch is given to get as far, before it counts as slower."""

NAMES: dict[Arm, str] = {
    "probe": "the linear classifier on fixed features",
    "fine_tune": "fine-tuning",
    "scratch": "training from scratch",
}


@described
@dataclass(frozen=True)
class Point:
    """An arm after so many epochs and so many seconds of training, in which a pass for features counts also where
    another arm had done it; accuracy 0-1, loss in nats."""

    epoch: int
    seconds: float
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Cut:
    """A run was given so many `epochs` by hand, far fewer than the `usual` ones of its plan."""

    epochs: int
    usual: int


@dataclass(frozen=True)
class Run:
    """What an arm came to: its curve in order, and its score on the validation images, None where there is none yet."""

    curve: tuple[Point, ...]
    score: Score | None
    right: str | None = None
    """Which images it was right for, as in `Evaluation.right`; None where that was not kept."""
    is_chosen: bool | None = None
    """Whether the validation images also decided which of several networks was kept; None where that is not known."""
    job_id: str = ""
    state: str = "succeeded"
    """Of its job."""
    cut: Cut | None = None


@described
@dataclass(frozen=True)
class Difference:
    """By how much `first` was right more often than `second`, -1 to 1, and what the images leave open of it."""

    first: Arm
    second: Arm
    accuracy: float
    interval: Interval
    """Of 95 %: Tango's for the same images, or Newcombe's where it is not known which ones each was right for."""
    first_only: int | None = None
    """Images that only `first` was right for; None where that is not known."""
    second_only: int | None = None

    @property
    def differing(self) -> int | None:
        """Images that only one of them was right for."""
        if self.first_only is None or self.second_only is None:
            return None
        return self.first_only + self.second_only

    @property
    def is_shown(self) -> bool:
        """Whether chance alone does not explain it."""
        enough = self.differing is None or self.differing >= FEWEST
        return enough and (self.interval.low > 0 or self.interval.high < 0)


@dataclass(frozen=True)
class Race:
    """Which of the two had the final score of scratch first, and whether chance alone explains that."""

    goal: float
    """The final accuracy of scratch, 0-1."""
    fine_tuned: Point
    """Where fine-tuning first had it."""
    scratch: Point
    """Where scratch first had it."""
    behind: Point
    """Where scratch was best until `CLEARLY` times the time that fine-tuning took, or at its first epoch where that
    was later."""
    missing: Interval
    """By how much `behind` was short of the goal, of 95 % (Newcombe's)."""

    @property
    def speed_up(self) -> float:
        return self.scratch.seconds / max(self.fine_tuned.seconds, 1e-9)

    @property
    def is_late(self) -> bool:
        """Whether scratch was first judged after `CLEARLY` times the time that fine-tuning took."""
        return self.behind.seconds > CLEARLY * self.fine_tuned.seconds

    @property
    def is_shown(self) -> bool:
        """Whether scratch, with so much more time, still was short of it by more than chance."""
        return self.missing.low > 0


@described
@dataclass(frozen=True)
class Verdict:
    """Whether pre-training raised the final score, or only got there faster."""

    finding: Finding
    """`higher` and `lower` where the final scores differ by more than chance, `faster` where they do not but scratch
    was short of its final score by more than chance at 1.5 times the time in which fine-tuning reached that score,
    `no_difference` where neither is shown, `open` where runs are missing."""
    speed_up: float | None
    """How many times as long scratch took to reach its own final score as fine-tuning took to reach that; None where
    one of them never did."""
    differences: tuple[Difference, ...]
    reasons: tuple[str, ...]
    caveat: str | None = None
    """Why the finding says little, also the first of the reasons; None where nothing is known to stand against it."""


def judge(runs: Mapping[Arm, Run]) -> Verdict:
    """The verdict on `runs`, of which those that failed or were cancelled have no score."""
    differences = tuple(_differences(runs))
    missing = tuple(_about_missing(runs))
    if missing:
        return Verdict("open", None, differences, (*missing, *_about_probe(differences), *_about_choice(runs)))
    main = next(one for one in differences if (one.first, one.second) == ("fine_tune", "scratch"))
    race = _race(runs["fine_tune"], runs["scratch"])
    finding = _finding(main, race)
    caveat = _caveat(runs)
    reasons = (
        *(() if caveat is None else (caveat,)),
        _said(main, finding),
        *_about_speed(runs["scratch"], race),
        *_about_probe(differences),
        *_about_choice(runs),
    )
    return Verdict(finding, None if race is None else race.speed_up, differences, reasons, caveat)


def settled(runs: Mapping[Arm, Run]) -> Finding | None:
    """The finding on `runs` without their curves; None where it depends on these."""
    if any(arm not in runs or runs[arm].score is None for arm in _COMPARED):
        return "open"
    main = _difference(*_COMPARED, runs)
    return _finding(main, race=None) if main.is_shown else None


def needed(arms: Collection[str]) -> tuple[Arm, ...]:
    """Those of `arms` without which nothing comes of the others."""
    if all(arm in arms for arm in _COMPARED):
        return _COMPARED
    return tuple(arm for arm in ARMS if arm in arms)


def _about_missing(runs: Mapping[Arm, Run]) -> Iterator[str]:
    left_out = [NAMES[arm] for arm in _COMPARED if arm not in runs]
    if left_out:
        yield (
            f"There is no verdict, for {' and '.join(left_out)} was left out: "
            f"begin an experiment with the arms {' and '.join(_COMPARED)}."
        )
        return
    missing = [arm for arm in _COMPARED if runs[arm].score is None]
    if missing:
        told = [f"{NAMES[arm]} {'was ' * (runs[arm].state == 'cancelled')}{runs[arm].state}" for arm in missing]
        retried = [f"graft retry {run.job_id}" for run in runs.values() if run.score is None]
        once = "these have" if len(retried) > 1 else "this has"
        yield (
            f"There is no verdict, for {' and '.join(told)}. It is there once {once} ended well: {', '.join(retried)}."
        )


def _caveat(runs: Mapping[Arm, Run]) -> str | None:
    told = [
        f"{NAMES[arm]} was given {counted(cut.epochs, 'epoch')} in place of {cut.usual}"
        for arm in _COMPARED
        if (cut := runs[arm].cut) is not None
    ]
    return f"Runs that are stopped early say little about pre-training: {', '.join(told)}." if told else None


def _differences(runs: Mapping[Arm, Run]) -> Sequence[Difference]:
    pairs: list[tuple[Arm, Arm]] = [("fine_tune", "scratch"), ("probe", "scratch"), ("fine_tune", "probe")]
    return [
        _difference(first, second, runs)
        for first, second in pairs
        if all(arm in runs and runs[arm].score is not None for arm in (first, second))
    ]


def _difference(first: Arm, second: Arm, runs: Mapping[Arm, Run]) -> Difference:
    one, other = runs[first], runs[second]
    assert one.score is not None
    assert other.score is not None
    accuracy = one.score.accuracy - other.score.accuracy
    if one.right is None or other.right is None:
        return Difference(first, second, accuracy, intervals.of_difference(one.score, other.score))
    ours, theirs = int(one.right, 16), int(other.right, 16)
    pairs = Pairs((ours & ~theirs).bit_count(), (theirs & ~ours).bit_count(), one.score.images)
    interval = intervals.of_paired_difference(pairs)
    return Difference(first, second, accuracy, interval, pairs.first_only, pairs.second_only)


def _finding(main: Difference, race: Race | None) -> Finding:
    if main.is_shown:
        return "higher" if main.accuracy > 0 else "lower"
    return "faster" if race is not None and race.is_shown else "no_difference"


def _race(fine_tuned: Run, scratch: Run) -> Race | None:
    """None where fine-tuning never had the final score of scratch."""
    assert scratch.score is not None
    goal, images = scratch.score.accuracy, scratch.score.images
    first, second = _reached(fine_tuned, goal), _reached(scratch, goal)
    if first is None or second is None:
        return None
    until = [point for point in scratch.curve if point.seconds <= CLEARLY * first.seconds] or scratch.curve[:1]
    behind = max(until, key=lambda point: point.accuracy)
    missing = intervals.of_difference(scratch.score, Score(round(behind.accuracy * images), images))
    return Race(goal, first, second, behind, missing)


def _reached(run: Run, accuracy: float) -> Point | None:
    """Where the curve first has this accuracy, or else its end, where the final score has it."""
    found = next((point for point in run.curve if point.accuracy >= accuracy), None)
    if found is None and run.curve and run.score is not None and run.score.accuracy >= accuracy:
        return replace(run.curve[-1], accuracy=run.score.accuracy)
    return found


def _said(main: Difference, finding: Finding) -> str:
    span = _span(main)
    if finding == "higher":
        return f"Pre-training raised the final score: fine-tuning is right more often than scratch by {span}."
    if finding == "lower":
        return f"Pre-training lowered the final score: fine-tuning is right less often than scratch by {span}."
    why = "0 lies within" if main.interval.low <= 0 <= main.interval.high else "so few images that differ show nothing"
    said = f"fine-tuning against scratch is {span}, and {why}."
    if finding == "faster":
        return f"Pre-training got there faster; that it raised the final score as well is not shown: {said}"
    return f"No difference of the final scores is shown: {said}"


def _span(one: Difference) -> str:
    low, high, difference = 100 * one.interval.low, 100 * one.interval.high, 100 * one.accuracy
    images = ""
    if one.first_only is not None:
        images = f"; {counted(one.first_only, 'image')} only the former gets right, {one.second_only} only the latter"
    if low > 0:
        return f"{difference:.1f} points (95 %: {low:.1f} to {high:.1f}{images})"
    if high < 0:
        return f"{-difference:.1f} points (95 %: {-high:.1f} to {-low:.1f}{images})"
    return f"{difference:+.1f} points (95 %: {low:+.1f} to {high:+.1f}{images})"


def _about_speed(scratch: Run, race: Race | None) -> list[str]:
    assert scratch.score is not None
    if race is None:
        return [f"Fine-tuning never had the {_percent(scratch.score.accuracy)} that scratch ended with."]
    first, second, behind = race.fine_tuned, race.scratch, race.behind
    low, high = 100 * race.missing.low, 100 * race.missing.high
    told = "which is less by more than chance" if race.is_shown else "which is not shown to be less"
    factor = f"{CLEARLY:g} times the time that fine-tuning took to it"
    when = f"With {factor}, scratch was"
    if race.is_late:
        when = f"When scratch was first judged, after {duration(behind.seconds)} and so more than {factor}, it was"
    return [
        f"The {_percent(race.goal)} that scratch ended with fine-tuning had after {_told(first)}, scratch after "
        f"{_told(second)}.",
        f"{when} at {_percent(behind.accuracy)}, {told} (95 %: {low:+.1f} to {high:+.1f} points short of it).",
    ]


def _told(point: Point) -> str:
    return f"{duration(point.seconds)} ({counted(point.epoch, 'epoch')})"


def _about_probe(differences: Sequence[Difference]) -> list[str]:
    for one in differences:
        if (one.first, one.second) == ("fine_tune", "probe"):
            told = "is not shown to differ from"
            if one.is_shown:
                told = "is better than" if one.accuracy > 0 else "is worse than"
            return [f"Fine-tuning {told} the linear classifier on fixed features: {_span(one)}."]
    return []


def _about_choice(runs: Mapping[Arm, Run]) -> Iterator[str]:
    for arm in ARMS:
        if arm in runs and runs[arm].is_chosen:
            yield (
                f"Of {NAMES[arm]} several networks were at hand, and the images that it is judged by decided which "
                "was kept: that flatters it a little, so a difference in its favour that is just shown may be less."
            )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
