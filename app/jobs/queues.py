"""What goes on and what waits."""

from collections.abc import Sequence

from sqlalchemy import and_, case, func, not_, select
from sqlalchemy.orm import Session

from app.jobs.schemas import ENDED, NOT_ENDED, WAITING
from app.jobs.tables import Job
from app.models.tables import ModelVersion

_NOTHING_NEW = and_(Job.kind == "ingest", func.coalesce(Job.error["code"].as_string(), "") == "nothing_new")


def not_ended_first(session: Session, *, limit: int) -> Sequence[Job]:
    """Jobs at work, then those that wait, then those that have ended, of each the newest first; without imports of
    photos that were all there already, as each training of the same photos makes one."""
    waits = case((Job.state.in_(WAITING), 1), else_=0)
    left = select(Job).where(Job.state.in_(NOT_ENDED)).order_by(waits, Job.id.desc()).limit(limit)
    found = session.scalars(left).all()
    ended = select(Job).where(Job.state.in_(ENDED), Job.id.not_in([job.id for job in found]), not_(_NOTHING_NEW))
    return [*found, *session.scalars(ended.order_by(Job.id.desc()).limit(limit - len(found)))]


def were_there_already(session: Session) -> bool:
    """Whether any import found nothing new, so that `not_ended_first` leaves it out."""
    return session.scalar(select(Job.id).where(_NOTHING_NEW).limit(1)) is not None


def optimisation_of(session: Session, version: ModelVersion) -> Job | None:
    """The job that optimises a version of a model or waits to do so, the newest of several; None without any."""
    going_on = select(Job).where(Job.dataset_id == version.dataset_id, Job.kind == "optimise", Job.state.in_(NOT_ENDED))
    of_version = going_on.where(Job.spec["version_id"].as_string() == version.id)
    return session.scalar(of_version.order_by(Job.id.desc()).limit(1))


def waited_in(session: Session) -> Sequence[str]:
    """The queues with a job that waits, by name."""
    return session.scalars(select(Job.queue).where(Job.state == "queued").distinct().order_by(Job.queue)).all()
