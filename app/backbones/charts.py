"""Pictures of the catalogue and of a network's anatomy, as SVG that suits light and dark screens.

Drawn here with templates: the plotting libraries for Python fix one colour for each thing, and none of them keeps
eighty names apart without another library.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from app.backbones import placing
from app.backbones.anatomy import Anatomy, Row
from app.backbones.catalogue import Backbone
from app.backbones.operators import WEIGHTED_LAYERS
from app.backbones.pages import bytes_along, counts_along, environment, in_bytes, short
from app.backbones.placing import Box, Bubble, Label

_WIDTH = 1280
_HEIGHT = 900
_FONT = 11.0
_COLOURS = 10
_LARGEST_RADIUS = 24.0
_SMALLEST_RADIUS = 3.2
_NAMES_AT_MOST = 40
_LONGEST = 26
_MOST_STEPS = 6


@dataclass(frozen=True)
class Point:
    """A network in the chart of accuracies."""

    name: str
    family: str
    gmac: float
    top1: float
    parameters: int


@dataclass(frozen=True)
class Tick:
    """A line of the grid at `at`, with its text."""

    at: float
    text: str
    strong: bool


@dataclass(frozen=True)
class Axis:
    """From values to places in the picture: the first of `ticks` is at `start`, the last at `end`."""

    ticks: Sequence[float]
    start: float
    end: float
    scale: Callable[[float], float]

    def at(self, value: float) -> float:
        low, high = self.scale(self.ticks[0]), self.scale(self.ticks[-1])
        return self.start + (self.scale(value) - low) / (high - low) * (self.end - self.start)

    def grid(self) -> list[Tick]:
        """Lines at every tick; on a logarithmic axis strong at powers of ten."""
        return [Tick(self.at(value), f"{value:g}", strong=self.scale(value).is_integer()) for value in self.ticks]


@dataclass(frozen=True)
class Mark:
    """A bubble with its label, as the template draws it."""

    point: Point
    bubble: Bubble
    style: str
    label: Label | None


@dataclass(frozen=True)
class Bar:
    """One layer with weights and what follows it up to the next, as the template draws it; heights 0-1."""

    name: str
    left: float
    width: float
    bytes: int
    parameters: int
    bytes_height: float
    parameters_height: float


@dataclass(frozen=True)
class Layers:
    """What the bars are made of: one layer with weights, and the memory of all outputs up to the next."""

    name: str
    bytes: int
    parameters: int


def points(backbones: Iterable[Backbone]) -> tuple[Point, ...]:
    """The networks with published accuracy and known computation.

    Of several weights the best ones count, but only those for images of the size that the computation is for.
    """
    found = []
    for entry in backbones:
        known = [one.top1 for one in entry.weights if one.preprocessing.crop == entry.input_size]
        top1 = max((value for value in known if value is not None), default=None)
        if top1 is not None and entry.gmac is not None:
            found.append(Point(entry.name, entry.family, entry.gmac, top1, entry.parameters))
    return tuple(found)


@functools.lru_cache(maxsize=32)
def accuracy(chosen: tuple[Point, ...]) -> str:
    """Top-1 accuracy (%) against multiply-adds on a logarithmic axis; the area of a bubble is the parameters."""
    area = Box(64, 78, _WIDTH - 180, _HEIGHT - 56)
    across = Axis(decades([point.gmac for point in chosen]), area.left, area.right, math.log10)
    upward = Axis(steps([point.top1 for point in chosen]), area.bottom, area.top, float)
    most = max(point.parameters for point in chosen)
    styles = _styles(chosen)
    template = environment().get_template("accuracy.svg")
    return template.render(
        width=_WIDTH,
        height=_HEIGHT,
        area=area,
        font=_FONT,
        x_ticks=across.grid(),
        y_ticks=upward.grid(),
        marks=_marks(chosen, across, upward, area, styles),
        families=styles,
        sizes=[(short(size), radius(size, most)) for size in _example_sizes(most)],
    )


def layers(backbone: str, found: Anatomy) -> str:
    """Bytes of activations above, parameters below, for each layer with weights in order."""
    groups = _grouped(found.rows)
    area = Box(84, 0, _WIDTH - 24, 0)
    bars = _bars(groups, area)
    template = environment().get_template("layers.svg")
    return template.render(
        width=_WIDTH,
        backbone=backbone,
        found=found,
        area=area,
        bars=bars,
        names=_names(bars),
        most_bytes=max(group.bytes for group in groups),
        most_parameters=max(group.parameters for group in groups),
        half_bytes=_half([group.bytes for group in groups]),
        half_parameters=_half([group.parameters for group in groups]),
        in_bytes=in_bytes,
        short=short,
        bytes_along=bytes_along,
        counts_along=counts_along,
        text=describe_layers(found),
    )


def describe_layers(found: Anatomy) -> str:
    """What `layers` shows, in words."""
    groups = _grouped(found.rows)
    memory, parameters = _half([group.bytes for group in groups]), _half([group.parameters for group in groups])
    return (
        f"Half of the activation memory is reached at bar {memory} of {len(groups)}, half of the parameters at bar "
        f"{parameters}."
    )


def _marks(chosen: Sequence[Point], across: Axis, upward: Axis, area: Box, styles: Mapping[str, str]) -> list[Mark]:
    """Large bubbles first, so that small ones lie on them."""
    ordered = sorted(chosen, key=lambda point: (-point.parameters, point.name))
    most = ordered[0].parameters
    bubbles = [
        Bubble(across.at(point.gmac), upward.at(point.top1), radius(point.parameters, most), point.name)
        for point in ordered
    ]
    placed = placing.place(bubbles, within=area, font_size=_FONT)
    return [
        Mark(point, bubble, styles[point.family], label)
        for point, bubble, label in zip(ordered, bubbles, placed, strict=True)
    ]


def _bars(groups: Sequence[Layers], area: Box) -> list[Bar]:
    step = (area.right - area.left) / len(groups)
    most_bytes = max(group.bytes for group in groups) or 1
    most_parameters = max(group.parameters for group in groups) or 1
    return [
        Bar(
            name=group.name,
            left=area.left + place * step,
            width=step * (0.8 if step > 4 else 0.92),
            bytes=group.bytes,
            parameters=group.parameters,
            bytes_height=group.bytes / most_bytes,
            parameters_height=group.parameters / most_parameters,
        )
        for place, group in enumerate(groups)
    ]


def _grouped(rows: Sequence[Row]) -> list[Layers]:
    groups: list[Layers] = []
    for row in rows:
        size = 0 if row.in_place else row.bytes
        if row.type in WEIGHTED_LAYERS or not groups:
            groups.append(Layers(row.name, size, row.parameters))
        else:
            last = groups[-1]
            groups[-1] = Layers(last.name, last.bytes + size, last.parameters + row.parameters)
    return groups


def _half(values: Sequence[int]) -> int:
    """The number of the layer with which half of the sum is reached, counted from 1."""
    total = sum(values)
    return next(number for number, reached in enumerate(accumulate(values), 1) if 2 * reached >= total)


def _names(bars: Sequence[Bar]) -> list[tuple[float, str]]:
    """Names below the bars, as many as there is room for."""
    every = -(-len(bars) // _NAMES_AT_MOST)
    return [
        (bar.left + bar.width / 2, bar.name if len(bar.name) <= _LONGEST else f"…{bar.name[1 - _LONGEST :]}")
        for bar in bars[::every]
    ]


def _styles(chosen: Iterable[Point]) -> dict[str, str]:
    """Classes of the style sheet by family; from the eleventh family on, rings in the same colours."""
    families = sorted({point.family for point in chosen}, key=str.casefold)
    kinds = ("disc", "ring", "dashed")
    return {
        family: f"c{place % _COLOURS} {kinds[min(place // _COLOURS, len(kinds) - 1)]}"
        for place, family in enumerate(families)
    }


def radius(parameters: int, most: int) -> float:
    return max(_SMALLEST_RADIUS, _LARGEST_RADIUS * math.sqrt(parameters / most))


def _example_sizes(most: int) -> list[int]:
    return [size for size in (5_000_000, 50_000_000, 500_000_000) if size <= most] or [most]


def decades(values: Sequence[float]) -> list[float]:
    """Of 1, 2, 5, 10, 20 … those between which all `values` lie."""
    low, high = min(values) * 0.9, max(values) * 1.1
    steps = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for digit in (1, 2, 5)
    ]
    first = max(step for step in steps if step <= low)
    last = min(step for step in steps if step >= high)
    return [step for step in steps if first <= step <= last]


def even(most: float, *, least: float) -> list[float]:
    """At most seven numbers in even steps, of `least` or more, from 0 to `most` or a little beyond."""
    sizes = (digit * 10.0**power for power in range(math.floor(math.log10(least)), 10) for digit in (1, 2, 5))
    step = next(size for size in sizes if size >= least and most / size <= _MOST_STEPS)
    return [step * number for number in range(max(1, math.ceil(most / step)) + 1)]


def percents(values: Sequence[float]) -> list[float]:
    """Multiples of 5, 10 or 20 between which all `values`, in %, lie; of none, 0 to 100."""
    low, high = min(values, default=0.0), max(values, default=100.0)
    step = next(step for step in (5, 10, 20) if (high - low) / step < _MOST_STEPS)
    first = math.floor(low / step)
    return [float(step * number) for number in range(first, max(math.ceil(high / step), first + 1) + 1)]


def steps(values: Sequence[float]) -> list[float]:
    """Multiples of 5 (of 1 for a narrow range) between which all `values` lie."""
    step = 5 if max(values) - min(values) > 8 else 1
    first, last = math.floor(min(values) / step - 0.2), math.ceil(max(values) / step + 0.2)
    return [float(step * number) for number in range(first, last + 1)]
