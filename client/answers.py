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
        asked_seconds = 0.0
        try:
            response = send()
        except httpx.TransportError as error:
            may_be_done |= not isinstance(error, _NEVER_SENT)
        else:
            come_again_seconds = _come_again_seconds(response)
            if come_again_seconds is None:
                return Answer(response, may_be_done)
            asked_seconds = come_again_seconds
            # That the database is away is said also where it went away in the middle of the commit.
            may_be_done |= response.status_code == httpx.codes.SERVICE_UNAVAILABLE
        time.sleep(wait_seconds(attempt, asked_seconds))
    return Answer(send(), may_be_done)


def wait_seconds(failures: int, asked_seconds: float) -> float:
    """How long to wait after so many failures in a row, where the service asks for so long a time, or for none."""
    return min(max(asked_seconds, FIRST_WAIT_SECONDS * 2.0**failures), _LONGEST_WAIT_SECONDS)


def checked(response: httpx.Response) -> httpx.Response:
    """The response, unless it says that something is wrong. Raises `Problem`."""
    if response.is_success:
        return response
    try:
        document = response.json()
    except ValueError:
        document = {"detail": f"{response.url} answered with status {response.status_code} and no problem document"}
    raise Problem(
        response.status_code,
        document if isinstance(document, dict) else {"detail": str(document)},
        come_again_seconds=_come_again_seconds(response),
    )


def _come_again_seconds(response: httpx.Response) -> float | None:
    """After how long the service wants to be asked again; None where it does not."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if response.status_code in _COME_AGAIN and asked.isdecimal() else None


def if_at(revision: int | None) -> dict[str, str]:
    """The header for a change of what is at `revision`; None for whichever it is at."""
    return {"If-Match": "*" if revision is None else f'"{revision}"'}
