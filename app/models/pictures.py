"""Pictures of an evaluation, as SVG that suits light and dark screens."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app import errors
from app.backbones import palette
from app.backbones.charts import Axis
from app.backbones.palette import Theme
from app.backbones.placing import Box
from app.evaluation import Bin, Evaluation, Trust
from app.models.descriptions import describe
from app.models.shortening import shortened
from app.models.templating import environment

_CELLS = 900
"""Pixels of a side of the confusion matrix, about."""
_SMALLEST_CELL, _LARGEST_CELL = 10, 72
_COUNTED_CELL = 19
"""From this side on, cells have their number."""
_LETTER = 0.58
"""Width of a letter by the size of its font."""
_TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
_FAINTEST = 0.16
"""Opacity of a cell with the least images."""
_THINNEST = 6.0
"""Width of the bar of a bin that has none."""


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

    @property
    def is_right(self) -> bool:
        return self.label == self.predicted

    @property
    def opacity(self) -> float:
        return round(_FAINTEST + (1 - _FAINTEST) * math.sqrt(self.share), 3)

    @property
    def inks(self) -> str:
        """Classes of the number's colour, on light and on dark screens."""
        return f"light-{self._ink(palette.LIGHT)} dark-{self._ink(palette.DARK)}"

    def _ink(self, theme: Theme) -> str:
        ground = palette.mixed(theme.first if self.is_right else theme.second, theme.paper, self.opacity)
        return "white" if palette.ink_on(ground) == palette.WHITE else "black"


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
    lower: float
    """Of accuracy and confidence the lower one."""
    upper: float
    share: float
    """Of the images in the fullest bin, 0-1."""

    @property
    def is_too_sure(self) -> bool:
        return self.bin.confidence > self.bin.accuracy


@dataclass(frozen=True)
class Panel:
    """A reliability diagram as the template draws it."""

    area: Box
    trust: Trust
    is_scaled: bool
    bars: Sequence[Bar]
    most: int
    """Images in the fullest bin."""


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


def _confusion(found: Evaluation) -> str:
    labels = [figures.label for figures in found.classes]
    side = max(_SMALLEST_CELL, min(_LARGEST_CELL, _CELLS // len(labels)))
    font = min(13, max(9, side - 1))
    shown = shortened(labels)
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
            text=describe("confusion", found),
        )
    )


def _reliability(found: Evaluation) -> str:
    if found.reliability is None:
        raise _missing("reliability")
    trusts = (found.reliability.before, found.reliability.after)[: 1 if found.reliability.temperature == 1 else 2]
    areas = (Box(72, 156, 412, 496), Box(532, 156, 872, 496))
    return (
        environment()
        .get_template("reliability.svg")
        .render(
            temperature=found.reliability.temperature,
            images=found.images,
            ticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0],
            panels=[
                _panel(trust, area, is_scaled=place > 0)
                for place, (trust, area) in enumerate(zip(trusts, areas, strict=False))
            ],
            text=describe("reliability", found),
        )
    )


def _roc(found: Evaluation) -> str:
    if found.roc is None:
        raise _missing("roc")
    area = Box(72, 108, 512, 548)
    across, upward = _unit(area.left, area.right), _unit(area.bottom, area.top)
    areas = {figures.label: auc for figures, auc in zip(found.classes, found.roc.aucs, strict=True)}
    names = [figures.label for figures in found.classes]
    short = dict(zip(names, shortened(names), strict=True))
    styles = iter(range(len(found.roc.curves)))
    lines = [
        Line(
            name="mean over the labels" if curve.label is None else curve.label,
            points=_points(across, upward, curve.false_positives, curve.true_positives),
            style="mean" if curve.label is None else f"c{next(styles) % len(palette.LIGHT.lines)}",
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
            lines=[(line, short.get(line.name, line.name), value) for line, value in zip(lines, values, strict=True)],
            labels=len(found.classes),
            shown=sum(curve.label is not None for curve in found.roc.curves),
            text=describe("roc", found),
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
            text=describe("rejection", found),
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


def _panel(trust: Trust, area: Box, *, is_scaled: bool) -> Panel:
    across, upward = _unit(area.left, area.right), _unit(area.bottom, area.top)
    most = max(one.images for one in trust.bins)
    bars = [
        Bar(
            bin=one,
            left=across.at(one.low) + 1,
            # That of the certain ones has no width: it stands beyond the others.
            width=max(across.at(one.high) - across.at(one.low) - 2, _THINNEST),
            lower=upward.at(min(one.accuracy, one.confidence)),
            upper=upward.at(max(one.accuracy, one.confidence)),
            share=one.images / most,
        )
        for one in trust.bins
        if one.images
    ]
    return Panel(area, trust, is_scaled, bars, most)


def _unit(start: float, end: float) -> Axis:
    """From 0 to 1."""
    return Axis([0, 0.2, 0.4, 0.6, 0.8, 1.0], start, end, float)


def _points(across: Axis, upward: Axis, xs: Sequence[float], ys: Sequence[float]) -> str:
    return " ".join(f"{across.at(x):.1f},{upward.at(y):.1f}" for x, y in zip(xs, ys, strict=True))
