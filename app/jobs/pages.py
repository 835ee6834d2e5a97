"""A job as a page for browsers."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.backbones import pages
from app.jobs.schemas import ENDED, EventRead, JobRead
from app.jobs.summaries import Refused, Summary

_MOST_CHARACTERS = 300
_DIGITS = 4


_COMMANDS: Mapping[str, Sequence[str]] = {
    "queued": ("finish", "pause", "cancel"),
    "running": ("finish", "pause", "cancel"),
    "pausing": ("cancel",),
    "paused": ("finish", "resume", "cancel"),
    "finishing": ("cancel",),
    "failed": ("retry",),
    "cancelled": ("retry",),
}
"""What changes the state of a job, by that state."""


def page(found: Summary, events: Sequence[EventRead], *, can_retry: bool, refused: Refused | None) -> str:
    """The job with `events`, its last ones in order, and what it `refused` of an archive; without scripts, it loads
    itself again until the job has ended. `can_retry` is whether, ended as it has, it could be queued once more."""
    left_out = events[0].seq - 1 if events else 0
    template = pages.environment("app.jobs").get_template("job.html")
    return template.render(
        found=found,
        events=events,
        left_out=left_out,
        has_ended=found.job.state in ENDED,
        commands=_commands(found.job, can_retry=can_retry),
        refused=refused,
        told=_told,
    )


def _commands(job: JobRead, *, can_retry: bool) -> list[str]:
    is_possible = {"finish": bool(job.spec.get("search")), "retry": can_retry}
    return [command for command in _COMMANDS.get(job.state, ()) if is_possible.get(command, True)]


def _told(figures: Mapping[str, Any]) -> str:
    """The figures of an event in a line, by name: not every database keeps the order that they were written in."""
    line = ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in sorted(figures.items()))
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{_DIGITS}g}" if abs(value) < 10 ** (_DIGITS - 1) else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_value(part)}" for name, part in value.items()) + ")"
    if isinstance(value, list):
        return ", ".join(_value(part) for part in value)
    return "none" if value is None else str(value)
