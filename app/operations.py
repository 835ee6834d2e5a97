"""Routes for whoever operates the service: is it alive, is it ready, which workers are there."""

from datetime import datetime, timedelta
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import SQLAlchemyError

from app import errors
from app.deps import OPERATIONS, PartsDep
from app.jobs import service
from app.metrics import MEDIA_TYPE, Metrics
from app.problems import responses

router = APIRouter(tags=[OPERATIONS])


class Alive(BaseModel):
    status: str = "ok"


class WorkerRead(BaseModel):
    """A worker that was heard of lately."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    queues: list[str]
    started_at: datetime
    seen_at: datetime


class Ready(BaseModel):
    status: str = "ok"
    workers: list[WorkerRead]


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Is the process alive")
async def healthz() -> Alive:
    """Whether the process answers at all."""
    return Alive()


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Is the service ready, and which workers are there",
    status_code=HTTPStatus.OK,
    responses=responses(503),
)
def readyz(parts: PartsDep) -> Ready:
    """Whether requests can be served: the database answers and has its tables. Lists the workers that are alive."""
    silent_after = timedelta(seconds=3 * parts.settings.sweep_seconds)
    try:
        with parts.database.read() as session:
            heard_since = parts.database.now(session) - silent_after
            seen = [worker for worker in service.workers(session) if worker.seen_at > heard_since]
            return Ready(workers=[WorkerRead.model_validate(worker) for worker in seen])
    except SQLAlchemyError as error:
        raise errors.Unavailable(
            f"the database does not answer as it should ({type(error).__name__}); has `graft migrate` been run?",
            code="database_unavailable",
        ) from error


@router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """What this process has counted and measured, in the text format of Prometheus."""
    found: Metrics = request.app.state.metrics
    return Response(found.text(), media_type=MEDIA_TYPE)
