"""The anatomy of a network as a table for spreadsheets and as a page for browsers."""

import csv
import functools
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2

from app.backbones import palette
from app.backbones.anatomy import COUNTED, Anatomy, Row, StageTotals
from app.backbones.operators import WEIGHTED_LAYERS
from app.wording import counted, estimated, moment

JSON = "application/json"
CSV = "text/csv"
HTML = "text/html"
MARKDOWN = "text/markdown"

_BYTES = [(1024.0**power, unit) for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))]
_COUNTS = [(1000.0**power, unit) for power, unit in enumerate(("", "K", "M", "G", "T"))]


def preferred(accept: str, offered: Iterable[str]) -> str:
    """The media type of `offered` that a header `Accept` likes best; the first where it likes none or all the same."""
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    best, best_quality = "", 0.0
    for place, media_type in enumerate(offered):
        fits = [(len(wanted.replace("*", "")), quality) for wanted, quality in ranges if _fits(wanted, media_type)]
        quality = max(fits)[1] if fits else 0.0
        if place == 0 or quality > best_quality:
            best, best_quality = media_type, quality
    return best


def csv_table(found: Anatomy) -> str:
    """A line for each layer; sizes as `3x3`, the receptive field of the whole image as `image`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*Row.__annotations__])
    writer.writeheader()
    for row in found.rows:
        writer.writerow({name: _cell(name, getattr(row, name)) for name in Row.__annotations__})
    return text.getvalue()


NAMES = {
    "layers": "Layers on the longest way",
    "multiply_adds": "Multiply-adds, an image",
    "conv_fc_values": "Conv + fc values",
    "layer_values": "Values of a table by hand",
    "all_values": "All values",
    "inference": "Memory, inference",
    "training": "Memory, training",
    "receptive_field": "Receptive field",
}
"""What the page calls the figures of `COUNTED`."""


def html_table(backbone: str, found: Anatomy, *, described: str) -> str:
    """A page of its own, without scripts, for light and dark screens; `described` says what its picture shows."""
    template = environment().get_template("anatomy.html")
    return template.render(
        backbone=backbone,
        found=found,
        counted=COUNTED,
        names=NAMES,
        described=described,
        weighted=sum(row.type in WEIGHTED_LAYERS for row in found.rows),
        rest=_rest(found),
    )


@functools.cache
def environment(package: str = "app.backbones") -> jinja2.Environment:
    """The templates of `package`, which may include those that all pages share."""
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("app")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"bytes": in_bytes, "short": short, "sides": sides}
    made.filters |= {"counted": counted, "moment": moment, "estimated": estimated}
    made.globals |= {"light": palette.LIGHT, "dark": palette.DARK}
    return made


def in_bytes(count: float) -> str:
    """A number of bytes for people: `58.1 MiB`."""
    size, unit = _unit(count, _BYTES, below=1024)
    return f"{count / size:.0f} {unit}" if unit == "B" else f"{count / size:.1f} {unit}"


def short(count: float) -> str:
    """A count for people, three digits: `25.6 M`."""
    size, unit = _unit(count, _COUNTS, below=999.5)
    return f"{count / size:.3g} {unit}".rstrip()


def bytes_along(values: Sequence[float]) -> list[str]:
    """Numbers of bytes along an axis, all in the unit of the greatest."""
    return _along(values, *_unit(max(values), _BYTES, below=1024))


def counts_along(values: Sequence[float]) -> list[str]:
    """Counts along an axis, all in the unit of the greatest."""
    return _along(values, *_unit(max(values), _COUNTS, below=999.5))


def sides(values: Iterable[int] | None) -> str:
    """Sizes with a multiplication sign between them, nothing for None."""
    return " \N{MULTIPLICATION SIGN} ".join(map(str, values)) if values is not None else ""


def _rest(found: Anatomy) -> StageTotals:
    """What is in no stage."""
    stages, totals = found.stages, found.totals
    return StageTotals(
        name="head, and what else is in no stage",
        parameters=totals.parameters - sum(stage.parameters for stage in stages),
        macs=totals.macs - sum(stage.macs for stage in stages),
        all_values=totals.all_values - math.prod(found.input) - sum(stage.all_values for stage in stages),
    )


def _along(values: Sequence[float], size: float, unit: str) -> list[str]:
    return [f"{value / size:.4g} {unit}".rstrip() if value else "0" for value in values]


def _unit(count: float, units: Sequence[tuple[float, str]], *, below: float) -> tuple[float, str]:
    """The first of `units` that `count` has less than `below` of, the last one where it has more of each."""
    return next(((size, unit) for size, unit in units if count < below * size), units[-1])


def _cell(name: str, value: Any) -> Any:
    if name == "receptive_field" and value is None:
        return "image"
    if isinstance(value, bool):
        return str(value).lower()
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def _range(part: str) -> tuple[str, float]:
    media_type, _, options = part.partition(";")
    quality = 1.0
    for option in options.split(";"):
        name, _, value = option.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return media_type.strip().lower(), quality


def _fits(wanted: str, media_type: str) -> bool:
    return wanted in (media_type, "*/*", media_type.partition("/")[0] + "/*")
