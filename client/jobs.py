"""Jobs on the command line: what there is, and letting one stop, go on, or begin anew."""

from itertools import islice
from typing import Annotated

import typer

from client import show
from client.api import Client
from client.connection import DEFAULT_URL
from client.terminal import Url, console, told_plainly


def jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20, url: Url = DEFAULT_URL
) -> None:
    """List jobs, newest first."""
    with told_plainly(), Client(url) as client:
        for part in show.jobs(islice(client.jobs(), limit)):
            console.print(part)


def cancel(job: Annotated[str, typer.Argument(help="Id of the job.")], url: Url = DEFAULT_URL) -> None:
    """Cancel a job, and return once it has ended."""
    with told_plainly(), Client(url) as client:
        client.cancel(job)
        ended = client.wait(job)
        console.print(f"{ended.id} is {ended.state}", highlight=False)


def finish(job: Annotated[str, typer.Argument(help="Id of the job.")], url: Url = DEFAULT_URL) -> None:
    """End a search early, with the best that it has found."""
    with told_plainly(), Client(url) as client:
        console.print(f"{job} is {client.finish(job).state}", highlight=False)


def pause(job: Annotated[str, typer.Argument(help="Id of the job.")], url: Url = DEFAULT_URL) -> None:
    """Pause a job; it keeps what it has done."""
    with told_plainly(), Client(url) as client:
        console.print(f"{job} is {client.pause(job).state}", highlight=False)


def resume(job: Annotated[str, typer.Argument(help="Id of the job.")], url: Url = DEFAULT_URL) -> None:
    """Let a paused job go on where it stopped."""
    with told_plainly(), Client(url) as client:
        console.print(f"{job} is {client.resume(job).state}", highlight=False)


def retry(job: Annotated[str, typer.Argument(help="Id of the job.")], url: Url = DEFAULT_URL) -> None:
    """Queue a job that has failed or was cancelled once more; it begins anew."""
    with told_plainly(), Client(url) as client:
        console.print(f"{job} is {client.retry(job).state}", highlight=False)
