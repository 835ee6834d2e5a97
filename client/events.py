"""The history of a job as the service streams it."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import httpx_sse
import msgspec

from client import answers
from client.errors import Unreachable
from client.values import Event, Progress

_EVENT = msgspec.json.Decoder(Event)
_PROGRESS = msgspec.json.Decoder(Progress)


@contextmanager
def stream(http: httpx.Client, job_id: str, *, after: int) -> Iterator[Iterator[Event | Progress]]:
    """Inside, the service has answered: what happens after event `after` until the job has ended. Raises `Problem`,
    `Unreachable`, and `httpx.TransportError` where the connection is lost."""
    headers = {"Last-Event-ID": str(after)}
    with httpx_sse.connect_sse(http, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as source:
        if not source.response.is_success:
            source.response.read()
        answers.checked(source.response)
        yield _told(source)


def _told(source: httpx_sse.EventSource) -> Iterator[Event | Progress]:
    try:
        for sent in source.iter_sse():
            if not sent.data:
                continue  # a sign of life between events
            yield _PROGRESS.decode(sent.data) if sent.event == "progress" else _EVENT.decode(sent.data)
    except (httpx_sse.SSEError, msgspec.DecodeError) as error:
        raise Unreachable(f"what answers at {source.response.url} does not tell of a job ({error})") from error
