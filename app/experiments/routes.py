"""Routes of experiments: control runs, their verdict, their chart."""

from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Request, Response
from fastapi.openapi.models import Example

from app import idempotency
from app.backbones import answering, pages
from app.backbones.answering import PageFormat
from app.bodies import JsonRoute
from app.db import after_commit, utc_now
from app.deps import DatabaseDep, ExperimentPageDep, IdempotentDep, Listing, PartsDep, listing
from app.experiments import chart, service
from app.experiments.schemas import ExperimentCreate, ExperimentRead, ExperimentSummary
from app.problems import responses

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], route_class=JsonRoute)

ExperimentId = Annotated[str, Path(max_length=100, description="Id of the experiment.")]

_SVG = "image/svg+xml"
_SVG_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {_SVG: {"schema": {"type": "string"}}}}
}
_EXAMPLES: dict[str, Example] = {
    "does pre-training help": {
        "summary": "Probe, fine-tuning and scratch on the same split",
        "value": {"dataset": "patterns", "model": "control", "backbone": "formnet"},
    },
    "short": {
        "summary": "Two arms, one of them set by hand",
        "value": {
            "dataset": "patterns",
            "model": "control",
            "backbone": "formnet",
            "arms": ["fine_tune", "scratch"],
            "scratch": {"backbone": "formnet", "strategy": "scratch", "epochs": 20},
        },
    },
}


@router.post("", status_code=HTTPStatus.ACCEPTED, responses=responses(404, 409, 422))
def create_experiment(
    wanted: Annotated[ExperimentCreate, Body(openapi_examples=_EXAMPLES)],
    parts: PartsDep,
    request: IdempotentDep,
    response: Response,
) -> ExperimentRead:
    """Find out whether pre-training raises the final score on a version, or only gets there faster: a linear classifier
    on fixed features, fine-tuning, and training from random values, each a job of its own on the same split."""
    with parts.database.write() as session:
        now = parts.database.now(session)
        existing = idempotency.take(session, request, now=now)
        if existing is None:
            room, attempts = parts.settings.max_activation_bytes, parts.settings.max_attempts
            row, queued = service.create(session, wanted, max_activation_bytes=room, max_attempts=attempts, now=now)
            idempotency.remember(session, request, row.id)
            for job in queued:
                after_commit(session, partial(parts.doorbell.ring, job.queue, job.id))
        else:
            row = service.find(session, existing)
        response.headers["Location"] = f"/v1/experiments/{row.id}"
        return service.read(session, row)


@router.get("", responses=responses(422))
def list_experiments(database: DatabaseDep, page: ExperimentPageDep) -> Listing[ExperimentSummary]:
    """All experiments, newest first."""
    with database.read() as session:
        rows = service.newest_first(session, limit=page.limit, after=page.after)
        return listing(service.summaries(session, rows), page.limit)


@router.get(
    "/{experiment_id}",
    response_model=ExperimentRead,
    responses={**answering.AS_PAGE, **responses(404, 422)},
)
def read_experiment(
    experiment_id: ExperimentId,
    request: Request,
    database: DatabaseDep,
    wanted: PageFormat = None,
) -> Response:
    """One experiment: the curve and the final score of each run, and, once all have ended, the verdict; for browsers
    as a page."""
    with database.read() as session:
        found = service.read(session, service.find(session, experiment_id))
    return answering.answer(
        request, wanted, {pages.JSON: found.model_dump_json, pages.HTML: lambda: chart.page(found, now=utc_now())}
    )


@router.get("/{experiment_id}/chart.svg", response_class=Response, responses={**_SVG_ANSWER, **responses(404, 422)})
def read_experiment_chart(
    experiment_id: ExperimentId,
    database: DatabaseDep,
    reasons: Annotated[bool, Query(description="Whether those of the verdict stand above the runs.")] = True,
) -> Response:
    """All runs on one chart, by epochs and by time, with the intervals of the final scores."""
    with database.read() as session:
        found = service.read(session, service.find(session, experiment_id))
    return Response(chart.draw(found, has_reasons=reasons), media_type=_SVG)
