"""Pictures of an evaluation, as SVG that suits light and dark screens."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jinja2

from app import errors
from app.backbones import pages
from app.backbones.charts import Axis
from app.backbones.placing import Box
from app.evaluation import Bin, Evaluation

_CELLS = 900
"""Pixels of a side of the confusion matrix, about."""
_SMALLEST_CELL, _LARGEST_CELL = 10, 72
_COUNTED_CELL = 19
"""From this side on, cells have their number."""
_LONGEST = 22
_LETTER = 0.58
"""Width of a letter by the size of its font."""
_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~$&])")
"""Characters that mean something in Markdown."""
_TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True)
class Cell:
    """Images of one label that are taken for one label."""

    x: float
    y: float
    count: int
    share: float
    """Of the images of the label, 0-1."""
    label: str
    predicted: str


@dataclass(frozen=True)
class Line:
    """A curve as the template draws it."""

    name: str
    points: str
    style: str


@dataclass(frozen=True)
class Bar:
    """A bin of the reliability diagram as the template draws it; tops as places in the picture."""

    bin: Bin
    left: float
    width: float
    accuracy: float
    confidence: float
    share: float
    """Of the images in the fullest bin, 0-1."""


def draw(name: str, found: Evaluation) -> str:
    """The picture of this name. Raises `UnknownName`, and `NotFound` where the evaluation has nothing to draw it of."""
    if name not in PICTURES:
        raise errors.UnknownName("picture", name, PICTURES)
    return PICTURES[name](found)


def available(found: Evaluation) -> list[str]:
    """Names of the pictures that there is something to draw of."""
    known: Mapping[str, object] = {
        "confusion": found.confusion,
        "reliability": found.reliability,
        "roc": found.roc,
        "rejection": found.unknown,
    }
    return [name for name in PICTURES if known[name] is not None]


@functools.cache
def environment() -> jinja2.Environment:
    """The templates beside this module, with the style sheet of those of the backbones."""
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader("app.models"), jinja2.PackageLoader("app.backbones")])
    made = pages.environment().overlay(
        loader=loader, autoescape=lambda name: name is None or not name.endswith((".md", ".txt"))
    )
    made.filters = {**made.filters, "percent": percent, "md": as_markdown}
    return made


def percent(share: float | None) -> str:
    """A share for people: `97.3 %`."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.1f} %"


def as_markdown(text: object) -> str:
    """`text` as Markdown that shows it as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def _confusion(found: Evaluation) -> str:
    labels = [figures.label for figures in found.classes]
    side = max(_SMALLEST_CELL, min(_LARGEST_CELL, _CELLS // len(labels)))
    font = min(13, max(9, side - 1))
    shown = [_short(label) for label in labels]
    margin = round(24 + _LETTER * font * max(map(len, shown)) + 14)
    left, top = max(64, margin), 104
    cells = [
        Cell(left + column * side, top + row * side, count, count / sum(counts), labels[row], labels[column])
        for row, counts in enumerate(found.confusion)
        for column, count in enumerate(counts)
        if count
    ]
    return (
        environment()
        .get_template("confusion.svg")
        .render(
            found=found,
            labels=shown,
            cells=cells,
            side=side,
            font=font,
            left=left,
            top=top,
            span=side * len(labels),
            margin=margin,
            width=max(620, left + side * len(labels) + 48),
            counted=side >= _COUNTED_CELL,
        )
    )


def _reliability(found: Evaluation) -> str:
    if found.reliability is None:
        raise _missing("reliability")
    panels = [Box(72, 120, 412, 460), Box(532, 120, 872, 460)]
    trusts = (found.reliability.before, found.reliability.after)
    return (
        environment()
        .get_template("reliability.svg")
        .render(
            found=found.reliability,
            images=found.images,
            ticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0],
            panels=[(area, trust, _bars(trust.bins, area)) for area, trust in zip(panels, trusts, strict=True)],
        )
    )


def _roc(found: Evaluation) -> str:
    if found.roc is None:
        raise _missing("roc")
    area = Box(72, 96, 512, 536)
    across, upward = _unit(area.left, area.right), _unit(area.bottom, area.top)
    areas = {figures.label: auc for figures, auc in zip(found.classes, found.roc.aucs, strict=True)}
    colours = iter(range(10))
    lines = [
        Line(
            name="mean over the labels" if curve.label is None else curve.label,
            points=_points(across, upward, curve.false_positives, curve.true_positives),
            style="mean" if curve.label is None else f"c{next(colours)}",
        )
        for curve in found.roc.curves
    ]
    values = [found.roc.macro_auc if curve.label is None else areas[curve.label] for curve in found.roc.curves]
    return (
        environment()
        .get_template("roc.svg")
        .render(
            area=area,
            x_ticks=across.grid(),
            y_ticks=upward.grid(),
            lines=[(line, _short(line.name), value) for line, value in zip(lines, values, strict=True)],
            macro=found.roc.macro_auc,
            labels=len(found.classes),
        )
    )


def _rejection(found: Evaluation) -> str:
    if found.unknown is None:
        raise _missing("rejection")
    area = Box(84, 96, 700, 416)
    most = max((max(curve.risk) for curve in found.unknown.curves), default=0)
    top = next(value for value in _TOPS if value >= most)
    across = _unit(area.left, area.right)
    upward = Axis([top * part / 5 for part in range(6)], area.bottom, area.top, float)
    return (
        environment()
        .get_template("rejection.svg")
        .render(
            area=area,
            found=found.unknown,
            x_ticks=across.grid(),
            y_ticks=upward.grid(),
            threshold=across.at(found.unknown.accepted),
            error=upward.at(1 - found.accuracy),
            accuracy=found.accuracy,
            lines=[
                (Line(curve.score, _points(across, upward, curve.coverage, curve.risk), f"c{place}"), curve.area)
                for place, curve in enumerate(found.unknown.curves)
            ],
        )
    )


PICTURES: dict[str, Callable[[Evaluation], str]] = {
    "confusion": _confusion,
    "reliability": _reliability,
    "roc": _roc,
    "rejection": _rejection,
}


def _missing(name: str) -> errors.NotFound:
    return errors.NotFound(
        f"there is no picture {name!r} of this version: it was evaluated without these figures, by an older service or "
        "on images of a single label; a new training has them",
        code="picture_not_available",
        detail={"picture": name},
    )


def _bars(bins: Sequence[Bin], area: Box) -> list[Bar]:
    across, upward = _unit(area.left, area.right), _unit(area.bottom, area.top)
    most = max(one.images for one in bins)
    return [
        Bar(
            bin=one,
            left=across.at(one.low) + 1,
            width=across.at(one.high) - across.at(one.low) - 2,
            accuracy=upward.at(one.accuracy),
            confidence=upward.at(one.confidence),
            share=one.images / most,
        )
        for one in bins
        if one.images
    ]


def _unit(start: float, end: float) -> Axis:
    """From 0 to 1."""
    return Axis([0, 0.2, 0.4, 0.6, 0.8, 1.0], start, end, float)


def _points(across: Axis, upward: Axis, xs: Sequence[float], ys: Sequence[float]) -> str:
    return " ".join(f"{across.at(x):.1f},{upward.at(y):.1f}" for x, y in zip(xs, ys, strict=True))


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
