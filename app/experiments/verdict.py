"""What control runs say: a function of the curves and the final scores alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app import intervals
from app.intervals import Interval, Pairs, Score

Arm = Literal["probe", "fine_tune", "scratch"]
ARMS: tuple[Arm, ...] = ("probe", "fine_tune", "scratch")
_COMPARED: tuple[Arm, Arm] = ("fine_tune", "scratch")
Finding = Literal["higher", "faster", "no_difference", "lower", "open"]

FEWEST = 6
"""Images that two runs must differ on before a difference counts as shown: of five, all may speak for one of them by
chance more often than 1 time in 20 (the sign test, which is exact where intervals for few images are not)."""

_NAMES: dict[Arm, str] = {
    "probe": "the linear classifier on fixed features",
    "fine_tune": "fine-tuning",
    "scratch": "training from scratch",
}


@dataclass(frozen=True)
class Point:
    """An arm after so many epochs, and so many seconds after its training began; accuracy 0-1, loss in nats."""

    epoch: int
    seconds: float
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Run:
    """What an arm came to: its curve in order, and its score on the validation images, None where there is none yet."""

    curve: tuple[Point, ...]
    score: Score | None
    right: str | None = None
    """Which images it was right for, as in `Evaluation.right`; None where that was not kept."""


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
class Verdict:
    """Whether pre-training raised the final score, or only got there faster."""

    finding: Finding
    """`higher` and `lower` where the final scores differ by more than chance, `faster` where they do not but
    fine-tuning reached the final score of scratch in less time, `no_difference` where neither is shown, `open` where
    runs are missing."""
    speed_up: float | None
    """How many times as long scratch took to reach its own final score as fine-tuning took to reach that; None where
    one of them never did."""
    differences: tuple[Difference, ...]
    reasons: tuple[str, ...]


def judge(runs: Mapping[Arm, Run]) -> Verdict:
    """The verdict on `runs`, of which those that failed or were cancelled have no score."""
    differences = tuple(_differences(runs))
    missing = [arm for arm in _COMPARED if arm not in runs or runs[arm].score is None]
    if missing:
        said = f"Without a score of {' and '.join(_NAMES[arm] for arm in missing)} there is no verdict."
        return Verdict("open", None, differences, (said, *_about_probe(differences)))
    main = next(one for one in differences if (one.first, one.second) == ("fine_tune", "scratch"))
    speed_up = _speed_up(runs["fine_tune"], runs["scratch"])
    finding = _finding(main, speed_up)
    reasons = (_said(main, finding), *_about_speed(runs, speed_up), *_about_probe(differences))
    return Verdict(finding, speed_up, differences, reasons)


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


def _finding(main: Difference, speed_up: float | None) -> Finding:
    if main.is_shown:
        return "higher" if main.accuracy > 0 else "lower"
    return "faster" if speed_up is not None and speed_up > 1 else "no_difference"


def _speed_up(fine_tuned: Run, scratch: Run) -> float | None:
    assert scratch.score is not None
    goal = scratch.score.accuracy
    times = [_reached(run, goal) for run in (fine_tuned, scratch)]
    if times[0] is None or times[1] is None:
        return None
    return times[1].seconds / max(times[0].seconds, 1e-9)


def _reached(run: Run, accuracy: float) -> Point | None:
    """Where the curve first has this accuracy."""
    return next((point for point in run.curve if point.accuracy >= accuracy), None)


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
    if one.differing is not None:
        images = f"; {one.first_only} images only the former gets right, {one.second_only} only the latter"
    if low > 0:
        return f"{difference:.1f} points (95 %: {low:.1f} to {high:.1f}{images})"
    if high < 0:
        return f"{-difference:.1f} points (95 %: {-high:.1f} to {-low:.1f}{images})"
    return f"{difference:+.1f} points (95 %: {low:+.1f} to {high:+.1f}{images})"


def _about_speed(runs: Mapping[Arm, Run], speed_up: float | None) -> list[str]:
    score = runs["scratch"].score
    assert score is not None
    if speed_up is None:
        return [f"Fine-tuning never had the {_percent(score.accuracy)} that scratch ended with."]
    first, second = (_reached(runs[arm], score.accuracy) for arm in _COMPARED)
    assert first is not None
    assert second is not None
    return [
        f"The {_percent(score.accuracy)} that scratch ended with fine-tuning had after {first.seconds:.1f} s "
        f"({first.epoch} epochs), scratch after {second.seconds:.1f} s ({second.epoch} epochs)."
    ]


def _about_probe(differences: Sequence[Difference]) -> list[str]:
    for one in differences:
        if (one.first, one.second) == ("fine_tune", "probe"):
            told = "is not shown to differ from"
            if one.is_shown:
                told = "is better than" if one.accuracy > 0 else "is worse than"
            return [f"Fine-tuning {told} the linear classifier on fixed features: {_span(one)}."]
    return []


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
