"""The history of a job over a connection that is lost, and of a service that is away for a while."""

import json
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from client import answers
from client.api import Client
from client.errors import Problem, Unreachable
from client.values import Event, Job
from tests.client import answering
from tests.client.test_show import JOB

AWAY = b'{"status": 503, "detail": "no container of the service can be reached", "code": "unavailable"}'
CUT = 10_000
"""More bytes than are sent before the connection ends."""


class Service(answering.Server):
    """Answers, in turn, with the numbers of the events that it tells and whether the connection is cut after them, or
    with a status; the last one again and again. Its job ends before the last one."""

    def __init__(self, *script: tuple[Sequence[int], bool] | int) -> None:
        super().__init__(_Handler)
        self.script = script
        self.asked_after: list[int] = []

    @property
    def job(self) -> Job:
        has_ended = len(self.asked_after) >= len(self.script) - 1
        return msgspec.structs.replace(JOB, state="succeeded" if has_ended else "running")


class _Handler(answering.Handler):
    server: Service

    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        if not self.path.endswith("/events"):
            self.answer(200, msgspec.json.encode(self.server.job))
            return
        answer = self.server.script[min(len(self.server.asked_after), len(self.server.script) - 1)]
        self.server.asked_after.append(int(self.headers["Last-Event-ID"]))
        if isinstance(answer, int):
            self.answer(answer, AWAY, Content_Type="application/problem+json", Retry_After="0")
            return
        numbers, is_cut = answer
        body = b"".join(map(_event, numbers))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body) + CUT * is_cut))
        self.end_headers()
        self.wfile.write(body)


def _event(number: int) -> bytes:
    told = {"seq": number, "at": "2026-01-02T03:04:05Z", "attempt": 1, "type": "epoch_finished", "data": {}}
    return f"id: {number}\nevent: epoch_finished\ndata: {json.dumps(told)}\n\n".encode()


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "FIRST_WAIT_SECONDS", 0.0)


def numbers_told(client: Client) -> Iterator[int]:
    return (told.seq for told in client.follow("job_1") if isinstance(told, Event))


def test_a_job_is_followed_on_after_its_service_was_started_anew() -> None:
    service = Service(([1, 2], True), 503, 503, ([3], False), ([], False))
    with answering.serving(service), Client(service.url) as client:
        assert list(numbers_told(client)) == [1, 2, 3]
    assert service.asked_after == [0, 2, 2, 2, 3]


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_job_that_waits_is_followed_however_often_the_connection_ends(*, is_cut: bool) -> None:
    service = Service(*[((), is_cut)] * 6, ((1,), False), ((), False))
    with answering.serving(service), Client(service.url, attempts=2) as client:
        assert list(numbers_told(client)) == [1]
    assert len(service.asked_after) == 8


def test_a_job_is_followed_on_after_its_service_has_stopped_in_good_order() -> None:
    service = Service(([1], False), 503, 503, 503, 503, ([2], False), ([], False))
    with answering.serving(service), Client(service.url) as client:
        assert list(numbers_told(client)) == [1, 2]


def test_what_happened_before_the_end_is_told_though_the_connection_ended_before_it() -> None:
    service = Service(([1], False), ([2, 3], False))
    with answering.serving(service), Client(service.url) as client:
        assert list(numbers_told(client)) == [1, 2, 3]
    assert service.asked_after == [0, 1]


def test_a_service_that_stays_away_is_told_of_in_its_own_words() -> None:
    with answering.serving(Service(([1], True), 503)) as service, Client(service.url, attempts=2) as client:
        told = numbers_told(client)
        assert next(told) == 1
        with pytest.raises(Problem, match="no container of the service"):
            next(told)
    assert len(service.asked_after) == 4


def test_what_helps_no_more_by_waiting_ends_at_once() -> None:
    expected = pytest.raises(Problem, match="no container")
    with answering.serving(Service(404)) as service, Client(service.url) as client, expected:
        list(client.follow("job_1"))
    assert len(service.asked_after) == 1


class _Website(answering.Handler):
    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        self.answer(200, b"<!doctype html>", Content_Type="text/html")


def test_what_tells_of_no_job_is_not_asked_for_ever() -> None:
    expected = pytest.raises(Unreachable, match="does not tell of a job")
    with answering.serving(answering.Server(_Website)) as website, Client(website.url) as client, expected:
        list(client.follow("job_1"))
