"""What all commands have in common: where they print, which service they ask, and how they say what goes wrong."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.errors import GraftError, Interrupted

_PIPED_COLUMNS = 1000
"""Where no terminal is written to, so that what a program reads is not broken into lines."""

_INTERRUPTED = 130
"""The exit code of what Ctrl-C has ended, as shells have it."""

# Text is printed as it is: what looks like markup or the name of an emoji is part of a name that somebody has given.
console = Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS, markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)

Url = Annotated[str, typer.Option("--url", envvar="GRAFT_URL", help="Address of the service.")]


@contextmanager
def told_plainly(words: Callable[[str], str] = str) -> Iterator[None]:
    """What goes wrong is one red line, in these `words`, and exit code 1, not a traceback; Ctrl-C while a job is waited
    for one that says that it goes on, and 130."""
    try:
        yield
    except Interrupted as interrupt:
        errors.print(str(interrupt), highlight=False, soft_wrap=True)
        raise typer.Exit(_INTERRUPTED) from interrupt
    except GraftError as error:
        print_error(words(str(error)))
        raise typer.Exit(1) from error


def print_error(error: GraftError | str) -> None:
    """One red line, apart from what programs read."""
    errors.print(f"Error: {error}", style="red", highlight=False, soft_wrap=True)


def printable(path: Path) -> str:
    """The path as text, also where the name of a file is none."""
    return str(path).encode(errors="backslashreplace").decode()
