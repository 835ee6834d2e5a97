"""Waiting for jobs on the command line: which job it is, what is before it in the queue, and what to do about one that
goes on when nobody waits any more."""

import time
from collections.abc import Sequence
from itertools import islice

from client import show
from client.api import Client
from client.errors import Interrupted, Unreachable
from client.steps import Step
from client.values import Job

_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.1, 5.0
_LOOKS_UNTIL_TOLD = 4
"""A worker that has nothing else to do takes a job before it is looked at so often."""
_LOOKED_AT = 200
"""Jobs of a queue that are told apart; a longer one is told as that long."""


def ended(client: Client, job_id: str, step: Step, *, begun_with: Sequence[str] = ()) -> Job:
    """The job once it has ended, however it did; `step` tells its course. Raises `Interrupted` at Ctrl-C, which says
    that it goes on, as do those that were `begun_with` it."""
    step.print(job_id)
    try:
        _await_turn(client, job_id, step)
        return client.wait(job_id, step.tell)
    except KeyboardInterrupt as error:
        left = [job_id, *begun_with]
        goes_on = f"{', '.join(left)} {'goes' if len(left) == 1 else 'go'} on"
        stops = "stops it" if len(left) == 1 else "and so on stop them"
        raise Interrupted(f"{goes_on}; `graft cancel {job_id}` {stops}") from error


def _await_turn(client: Client, job_id: str, step: Step) -> None:
    """Return once the job does not wait in its queue any more. A service that is away is for others to wait for."""
    looks = 0
    try:
        while (job := client.job(job_id)).state == "queued":
            if looks >= _LOOKS_UNTIL_TOLD:
                told = before(client, job)
                step.say(told)
                if looks == _LOOKS_UNTIL_TOLD:
                    step.print(told)
            time.sleep(min(_FIRST_LOOK_SECONDS * 2.0**looks, _LONGEST_LOOK_SECONDS))
            looks += 1
    except Unreachable:
        return


def before(client: Client, job: Job) -> str:
    """What a job that is queued waits for."""
    running, queued = (
        [one for one in islice(client.jobs(state=state), _LOOKED_AT) if one.queue == job.queue]
        for state in ("running", "queued")
    )
    holding = [one for one in running if not (_gives_way(one) and not _gives_way(job))]
    ahead = [one for one in queued if _turn(one) < _turn(job)]
    if not holding and not ahead:
        return f"waiting until {running[-1].kind} {running[-1].id} gives way" if running else "waiting for a worker"
    jobs = show.counted(len(holding) + len(ahead), "job")
    now = f"{running[-1].kind} {running[-1].id} is running" if running else "none is running"
    return f"waiting: {jobs} before it ({now})"


def _turn(job: Job) -> tuple[bool, str]:
    """Jobs are taken as they came, but for those that give way to the others."""
    return _gives_way(job), job.id


def _gives_way(job: Job) -> bool:
    return job.kind == "optimise"
