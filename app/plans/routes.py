"""Routes of plans and of the profiles that they look at."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Path, Response
from fastapi.openapi.models import Example
from fastapi.responses import JSONResponse

from app import idempotency
from app.bodies import JsonRoute
from app.db import after_commit
from app.deps import DatabaseDep, IdempotentDep, PartsDep
from app.jobs import service as jobs
from app.jobs.schemas import JobRead
from app.jobs.tables import Job
from app.plans import service
from app.plans.schemas import PlanCreate, PlanRead, ProfileRead
from app.problems import responses
from app.profiles import service as profiles

router = APIRouter(prefix="/v1", tags=["plans"], route_class=JsonRoute)

ProfileId = Annotated[str, Path(max_length=100, description="Id of the profile, as a plan or its job gives it.")]

_EXAMPLES: dict[str, Example] = {
    "dry run": {
        "summary": "What a training would do",
        "value": {
            "dataset": "patterns",
            "recipe": {"backbone": "tinynet", "strategy": "full", "weights": "none"},
        },
    },
    "measured": {
        "summary": "Measure how well the backbone suits the photos",
        "description": "Answers with the job that measures; asked again after it, with the plan and the profile.",
        "value": {
            "dataset": "patterns",
            "recipe": {"backbone": "mobilenet_v2", "strategy": "head"},
            "measure": True,
        },
    },
}
_MEASURING = {
    "model": JobRead,
    "description": "The version is not measured yet, or no backbones ranked on it; this job does it. `Location` names "
    "it.",
}


@router.post(
    "/plans", response_model=PlanRead, responses={HTTPStatus.ACCEPTED.value: _MEASURING, **responses(404, 409, 422)}
)
def create_plan(
    wanted: Annotated[PlanCreate, Body(openapi_examples=_EXAMPLES)], parts: PartsDep, request: IdempotentDep
) -> PlanRead | Response:
    """Try a recipe on a version of a data set without training: every decision, its reasons, and what was measured.

    With `measure` or strategy `auto`, a version that was not measured with this backbone yet is measured first: the
    answer is 202 with the job, and the same request after it is answered with the plan and the profile. With backbone
    `auto`, the backbones at hand are ranked before that, likewise, and again once others are at hand. Repeated with its
    `Idempotency-Key`, the request is answered with the job it began until that has succeeded, also where it failed."""
    opened = parts.database.write if service.needs_profile(wanted) else parts.database.read
    with opened() as session:
        existing = idempotency.recall(session, request)
        begun = None if existing is None else jobs.find(session, existing)
        if begun is not None and begun.state != "succeeded":
            return _accepted(begun)
        room, attempts = parts.settings.max_activation_bytes, parts.settings.max_attempts
        now = parts.database.now(session)  # which is that of what workers say of themselves
        found = service.plan(session, wanted, max_activation_bytes=room, max_attempts=attempts, now=now)
        if isinstance(found, service.Planned):
            return _planned(found)
        idempotency.take(session, request, now=now)
        idempotency.remember(session, request, found.id)
        queue, job_id = found.queue, found.id
        # Also for a job that others wait for already: to ring twice does no harm.
        after_commit(session, lambda: parts.doorbell.ring(queue, job_id))
        return _accepted(found)


@router.get("/profiles/{profile_id}", responses=responses(404, 422))
def read_profile(profile_id: ProfileId, database: DatabaseDep) -> ProfileRead:
    """What was measured of a version with a backbone: how much data there is, and how close it is to what the backbone
    knows."""
    with database.read() as session:
        return ProfileRead.of(profiles.find(session, profile_id))


def _planned(found: service.Planned) -> PlanRead:
    return PlanRead(
        dataset_id=found.version.dataset_id,
        dataset_version=found.version.number,
        plan=found.plan,
        ranking_id=None if found.ranking is None else found.ranking.id,
        profile=None if found.profile is None else ProfileRead.of(found.profile),
    )


def _accepted(job: Job) -> Response:
    body = JobRead.model_validate(job).model_dump(mode="json")
    return JSONResponse(body, HTTPStatus.ACCEPTED, headers={"Location": f"/v1/jobs/{job.id}"})
