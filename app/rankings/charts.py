"""A ranking as a picture of accuracy against cost, and as a page around it."""

import math
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from app import errors, ranking
from app.backbones import charts, pages, placing
from app.backbones.charts import Axis
from app.backbones.placing import Box, Bubble, Label
from app.ranking import TITLES, MeasuredNetwork, Place, Ranking
from app.rankings.schemas import RankingRead

CostName = Literal["latency", "macs", "size"]

_WIDTH, _HEIGHT = 960, 640
_TOP = 124.0
"""Beneath what is written above, with room for half a bubble at 100 %."""
_FONT = 12.0


@dataclass(frozen=True)
class Kind:
    """What is on the horizontal axis."""

    title: str
    of: Callable[[MeasuredNetwork], float | None]


COSTS: Mapping[CostName, Kind] = {
    "latency": Kind("Milliseconds for one image", lambda entry: 1000 * entry.cost.latency.seconds),
    "macs": Kind(
        "Multiply-adds for one image in millions",
        lambda entry: None if entry.cost.macs is None else entry.cost.macs / 1e6,
    ),
    "size": Kind("Size of all values in megabytes", lambda entry: entry.cost.size_bytes / 1e6),
}


@dataclass(frozen=True)
class Row:
    """A network as the page tells of it."""

    place: Place
    entry: MeasuredNetwork
    address: str | None
    """Of the page that tells more of it, from that of the ranking; none where it is deleted."""


@dataclass(frozen=True)
class Mark:
    """A network as the template draws it; `top` and `bottom` are one standard error away."""

    entry: MeasuredNetwork
    place: int
    bubble: Bubble
    top: float
    bottom: float
    label: Label | None
    cost: float


def tradeoff(found: Ranking, cost: CostName) -> str:
    """Accuracy of the probe with its standard error against `cost` on a logarithmic axis; the area of a bubble is the
    parameters. Raises `Invalid` where the cost of none is known."""
    kind = COSTS[cost]
    known = [
        (place, entry, value) for place, entry in enumerate(found.measured, 1) if (value := kind.of(entry)) is not None
    ]
    if not known:
        raise errors.Invalid(f"the {cost} of none of these networks is known", code="empty_chart")
    area = Box(72, _TOP, _WIDTH - 28, _HEIGHT - 56)
    across = Axis(charts.decades([value for _, _, value in known]), area.left, area.right, math.log10)
    upward = Axis(_shares([edge for _, entry, _ in known for edge in _edges(entry)]), area.bottom, area.top, float)
    return (
        pages.environment("app.rankings")
        .get_template("ranking.svg")
        .render(
            width=_WIDTH,
            height=_HEIGHT,
            area=area,
            font=_FONT,
            kind=kind,
            setting=found.setting,
            x_ticks=across.grid(),
            y_ticks=upward.grid(),
            marks=_marks(known, across, upward, area),
        )
    )


def page(read: RankingRead, hindrances: Mapping[str, str], deleted: Collection[str]) -> str:
    """A page of its own, without scripts, for light and dark screens; `hindrances` says of networks why no training can
    start from them, and those of models that are `deleted` are named without a link."""
    template = pages.environment("app.rankings").get_template("ranking.html")
    found = read.figures
    # What is not ranked has a table.
    told = {ranking.not_ranked(entry) for entry in found.refused}
    start = next((entry for entry in found.comparable if entry.name not in hindrances), None)
    return template.render(
        read=read,
        found=found,
        rows=[
            Row(place, entry, None if entry.name in deleted else _address(entry))
            for place, entry in zip(found.places, found.measured, strict=True)
        ],
        remarks=[remark for remark in found.remarks if remark not in told],
        costs=[name for name, kind in COSTS.items() if any(kind.of(entry) is not None for entry in found.measured)],
        hindrance=hindrances.get(found.best.name),
        start=start,
        command=None if start is None else _command(start, read),
        titles=TITLES,
    )


def _address(entry: MeasuredNetwork) -> str:
    if entry.is_own:
        name, _, number = entry.name.rpartition("@")
        return f"../models/{quote(name)}/versions/{number}/evaluation?format=html"
    return f"../backbones/{quote(_backbone(entry))}/anatomy?format=html"


def _backbone(entry: MeasuredNetwork) -> str:
    """Its name; that of its weights is behind it where they are not the first."""
    return entry.name.partition(" ")[0]


def _command(entry: MeasuredNetwork, read: RankingRead) -> str:
    """That trains with the network on the data set."""
    dataset = [] if read.dataset_name is None else ["--dataset", read.dataset_name]
    if entry.is_own:
        start = ["--base", entry.name]
    else:
        start = ["--backbone", _backbone(entry)]
        if entry.name != _backbone(entry):
            start += ["--weights", entry.weights]
    return shlex.join(["graft", "train", "PHOTOS", *dataset, "--model", "NAME", *start])


def _edges(entry: MeasuredNetwork) -> tuple[float, float]:
    """One standard error below and above the accuracy, in %."""
    accuracy, error = entry.probe.accuracy, entry.probe.error
    return 100 * max(0.0, accuracy - error), 100 * min(1.0, accuracy + error)


def _shares(values: list[float]) -> list[float]:
    """The lines between which all `values` lie, none of them beyond what a share can be."""
    return [tick for tick in charts.steps(values) if 0 <= tick <= 100]


def _marks(known: list[tuple[int, MeasuredNetwork, float]], across: Axis, upward: Axis, area: Box) -> list[Mark]:
    """Large bubbles first, so that small ones lie on them."""
    ordered = sorted(known, key=lambda one: -one[1].cost.parameters)
    most = ordered[0][1].cost.parameters
    bubbles = [
        Bubble(
            across.at(value),
            upward.at(100 * entry.probe.accuracy),
            charts.radius(entry.cost.parameters, most),
            f"{place}  {entry.name}",
        )
        for place, entry, value in ordered
    ]
    labels = placing.place(bubbles, within=area, font_size=_FONT)
    return [
        Mark(
            entry=entry,
            place=place,
            bubble=bubble,
            top=upward.at(_edges(entry)[1]),
            bottom=upward.at(_edges(entry)[0]),
            label=label,
            cost=value,
        )
        for (place, entry, value), bubble, label in zip(ordered, bubbles, labels, strict=True)
    ]
