"""The history of a job as the service streams it."""

from collections.abc import Iterator

import httpx
import httpx_sse
import msgspec

from client import answers
from client.values import Event, Progress

_EVENT = msgspec.json.Decoder(Event)
_PROGRESS = msgspec.json.Decoder(Progress)


def stream(http: httpx.Client, job_id: str, *, after: int) -> Iterator[Event | Progress]:
    """What happens after event `after` until the job has ended. Raises `Problem`, and `httpx.TransportError` where the
    connection is lost."""
    headers = {"Last-Event-ID": str(after)}
    with httpx_sse.connect_sse(http, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as source:
        if source.response.is_error:
            source.response.read()
        answers.checked(source.response)
        for sent in source.iter_sse():
            if not sent.data:
                continue  # a sign of life between events
            yield _PROGRESS.decode(sent.data) if sent.event == "progress" else _EVENT.decode(sent.data)
