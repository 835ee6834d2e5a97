"""What a worker may do with a job: claim it, renew, record, and end it. Every write is one guarded statement that
carries the lease's token, so a worker that lost its lease can write nothing.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, func, or_, select, update
from sqlalchemy.orm import Session

from app import errors
from app.jobs import events
from app.jobs.events import Line
from app.jobs.tables import LONG_AGO, Job, Worker

_HELD = ("running", "pausing", "cancelling", "finishing")
ATTEMPT_ENDED = "attempt_ended"
"""The event of an attempt that ended without a result, with the failure as its data."""
GIVING_WAY = ("optimise",)
"""Kinds of jobs that come after all others: what they make better is there already."""
_NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_expires_at": None, "progress": None}
"""Of a job that nobody works on: nor is it anywhere in a phase."""


@dataclass(frozen=True)
class Claim:
    """A worker's right to a job, and what it needs to know of it."""

    job_id: str
    token: str
    kind: str
    attempt: int
    max_attempts: int
    dataset_id: str
    dataset_version: int | None
    model_name: str | None
    spec: dict[str, Any]
    plan: dict[str, Any] | None
    since: datetime
    """By the database's clock."""


@dataclass(frozen=True)
class Waiting:
    """A job that some worker should take."""

    job_id: str
    queue: str


@dataclass(frozen=True)
class Failure:
    """Why a job failed, as its `error` says it."""

    code: str
    message: str
    detail: dict[str, Any]


def claim(session: Session, job_id: str, *, now: datetime, lease_seconds: float) -> Claim | None:
    """Take a job that is queued, or whose lease ran out with attempts left. None where somebody else was first."""
    token = secrets.token_hex(16)
    statement = (
        update(Job)
        .where(Job.id == job_id, Job.attempt < Job.max_attempts, _takeable(now))
        .values(
            state=case((Job.state == "finishing", "finishing"), else_="running"),
            lease_token=token,
            lease_expires_at=now + timedelta(seconds=lease_seconds),
            attempt=Job.attempt + 1,
            started_at=func.coalesce(Job.started_at, now),
            last_event=Job.last_event + 1,
            progress=None,
        )
        .returning(Job)
    )
    job = session.scalar(statement, execution_options={"synchronize_session": False, "populate_existing": True})
    if job is None:
        return None
    line = Line("attempt_started", {"attempt": job.attempt, "max_attempts": job.max_attempts})
    events.write(session, job.id, [line], last=job.last_event, attempt=job.attempt, now=now)
    return Claim(
        job_id=job.id,
        token=token,
        kind=job.kind,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        dataset_id=job.dataset_id,
        dataset_version=job.dataset_version,
        model_name=job.model_name,
        spec=job.spec,
        plan=job.plan,
        since=now,
    )


def record(
    session: Session,
    claim: Claim,
    lines: Sequence[Line],
    *,
    progress: dict[str, Any] | None = None,
    plan: dict[str, Any] | None = None,
    now: datetime,
    lease_seconds: float,
) -> str:
    """Write `lines` and renew the lease; the job's state tells whether it is to be cancelled or paused. Later attempts
    go by the `plan`. Raises `LeaseLost`."""
    values: dict[str, Any] = {"lease_expires_at": now + timedelta(seconds=lease_seconds)}
    if progress is not None:
        values["progress"] = progress
    if plan is not None:
        values["plan"] = plan
    return _write(session, claim, lines, values, _HELD, now=now)


def succeed(
    session: Session, claim: Claim, result: dict[str, Any], *, plan: dict[str, Any] | None = None, now: datetime
) -> None:
    """End the job well, also where it was to be paused: it was quicker. Its `plan` is from now on as it was carried
    out. Raises `LeaseLost` also where the job is to be cancelled: then the result must not count."""
    values = {**_NO_LEASE, "state": "succeeded", "result": result, "finished_at": now}
    if plan is not None:
        values["plan"] = plan
    _write(session, claim, [Line("succeeded", result)], values, ("running", "pausing", "finishing"), now=now)


def fail(session: Session, claim: Claim, failure: Failure, *, now: datetime) -> None:
    """End the job with an error that another attempt would meet again. Raises `LeaseLost`."""
    values = {**_NO_LEASE, "state": "failed", "error": vars(failure), "finished_at": now}
    _write(session, claim, [Line("failed", vars(failure))], values, _HELD, now=now)


def release(session: Session, claim: Claim, failure: Failure, *, counts: bool, now: datetime) -> str:
    """Give the job back for another attempt; the last attempt's failure is final. Raises `LeaseLost`.

    `counts` says whether this attempt is used up, as after a crash, or not, as when the worker is stopped. A job that
    was to be paused is paused now. Returns the state the job is in.
    """
    if counts and claim.attempt >= claim.max_attempts:
        fail(session, claim, failure, now=now)
        return "failed"
    state = case((Job.state == "pausing", "paused"), (Job.state == "finishing", "finishing"), else_="queued")
    values: dict[str, Any] = {**_NO_LEASE, "state": state, "rung_at": None}
    values["lease_expires_at"] = case((Job.state == "finishing", LONG_AGO), else_=None)  # it waits, see `finish`
    if not counts:
        values["attempt"] = Job.attempt - 1
    states = ("running", "pausing", "finishing")
    return _write(session, claim, [Line(ATTEMPT_ENDED, vars(failure))], values, states, now=now)


def confirm_pause(session: Session, claim: Claim, *, now: datetime) -> None:
    """Say that the job's process has stopped and kept what it has done; the attempt is not used up. Raises
    `LeaseLost`."""
    values = {**_NO_LEASE, "state": "paused", "attempt": Job.attempt - 1}
    _write(session, claim, [Line("paused", {})], values, ("pausing",), now=now)


def confirm_cancel(session: Session, claim: Claim, *, now: datetime) -> None:
    """Say that the job's process is gone and nothing of it remains. Raises `LeaseLost`."""
    values = {**_NO_LEASE, "state": "cancelled", "finished_at": now}
    _write(session, claim, [Line("cancelled", {})], values, ("cancelling",), now=now)


def fail_out_of_attempts(session: Session, *, now: datetime) -> list[str]:
    """End the jobs whose worker went silent: cancelled or paused if that was asked, failed if no attempt is left."""
    lost = Failure(
        "worker_lost", "the worker of the last attempt went silent, and no attempt is left", {"cause": "lease expired"}
    )
    return [
        *_end_expired(
            session, Job.state == "cancelling", {"state": "cancelled", "finished_at": now}, Line("cancelled", {}), now
        ),
        *_end_expired(
            session,
            and_(Job.state.in_(("running", "pausing", "finishing")), Job.attempt >= Job.max_attempts),
            {"state": "failed", "error": vars(lost), "finished_at": now},
            Line("failed", vars(lost)),
            now,
        ),
        *_end_expired(session, Job.state == "pausing", {"state": "paused"}, Line("paused", {}), now),
    ]


def due(session: Session, *, now: datetime, ring_again_seconds: float, limit: int = 100) -> list[Waiting]:
    """Jobs that wait and were not rung for so long; they count as rung now."""
    unheard = or_(Job.rung_at.is_(None), Job.rung_at < now - timedelta(seconds=ring_again_seconds))
    silent = and_(_takeable(now), unheard)
    chosen = select(Job.id).where(silent).order_by(Job.id).limit(limit)
    statement = update(Job).where(Job.id.in_(chosen), silent).values(rung_at=now).returning(Job.id, Job.queue)
    rows = session.execute(statement, execution_options={"synchronize_session": False}).all()
    return [Waiting(job_id, queue) for job_id, queue in sorted(map(tuple, rows))]


def waiting(session: Session, queues: Sequence[str], *, now: datetime, limit: int = 10) -> list[str]:
    """Ids of the jobs of `queues` that can be claimed now, the longest-waiting first, and at the end those that give
    way."""
    ordered = _claimable(queues, now).order_by(Job.kind.in_(GIVING_WAY), Job.id)
    return list(session.scalars(ordered.limit(limit)))


def pressing(session: Session, queues: Sequence[str], *, now: datetime, limit: int = 10) -> list[str]:
    """Ids of the jobs of `queues` that can be claimed now and give way to none, the longest-waiting first."""
    query = _claimable(queues, now).where(Job.kind.not_in(GIVING_WAY))
    return list(session.scalars(query.order_by(Job.id).limit(limit)))


def giving_way_after(session: Session, claim: Claim, queues: Sequence[str]) -> int:
    """How many jobs of `queues` that give way are being worked on and came after that of `claim`."""
    query = select(func.count()).where(Job.queue.in_(queues), Job.kind.in_(GIVING_WAY), Job.state.in_(_HELD))
    return int(session.scalar(query.where(Job.id > claim.job_id)) or 0)


def saw_worker(
    session: Session,
    worker_id: str,
    queues: Sequence[str],
    *,
    weights: dict[str, Any] | None,
    started_at: datetime,
    now: datetime,
) -> None:
    """Note that a worker is alive, and which `weights` it has; forget those that have not been for a day."""
    session.merge(Worker(id=worker_id, queues=list(queues), weights=weights, started_at=started_at, seen_at=now))
    session.query(Worker).where(Worker.seen_at < now - timedelta(days=1)).delete()


def forget_worker(session: Session, worker_id: str) -> None:
    session.query(Worker).where(Worker.id == worker_id).delete()


def _claimable(queues: Sequence[str], now: datetime) -> Select[str]:
    return select(Job.id).where(Job.queue.in_(queues), _takeable(now), Job.attempt < Job.max_attempts)


def _takeable(now: datetime) -> ColumnElement[bool]:
    return or_(Job.state == "queued", and_(Job.state.in_(("running", "finishing")), Job.lease_expires_at < now))


def _write(
    session: Session,
    claim: Claim,
    lines: Sequence[Line],
    values: dict[str, Any],
    states: tuple[str, ...],
    *,
    now: datetime,
) -> str:
    statement = (
        update(Job)
        .where(Job.id == claim.job_id, Job.lease_token == claim.token, Job.state.in_(states))
        .values(**values, last_event=Job.last_event + len(lines))
        .returning(Job.state, Job.last_event)
    )
    row = session.execute(statement, execution_options={"synchronize_session": False}).first()
    if row is None:
        raise errors.LeaseLost(f"attempt {claim.attempt} no longer holds job {claim.job_id}")
    state, last = row
    events.write(session, claim.job_id, lines, last=last, attempt=claim.attempt, now=now)
    return str(state)


def _end_expired(
    session: Session,
    condition: ColumnElement[bool],
    values: dict[str, Any],
    line: Line,
    now: datetime,
) -> list[str]:
    statement = (
        update(Job)
        .where(condition, Job.lease_expires_at < now)
        .values(**_NO_LEASE, **values, last_event=Job.last_event + 1)
        .returning(Job.id, Job.last_event, Job.attempt)
    )
    rows = session.execute(statement, execution_options={"synchronize_session": False}).all()
    for job_id, last, attempt in rows:
        events.write(session, job_id, [line], last=last, attempt=attempt, now=now)
    return [job_id for job_id, _, _ in rows]
