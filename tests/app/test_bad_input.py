"""What is wrong with a prediction is told by its own code on every route, and costs the others nothing."""

import base64
import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.predictions import images, texts
from app.settings import Settings
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.serving import Listening
from tests.backbones.pictures import encode
from tests.problems import problem

PHOTO = factories.image(factories.COLOURS["red"])
TRUNCATED = PHOTO[: len(PHOTO) // 2]
BODY_SECONDS = 1.0
MIB = 1024 * 1024
MAX_BYTES = 3_000_000
ROUTES = ("/v1/models/{}/predict", "/v1/models/{}:predict", "/v2/models/{}/infer")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    folder = tmp_path_factory.mktemp("serving")
    given = Settings(
        data_dir=folder / "data",
        database_url=sqlite_url(folder),
        threads=2,
        predict_body_seconds=BODY_SECONDS,
        max_predict_bytes=MAX_BYTES,
    )
    with serving.listening(given) as found:
        yield found


@pytest.fixture
def http(here: Listening) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=here.url, timeout=60) as found:
        yield found


def body(route: str, encoded: list[str]) -> dict[str, Any]:
    """As each route takes files in base64."""
    found: dict[str, dict[str, Any]] = {
        ROUTES[0]: {"images": [{"b64": text} for text in encoded]},
        ROUTES[1]: {"instances": [{"b64": text} for text in encoded]},
        ROUTES[2]: {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(encoded)], "data": encoded}]},
    }
    return found[route]


def noise() -> bytes:
    """A PNG of 270 kilobytes."""
    return encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)), "PNG")


def b64(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("code", "status", "texts"),
    [
        ("broken_image", 422, [b64(TRUNCATED)]),
        ("empty_image", 422, [""]),
        ("not_an_image", 422, [b64(b"GIF89a")]),
        ("too_many_images", 413, [b64(PHOTO)] * 1000),
        ("not_base64", 422, ["%%%%"]),
    ],
)
def test_files_that_are_no_images_are_refused_by_every_route(
    http: httpx.Client, route: str, code: str, status: int, texts: list[str]
) -> None:
    assert problem(http.post(route.format("insects"), json=body(route, texts)), status)["code"] == code


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("text", [b64(TRUNCATED), "", b64(b"GIF89a"), "%%%%"])
def test_of_several_images_the_text_says_which_one_is_wrong(http: httpx.Client, route: str, text: str) -> None:
    document = problem(http.post(route.format("insects"), json=body(route, [b64(PHOTO), text])), 422)

    assert document["detail"].startswith("image 1: ")
    assert document["image"] == 1


def test_of_fields_that_nobody_knows_it_is_not_said_that_they_are_images(http: httpx.Client) -> None:
    fields = {f"field{number}": 1 for number in range(100_000)}
    document = problem(http.post(ROUTES[0].format("insects"), json=fields), 422)

    assert document["code"] == "not_images"
    assert "fields" in document["detail"]


def test_large_files_within_json_are_read_by_every_route(http: httpx.Client) -> None:
    photo = noise()
    raw = http.post(ROUTES[0].format("insects"), content=photo, headers={"Content-Type": "image/png"}).json()
    expected = {label["label"]: label["probability"] for label in raw["predictions"][0]["labels"]}
    plain, serving_like, v2 = (
        http.post(route.format("insects"), json=body(route, [b64(photo), b64(photo)])).json() for route in ROUTES
    )

    for prediction in plain["predictions"]:
        found = {label["label"]: label["probability"] for label in prediction["labels"]}
        assert found == pytest.approx(expected, abs=1e-4)
    for row in serving_like["predictions"]:
        assert dict(zip(row["labels"], row["probabilities"], strict=True)) == pytest.approx(expected, abs=1e-4)
    (probabilities,) = (output["data"] for output in v2["outputs"] if output["name"] == "probabilities")
    assert probabilities == pytest.approx([expected["ants"], expected["bees"]] * 2, abs=1e-4)


def test_a_long_text_that_is_no_image_is_refused_by_every_route(http: httpx.Client) -> None:
    long = "x" * 100_000
    for route, where in zip(ROUTES, ("other", "signature_name", "id"), strict=True):
        told = problem(http.post(route.format("insects"), json={**body(route, [b64(PHOTO)]), where: long}), 422)
        assert told["code"] in ("invalid_request", "unknown_signature", "not_images")


@pytest.mark.parametrize(
    "filler", ["x", "x y ", "x\n", "ä"], ids=["one word", "words", "lines", "letters of two bytes"]
)
def test_what_is_told_back_is_short(http: httpx.Client, filler: str) -> None:
    long = filler * (1_000_000 // len(filler.encode()))
    url = ROUTES[0].format("insects")
    unknown = http.post(url, json={long: 1})
    assert [wrong["code"] for wrong in problem(unknown, 422)["errors"]] == ["missing", "extra_forbidden"]
    name = long[:5_001].strip().replace("\n", "-")
    nowhere = http.post(ROUTES[0].format(name), json={})
    assert problem(nowhere, 404)["code"] == "model_not_found"
    odd = http.post(url, content=b"x", headers={"Content-Type": name.replace("ä", "a")})
    assert problem(odd, 415)["detail"].endswith("or application/json")

    for answer in (unknown, nowhere, odd):
        assert len(answer.text) < 20_000
    if " " not in filler:
        assert len(odd.text) < 1000


@pytest.mark.parametrize("route", ROUTES)
def test_requests_that_are_wrong_as_a_whole_are_refused_by_every_route(http: httpx.Client, route: str) -> None:
    right, url = json.dumps(body(route, [b64(PHOTO)])), route.format("insects")

    def code(status: int, path: str = url, **request: Any) -> str:
        found: str = problem(http.post(path, **request), status)["code"]
        return found

    assert code(415, content=right, headers={"Content-Type": "text/csv"}) == "unsupported_media_type"
    for broken in ("", right[:-1]):
        assert code(422, content=broken, headers={"Content-Type": "application/json"}) == "broken_json"
    assert code(404, route.format("insects@7"), json=json.loads(right)) == "model_version_not_found"
    assert code(404, route.format("insecs"), json=json.loads(right)) == "model_not_found"
    assert code(422, json=json.loads(right), headers={"X-Request-Timeout": "soon"}) == "invalid_request"
    large = bytes(MAX_BYTES + 1)
    assert code(413, content=large, headers={"Content-Type": "application/json"}) == "too_large"
    assert code(413, content=iter([large]), headers={"Content-Type": "application/json"}) == "too_large"


@pytest.mark.parametrize(
    "query", ["top_k=0", "top_k=-1", "top_k=many", "threshold=2", "threshold=nan", "threshold=0_1", "threshold=%D9%A0"]
)
def test_parameters_out_of_range_are_refused_with_their_place(http: httpx.Client, query: str) -> None:
    headers = {"Content-Type": "image/jpeg"}
    document = problem(http.post(f"/v1/models/insects/predict?{query}", content=PHOTO, headers=headers), 422)

    assert document["errors"][0]["location"] == ["query", query.partition("=")[0]]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("Top_K=2", "no query parameter 'Top_K'; did you mean top_k?"),
        ("foo", "no query parameter 'foo'; valid names are top_k, threshold"),
        ("top_k=1&top_k=2", "query parameter 'top_k' is there more than once"),
    ],
)
def test_parameters_that_there_are_none_of_are_refused(http: httpx.Client, query: str, said: str) -> None:
    headers = {"Content-Type": "image/jpeg"}
    document = problem(http.post(f"/v1/models/insects/predict?{query}", content=PHOTO, headers=headers), 422)

    assert document["detail"] == said


@pytest.mark.parametrize("route", ROUTES[1:])
def test_protocols_without_parameters_take_none(http: httpx.Client, route: str) -> None:
    document = problem(http.post(route.format("insects") + "?top_k=1", json=body(route, [b64(PHOTO)])), 422)

    assert document["detail"] == "no query parameter 'top_k'; there is none"


def _answer(connection: socket.socket) -> bytes:
    """All that comes until the other side ends it, as it does where a request is not whole."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def slow_uploads(here: Listening, url: str, content: bytes) -> list[socket.socket]:
    """Fifty requests whose bodies begin, and do not go on."""
    return begun(here, url, content[:10], size=len(content), count=50)


def begun(here: Listening, url: str, content: bytes, *, size: int, count: int) -> list[socket.socket]:
    """So many requests of whose bodies of `size` bytes the beginning is sent."""
    host, port = here.address.split(":")
    head = f"POST {url} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    connections = [socket.create_connection((host, int(port)), timeout=60) for _ in range(count)]
    for connection in connections:
        connection.sendall(head.encode() + content)
    return connections


@pytest.mark.parametrize("route", [*ROUTES, "/v1/jobs"])
def test_a_body_that_comes_too_slowly_is_refused(here: Listening, route: str) -> None:
    slow = slow_uploads(here, route.format("insects"), json.dumps(body(ROUTES[0], [b64(PHOTO)])).encode())

    for answer in map(_answer, slow):
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert b'"code":"too_slow"' in answer


def test_large_bodies_that_stall_keep_no_small_ones_out_and_are_ended_soon(tmp_path: Path) -> None:
    given = Settings(
        data_dir=tmp_path / "data",
        database_url=sqlite_url(tmp_path),
        threads=1,
        predict_body_seconds=3600,
        predict_stall_seconds=1,
        max_predict_bytes=2 * MIB,
        max_predict_bytes_in_flight=8 * MIB,
    )
    photo = noise()
    with serving.listening(given) as here, httpx.Client(base_url=here.url, timeout=60) as http:
        url = ROUTES[0].format("insects")
        stalled = begun(here, url, b" " * (2 * MIB - 1000), size=2 * MIB, count=4)
        for _ in range(5):
            answer = http.post(url, content=photo, headers={"Content-Type": "image/png"})
            assert answer.is_success, answer.text
        told = sorted(connection.recv(65536) for connection in stalled)
        for connection in stalled:
            connection.close()
        assert {answer[9:12] for answer in told} == {b"408", b"503"}  # the latter for whom there was no room
        assert b"\r\nconnection: close\r\n" in told[0]


def test_a_large_body_may_come_slowly_as_long_as_it_comes(tmp_path: Path) -> None:
    given = Settings(
        data_dir=tmp_path / "data", database_url=sqlite_url(tmp_path), threads=1, predict_stall_seconds=0.5
    )
    with serving.listening(given) as here:
        large = json.dumps(body(ROUTES[0], [b64(PHOTO)])).encode() + b" " * 2 * MIB
        (connection,) = begun(here, ROUTES[0].format("insects"), large[:MIB], size=len(large), count=1)
        for start in range(MIB, len(large), 128 * 1024):
            connection.sendall(large[start : start + 128 * 1024])
            time.sleep(0.1)
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()


def test_what_has_arrived_is_not_too_slow_however_long_it_takes_to_be_parsed(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = images._from_json

    def slowly(raw: bytes, settings: Settings) -> list[bytes]:
        time.sleep(1.5 * BODY_SECONDS)
        return parse(raw, settings)

    monkeypatch.setattr(images, "_from_json", slowly)
    large = json.dumps(body(ROUTES[0], [b64(PHOTO)])).encode() + b" " * texts.INLINE_BYTES
    headers = {"Content-Type": "application/json"}
    assert http.post(ROUTES[0].format("insects"), content=large, headers=headers).is_success


def test_bodies_that_come_slowly_keep_nobody_waiting(tmp_path: Path) -> None:
    given = Settings(
        data_dir=tmp_path / "data", database_url=sqlite_url(tmp_path), threads=2, predict_body_seconds=3600
    )
    with serving.listening(given) as here, httpx.Client(base_url=here.url, timeout=60) as http, ExitStack() as open_:
        for route in ROUTES:
            right, url = json.dumps(body(route, [b64(PHOTO)])).encode(), route.format("insects")
            slow = [open_.enter_context(connection) for connection in slow_uploads(here, url, right)]
            assert http.post(url, content=right, headers={"Content-Type": "application/json"}).is_success
            assert not select.select(slow, [], [], 0)[0]
