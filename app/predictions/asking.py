"""What all prediction routes do with a request: how long it may take, whom it is for, and is its client still there."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar, TypeVarTuple

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from app import errors, queries
from app.bodies import Share
from app.endings import Ending
from app.predictions.desk import Desk
from app.predictions.engine import Answered
from app.predictions.loaded import Given, Loaded
from app.settings import Settings

T = TypeVar("T")
Givens = TypeVarTuple("Givens")

TIMEOUT_HEADER = "x-request-timeout"
MAX_TIMEOUT_SECONDS = 3600.0
_WATCH_AFTER_SECONDS = 0.25
"""Most answers are there before, and to look whether the client still is costs something."""


class PlainRoute(APIRoute):
    """A route that takes the request as it is: what FastAPI does besides costs more time than a prediction has. Its
    parameters are described, and checked, by hand."""

    refuses_unknown: ClassVar[bool] = True

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        described = (self.openapi_extra or {}).get("parameters", ())
        names = [parameter["name"] for parameter in described if parameter["in"] == "query"]

        async def handle(request: Request) -> Response:
            if self.refuses_unknown:
                queries.check(request.query_params, names)
            answer: Response = await self.endpoint(request)
            return answer

        return handle


class ProbeRoute(PlainRoute):
    """One by which others see whether the process is well: they may add to the address what they like."""

    refuses_unknown = False


@dataclass(frozen=True)
class Asked:
    """What the body of a request says."""

    images: Sequence[Given]
    timeout_seconds: float | None = None
    """How long the answer may take; None where that is not in the body."""
    check: Callable[[Loaded], None] | None = None
    """Raises where the version that is to answer has not what is asked of it."""


def router(prefix: str, tag: str, route_class: type[PlainRoute] = PlainRoute) -> APIRouter:
    """For plain routes."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=route_class)


def desk(request: Request) -> Desk:
    found: Desk = request.app.state.desk
    return found


async def parsed(request: Request, read: Callable[[*Givens], T], *body: *Givens) -> T:
    """What `read` makes of a large body, beside the event loop. Raises what `read` raises."""
    found = await run_sync(_tried, partial(read, *body), limiter=desk(request).parsing)
    if not isinstance(found, _Failure):
        return found
    try:
        raise found.error
    finally:
        del found  # it knows this frame, and in a circle the body would stay in memory


@dataclass(frozen=True)
class _Failure:
    """What a thread tells, and does not raise: what it raises is kept by the future that is waited for, whose frame the
    error knows."""

    error: Exception


def _tried(read: Callable[[], T]) -> T | _Failure:
    try:
        return read()
    except Exception as error:  # raised where it is waited for
        return _Failure(error)


def timeout_seconds(request: Request, settings: Settings) -> float:
    """How long the answer may take. Raises `RequestValidationError`."""
    given = request.headers.get(TIMEOUT_HEADER)
    if given is None:
        return settings.predict_timeout_seconds
    return number(given, ("header", "X-Request-Timeout"), least=0.001, most=MAX_TIMEOUT_SECONDS)


def number(text: str, location: Sequence[str | int], *, least: float, most: float) -> float:
    """`text` as a number of that range. Raises `RequestValidationError`."""
    is_python = "_" in text or not text.isascii()  # of which it makes numbers, as hardly anybody else does
    try:
        value = math.nan if is_python else float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise wrong(
            location, f"should be a number from {least:g} to {most:g}, not {text[:50]!r}", "number_out_of_range"
        )
    return value


def whole_number(text: str, location: Sequence[str | int], *, least: int, most: int) -> int:
    """`text` as a whole number of that range. Raises `RequestValidationError`."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise wrong(location, f"should be a whole number from {least} to {most}, not {text[:50]!r}", "out_of_range")
    return int(text)


def wrong(location: Sequence[str | int], message: str, code: str) -> RequestValidationError:
    """Something of the request that is not as it should be."""
    return RequestValidationError([{"loc": tuple(location), "msg": message, "type": code}])


async def answered(request: Request, reference: str, read: Callable[[Share], Awaitable[Sequence[Given]]]) -> Answered:
    """The answers for the images that `read` takes from the request. Raises as `asked`."""

    async def read_all(share: Share) -> Asked:
        return Asked(await read(share))

    return await asked(request, reference, read_all)


async def asked(
    request: Request,
    reference: str,
    read: Callable[[Share], Awaitable[Asked]],
    *,
    body_names_time: bool = False,
) -> Answered:
    """The answers to what `read` takes from the request, unless they could not be in time, the client goes away or the
    process stops. `body_names_time`: how long they may take is known before only where a header says it. Raises as
    `Engine.classify`, `UnsupportedMedia`, `ClientDisconnect`, and what `read` raises."""
    place = desk(request)
    answers: Ending = request.app.state.answers
    seconds = timeout_seconds(request, place.settings)
    version = await place.directory.find(reference)
    try:
        _refuse_compressed(request)
        is_known = TIMEOUT_HEADER in request.headers or not body_names_time
        place.engine.check(version, timeout_seconds=seconds if is_known else MAX_TIMEOUT_SECONDS)
        with place.in_flight.share() as share:
            async with answers.unless_stopped():
                wanted = await read(share)
                if wanted.timeout_seconds is not None:
                    # Of two that the client names, the shorter one.
                    seconds = min(wanted.timeout_seconds, seconds if TIMEOUT_HEADER in request.headers else math.inf)
                work = place.engine.classify(
                    reference,
                    version,
                    wanted.images,
                    timeout_seconds=seconds,
                    since=share.complete_at,
                    check=wanted.check,
                )
                found = await _while_connected(request, work)
    except Exception as error:
        place.metrics.predictions.labels(version.model_name, _outcome(error)).inc()
        raise
    place.metrics.answered(version.model_name, images=len(found.answers), seconds=found.timing.whole)
    return found


def _refuse_compressed(request: Request) -> None:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise errors.UnsupportedMedia(
            "a compressed body is not taken here: image files are compressed already", code="content_encoding"
        )


def _outcome(error: Exception) -> str:
    if isinstance(error, errors.GraftError):
        return error.code
    return _OUTCOMES.get(type(error), "internal_error")


_OUTCOMES: dict[type[Exception], str] = {RequestValidationError: "invalid_request", ClientDisconnect: "client_gone"}


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """`work`, which is given up when the client goes away."""
    task = asyncio.current_task()
    assert task is not None
    watch = _Watch(request, task)
    timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_SECONDS, watch.start)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.has_seen_it_go and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        watch.stop()


class _Watch:
    """Cancels a task when the client of its request goes away."""

    def __init__(self, request: Request, task: "asyncio.Task[Any]") -> None:
        self._request = request
        self._task = task
        self._watching: asyncio.Task[None] | None = None
        self.has_seen_it_go = False

    def start(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.has_seen_it_go = True
        self._task.cancel()
