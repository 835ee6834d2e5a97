"""The runs of an experiment on one chart, accuracy by epochs and by time, and on a page around it; both suit light and
dark screens."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from app.backbones.charts import Axis, Tick, even, percents
from app.backbones.pages import environment
from app.experiments.schemas import ArmRead, ExperimentRead
from app.experiments.verdict import Arm, Finding, Point

_NAMES: dict[Arm, str] = {
    "probe": "linear classifier",
    "fine_tune": "fine-tuning",
    "scratch": "from scratch",
}
_HEADLINES: dict[Finding, str] = {
    "higher": "Pre-training raised the final score: fine-tuning ends higher than training from scratch.",
    "faster": "Fine-tuning got there faster than training from scratch; that it ends higher is not shown.",
    "no_difference": "No difference is shown between fine-tuning and training from scratch.",
    "lower": "Pre-training lowered the final score: fine-tuning ends lower than training from scratch.",
    "open": "Whether fine-tuning ends higher than training from scratch stays open.",
}
REFRESH_SECONDS = 15
"""After which a browser loads the page of runs that go on once more."""
_HEAD, _LINE, _HEIGHT = 116.0, 19.0, 350.0
"""Of what stands above the panels beside the reasons, of a line of these, of a panel."""
_NOTHING_DRAWN = 16.0
"""What is in place of panels that would be empty."""
_LEFT, _RIGHT = (76.0, 600.0), (716.0, 1240.0)
_ROUND = (1.0, 2.0, 5.0)
_LETTERS_A_LINE = 170


@dataclass(frozen=True)
class Line:
    """One run in one panel, as the template draws it."""

    arm: Arm
    points: tuple[tuple[float, float], ...]
    """After each epoch, in order."""
    end: tuple[float, float]
    """Where the run ended, at its final score, which is not that of the last epoch where another state was kept; or as
    far as it came."""
    is_final: bool
    """Whether it has a final score."""
    whisker: tuple[float, float] | None
    """Between which places upward the final score's interval lies."""
    is_level: bool
    """Whether the run has no epochs, so that its score is to be seen across the panel."""


@dataclass(frozen=True)
class Across:
    """What accuracy is set against."""

    title: str
    axis: Axis
    of: Callable[[Point], float]
    at_end: Callable[[ArmRead], float]
    """Of a run that has a final score."""


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


def draw(experiment: ExperimentRead, *, has_reasons: bool = True) -> str:
    """Accuracy on the validation images by epochs and by seconds, with the interval of each final score and, unless
    they stand elsewhere, the verdict's reasons."""
    told = experiment.verdict.reasons if experiment.verdict else ("The runs have not all ended yet.",)
    reasons = [line for reason in told for line in textwrap.wrap(reason, _LETTERS_A_LINE)] if has_reasons else []
    top = _HEAD + _LINE * len(reasons)
    drawn = _drawn(experiment)
    upward = _upward(list(drawn.values()), top)
    template = environment("app.experiments").get_template("experiment.svg")
    return template.render(
        experiment=experiment,
        panels=[_panel(across, drawn, upward) for across in _across(drawn)],
        y_ticks=upward.grid(),
        top=top,
        bottom=top + (_HEIGHT if drawn else _NOTHING_DRAWN),
        line_height=_LINE,
        legend=[Entry(arm, _told(arm, read)) for arm, read in experiment.arms.items()],
        told=told,
        reasons=reasons,
    )


def page(experiment: ExperimentRead, *, now: datetime) -> str:
    """The verdict, the chart and every run, as a page without scripts; while the runs go on, one that says that it is
    of `now` and is loaded anew."""
    template = environment("app.experiments").get_template("experiment.html")
    return template.render(
        found=experiment,
        names=_NAMES,
        headline=_HEADLINES[experiment.verdict.finding] if experiment.verdict else None,
        has_chart=bool(_drawn(experiment)),
        now=now,
        refresh_seconds=REFRESH_SECONDS,
    )


def _drawn(experiment: ExperimentRead) -> dict[Arm, ArmRead]:
    """The runs that have something to draw."""
    return {arm: read for arm, read in experiment.arms.items() if read.curve}


def _across(drawn: Mapping[Arm, ArmRead]) -> Iterable[Across]:
    if not drawn:
        return
    epochs = [point.epoch for read in drawn.values() for point in read.curve]
    seconds = [point.seconds for read in drawn.values() for point in read.curve]
    seconds += [read.seconds for read in drawn.values() if read.accuracy is not None]
    yield Across(
        "epochs",
        Axis(even(max(epochs), least=1), *_LEFT, float),
        lambda point: float(point.epoch),
        lambda read: float(read.curve[-1].epoch),
    )
    yield Across(
        "seconds of work",
        Axis(_decades(seconds), *_RIGHT, math.log10),
        lambda point: point.seconds,
        lambda read: read.seconds,
    )


def _panel(across: Across, drawn: Mapping[Arm, ArmRead], upward: Axis) -> Panel:
    lines = tuple(_line(arm, read, across, upward) for arm, read in drawn.items())
    return Panel(across.title, across.axis.start, across.axis.end, tuple(across.axis.grid()), lines)


def _line(arm: Arm, read: ArmRead, across: Across, upward: Axis) -> Line:
    def place(value: float, accuracy: float) -> tuple[float, float]:
        x = across.axis.at(max(value, across.axis.ticks[0]))
        return round(x, 1), round(upward.at(100 * accuracy), 1)

    points = tuple(place(across.of(point), point.accuracy) for point in read.curve)
    end, whisker = points[-1], None
    if read.accuracy is not None:
        end = place(across.at_end(read), read.accuracy)
    if read.interval is not None:
        whisker = upward.at(100 * read.interval.low), upward.at(100 * read.interval.high)
    is_level = not any(point.epoch for point in read.curve)
    return Line(arm, points, end, read.accuracy is not None, whisker, is_level)


def _told(arm: Arm, read: ArmRead) -> str:
    if read.accuracy is None or read.interval is None:
        return f"{_NAMES[arm]}: {read.state}"
    low, high = 100 * read.interval.low, 100 * read.interval.high
    return f"{_NAMES[arm]}: {100 * read.accuracy:.1f} % (95 %: {low:.1f} to {high:.1f}), {read.seconds:.0f} s"


def _upward(arms: Sequence[ArmRead], top: float) -> Axis:
    """Accuracy in %, from a round figure below the lowest to one above the highest."""
    values = [100 * point.accuracy for arm in arms for point in arm.curve]
    values += [100 * end for arm in arms if arm.interval for end in (arm.interval.low, arm.interval.high)]
    return Axis(percents(values), top + _HEIGHT, top, float)


def _decades(seconds: Sequence[float]) -> list[float]:
    """Of 1, 2, 5, 10 … those between which all `seconds` lie."""
    low, high = max(min(seconds), 0.1), max(*seconds, 1.0)
    steps = [digit * 10.0**power for power in range(-2, 8) for digit in _ROUND]
    return [one for one, following in pairwise(steps) if following > low and one < high * 2.5] or [1.0, 10.0]
