"""What the client does with a service that has no time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from client import errors
from client.api import Client
from tests.client import answering
from tests.e2e.service import free_port

BUSY = b'{"type": "about:blank", "title": "Overloaded", "status": 503, "detail": "come again", "code": "overloaded"}'
ANSWER = b'{"model": "insects", "version": 1, "predictions": []}'


class Service(answering.Server):
    """Busy for the first `busy` requests."""

    busy = 0

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.timeouts: list[str | None] = []


class _Handler(answering.Handler):
    server: Service

    def do_POST(self) -> None:  # noqa: N802 -- as http.server calls it
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.timeouts.append(self.headers["X-Request-Timeout"])
        if len(self.server.timeouts) <= self.server.busy:
            self.answer(503, BUSY, Content_Type="application/problem+json", Retry_After="0")
        else:
            self.answer(200, ANSWER)


@pytest.fixture
def service() -> Iterator[Service]:
    with answering.serving(Service()) as here:
        yield here


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "bee.jpg"
    path.write_bytes(b"bee")
    return path


def test_a_service_that_says_when_it_has_time_is_asked_again(service: Service, photo: Path) -> None:
    service.busy = 2
    with Client(service.url, timeout_seconds=40) as client:
        assert list(client.predict("insects", [photo])) == []
    assert service.timeouts == ["36"] * 3


@pytest.mark.parametrize("proxy", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_service_on_this_machine_is_not_looked_for_behind_a_proxy(
    proxy: str, host: str, service: Service, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(proxy, f"http://127.0.0.1:{free_port()}")
    with Client(f"http://{host}:{service.server_port}", attempts=1) as client:
        assert list(client.predict("insects", [photo])) == []
    monkeypatch.setenv(proxy, service.url)
    with Client("http://graft.example", attempts=1) as elsewhere:
        assert list(elsewhere.predict("insects", [photo])) == []


def test_one_that_never_has_time_is_told_of_in_its_own_words(service: Service, photo: Path) -> None:
    service.busy = 100
    with Client(service.url, attempts=2) as client, pytest.raises(errors.Problem, match="come again"):
        list(client.predict("insects", [photo]))
    assert len(service.timeouts) == 2
