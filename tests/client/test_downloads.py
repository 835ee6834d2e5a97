"""Files that are brought from the service: whole and as they were written, or not at all."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from client import downloads
from client.errors import Problem, Refused

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Service:
    """Answers one after the other with these: a body, or an error on the way."""

    def __init__(self, *answers: bytes | httpx.TransportError | int) -> None:
        self._answers: Iterator[bytes | httpx.TransportError | int] = iter(answers)
        self._http = httpx.Client(transport=httpx.MockTransport(self._answer))

    def ask(self) -> AbstractContextManager[httpx.Response]:
        return self._http.stream("GET", "http://service/file")

    def _answer(self, _request: httpx.Request) -> httpx.Response:
        given = next(self._answers)
        if isinstance(given, httpx.TransportError):
            raise given
        if isinstance(given, int):
            return httpx.Response(given, json={"code": "model_file_not_found", "detail": "there is none"})
        return httpx.Response(200, content=given)


def test_a_file_is_there_as_it_was_written(tmp_path: Path) -> None:
    saved = downloads.save(Service(CONTENT).ask, tmp_path / "weights", SHA256)
    assert saved.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [saved]


def test_what_breaks_off_or_arrives_cut_is_asked_for_again(tmp_path: Path) -> None:
    service = Service(httpx.ReadError("gone"), CONTENT[:100], CONTENT)
    assert downloads.save(service.ask, tmp_path / "weights", SHA256).read_bytes() == CONTENT


def test_what_stays_another_file_is_refused_and_left_out(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="weights is not what the service says"):
        downloads.save(Service(*[b"other"] * 9).ask, tmp_path / "weights", SHA256)
    with pytest.raises(httpx.ReadError):
        downloads.save(Service(*[httpx.ReadError("gone")] * 9).ask, tmp_path / "weights", SHA256)
    with pytest.raises(Problem, match="there is none"):
        downloads.save(Service(404).ask, tmp_path / "weights", SHA256)
    assert list(tmp_path.iterdir()) == []
