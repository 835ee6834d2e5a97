"""What happens, on the terminal: steps with their times, the course of a job, tables of what there is."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.text import Text

from client.errors import Refused
from client.values import Backbone, Event, Job, Model, Prediction, Progress

_PHASES = {
    "check": "checking images",
    "write": "writing images",
    "features": "computing features",
    "activations": "computing the frozen stages",
    "probe": "choosing the penalty",
    "train": "training",
    "validate": "validating",
    "evaluate": "evaluating",
}


@dataclass
class Step:
    """One step while it goes on; `outcome` is printed at its end, `notes` below it."""

    status: Status
    outcome: str = ""
    notes: list[str] = field(default_factory=list)

    def tell(self, happened: Event | Progress) -> None:
        """Show what a job says of itself."""
        if isinstance(happened, Progress):
            share = 100 * happened.done // max(1, happened.total)
            self.status.update(f"{_PHASES.get(happened.phase, happened.phase)} {share} %")


@contextmanager
def step(console: Console, what: str) -> Iterator[Step]:
    """Show `what` while the block runs, then a line with its outcome and the seconds it took."""
    started = time.perf_counter()
    with console.status(escape(what)) as status:
        current = Step(status)
        yield current
    seconds = time.perf_counter() - started
    outcome = f": {escape(current.outcome)}" if current.outcome else ""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(width=10)
    lines.add_column()
    lines.add_row(f"[green]✓[/] [dim]{seconds:6.1f} s[/]", escape(what) + outcome)
    for note in current.notes:
        lines.add_row("", Text(note, style="dim"))
    console.print(lines)


def succeeded(job: Job) -> Job:
    """`job`, which has ended well. Raises `Refused` with the reason where it has not."""
    if job.state == "succeeded":
        return job
    if job.error is None:
        raise Refused(f"job {job.id} is {job.state}")
    raise Refused(f"job {job.id} failed ({job.error.code}): {job.error.message}")


def best(prediction: Prediction) -> str:
    """The labels of an image in one line, the most probable first."""
    return ", ".join(f"{item.label} {100 * item.probability:.1f} %" for item in prediction.labels)


def jobs(rows: Iterable[Job]) -> Table:
    table = _table("Job", "Kind", "State", "Model", "Attempt", "Started by", "Error")
    for job in rows:
        error = "" if job.error is None else f"{job.error.code}: {job.error.message}"
        attempt = f"{job.attempt} of {job.max_attempts}"
        created = f"{job.created_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(job.id, job.kind, _state(job), job.model_name or "", attempt, created, escape(error))
    return table


def models(rows: Iterable[Model]) -> Table:
    table = _table("Model", "Newest version", "Since")
    for model in rows:
        table.add_row(model.name, str(model.latest_version), f"{model.created_at:%Y-%m-%d %H:%M:%S}")
    return table


def backbones(rows: Iterable[Backbone]) -> Table:
    table = _table("Backbone", "Year", "Parameters", "GMAC", "Pixels", "Top-1", "Weights")
    for entry in rows:
        top1 = entry.weights[0].top1 if entry.weights else None
        table.add_row(
            entry.name,
            str(entry.year),
            f"{entry.parameters / 1e6:.1f} M",
            f"{entry.gmac:.3f}",
            str(entry.input_size),
            "" if top1 is None else f"{top1:.1f} %",
            _weights(entry),
        )
    return table


def _state(job: Job) -> str:
    if job.progress is None or job.has_ended:
        return job.state
    return f"{job.state}, {_PHASES.get(job.progress.phase, job.progress.phase)}"


def _weights(entry: Backbone) -> str:
    if not entry.weights:
        return "none, trains from scratch"
    return "at hand" if entry.weights[0].at_hand else "to be downloaded"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
