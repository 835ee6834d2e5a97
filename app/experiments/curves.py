"""How a training went, out of its job's history: accuracy after each epoch, by the time that it takes.

That is the time that was worked on it, and that of the pass for its features where an earlier job had left these: of
two runs that need the pass, the first would else seem the slower one, and the other faster than it is by itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from app.experiments.verdict import Point


class Line(Protocol):
    """One event of a job."""

    @property
    def at(self) -> datetime: ...
    @property
    def type(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class _Fields:
    """Where an event has what makes a point."""

    epoch: str | None
    accuracy: str
    loss: str


_POINTS = {
    "start_evaluated": _Fields(None, "validation_accuracy", "validation_loss"),
    "epoch_finished": _Fields("epoch", "validation_accuracy", "validation_loss"),
    "evaluated": _Fields(None, "accuracy", "log_loss"),
}
_BREAKS = ("paused", "attempt_ended", "succeeded", "failed", "cancelled")


def of(history: Iterable[Line]) -> tuple[tuple[Point, ...], float]:
    """A point for each epoch, of one that was done again the later one, of a training without epochs its end; and the
    seconds that it takes, as far as it has come."""
    points: dict[int, Point] = {}
    worked, spared = 0.0, None
    for line, worked in _clocked(history):
        if line.type == "retried":  # it begins anew
            points.clear()
            spared = None
        if line.type == "features_ready" and spared is None:  # any later ones are those that an attempt of its own left
            spared = _spared(line)
        fields = _POINTS.get(line.type)
        if fields is None or (line.type == "evaluated" and points):
            continue
        epoch = line.data[fields.epoch] if fields.epoch else 0
        points[epoch] = Point(epoch, worked + (spared or 0.0), line.data[fields.accuracy], line.data[fields.loss])
    return tuple(points[epoch] for epoch in sorted(points)), worked + (spared or 0.0)


def _spared(line: Line) -> float:
    """The seconds that features, all or some of them, took earlier jobs and not this one; events of old do not tell."""
    return max(0.0, float(line.data.get("pass_seconds", 0.0)) - float(line.data["seconds"]))


def _clocked(history: Iterable[Line]) -> Iterator[tuple[Line, float]]:
    """Each event with the seconds worked until then: those in which the job waited or was paused do not count."""
    before, since, last = 0.0, None, None
    for line in history:
        if line.type == "attempt_started":
            if since is not None and last is not None:  # the worker was lost, and said no more
                before += _seconds(since, last)
            since = line.at
        if line.type == "retried":
            before = 0.0
        last = line.at
        yield line, before + (0.0 if since is None else _seconds(since, line.at))
        if line.type in _BREAKS and since is not None:
            before, since = before + _seconds(since, line.at), None


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()
