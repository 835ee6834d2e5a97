"""Errors as HTTP answers: RFC 9457 problem documents with a machine-readable `code`, whatever goes wrong."""

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from app import bodyfields, errors, problem_pages

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_STATUS: dict[type[errors.GraftError], HTTPStatus] = {
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooSlow: HTTPStatus.REQUEST_TIMEOUT,
    errors.UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    errors.PreconditionRequired: HTTPStatus.PRECONDITION_REQUIRED,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Busy: HTTPStatus.TOO_MANY_REQUESTS,
    errors.NoRoom: HTTPStatus.INSUFFICIENT_STORAGE,
}
# A body of a mebibyte can be wrong in a hundred thousand places.
_MAX_FIELD_PROBLEMS = 20
_MAX_WORD, _MAX_TEXT = 200, 2000
_LONG_WORD = re.compile(rf"\S{{{_MAX_WORD + 1},}}")
# The Open Inference Protocol and TensorFlow Serving, whose clients look for what is wrong in a member `error`: also
# where there is no such route.
_PROTOCOLS = re.compile(r"/v2(/.*)?|/v1/models/.+:predict")

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

Handler = Callable[[Request, Exception], Response]
"""What makes an answer of an error."""


class FieldProblem(BaseModel):
    """One place of the request that is wrong."""

    location: list[str | int] = Field(examples=[["body", "recipe", "backbone"]])
    message: str = Field(description="What is wrong there, and what would be right.")
    code: str


class Problem(BaseModel):
    """An RFC 9457 problem document. Further members depend on `code`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:graft:problem:` and the code.")
    title: str = Field(description="The same for all problems of the kind.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong with this request, where, and what would be right.")
    code: str = Field(description="Machine-readable, stable.")
    instance: str = Field(description="Path of the request.")
    errors: list[FieldProblem] | None = Field(
        default=None, max_length=_MAX_FIELD_PROBLEMS, description="The first places that are wrong."
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problem documents a route may answer with."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema, "example": _example(status, *_EXAMPLES[status])}},
        }
        for status in statuses
    }


def _example(status: int, error: errors.GraftError, instance: str) -> dict[str, Any]:
    """How `error` is told at `instance`."""
    return {**_members(error), **_document(status, error.code, error.title, error.message, instance)}


def unrouted(status: HTTPStatus, code: str, detail: str, path: str) -> bytes:
    """The document for what is no request: `path` is what could be read of its address, by which one cannot tell what
    its client speaks."""
    document = {**_document(status, code, status.phrase, detail, path), "error": detail}
    return bytes(JSONResponse(_brief(document)).body)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem document."""
    for kind, handle in HANDLERS.items():
        app.add_exception_handler(kind, _at_once(handle))


def _at_once(handle: Handler) -> Callable[[Request, Exception], Awaitable[Response]]:
    """For the event loop: what is no coroutine is run in a thread, and those may all be waiting for the database."""

    async def handled(request: Request, error: Exception) -> Response:
        return handle(request, error)

    return handled


def _graft_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.GraftError)
    status = next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    members, headers = _members(error), _headers(error)
    return _answer(request, status, error.code, error.title, error.message, members=members, headers=headers)


def _members(error: errors.GraftError) -> dict[str, Any]:
    if error.field is None:
        return dict(error.detail)
    location: list[str | int] = ["body", *map(_step, error.field.split("."))]
    place = FieldProblem(location=location, message=error.message, code=error.code)
    return {**error.detail, "errors": [place.model_dump()]}


def _headers(error: errors.GraftError) -> dict[str, str]:
    if isinstance(error, errors.Unavailable):
        return {"Retry-After": str(error.retry_after_seconds)}
    # Nobody can tell where in what did not arrive the next request would begin (RFC 9110, 15.5.9).
    return {"Connection": "close"} if isinstance(error, errors.TooSlow) else {}


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    places = [_field_problem(entry, request) for entry in found[:_MAX_FIELD_PROBLEMS]]
    summary = "; ".join(f"{_dotted(place.location)}: {place.message}" for place in places[:3])
    if len(found) > 3:
        summary += f"; and {len(found) - 3} more"
    members = {"errors": [place.model_dump() for place in places]}
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return _answer(request, status, "invalid_request", "The request is not valid", summary, members=members)


def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return _other_method(request, error)
    code = "no_such_route" if status == HTTPStatus.NOT_FOUND else status.phrase.lower().replace(" ", "_")
    detail = {404: f"nothing is served at {request.url.path}; /docs lists every route"}.get(status, str(error.detail))
    return _answer(request, status, code, status.phrase, detail, headers=error.headers)


def _other_method(request: Request, error: HTTPException) -> Response:
    allowed = _methods(request) or (error.headers or {}).get("Allow", "").split(", ")
    is_possible = f"{' and '.join(allowed)} {'is' if len(allowed) == 1 else 'are'}"
    return _answer(
        request,
        HTTPStatus.METHOD_NOT_ALLOWED,
        "method_not_allowed",
        HTTPStatus.METHOD_NOT_ALLOWED.phrase,
        f"{request.method} is not possible at {request.url.path}, only {is_possible}",
        members={"allowed": allowed},
        headers={"Allow": ", ".join(allowed)},
    )


def _methods(request: Request) -> list[str]:
    """What can be asked of the address: each route there knows its own methods alone. Empty below a mount, which
    tells them itself."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    asked = {method: {**request.scope, "method": method} for method in _METHODS}
    return [name for name, scope in asked.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]


def _database_away(request: Request, error: Exception) -> Response:
    logger.error("the database failed %s %s: %s", request.method, request.url.path, error)
    detail = "the database does not answer as it should; try again in a moment, with the same Idempotency-Key if any"
    return _answer(
        request,
        HTTPStatus.SERVICE_UNAVAILABLE,
        "database_unavailable",
        errors.Unavailable.title,
        detail,
        headers={"Retry-After": str(errors.Unavailable.retry_after_seconds)},
    )


def _gone(request: Request, error: Exception) -> Response:
    logger.info("the client of %s %s went away while it was sending", request.method, request.url.path)
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # which nobody reads


def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("unexpected error in %s %s", request.method, request.url.path, exc_info=error)
    detail = f"an unexpected {type(error).__name__}; the service's log has the details"
    return _answer(request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "Internal error", detail)


def _answer(
    request: Request,
    status: HTTPStatus,
    code: str,
    title: str,
    detail: str,
    *,
    members: dict[str, Any] | None = None,
    headers: Any = None,
) -> Response:
    document = {**(members or {}), **_document(status, code, title, detail, request.url.path)}
    if _PROTOCOLS.fullmatch(request.url.path):
        document["error"] = detail
    told = _brief(document)
    if problem_pages.is_wanted(request.method, request.headers.get("accept", "")):
        shown = problem_pages.page(told, request.url.path)
        return HTMLResponse(shown, status_code=status, headers={**(headers or {}), "Vary": "Accept"})
    return JSONResponse(told, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _document(status: int, code: str, title: str, detail: str, instance: str) -> dict[str, Any]:
    return {
        "type": f"urn:graft:problem:{code}",
        "title": title,
        "status": int(status),
        "detail": detail,
        "code": code,
        "instance": instance,
    }


def _brief(value: Any) -> Any:
    """`value` with its texts shortened: what a request was wrong in is told back, and may be as long as it likes."""
    if isinstance(value, str):
        words = _LONG_WORD.sub(lambda found: _shortened(found[0], _MAX_WORD), value)
        return _shortened(words, _MAX_TEXT)
    if isinstance(value, dict):
        return {_brief(name): _brief(part) for name, part in value.items()}
    return [_brief(part) for part in value] if isinstance(value, list | tuple) else value


def _shortened(text: str, most: int) -> str:
    """`text`, of so many characters at most: its beginning and its end, which has the hint."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def _field_problem(entry: dict[str, Any], request: Request) -> FieldProblem:
    location = [part for part in entry["loc"] if isinstance(part, str | int)]
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        nearest = errors.nearest_names(str(location[-1]), _fields_beside(location, request))
        message = f"no such field{errors.did_you_mean(nearest)}"
    if location == ["body"] and isinstance(entry.get("input"), bytes):  # no object, for it was not read as JSON
        declared = request.headers.get("content-type", "")
        said = f"sent as {declared[:100]}" if declared else "sent without a Content-Type"
        message = f"{said}; JSON is sent as Content-Type: application/json"
    return FieldProblem(location=location, message=message, code=entry["type"])


def _fields_beside(location: Sequence[str | int], request: Request) -> list[str]:
    """The fields that could be in the place of that at `location`."""
    route = request.scope.get("route")
    body = route.body_field if isinstance(route, APIRoute) and location[0] == "body" else None
    return [] if body is None else bodyfields.names(body.field_info.annotation, location[1:-1])


def _step(part: str) -> str | int:
    return int(part) if part.isdecimal() else part


def _dotted(location: Sequence[str | int]) -> str:
    return ".".join(map(str, location))


HANDLERS: dict[type[Exception], Handler] = {
    errors.GraftError: _graft_error,
    RequestValidationError: _validation_error,
    HTTPException: _http_exception,
    **dict.fromkeys((OperationalError, InterfaceError, PoolTimeout), _database_away),
    ClientDisconnect: _gone,
    Exception: _unexpected,
}
"""What is answered for an error, by its class."""

_PREDICT, _IMPORTS = "/v1/models/patterns/predict", "/v1/datasets/patterns/imports"
_EXAMPLES: dict[int, tuple[errors.GraftError, str]] = {
    404: (errors.NotFound("no dataset patterns", code="dataset_not_found"), "/v1/datasets/patterns"),
    408: (errors.TooSlow("the request did not arrive within 60 s", detail={"max_seconds": 60.0}), _PREDICT),
    409: (errors.Conflict("there is a dataset named 'patterns' already", code="dataset_name_taken"), "/v1/datasets"),
    412: (
        errors.PreconditionFailed("dataset patterns has changed since; read it again for its present ETag and repeat"),
        "/v1/datasets/patterns",
    ),
    413: (errors.TooLarge("the body is over the limit of 268435456 bytes", detail={"max_bytes": 2**28}), _PREDICT),
    415: (errors.UnsupportedMedia("text/plain is not taken here; send the archive as application/zip"), _IMPORTS),
    422: (errors.UnknownName("backbone", "mobilenet2", ["mobilenet_v2"]).at("recipe.backbone"), "/v1/jobs"),
    428: (
        errors.PreconditionRequired("send If-Match with the ETag of the state that this change is based on"),
        "/v1/datasets/patterns",
    ),
    429: (errors.Busy("1024 images wait for this model, and it takes no more than 1024"), _PREDICT),
    503: (errors.Overloaded("the model is still being loaded; try again in a moment"), _PREDICT),
    507: (errors.NoRoom("the service has no room left on its disk for this upload"), _IMPORTS),
}
"""One problem for each status, as the description shows it, and where it was met."""
