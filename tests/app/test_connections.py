"""HTTP over real connections, which clients use in ways of their own."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPResponse, parse_headers
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.serving import Listening

PHOTO = factories.image(factories.COLOURS["red"])
HEAD_SECONDS = 1.0
PREDICT = "/v1/models/insects/predict"
OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("serving")
    given = Settings(
        data_dir=folder / "data",
        database_url=sqlite_url(folder),
        threads=1,
        predict_timeout_seconds=60,
        request_head_seconds=HEAD_SECONDS,
    )
    with serving.listening(given) as found:
        yield found


@pytest.fixture
def connection(here: Listening) -> Iterator[socket.socket]:
    with connected(here) as found:
        yield found


def connected(here: Listening) -> socket.socket:
    host, port = here.address.split(":")
    found = socket.create_connection((host, int(port)), timeout=60)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def head(content: bytes = PHOTO, *more: str, path: str = PREDICT) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n"
        f"{''.join(more)}\r\n"
    ).encode()


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next one."""
    response = HTTPResponse(connection, method="POST")
    response.begin()
    return response.status, response.read()


def labels(found: tuple[int, bytes]) -> list[tuple[str, float]]:
    status, body = found
    assert status == 200, body
    (prediction,) = json.loads(body)["predictions"]
    return [(each["label"], each["probability"]) for each in prediction["labels"]]


@pytest.mark.parametrize("size", [1_000_000, 50], ids=["at once", "in pieces"])
def test_an_offer_of_http_2_is_ignored_and_its_request_answered(connection: socket.socket, size: int) -> None:
    connection.sendall(head() + PHOTO)
    expected = labels(answer(connection))
    offering = head(PHOTO, OFFER) + PHOTO
    for begin in range(0, len(offering), size):
        connection.sendall(offering[begin : begin + size])

    assert labels(answer(connection)) == expected
    connection.sendall(head() + PHOTO)
    assert labels(answer(connection)) == expected


def test_the_body_of_such_a_request_may_come_after_its_head_was_read(connection: socket.socket) -> None:
    connection.sendall(head(PHOTO, OFFER, "Expect: 100-continue\r\n"))
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(PHOTO)

    assert labels(answer(connection))


def test_an_offer_of_http_2_may_come_with_a_body_in_chunks(connection: socket.socket) -> None:
    given = head(PHOTO, OFFER).replace(b"Content-Length: %d" % len(PHOTO), b"Transfer-Encoding: chunked")
    connection.sendall(given + b"%x\r\n%s\r\n0\r\n\r\n" % (len(PHOTO), PHOTO))

    assert labels(answer(connection))


def test_many_offers_at_once_are_all_answered(connection: socket.socket) -> None:
    one = f"GET /healthz HTTP/1.1\r\nHost: here\r\n{OFFER}\r\n".encode()
    connection.sendall(one * 1100)

    reader = connection.makefile("rb")
    answers = (line for line in iter(reader.readline, b"") if line.endswith(b"HTTP/1.1 200 OK\r\n"))
    assert len(list(islice(answers, 1100))) == 1100


def test_an_offer_of_a_web_socket_is_ignored(connection: socket.socket) -> None:
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")

    assert answer(connection)[0] == 200


def refused(connection: socket.socket) -> dict[str, Any]:
    """The problem document that comes before the other side ends the connection."""
    response = HTTPResponse(connection, method="POST")
    response.begin()
    document: dict[str, Any] = json.loads(response.read())
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    assert document["status"] == response.status
    assert document["error"] == document["detail"]
    with suppress(ConnectionResetError):  # where more was sent than the other side has read
        assert connection.recv(1) == b""
    return document


@pytest.mark.parametrize(
    ("rubbish", "detail", "path"),
    [
        ("GET /v1/models/käfer HTTP/1.1\r\nHost: here\r\n\r\n".encode(), "percent-encoded", ""),
        (b"GET /healthz HTTP/1.1\r\nno header\r\n\r\n", "Invalid header token", "/healthz"),
        (b"\x16\x03\x01\x02\x00", "HTTP/1.1", ""),
        (
            b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n",
            "(tunnels are not made here)",
            "elsewhere:443",
        ),
        (b"GET http://h_x/ HTTP/1.1\r\nHost: here\r\n\r\n", "(invalid url b'http://h_x/')", "http://h_x/"),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "chunk", "/v1/jobs"),
    ],
    ids=["beyond ASCII", "no header", "TLS", "tunnel", "no host", "no chunk"],
)
def test_what_is_no_request_is_told_so(connection: socket.socket, rubbish: bytes, detail: str, path: str) -> None:
    connection.sendall(rubbish)
    document = refused(connection)

    assert (document["status"], document["code"], document["instance"]) == (400, "bad_request", path)
    assert detail in document["detail"]


HEADERS = b"GET /healthz HTTP/1.1\r\nHost: here\r\n"
CHUNKED = head().replace(b"Content-Length: %d" % len(PHOTO), b"Transfer-Encoding: chunked")
CHUNKS = CHUNKED + b"1\r\nx\r\n0\r\n"


@pytest.mark.parametrize(
    ("beginning", "sending"),
    [
        (HEADERS, b"ab:cd\r\n"),
        (HEADERS + b"X: ", b"abcd"),
        (HEADERS + OFFER.encode(), b"ab:cd\r\n"),
        (b"GET /healthz?", b"abcd"),
        (b"", b"\r\n"),
        (CHUNKS, b"ab:cd\r\n"),
        (CHUNKS + b"X: ", b"abcd"),
    ],
    ids=["headers", "header", "offer", "address", "blank lines", "trailers", "trailer"],
)
def test_what_has_no_end_is_refused(connection: socket.socket, beginning: bytes, sending: bytes) -> None:
    """Headers take twenty times their bytes of memory, and a long one is copied with each piece that comes."""
    connection.sendall(beginning)
    with suppress(ConnectionError):
        for _ in range(1000):
            connection.sendall(sending * 250)
    document = refused(connection)

    assert (document["status"], document["code"]) == (431, "head_too_large")
    assert "64 KiB" in document["detail"]


def test_a_head_has_as_much_as_there_may_be_and_each_request_anew(connection: socket.socket) -> None:
    for _ in range(3):
        connection.sendall(head(PHOTO, f"X: {'x' * 65_000}\r\n") + PHOTO)
        assert labels(answer(connection))
    connection.sendall(head(PHOTO, f"X: {'x' * 65_536}\r\n") + PHOTO)
    assert refused(connection)["code"] == "head_too_large"


def test_what_is_said_behind_a_body_is_no_header(connection: socket.socket) -> None:
    given = head(PHOTO).replace(b"Content-Length: %d" % len(PHOTO), b"Transfer-Encoding: chunked")
    connection.sendall(given + b"%x\r\n%s\r\n0\r\nX-Request-Timeout: never\r\n\r\n" % (len(PHOTO), PHOTO))

    assert labels(answer(connection))


def in_chunks(content: bytes, size: int) -> bytes:
    """The content in chunks of so many bytes, and the end of the body."""
    chunks = (content[begin : begin + size] for begin in range(0, len(content), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 16, 60])
def test_a_body_in_tiny_chunks_is_refused(connection: socket.socket, size: int) -> None:
    """While they are read nobody else is answered: 256 KiB of them have 43,690 chunks of one byte."""
    with suppress(ConnectionError):
        connection.sendall(CHUNKED + b"%x\r\n%s\r\n" % (size, bytes(size)) * 35_000 + b"0\r\n\r\n")
    document = refused(connection)

    assert (document["status"], document["code"], document["instance"]) == (400, "chunks_too_small", PREDICT)
    assert "Content-Length" in document["detail"]


@pytest.mark.parametrize(("size", "length"), [(1, 1_900), (64, 2_100_000), (1024, 10_000_000)])
def test_a_body_may_come_in_small_chunks(connection: socket.socket, size: int, length: int) -> None:
    for _ in range(2):
        connection.sendall(CHUNKED + in_chunks(PHOTO.ljust(length, b"\0"), size))
        assert labels(answer(connection))


def test_a_body_may_come_byte_by_byte_where_its_length_is_said(connection: socket.socket) -> None:
    photo = PHOTO.ljust(3_000, b"\0")
    connection.sendall(head(photo))
    for byte in photo:
        connection.sendall(bytes([byte]))

    assert labels(answer(connection))


def test_bodies_that_do_not_come_are_given_up_before_a_server_has_stopped(tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path / "data", database_url=sqlite_url(tmp_path), threads=1)
    with serving.listening(given) as here, ExitStack() as open_:
        dataset_id = httpx.get(f"{here.url}/v1/datasets").json()["data"][0]["id"]
        paths = [PREDICT, "/v1/models/insects:predict", "/v2/models/insects/infer", "/v1/jobs"]
        paths.append(f"/v1/datasets/{dataset_id}/imports")
        begun = {path: open_.enter_context(connected(here)) for path in paths}
        for path, connection in begun.items():
            media_type = "application/zip" if path.endswith("imports") else "application/json"
            asked = head(PHOTO, "Expect: 100-continue\r\n", path=path).replace(b"image/jpeg", media_type.encode())
            connection.sendall(asked)
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n", path
            connection.sendall(PHOTO[:10])
        stopped = open_.pop_all()

    with stopped:
        for path, connection in begun.items():
            response = HTTPResponse(connection, method="POST")
            response.begin()
            assert response.status == 503, path
            assert response.headers["Retry-After"]
            assert response.headers["Connection"] == "close"
            assert json.loads(response.read())["code"] == "overloaded"
            assert connection.recv(1) == b""


def test_an_answer_is_sent_in_one_piece(connection: socket.socket) -> None:
    connection.sendall(head(PHOTO) + PHOTO)

    first, _, rest = connection.recv(65_536).partition(b"\r\n\r\n")
    assert f"content-length: {len(rest)}".encode() in first
    assert labels((200, rest))


def ends(connection: socket.socket, *, sending: bytes) -> bool:
    """Whether the other side ends it though `sending` comes again and again."""
    connection.settimeout(0.05)
    for _ in range(1000):
        try:
            connection.sendall(sending)
            if not connection.recv(1000):
                return True
        except TimeoutError:
            continue
        except OSError:  # it has ended, and more was sent
            return True
    return False


@pytest.mark.parametrize("sending", [b"", b"x"], ids=["silent", "slow"])
def test_a_connection_on_which_no_request_comes_is_closed(connection: socket.socket, sending: bytes) -> None:
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\nX-Long: ")

    assert ends(connection, sending=sending)


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"], ids=["first", "second"])
def test_who_sends_a_head_too_slowly_is_told_so(connection: socket.socket, before: bytes) -> None:
    if before:
        connection.sendall(before)
        assert answer(connection)[0] == 200
    connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: here\r\nX-Lo")
    document = refused(connection)

    assert (document["status"], document["code"], document["instance"]) == (408, "too_slow", "/readyz")


def test_who_asks_nothing_is_told_nothing(connection: socket.socket) -> None:
    assert connection.recv(1) == b""


@pytest.mark.parametrize("path", ["/v1/models/insects/none", PREDICT])
def test_a_connection_on_which_no_second_request_comes_is_closed(connection: socket.socket, path: str) -> None:
    connection.sendall(head(bytes(10_000_000), path=path).replace(b"image/jpeg", b"image/none"))
    assert answer(connection)[0] in (404, 415)

    assert ends(connection, sending=b"x")  # the rest of a body that nobody wants


def test_the_answer_to_who_still_sends_when_the_connection_ends_is_not_lost(connection: socket.socket) -> None:
    connection.sendall(head(bytes(20_000_000), "Connection: close\r\n").replace(b"image/jpeg", b"image/none"))
    for _ in range(20):
        connection.sendall(bytes(1_000_000))

    assert answer(connection)[0] == 415
    assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "rubbish",
    [b"no chunk\r\n", b"0\r\nX: " + bytes(70_000), b"1\r\nx\r\n" * 10_000],
    ids=["chunk", "trailer", "tiny chunks"],
)
def test_a_request_that_was_answered_before_its_body_gets_no_second_answer(
    connection: socket.socket, rubbish: bytes
) -> None:
    connection.sendall(CHUNKED.replace(b"image/jpeg", b"image/none") + b"1\r\nx\r\n")
    assert answer(connection)[0] == 415
    connection.sendall(rubbish)

    assert connection.recv(1000) == b""


def test_what_is_no_request_behind_one_that_was_answered_before_its_body_is_told_so(connection: socket.socket) -> None:
    connection.sendall(CHUNKED.replace(b"image/jpeg", b"image/none"))
    assert answer(connection)[0] == 415
    connection.sendall(b"1\r\nx\r\n0\r\n\r\n" + b"no request\r\n\r\n")

    assert refused(connection)["code"] == "bad_request"


def all_answers(connection: socket.socket) -> list[tuple[int, bytes]]:
    """Status and body of each that comes before the other side ends the connection."""
    coming, found = connection.makefile("rb"), []
    while line := coming.readline():
        size = int(parse_headers(coming)["content-length"])
        found.append((int(line.split()[1]), coming.read(size)))
    return found


@pytest.mark.parametrize("rubbish", [b"no request\r\n\r\n", CHUNKED + b"no chunk\r\n"], ids=["head", "body"])
@pytest.mark.parametrize("count", [1, 3])
def test_those_before_what_is_no_request_have_their_answers_first(
    connection: socket.socket, rubbish: bytes, count: int
) -> None:
    connection.sendall((head() + PHOTO) * count + rubbish)
    *before, (status, refusal) = all_answers(connection)

    assert len(before) == count
    assert all(labels(one) for one in before)
    assert (status, json.loads(refusal)["code"]) == (400, "bad_request")


def test_nothing_is_said_of_what_comes_behind_a_request_to_close(connection: socket.socket) -> None:
    connection.sendall(head(PHOTO, "Connection: close\r\n") + PHOTO + b"no request\r\n\r\n")

    (only,) = all_answers(connection)
    assert labels(only)


def test_a_body_has_more_time_than_the_head(here: Listening, connection: socket.socket) -> None:
    connection.sendall(head(PHOTO, "Expect: 100-continue\r\n"))
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    with connected(here) as later:
        assert ends(later, sending=b"")
    connection.sendall(PHOTO)

    assert labels(answer(connection))
