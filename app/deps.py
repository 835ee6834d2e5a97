"""What routes depend on: the parts of this process, its database, paging, preconditions, idempotency."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Header, Query, Request
from pydantic import BaseModel, Field

from app import errors, idempotency, queries
from app.db import Database
from app.doorbell import Doorbell
from app.settings import Settings
from app.storage import Storage

Item = TypeVar("Item", bound=BaseModel)

OPERATIONS = "operations"
"""The tag of routes for whoever operates the service."""


@dataclass(frozen=True)
class Parts:
    """What the entry point constructed for this process."""

    settings: Settings
    database: Database
    storage: Storage
    doorbell: Doorbell


@dataclass(frozen=True)
class Page:
    """A place in a list that is ordered by id, newest first."""

    limit: int
    after: str | None


@dataclass(frozen=True)
class PutCondition:
    """Which state a PUT is based on: on one that is there (`revision`, None for any), or on there being none."""

    is_change: bool
    revision: int | None
    must_be_new: bool
    """Whether the request says so itself; it may not know."""


class Listing(BaseModel, Generic[Item]):
    """One page of a list; `after=<id of the last item>` gets the next while `has_more`."""

    data: list[Item]
    has_more: bool = Field(description="Whether there are items after these.")


async def refuse_nul(request: Request) -> None:
    """Raise `Invalid` for an address with the character NUL, which no text of ours has and PostgreSQL cannot take."""
    if "\0" in request.url.path or "%00" in request.url.query:
        raise errors.Invalid("the address has the character NUL (%00), which no name or id has", code="nul_character")


async def refuse_unknown_parameters(request: Request) -> None:
    """Raise `UnknownName` or `Invalid` for query parameters that the route does not have; but whoever only looks
    whether the process is well may add to the address what it likes."""
    route = request.scope["route"]
    if request.url.query and OPERATIONS not in route.tags:
        queries.check_for(route, request.query_params)


async def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


async def _database(parts: Annotated[Parts, Depends(parts)]) -> Database:
    return parts.database


Limit = Annotated[int, Query(ge=1, le=200, description="Items on a page.")]


def _page_of(prefix: str) -> Callable[..., Awaitable[Page]]:
    """The place in a list of things whose ids `db.new_id` made with this prefix: no other text is a cursor of it."""
    pattern = rf"^{prefix}_[0-9a-f]{{32}}$"

    async def page(
        limit: Limit = 50,
        after: Annotated[
            str | None, Query(pattern=pattern, description="Id of the last item of the page before.")
        ] = None,
    ) -> Page:
        return Page(limit=limit, after=after)

    return page


async def _idempotent(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=200,
            description="Any text of your choice; a request repeated with the same key creates nothing new.",
        ),
    ] = None,
) -> idempotency.Request:
    scope = f"{request.method} {request.url.path}"
    return idempotency.Request(scope=scope, key=key, fingerprint=idempotency.fingerprint(await request.body()))


async def _revision(
    if_match: Annotated[
        str | None,
        Header(
            alias="If-Match", description="The `ETag` of the state this change is based on, or `*`.", examples=["*"]
        ),
    ] = None,
) -> int | None:
    if if_match is None:
        raise errors.PreconditionRequired("send If-Match with the ETag of the state that this change is based on")
    return _matched(if_match)


async def _put_condition(
    if_match: Annotated[
        str | None, Header(alias="If-Match", description="To change what is there: the `ETag` of its state, or `*`.")
    ] = None,
    if_none_match: Annotated[
        str | None,
        Header(alias="If-None-Match", pattern=r"^\*$", description="`*`: only if there is none yet.", examples=["*"]),
    ] = None,
) -> PutCondition:
    if if_match is not None and if_none_match is not None:
        raise errors.PreconditionFailed("If-Match and If-None-Match contradict each other; send one of them")
    return PutCondition(
        is_change=if_match is not None,
        revision=None if if_match is None else _matched(if_match),
        must_be_new=if_none_match is not None,
    )


def _matched(if_match: str) -> int | None:
    if if_match.strip() == "*":
        return None
    match = re.fullmatch(r'"(\d{1,9})"', if_match.strip())
    if match is None:
        raise errors.PreconditionFailed(
            f'If-Match {if_match} is no ETag of this resource: those are numbers in quotes, such as "1"; * is for any'
        )
    return int(match[1])


PartsDep = Annotated[Parts, Depends(parts)]
# Routes open a session and end it within one call. A dependency that owned one would need a second thread to end it
# in, and requests that wait for what it holds may have taken them all.
DatabaseDep = Annotated[Database, Depends(_database)]
DatasetPageDep = Annotated[Page, Depends(_page_of("ds"))]
ExperimentPageDep = Annotated[Page, Depends(_page_of("exp"))]
ImportPageDep = Annotated[Page, Depends(_page_of("imp"))]
JobPageDep = Annotated[Page, Depends(_page_of("job"))]
ModelPageDep = Annotated[Page, Depends(_page_of("mdl"))]
RankingPageDep = Annotated[Page, Depends(_page_of("rnk"))]
IdempotentDep = Annotated[idempotency.Request, Depends(_idempotent)]
RevisionDep = Annotated[int | None, Depends(_revision)]
PutConditionDep = Annotated[PutCondition, Depends(_put_condition)]


def listing(items: Sequence[Item], limit: int) -> Listing[Item]:
    """The page made of `items`, of which the query fetched one more than the page shows."""
    return Listing(data=list(items[:limit]), has_more=len(items) > limit)


def etag(revision: int) -> str:
    return f'"{revision}"'
