"""The runs of an experiment on one chart, accuracy by epochs and by time, and on a page around it; both suit light and
dark screens."""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.backbones.charts import Axis, Tick
from app.backbones.pages import environment
from app.experiments.schemas import ArmRead, ExperimentRead
from app.experiments.verdict import Arm, Finding, Point

_NAMES: dict[Arm, str] = {
    "probe": "linear classifier",
    "fine_tune": "fine-tuning",
    "scratch": "from scratch",
}
_HEADLINES: dict[Finding, str] = {
    "higher": "Pre-training raised the final score.",
    "faster": "Pre-training did not raise the final score; it got there faster.",
    "no_difference": "No difference is shown.",
    "lower": "Pre-training lowered the final score.",
    "open": "The question stays open.",
}
_HEAD, _LINE, _HEIGHT = 116.0, 19.0, 350.0
"""Of what stands above the panels beside the reasons, of a line of these, of a panel."""
_LEFT, _RIGHT = (76.0, 600.0), (716.0, 1240.0)
_ROUND = (1.0, 2.0, 5.0)
_MOST_TICKS = 6
_LETTERS_A_LINE = 170


@dataclass(frozen=True)
class Line:
    """One run in one panel, as the template draws it."""

    arm: Arm
    points: tuple[tuple[float, float], ...]
    """After each epoch, in order."""
    end: tuple[float, float]
    """Where the run ended: at its final score, which is not that of the last epoch where another state was kept."""
    whisker: tuple[float, float] | None
    """Between which places upward the final score's interval lies."""
    is_level: bool
    """Whether the run has no epochs, so that its score is to be seen across the panel."""


@dataclass(frozen=True)
class Panel:
    """Accuracy against one thing."""

    title: str
    left: float
    right: float
    ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Entry:
    """A line of the legend."""

    arm: Arm
    text: str


def draw(experiment: ExperimentRead) -> str:
    """Accuracy on the validation images by epochs and by seconds, with the interval of each final score."""
    epochs = [point.epoch for arm in experiment.arms.values() for point in arm.curve]
    seconds = [point.seconds for arm in experiment.arms.values() for point in arm.curve]
    told = experiment.verdict.reasons if experiment.verdict else ("The runs have not all ended yet.",)
    reasons = [line for reason in told for line in textwrap.wrap(reason, _LETTERS_A_LINE)]
    top = _HEAD + _LINE * len(reasons)
    upward = _upward(list(experiment.arms.values()), top)
    panels = (
        _panel("epochs", Axis(_even(max(epochs, default=1)), *_LEFT, float), _epoch, experiment, upward),
        _panel("seconds of work", Axis(_decades(seconds), *_RIGHT, math.log10), _second, experiment, upward),
    )
    template = environment("app.experiments").get_template("experiment.svg")
    return template.render(
        experiment=experiment,
        panels=panels,
        y_ticks=upward.grid(),
        top=top,
        bottom=top + _HEIGHT,
        line_height=_LINE,
        legend=[Entry(arm, _told(arm, read)) for arm, read in experiment.arms.items()],
        reasons=reasons,
    )


def page(experiment: ExperimentRead) -> str:
    """The verdict, the chart and every run, as a page without scripts."""
    template = environment("app.experiments").get_template("experiment.html")
    headline = _HEADLINES[experiment.verdict.finding] if experiment.verdict else None
    return template.render(found=experiment, names=_NAMES, headline=headline)


def _epoch(point: Point) -> float:
    return float(point.epoch)


def _second(point: Point) -> float:
    return point.seconds


def _panel(
    title: str, across: Axis, value: Callable[[Point], float], experiment: ExperimentRead, upward: Axis
) -> Panel:
    lines = tuple(_line(arm, read, across, value, upward) for arm, read in experiment.arms.items() if read.curve)
    return Panel(title, across.start, across.end, tuple(across.grid()), lines)


def _line(arm: Arm, read: ArmRead, across: Axis, value: Callable[[Point], float], upward: Axis) -> Line:
    lowest = across.ticks[0]
    places = [(across.at(max(value(point), lowest)), upward.at(100 * point.accuracy)) for point in read.curve]
    points = tuple((round(x, 1), round(y, 1)) for x, y in places)
    end, whisker = points[-1], None
    if read.accuracy is not None:
        end = end[0], round(upward.at(100 * read.accuracy), 1)
    if read.interval is not None:
        whisker = upward.at(100 * read.interval.low), upward.at(100 * read.interval.high)
    return Line(arm, points, end, whisker, is_level=not any(point.epoch for point in read.curve))


def _told(arm: Arm, read: ArmRead) -> str:
    if read.accuracy is None or read.interval is None:
        return f"{_NAMES[arm]}: {read.state}"
    low, high = 100 * read.interval.low, 100 * read.interval.high
    return f"{_NAMES[arm]}: {100 * read.accuracy:.1f} % (95 %: {low:.1f} to {high:.1f}), {read.seconds:.0f} s"


def _upward(arms: Sequence[ArmRead], top: float) -> Axis:
    """Accuracy in %, from a round figure below the lowest to one above the highest."""
    values = [100 * point.accuracy for arm in arms for point in arm.curve]
    values += [100 * end for arm in arms if arm.interval for end in (arm.interval.low, arm.interval.high)]
    low, high = min(values, default=0.0), max(values, default=100.0)
    step = next(step for step in (5, 10, 20) if (high - low) / step < _MOST_TICKS)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return Axis([float(step * number) for number in range(first, last + 1)], top + _HEIGHT, top, float)


def _even(most: int) -> list[float]:
    """Whole numbers in even steps from 0 to `most` or a little beyond."""
    steps = (int(digit * 10**power) for power in range(9) for digit in _ROUND)
    step = next(step for step in steps if most / step <= _MOST_TICKS)
    return [float(step * number) for number in range(math.ceil(most / step) + 1)] if most else [0.0, 1.0]


def _decades(seconds: Sequence[float]) -> list[float]:
    """Of 1, 2, 5, 10 … those between which all `seconds` lie."""
    low, high = max(min(seconds, default=1.0), 0.1), max(*seconds, 1.0) if seconds else 10.0
    steps = [digit * 10.0**power for power in range(-2, 8) for digit in _ROUND]
    return [one for one, following in pairwise(steps) if following > low and one < high * 2.5] or [1.0, 10.0]
