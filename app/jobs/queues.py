"""What goes on and what waits."""

from collections.abc import Sequence

from sqlalchemy import case, select
from sqlalchemy.orm import Session

from app.jobs.schemas import ENDED, NOT_ENDED, WAITING
from app.jobs.tables import Job


def not_ended_first(session: Session, *, limit: int) -> Sequence[Job]:
    """Jobs at work, then those that wait, then those that have ended, of each the newest first."""
    waits = case((Job.state.in_(WAITING), 1), else_=0)
    left = select(Job).where(Job.state.in_(NOT_ENDED)).order_by(waits, Job.id.desc()).limit(limit)
    found = session.scalars(left).all()
    ended = select(Job).where(Job.state.in_(ENDED), Job.id.not_in([job.id for job in found]))
    return [*found, *session.scalars(ended.order_by(Job.id.desc()).limit(limit - len(found)))]


def waited_in(session: Session) -> Sequence[str]:
    """The queues with a job that waits, by name."""
    return session.scalars(select(Job.queue).where(Job.state == "queued").distinct().order_by(Job.queue)).all()
