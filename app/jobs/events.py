"""Writing a job's history: every line gets the next number of its job, under the lock of the job's row."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.jobs.tables import JobEvent


@dataclass(frozen=True)
class Line:
    """One event to be written; `data` is JSON."""

    type: str
    data: Mapping[str, Any]


def write(session: Session, job_id: str, lines: Sequence[Line], *, last: int, attempt: int, now: datetime) -> None:
    """Add `lines`, of which the last has number `last`: the job's `last_event` after the caller's guarded update."""
    first = last - len(lines) + 1
    session.add_all(
        JobEvent(job_id=job_id, seq=first + place, at=now, attempt=attempt, type=line.type, data=dict(line.data))
        for place, line in enumerate(lines)
    )


def after(session: Session, job_id: str, seq: int, *, limit: int) -> Sequence[JobEvent]:
    """The events of a job that follow number `seq`, in order."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > seq)
    return session.scalars(query.order_by(JobEvent.seq).limit(limit)).all()


def last(session: Session, job_id: str, *, limit: int) -> Sequence[JobEvent]:
    """The last events of a job, in order."""
    query = select(JobEvent).where(JobEvent.job_id == job_id)
    return session.scalars(query.order_by(JobEvent.seq.desc()).limit(limit)).all()[::-1]


def of_types(session: Session, job_id: str, kinds: Collection[str]) -> Sequence[JobEvent]:
    """The events of a job that have one of these types, in order."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type.in_(kinds))
    return session.scalars(query.order_by(JobEvent.seq)).all()


def of_jobs(session: Session, job_ids: Collection[str]) -> Sequence[JobEvent]:
    """All events of several jobs, those of each in order."""
    query = select(JobEvent).where(JobEvent.job_id.in_(job_ids))
    return session.scalars(query.order_by(JobEvent.job_id, JobEvent.seq)).all()
