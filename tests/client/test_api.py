"""What the client does with a service that has no time."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client import errors
from client.api import Client

BUSY = b'{"type": "about:blank", "title": "Overloaded", "status": 503, "detail": "come again", "code": "overloaded"}'
ANSWER = b'{"model": "insects", "version": 1, "predictions": []}'


class Service(ThreadingHTTPServer):
    """Busy for the first `busy` requests."""

    busy = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.timeouts: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.timeouts.append(self.headers["X-Request-Timeout"])
        is_busy = len(self.server.timeouts) <= self.server.busy
        body = BUSY if is_busy else ANSWER
        self.send_response(503 if is_busy else 200)
        if is_busy:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Type", "application/problem+json" if is_busy else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as here:
        thread = threading.Thread(target=here.serve_forever)
        thread.start()
        yield here
        here.shutdown()
        thread.join()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "bee.jpg"
    path.write_bytes(b"bee")
    return path


def test_a_service_that_says_when_it_has_time_is_asked_again(service: Service, photo: Path) -> None:
    service.busy = 2
    with Client(service.url, timeout_seconds=40) as client:
        assert client.predict("insects", [photo]) == []
    assert service.timeouts == ["36"] * 3


def test_one_that_never_has_time_is_told_of_in_its_own_words(service: Service, photo: Path) -> None:
    service.busy = 100
    with Client(service.url, attempts=2) as client, pytest.raises(errors.Problem, match="come again"):
        client.predict("insects", [photo])
    assert len(service.timeouts) == 2
