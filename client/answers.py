"""Answers of the service: asked for again where that helps, and turned into errors where they say that one is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from client.errors import Problem

FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 30.0
_COME_AGAIN = (429, 503)
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Answer:
    """The last answer to a request that was sent once or more often."""

    response: httpx.Response
    may_be_done: bool
    """Whether an earlier try, whose answer was lost, may have been carried out."""


def again(send: Callable[[], httpx.Response], *, attempts: int) -> Answer:
    """The answer to a request that may be repeated: sent again while no connection comes about, and when the service
    says after which time to come again. Raises `httpx.TransportError`."""
    may_be_done = False
    for attempt in range(1, attempts):
        wait_seconds = FIRST_WAIT_SECONDS * 2**attempt
        try:
            response = send()
        except httpx.TransportError as error:
            may_be_done |= not isinstance(error, _NEVER_SENT)
            time.sleep(wait_seconds)
        else:
            asked = response.headers.get("Retry-After", "")
            if response.status_code not in _COME_AGAIN or not asked.isdecimal():
                return Answer(response, may_be_done)
            # That the database is away is said also where it went away in the middle of the commit.
            may_be_done |= response.status_code == httpx.codes.SERVICE_UNAVAILABLE
            time.sleep(min(max(float(asked), wait_seconds), _LONGEST_WAIT_SECONDS))
    return Answer(send(), may_be_done)


def checked(response: httpx.Response) -> httpx.Response:
    """The response, unless it says that something is wrong. Raises `Problem`."""
    if response.is_success:
        return response
    try:
        document = response.json()
    except ValueError:
        document = {"detail": f"{response.url} answered with status {response.status_code} and no problem document"}
    raise Problem(response.status_code, document if isinstance(document, dict) else {"detail": str(document)})


def if_at(revision: int | None) -> dict[str, str]:
    """The header for a change of what is at `revision`; None for whichever it is at."""
    return {"If-Match": "*" if revision is None else f'"{revision}"'}
