"""Megabytes of JSON that is no image cost little more memory than they have bytes, by whichever protocol they come."""

import tracemalloc
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.db import Database
from app.models import service as models
from app.storage import Storage
from tests import factories
from tests.app.conftest import sqlite_url

MIB = 1024 * 1024
MOST_BYTES_PER_BYTE = 18
"""What lists of three numbers take, which images may come in."""
V2, SERVING = "/v2/models/insects/infer", "/v1/models/insects:predict"
RUBBISH = (
    b"1,",
    b"0.5,",
    b"[],",
    b"{},",
    b'"",',
    b'"a",',
    b"[1,1],",
    b"[0.5,0.5,0.5],",
    b'{"a":1},',
    b"null,",
    b"[[]],",
)


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture(autouse=True)
def insects(http: TestClient, database: Database, files: Storage, dataset_id: str) -> None:
    version_id = models.new_version_id()
    factories.write_artifact(files.model_version(version_id))
    factories.register_version(database, version_id, dataset_id, labels=("ants", "bees"))


def listed(part: bytes) -> bytes:
    return b"[" + part * (MIB // len(part)) + part.removesuffix(b",") + b"]"


def check(http: TestClient, url: str, body: bytes) -> str:
    """The code with which the body is refused."""
    tracemalloc.start()
    try:
        answer = http.post(url, content=body, headers={"Content-Type": "application/json"})
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert answer.status_code in (413, 422), answer.text
    assert most < MOST_BYTES_PER_BYTE * len(body)
    assert len(answer.content) < 10_000
    code: str = answer.json()["code"]
    return code


@pytest.mark.parametrize("part", RUBBISH)
def test_lists_of_rubbish_in_place_of_images(http: TestClient, part: bytes) -> None:
    pixels = b'{"name":"raw_pixels","datatype":"UINT8","shape":[8,9999,9999,3],"data":' + listed(part) + b"}"
    check(http, V2, b'{"inputs":[' + pixels + b"]}")
    check(http, SERVING, b'{"instances":' + listed(part) + b"}")
    check(http, SERVING, b'{"inputs":{"image":' + listed(part) + b"}}")


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":' + listed(b'{"name":"","shape":[],"datatype":""},') + b"}",
        b'{"inputs":[],"outputs":' + listed(b'{"name":""},') + b"}",
        b'{"inputs":[{"name":"image","datatype":"BYTES","data":[""],"shape":' + listed(b"7,") + b"}]}",
        b'{"inputs":[],"others":' + listed(b"[],") + b"}",
        b"[" * MIB,
    ],
    ids=["inputs", "outputs", "shape", "members that nobody knows", "depth"],
)
def test_rubbish_around_the_images(http: TestClient, body: bytes) -> None:
    check(http, V2, body)
    check(http, SERVING, body)


@pytest.mark.parametrize("length", [1000, 16_000])
@pytest.mark.parametrize("numbers", [16_000, 400_000])
def test_a_text_among_numbers_is_not_given_the_place_of_each_of_them(
    http: TestClient, length: int, numbers: int
) -> None:
    mixed = b'["%s"%s]' % (b"a" * length, b",1" * numbers)
    pixels = b'{"name":"raw_pixels","datatype":"UINT8","shape":[1,9999,9999,3],"data":%s}'
    floats = b'{"name":"pixels","datatype":"FP32","shape":[1,3,9999,9999],"data":%s}'
    for tensor in (pixels, floats):
        assert check(http, V2, b'{"inputs":[' + tensor % mixed + b"]}") == "not_numbers"
    assert check(http, SERVING, b'{"instances":[[%s]]}' % mixed) == "not_numbers"
    assert check(http, SERVING, b'{"inputs":{"image":[%s]}}' % mixed) == "not_numbers"
