"""Routes of jobs and their events."""

import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from fastapi.openapi.models import Example
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from app import idempotency, storage
from app.backbones import answering
from app.backbones.answering import PageFormat
from app.backbones.pages import HTML, JSON
from app.bodies import JsonRoute
from app.db import Database, after_commit
from app.deps import DatabaseDep, IdempotentDep, JobPageDep, Limit, Listing, PartsDep, listing
from app.jobs import charts, events, learning, pages, retries, service, summaries
from app.jobs.schemas import ENDED, EventRead, JobRead, JobState, Progress, Wanted
from app.problems import responses

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)

JobId = Annotated[str, Path(max_length=100, description="Id of the job, as the answer that queued it gives it.")]

_EVENT_STREAM = "text/event-stream"
_SVG = "image/svg+xml"
_SVG_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {_SVG: {"schema": {"type": "string"}}}}
}
_POLL_SECONDS = 0.25
_EVENTS_A_POLL = 500
_EVENTS_ON_A_PAGE = 200
_EXAMPLES: dict[str, Example] = {
    "from scratch": {
        "summary": "A small network from scratch",
        "description": "Works without any pre-trained weights.",
        "value": {
            "dataset": "patterns",
            "model": "patterns",
            "recipe": {"backbone": "tinynet", "strategy": "scratch"},
        },
    },
    "new classes": {
        "summary": "A model of one's own that learns further labels",
        "description": "Labels that it knows keep their rows of its classifier, by name.",
        "value": {
            "dataset": "patterns",
            "model": "patterns",
            "recipe": {"backbone": "formnet", "strategy": "head", "base": "patterns@1"},
        },
    },
    "head": {
        "summary": "A new head on a pre-trained backbone",
        "description": "The quickest and mostly the best for few photos; its weights are downloaded if need be.",
        "value": {
            "dataset": "patterns",
            "model": "patterns",
            "recipe": {"backbone": "mobilenet_v2", "strategy": "head"},
        },
    },
    "chosen backbone": {
        "summary": "The best backbone within a budget",
        "description": "Ranks all whose weights are at hand, takes the best, and decides how to train it.",
        "value": {
            "dataset": "patterns",
            "model": "patterns",
            "recipe": {"backbone": "auto", "budget": {"latency_ms": 20}},
        },
    },
    "ranking": {
        "summary": "Which backbone suits the photos best",
        "value": {
            "kind": "rank",
            "dataset": "patterns",
            "candidates": [{"backbone": "formnet"}, {"backbone": "mobilenet_v2"}, {"model": "patterns"}],
        },
    },
    "search": {
        "summary": "Five minutes to look for better settings",
        "description": "The plan's own defaults come first, and stay unless others beat them by more than chance.",
        "value": {
            "dataset": "patterns",
            "model": "patterns",
            "recipe": {"backbone": "tinynet", "strategy": "scratch", "search": {"seconds": 300}},
        },
    },
}


@router.post("", status_code=HTTPStatus.ACCEPTED, responses=responses(404, 409, 422))
def create_job(
    wanted: Annotated[Wanted, Body(openapi_examples=_EXAMPLES)],
    parts: PartsDep,
    request: IdempotentDep,
    response: Response,
) -> JobRead:
    """Start a fine-tune of a backbone on a version of a data set; or, with `kind: rank`, a comparison of several
    backbones and models, whose result is read at `/v1/rankings/{id}`."""
    with parts.database.write() as session:
        now = parts.database.now(session)
        existing = idempotency.take(session, request, now=now)
        if existing is None:
            room, attempts = parts.settings.max_activation_bytes, parts.settings.max_attempts
            job = service.submit(session, wanted, max_activation_bytes=room, max_attempts=attempts, now=now)
            idempotency.remember(session, request, job.id)
            queue, job_id = job.queue, job.id
            after_commit(session, lambda: parts.doorbell.ring(queue, job_id))
        else:
            job = service.find(session, existing)
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return JobRead.model_validate(job)


@router.get("", responses=responses(404, 422))
def list_jobs(
    database: DatabaseDep,
    page: JobPageDep,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    dataset: Annotated[
        str | None, Query(max_length=100, description="Only jobs on this data set, by id or name.")
    ] = None,
) -> Listing[JobRead]:
    """All jobs, newest first."""
    with database.read() as session:
        rows = service.newest_first(session, state=state, dataset=dataset, limit=page.limit, after=page.after)
        return listing([JobRead.model_validate(row) for row in rows], page.limit)


@router.get("/{job_id}", response_model=JobRead, responses={**answering.AS_PAGE, **responses(404, 422)})
def read_job(job_id: JobId, request: Request, database: DatabaseDep, wanted: PageFormat = None) -> Response:
    """One job: its state, progress, plan, and its result or error; for browsers as a page, with its history."""
    with database.read() as session:
        row = service.find(session, job_id)
        summary = summaries.of(session, row)
        shown = [EventRead.model_validate(event) for event in events.last(session, job_id, limit=_EVENTS_ON_A_PAGE)]
        can_retry = retries.is_possible(session, row)
        refused = summaries.refused(session, row)
        learnt = learning.of(events.of_types(session, job_id, learning.TYPES))

    def page() -> str:
        return pages.page(summary, shown, learnt, can_retry=can_retry, refused=refused)

    return answering.answer(request, wanted, {JSON: summary.job.model_dump_json, HTML: page})


@router.get("/{job_id}/chart.svg", response_class=Response, responses={**_SVG_ANSWER, **responses(404, 422)})
def read_job_chart(job_id: JobId, database: DatabaseDep) -> Response:
    """The learning curves of a training: accuracy and losses after each epoch; of a search those of the trial that was
    kept, or while it goes on of the last one."""
    with database.read() as session:
        job = service.find(session, job_id)
        learnt = learning.of(events.of_types(session, job_id, learning.TYPES))
        title = f"Training of {job.model_name}" if job.kind == "train" else f"Job {job_id}"
    return Response(charts.draw(title, learnt), media_type=_SVG)


@router.post("/{job_id}/cancel", status_code=HTTPStatus.ACCEPTED, responses=responses(404, 409, 422))
def cancel_job(job_id: JobId, parts: PartsDep) -> JobRead:
    """Cancel a job. One that runs is `cancelling` until its process is gone; cancelling twice is fine."""
    with parts.database.write() as session:
        job = service.cancel(session, job_id, now=parts.database.now(session))
        if job.state == "cancelled" and job.kind == "ingest":
            archive = parts.storage.archive(job.spec["import_id"])
            after_commit(session, lambda: storage.discard(archive))
        return JobRead.model_validate(job)


@router.post("/{job_id}/pause", status_code=HTTPStatus.ACCEPTED, responses=responses(404, 409, 422))
def pause_job(job_id: JobId, database: DatabaseDep) -> JobRead:
    """Pause a job. One that runs is `pausing` until its process has kept what it has done and is gone; pausing twice is
    fine."""
    with database.write() as session:
        return JobRead.model_validate(service.pause(session, job_id, now=database.now(session)))


@router.post("/{job_id}/resume", status_code=HTTPStatus.ACCEPTED, responses=responses(404, 409, 422))
def resume_job(job_id: JobId, parts: PartsDep) -> JobRead:
    """Put a paused job back into its queue; a training goes on at the step where it stopped."""
    with parts.database.write() as session:
        job = service.resume(session, job_id, now=parts.database.now(session))
        queue = job.queue
        after_commit(session, lambda: parts.doorbell.ring(queue, job_id))
        return JobRead.model_validate(job)


@router.post("/{job_id}/retry", status_code=HTTPStatus.ACCEPTED, responses=responses(404, 409, 422))
def retry_job(job_id: JobId, parts: PartsDep, request: IdempotentDep) -> JobRead:
    """Queue a job that has failed or was cancelled once more, as it was asked for and with all its attempts. It begins
    anew. An import cannot be retried: its archive is gone when it ends."""
    with parts.database.write() as session:
        now = parts.database.now(session)
        if idempotency.take(session, request, now=now) is not None:
            return JobRead.model_validate(service.find(session, job_id))
        job = retries.retry(session, job_id, now=now)
        idempotency.remember(session, request, job_id)
        # Before the commit, after which a worker may be at it: what a paused job had kept when it was cancelled.
        storage.discard(parts.storage.job(job_id))
        queue = job.queue
        after_commit(session, lambda: parts.doorbell.ring(queue, job_id))
        return JobRead.model_validate(job)


@router.post("/{job_id}/finish", status_code=HTTPStatus.ACCEPTED, responses=responses(404, 409, 422))
def finish_job(job_id: JobId, parts: PartsDep) -> JobRead:
    """End a search early: its model is the best of the trials that are finished, or the first one if none is yet.
    It is `finishing` until that is published; finishing twice is fine."""
    with parts.database.write() as session:
        job = service.finish(session, job_id, now=parts.database.now(session))
        queue = job.queue
        after_commit(session, lambda: parts.doorbell.ring(queue, job_id))
        return JobRead.model_validate(job)


class EventListing(BaseModel):
    """A stretch of a job's history."""

    data: list[EventRead]
    has_more: bool


@router.get(
    "/{job_id}/events",
    response_model=EventListing,
    responses={200: {"content": {_EVENT_STREAM: {"schema": {"type": "string"}}}}, **responses(404, 422)},
)
async def read_events(
    job_id: JobId,
    parts: PartsDep,
    limit: Limit = 200,
    after: Annotated[int, Query(ge=0, lt=2**31, description="Only events with a higher number.")] = 0,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[
        str | None, Header(description="Number of the last server-sent event that was received.", max_length=20)
    ] = None,
) -> Response:
    """The history of a job. With `Accept: text/event-stream` a stream that lasts until the job has ended; it also
    tells the progress within a phase, as events of type `progress` that have no number and are not kept."""
    if _EVENT_STREAM in accept:
        start = int(last_event_id) if last_event_id and last_event_id.isdecimal() else after
        await run_in_threadpool(_job, parts.database, job_id)  # a job that is not there is a 404, not a stream
        return EventSourceResponse(_stream(parts.database, job_id, min(start, 2**31 - 1)))
    found = await run_in_threadpool(_events_after, parts.database, job_id, after, limit + 1)
    page = EventListing(data=found[:limit], has_more=len(found) > limit)
    return JSONResponse(page.model_dump(mode="json"))


async def _stream(database: Database, job_id: str, seq: int) -> AsyncIterator[ServerSentEvent]:
    told: Progress | None = None
    while True:
        job = await run_in_threadpool(_job, database, job_id)
        found = await run_in_threadpool(_events_after, database, job_id, seq, _EVENTS_A_POLL)
        for event in found:
            seq = event.seq
            yield ServerSentEvent(json.dumps(event.model_dump(mode="json")), id=str(seq), event=event.type)
        if job.state in ENDED and len(found) < _EVENTS_A_POLL:
            return
        if job.progress is not None and job.progress != told:
            told = job.progress
            yield ServerSentEvent(json.dumps(told.model_dump(mode="json")), event="progress")
        await anyio.sleep(_POLL_SECONDS)


def _events_after(database: Database, job_id: str, seq: int, limit: int) -> list[EventRead]:
    with database.read() as session:
        service.find(session, job_id)
        return [EventRead.model_validate(row) for row in events.after(session, job_id, seq, limit=limit)]


def _job(database: Database, job_id: str) -> JobRead:
    with database.read() as session:
        return JobRead.model_validate(service.find(session, job_id))
