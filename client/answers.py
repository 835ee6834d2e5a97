"""Answers of the service: asked for again where that helps, and turned into errors where they say that one is."""

import time
from collections.abc import Callable

import httpx

from client.errors import Problem

FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 30.0
_COME_AGAIN = (429, 503)


def again(send: Callable[[], httpx.Response], *, attempts: int) -> httpx.Response:
    """The answer to a request that may be repeated: sent again while no connection comes about, and when the service
    says after which time to come again. Raises `httpx.TransportError`."""
    for attempt in range(1, attempts):
        wait_seconds = FIRST_WAIT_SECONDS * 2**attempt
        try:
            response = send()
        except httpx.TransportError:
            time.sleep(wait_seconds)
        else:
            asked = response.headers.get("Retry-After", "")
            if response.status_code not in _COME_AGAIN or not asked.isdecimal():
                return response
            time.sleep(min(max(float(asked), wait_seconds), _LONGEST_WAIT_SECONDS))
    return send()


def checked(response: httpx.Response) -> httpx.Response:
    """The response, unless it says that something is wrong. Raises `Problem`."""
    if response.is_success:
        return response
    try:
        document = response.json()
    except ValueError:
        document = {"detail": f"{response.url} answered with status {response.status_code} and no problem document"}
    raise Problem(response.status_code, document if isinstance(document, dict) else {"detail": str(document)})
