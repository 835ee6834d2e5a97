"""A job that came to nothing is queued once more, where there is still something to work on."""

from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import errors
from app.datasets import service as datasets
from app.jobs import service
from app.jobs.events import Line
from app.jobs.schemas import ENDED
from app.jobs.service import Step
from app.jobs.tables import Job
from app.models import service as models
from app.recipe import Recipe

_RECIPE = TypeAdapter(Recipe)
_CAME_TO_NOTHING = ("failed", "cancelled")
_ANEW: dict[str, Any] = {"attempt": 0, "progress": None, "error": None, "started_at": None, "finished_at": None}


def retry(session: Session, job_id: str, *, now: datetime) -> Job:
    """Queue a job that has failed or was cancelled as it was asked for, with all its attempts: one that decides itself
    how to train does so once more. Raises `Conflict` for one in another state, for an import, and while another job is
    after the same; `NotFound` where its data set or the model version that it works with is deleted."""
    job = service.find(session, job_id)
    _check(session, job)
    subject = job.subject
    plan = None if _decides_itself(session, job) else job.plan
    step = Step("queued", Line("retried", {}), {**_ANEW, "plan": plan, "rung_at": now})
    try:
        with session.begin_nested():
            return service.go(session, job_id, dict.fromkeys(_CAME_TO_NOTHING, step), fine=(), now=now)
    except IntegrityError as error:
        other = session.scalar(select(Job.id).where(Job.subject == subject, Job.state.not_in(ENDED)))
        raise errors.Conflict(
            f"job {other} is after the same as job {job_id}; wait for it to end", code="asked_meanwhile"
        ) from error


def is_possible(session: Session, job: Job) -> bool:
    """Whether `retry` would queue the job, unless another is after the same."""
    try:
        _check(session, job)
    except (errors.Conflict, errors.NotFound):
        return False
    return True


def _check(session: Session, job: Job) -> None:
    """Raises as `retry`, but for another job that is after the same."""
    if job.state not in _CAME_TO_NOTHING:
        raise errors.Conflict(
            f"job {job.id} is {job.state}; only one that has failed or was cancelled can be retried",
            code="job_has_ended" if job.state in ENDED else "job_in_other_state",
            detail={"state": job.state},
        )
    if job.kind == "ingest":
        raise errors.Conflict(
            f"job {job.id} is an import, whose archive is discarded when it ends; upload the archive again",
            code="archive_gone",
        )
    datasets.find(session, job.dataset_id)
    _check_model_version(session, job)


def _decides_itself(session: Session, job: Job) -> bool:
    """Whether its plan, if it has one, was made by its worker."""
    if job.kind != "train":
        return False
    version = datasets.find_version(session, job.dataset_id, job.dataset_version)
    return service.decides_itself(_RECIPE.validate_python(job.spec), version)


def _check_model_version(session: Session, job: Job) -> None:
    """Raise `NotFound` where a version that it was asked for is deleted."""
    base = (job.plan or {}).get("base")
    if base is not None:
        models.by_id(session, base["version_id"], base["base"])
    for candidate in job.spec.get("candidates") or ():
        if candidate["model"] is not None and candidate["version"] is not None:
            models.find_version(session, candidate["model"], candidate["version"])
    if job.kind == "optimise":
        models.by_id(session, job.spec["version_id"], f"{job.model_name}@{job.spec['model_version']}")
