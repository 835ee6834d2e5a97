"""Bodies as they come over the network: forms in pieces, clients that go away, disks that are full."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.types import Message

from app import bodies, problems
from app.storage import Storage
from tests import factories
from tests.app.conftest import Bell, sqlite_url
from tests.problems import problem

MIB = 1024 * 1024


def part(headers: str, content: bytes) -> bytes:
    return b"--limit\r\n" + headers.encode() + b"\r\n\r\n" + content + b"\r\n"


def file_part(content: bytes, *, name: str = "file", file_name: str = "a.zip") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"; filename="{file_name}"', content)


def field_part(name: str, content: bytes = b"x") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', content)


END = b"--limit--\r\n"
FORM = {"Content-Type": "multipart/form-data; boundary=limit"}


def in_pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def url(dataset_id: str) -> str:
    return f"/v1/datasets/{dataset_id}/imports"


def on_disk(files: Storage) -> list[str]:
    return sorted(str(path.relative_to(files.root)) for path in files.root.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_a_form_is_read_the_same_in_whatever_pieces_it_comes(
    http: TestClient, url: str, files: Storage, tmp_path: Path, size: int
) -> None:
    archive = factories.zip_of(tmp_path, {"a/1.jpg": b"\r\n--limi" * 20, "b/1.jpg": b"\r\n"}).read_bytes()
    form = file_part(archive, file_name="k%C3%A4fer.zip") + END
    answer = http.post(url, content=in_pieces(form, size), headers=FORM)

    assert answer.status_code == 202, answer.text
    assert answer.json()["file_name"] == "käfer.zip"
    assert files.archive(answer.json()["id"]).read_bytes() == archive


def test_a_file_of_a_form_goes_straight_to_where_it_belongs(
    http: TestClient, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    path = factories.zip_of(tmp_path, {"a/1.jpg": bytes(3 * MIB), "b/1.jpg": b"1"})

    assert http.post(url, content=file_part(path.read_bytes()) + END, headers=FORM).status_code == 202


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (file_part(b"abc"), "broken_form"),
        (file_part(b"abc")[:-3], "broken_form"),
        (b"something else", "broken_form"),
        (part("Content-Type: text/plain", b"x") + END, "broken_form"),
        (part("Content-Disposition: form-data; name=" + "x" * 10_000, b"x") + END, "broken_form"),
        (field_part("name") + file_part(b"abc") + END, "unknown_form_field"),
        (file_part(b"abc") + field_part("name") + END, "unknown_form_field"),
        (END, "file_missing"),
        (field_part("file") + END, "file_missing"),
        (file_part(b"abc") * 2 + END, "many_files"),
    ],
    ids=[
        "no end",
        "cut off",
        "no form",
        "no name",
        "long header",
        "other before",
        "other behind",
        "empty",
        "text",
        "two",
    ],
)
def test_a_form_that_is_wrong_is_refused_and_leaves_nothing(
    http: TestClient, url: str, files: Storage, form: bytes, code: str
) -> None:
    assert problem(http.post(url, content=form, headers=FORM), 422)["code"] == code
    assert on_disk(files) == []


def test_a_field_that_is_no_file_is_told_from_one_that_is_not_there(http: TestClient, url: str) -> None:
    assert "no filename" in problem(http.post(url, content=field_part("file") + END, headers=FORM), 422)["detail"]
    other = problem(http.post(url, content=field_part("top_k") + END, headers=FORM), 422)
    assert other["detail"] == "no form field 'top_k'; valid names are file"


@pytest.mark.parametrize(
    ("headers", "beginning"),
    [
        ({"Content-Type": "application/zip"}, b"PK\x03\x04" + bytes(MIB)),
        (FORM, file_part(bytes(MIB))),
        (FORM, b"--limit\r\nContent-Dis"),
    ],
    ids=["body", "form", "header of a form"],
)
def test_a_client_that_goes_away_is_no_error_and_leaves_nothing(
    http: TestClient,
    url: str,
    files: Storage,
    bell: Bell,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str],
    beginning: bytes,
) -> None:
    caplog.set_level(logging.INFO)
    sent: list[Message] = [
        {"type": "http.request", "body": beginning, "more_body": True},
        {"type": "http.disconnect"},
    ]
    _call(http, url, headers, sent)

    assert on_disk(files) == []
    assert bell.rung == []
    told = [record for record in caplog.records if record.name.startswith("app")]
    assert [record.levelno for record in told] == [logging.INFO]
    assert "went away" in told[0].getMessage()
    assert all(record.exc_info is None for record in caplog.records)


def _call(http: TestClient, path: str, headers: dict[str, str], sent: Iterable[Message]) -> None:
    """A request of which `sent` is all that arrives."""
    messages = iter(sent)

    async def receive() -> Message:
        return next(messages)

    async def send(_: Message) -> None:
        return None

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
        "state": {},
    }
    assert http.portal is not None
    http.portal.call(http.app, scope, receive, send)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    app, path = FastAPI(), tmp_path / "upload.part"
    problems.install(app)
    path.symlink_to("/dev/full")

    @app.post("/")
    async def receive(request: Request) -> None:
        await bodies.save(bodies.chunks(request, max_bytes=MIB), path)

    with TestClient(app, raise_server_exceptions=False) as http:
        document = problem(http.post("/", content=b"x"), 507)
    assert document["code"] == "insufficient_storage"
    assert not path.is_symlink()
