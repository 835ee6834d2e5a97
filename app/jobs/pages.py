"""A job as a page for browsers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.backbones import pages
from app.jobs.learning import Learning, Trial
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
_OUTCOMES: Mapping[str, str] = {
    "pruned": "ended early, as it did worse than most",
    "out_of_time": "ended, as the time was over",
    "stopped": "ended with the search",
}
"""Those of trials that are not told by their name."""
_NOT_TOLD: Mapping[str, Sequence[str]] = {
    "queued": ("kind", "queue"),
    "trial_started": ("settings",),
    "trial_finished": ("settings",),
}
"""Figures of events that are on the page already, or that tell nobody anything: which workers take a job."""


@dataclass(frozen=True)
class TrialRow:
    """A trial of a search as the page tells of it."""

    trial: Trial
    outcome: str
    settings: str
    """Those that differ from the first trial's, which is as planned."""


def page(
    found: Summary,
    events: Sequence[EventRead],
    learning: Learning,
    *,
    can_retry: bool,
    refused: Refused | None,
) -> str:
    """The job with `events`, its last ones in order, what it has been `learning`, and what it `refused` of an archive;
    without scripts, it loads itself again until the job has ended. `can_retry` is whether, ended as it has, it could be
    queued once more."""
    left_out = events[0].seq - 1 if events else 0
    template = pages.environment("app.jobs").get_template("job.html")
    return template.render(
        found=found,
        events=events,
        left_out=left_out,
        has_ended=found.job.state in ENDED,
        commands=_commands(found.job, can_retry=can_retry),
        has_chart=bool(learning.epochs),
        trials=_trials(learning.trials),
        refused=refused,
        told=_told,
    )


def _commands(job: JobRead, *, can_retry: bool) -> list[str]:
    is_possible = {"finish": bool(job.spec.get("search")), "retry": can_retry}
    return [command for command in _COMMANDS.get(job.state, ()) if is_possible.get(command, True)]


def _trials(trials: Sequence[Trial]) -> list[TrialRow]:
    planned = _flat(trials[0].settings) if trials else {}
    return [
        TrialRow(trial, _OUTCOMES.get(trial.outcome or "", trial.outcome or "at work"), _differing(trial, planned))
        for trial in trials
    ]


def _differing(trial: Trial, planned: Mapping[str, Any]) -> str:
    differ = {name: value for name, value in _flat(trial.settings).items() if planned.get(name) != value}
    return ", ".join(f"{name} {_value(value)}" for name, value in differ.items()) or "as planned"


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings by their names in words, those of parts with the name of the part before them."""
    flat: dict[str, Any] = {}
    for name, value in sorted(settings.items()):
        words = f"{before}{name.replace('_', ' ')}"
        flat |= _flat(value, f"{words} ") if isinstance(value, Mapping) else {words: value}
    return flat


def _told(event: EventRead) -> str:
    """The figures of an event in a line, by name: not every database keeps the order that they were written in."""
    figures = {name: value for name, value in event.data.items() if name not in _NOT_TOLD.get(event.type, ())}
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
