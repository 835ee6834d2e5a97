"""What goes on, on the terminal: steps with their times, and the course of jobs. For consoles without markup, as names
may look like it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from client.values import Event, Progress

_PHASES = {
    "list": "reading the archive",
    "check": "checking images",
    "write": "writing images",
    "features": "computing features",
    "activations": "computing the frozen stages",
    "axes": "reading the features",
    "probe": "choosing the penalty",
    "fit": "fitting the classifier",
    "measure": "measuring the features",
    "rank": "ranking",
    "train": "training",
    "validate": "validating",
    "reference": "looking at the labels",
    "evaluate": "evaluating",
    "old labels": "comparing with the base",
    "decode validation": "decoding the held-out images",
    "decode calibration": "decoding training images",
    "calibrate int8": "looking for ranges",
    "judge int8": "judging int8",
    "look at layers": "looking at what layers are given",
    "round int8": "rounding the weights",
}

_OUTCOMES = 12
"""Column at which the outcome of a step begins, after its seconds."""


@dataclass
class Step:
    """One step while it goes on; `outcome` is printed at its end, `warnings` and `notes` below it."""

    what: str
    status: Status
    console: Console
    outcome: str = ""
    has_changed_nothing: bool = False
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    within: str = ""

    def print(self, told: str) -> None:
        """A line about it that stays, before that of its end."""
        self.console.print(Text(f"{self.what}: {told}", style="dim"), soft_wrap=True)

    def say(self, told: str) -> None:
        """Show what it is at until there is something else to show."""
        self.status.update(Text(f"{self.what}: {told}"))

    def tell(self, happened: Event | Progress) -> None:
        """Show what a job says of itself."""
        if isinstance(happened, Progress):
            share = 100 * happened.done // max(1, happened.total)
            self.status.update(Text(f"{self.within}{phase(happened)} {share} %"))
        elif happened.type == "attempt_started":
            self.status.update(Text(self.what))
        elif happened.type == "trial_started":
            self.within = f"trial {happened.data['number']}: "
        elif happened.type == "search_ended":
            self.notes += happened.data["reasons"]


@contextmanager
def step(console: Console, what: str) -> Iterator[Step]:
    """Show `what` while the block runs, then a line with its outcome and the seconds it took."""
    started = time.perf_counter()
    with console.status(Text(what)) as status:
        current = Step(what, status, console)
        yield current
    seconds = time.perf_counter() - started
    outcome = f": {current.outcome}" if current.outcome else ""
    mark = ("-", "dim") if current.has_changed_nothing else ("✓", "green")
    lines = [(Text.assemble(mark, (f" {seconds:6.1f} s", "dim")), Text(what + outcome))]
    lines += [(Text(), Text(warning, style="yellow")) for warning in current.warnings]
    lines += [(Text(), Text(note, style="dim")) for note in current.notes]
    _print_beside(console, lines)


def phase(progress: Progress) -> str:
    """What a job is at."""
    return _PHASES.get(progress.phase, progress.phase)


def _print_beside(console: Console, lines: Sequence[tuple[Text, Text]]) -> None:
    """Each second text beside the first; on a terminal its further lines as well, for which a grid has to pad them."""
    if not console.is_terminal:
        for left, right in lines:
            left.pad_right(_OUTCOMES - len(left))
            console.print(left + right, soft_wrap=True)
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=_OUTCOMES - 2)
    grid.add_column()
    for left, right in lines:
        grid.add_row(left, right)
    console.print(grid)
