"""What a worker and the process of a job say to each other, over a pipe and in the job's folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import errors
from app.jobs.leases import Failure
from worker.training.events import Event

STOP = "stop"
"""The worker's word to the process."""
_FINISH = "finish"
"""A file in the job's folder: the search is to end. Later attempts find it, too."""


@dataclass(frozen=True)
class Happened:
    """Message: an event of the work."""

    event: Event


@dataclass(frozen=True)
class Done:
    """Message: the work is finished, with this outcome."""

    outcome: Any


@dataclass(frozen=True)
class Failed:
    """Message: the work cannot be done."""

    failure: Failure


@dataclass(frozen=True)
class GaveUp:
    """Message: the work has stopped because it was asked to."""


@dataclass(frozen=True)
class Lost:
    """Message: the work came to a halt that says nothing of the work; another attempt may go on with it."""

    failure: Failure


Message = Happened | Done | Failed | GaveUp | Lost


def failure(error: errors.GraftError) -> Failure:
    """A job's `error` for what its process raised on purpose."""
    return Failure(error.code, error.message, dict(error.detail))


def ask_to_finish(job_folder: Path) -> None:
    """Let the search of the job with this folder end soon, with the best that it has found."""
    job_folder.mkdir(parents=True, exist_ok=True)
    (job_folder / _FINISH).touch()


def is_to_finish(job_folder: Path) -> bool:
    """Whether that was asked of the job, in this attempt or one before."""
    return (job_folder / _FINISH).exists()
