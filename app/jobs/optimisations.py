"""Routes of optimisations: a model version is handed to a job that compares all forms it can be run in."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Response
from sqlalchemy.orm import Session

from app import errors, idempotency
from app.bodies import JsonRoute
from app.datasets import service as datasets
from app.db import after_commit
from app.deps import IdempotentDep, PartsDep
from app.jobs import service
from app.jobs.schemas import JobRead, OptimisationCreate
from app.models import service as models
from app.models.routes import Name, Number
from app.models.tables import ModelVersion
from app.problems import responses

router = APIRouter(prefix="/v1/models/{name}/versions/{number}/optimise", tags=["models"], route_class=JsonRoute)


_USUAL = OptimisationCreate()


@router.post("", status_code=HTTPStatus.ACCEPTED, responses=responses(404, 409, 422))
def optimise_version(
    name: Name,
    number: Number,
    parts: PartsDep,
    request: IdempotentDep,
    response: Response,
    wanted: Annotated[OptimisationCreate, Body()] = _USUAL,
) -> JobRead:
    """Build a version for every runtime at hand, in every precision that the machine has, and measure each on the
    validation images; the fastest inside the tolerance is served from then on. Of some
    `forms` alone, the pinned ones and the one that is served are measured as well, so that it is among all of them that
    is chosen. Whoever asks for the same meanwhile
    gets the same job. What came of it is read at `…/runtimes`."""
    with parts.database.write() as session:
        now = parts.database.now(session)
        existing = idempotency.take(session, request, now=now)
        if existing is None:
            version = models.find_version(session, name, number)
            _check_images(session, name, version)
            attempts = parts.settings.max_attempts
            job = service.submit_optimisation(session, name, version, wanted, max_attempts=attempts, now=now)
            idempotency.remember(session, request, job.id)
            queue, job_id = job.queue, job.id
            after_commit(session, lambda: parts.doorbell.ring(queue, job_id))
        else:
            job = service.find(session, existing)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return JobRead.model_validate(job)


def _check_images(session: Session, model: str, version: ModelVersion) -> None:
    try:
        datasets.find(session, version.dataset_id)
    except errors.NotFound as error:
        raise errors.Conflict(
            f"the data set that {model}@{version.number} was made from is deleted, so there are no images to compare "
            "its forms on",
            code="images_gone",
        ) from error
