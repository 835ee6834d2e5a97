"""Predictions over HTTP: how images are taken in, and what is refused before it costs anything."""

import base64
import json
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import errors
from app.bodies import InFlight
from app.db import Database
from app.models import service as models
from app.predictions.texts import INLINE_BYTES
from app.settings import Settings
from app.storage import Storage
from tests import factories
from tests.app.conftest import sqlite_url
from tests.problems import problem

MIB = 1024 * 1024
PHOTO = factories.image(factories.COLOURS["red"])
JPEG = {"Content-Type": "image/jpeg"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def url(http: TestClient, database: Database, files: Storage, dataset_id: str) -> str:
    """The predict route of a model."""
    version_id = models.new_version_id()
    factories.write_artifact(files.model_version(version_id))
    factories.register_version(database, version_id, dataset_id, labels=("ants", "bees"))
    return "/v1/models/insects/predict"


def encoded(*images: bytes) -> dict[str, list[dict[str, str]]]:
    return {"images": [{"b64": base64.b64encode(image).decode()} for image in images]}


def test_images_come_as_a_body_in_a_form_and_in_json(http: TestClient, url: str) -> None:
    answers = [
        http.post(url, content=PHOTO, headers=JPEG),
        http.post(url, files=[("file", ("1.jpg", PHOTO)), ("file", ("2.jpg", PHOTO))]),
        http.post(url, json=encoded(PHOTO, PHOTO, PHOTO)),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert [len(answer.json()["predictions"]) for answer in answers] == [1, 2, 3]


def test_a_large_body_waits_for_threads_of_its_own_and_keeps_nobody_else_waiting(http: TestClient, url: str) -> None:
    large = json.dumps(encoded(PHOTO)).encode() + b" " * INLINE_BYTES
    assert http.post(url, content=large, headers=JSON).status_code == 200
    limiter = http.app.state.desk.parsing  # type: ignore[attr-defined]
    assert http.portal is not None
    busy = [object() for _ in range(int(limiter.total_tokens))]
    for thread in busy:
        http.portal.call(limiter.acquire_on_behalf_of, thread)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(http.post, url, content=large, headers=JSON)
        hurried = pool.submit(http.post, url, content=large, headers={**JSON, "X-Request-Timeout": "0.001"})
        try:
            while http.portal.call(limiter.statistics).tasks_waiting < 2:
                assert not waiting.done()
            time.sleep(0.05)
            assert http.post(url, content=PHOTO, headers=JPEG).status_code == 200
            assert http.post(url, json=encoded(PHOTO)).status_code == 200
            assert http.get("/v1/models").status_code == 200
            assert not waiting.done()
        finally:
            for thread in busy:
                http.portal.call(limiter.release_on_behalf_of, thread)
        assert waiting.result().status_code == 200
        # Which counts from the complete body.
        assert waiting.result().json()["timing"]["whole_ms"] >= 50
        assert problem(hurried.result(), 503)["code"] == "deadline_exceeded"


def test_predictions_do_not_wait_for_threads_that_wait_for_the_database(
    api: FastAPI, http: TestClient, url: str, settings: Settings
) -> None:
    large = PHOTO.ljust(settings.max_image_bytes, b"\0")
    assert len(large) > MIB
    api.state.desk = replace(api.state.desk, device=f"cuda:{torch.cuda.device_count()}")  # which is not there
    of_v2 = url.replace("v1", "v2").replace("/predict", "")
    assert http.post(url, content=large, headers=JPEG).status_code == 200
    assert http.portal is not None
    limiter = http.portal.call(_limiter_of_the_framework)
    busy = [object() for _ in range(int(limiter.total_tokens))]
    for thread in busy:
        http.portal.call(limiter.acquire_on_behalf_of, thread)
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(http.post, url, content=large, headers=JPEG),
            pool.submit(http.post, url, files=[("file", ("1.jpg", large))]),
            pool.submit(http.get, of_v2),
            pool.submit(http.get, "/v2/health/live"),
        ]
        try:
            assert [one.result(60).status_code for one in asked] == [200, 200, 200, 503]
        finally:
            for thread in busy:
                http.portal.call(limiter.release_on_behalf_of, thread)


async def _limiter_of_the_framework() -> CapacityLimiter:
    return current_default_thread_limiter()


def test_an_output_that_the_version_has_not_is_refused_before_anything_is_computed(http: TestClient, url: str) -> None:
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [encoded(PHOTO)["images"][0]["b64"]]}
    infer = url.replace("v1", "v2").replace("predict", "infer")
    answer = http.post(infer, json={"inputs": [image], "outputs": [{"name": "label"}, {"name": "similarity"}]})

    assert problem(answer, 422)["code"] == "unknown_output"
    counts = [line for line in http.get("/metrics").text.splitlines() if line.startswith("graft_predictions_total")]
    assert counts == ['graft_predictions_total{model="insects",outcome="unknown_output"} 1.0']
    assert [each["name"] for each in http.post(infer, json={"inputs": [image]}).json()["outputs"]] == [
        "probabilities",
        "logits",
        "label",
    ]


def test_too_many_images_are_refused_however_they_come(http: TestClient, url: str, settings: Settings) -> None:
    too_many = [b"no image"] * (settings.max_images_per_predict + 1)
    for answer in (
        http.post(url, files=[("file", ("1.jpg", image)) for image in too_many]),
        http.post(url, json=encoded(*too_many)),
        http.post(url, json=encoded(*too_many * 10)),
    ):
        assert problem(answer, 413)["code"] == "too_many_images"


def test_an_image_over_the_limit_is_refused_and_named_however_it_comes(
    http: TestClient, url: str, settings: Settings
) -> None:
    large = bytes(settings.max_image_bytes + 1)
    as_body = http.post(url, content=large, headers=JPEG)
    in_form = http.post(url, files=[("file", ("1.jpg", PHOTO)), ("file", ("2.jpg", large))])
    in_json = http.post(url, json=encoded(PHOTO, large))

    assert problem(as_body, 413)["max_bytes"] == settings.max_image_bytes
    for answer in (in_form, in_json):
        document = problem(answer, 413)
        assert document["code"] == "too_large"
        assert "image 1" in document["detail"]


@pytest.mark.parametrize("text", ["?", "AAA", "AA==AA==", "AAAA\nAAAA", "käfer", "data:image/png;base64,AAAA"])
def test_what_is_not_quite_base64_is_refused_and_named(http: TestClient, url: str, text: str) -> None:
    document = problem(http.post(url, json={"images": [*encoded(PHOTO)["images"], {"b64": text}]}), 422)

    assert (document["code"], document["image"]) == ("not_base64", 1)


def test_a_body_that_is_wrong_in_many_places_is_told_the_first_twenty(http: TestClient, url: str) -> None:
    in_json = problem(http.post(url, json={"images": [{"a": 1, "b": 2, "c": 3}] * 8}), 422)
    elsewhere = problem(http.post("/v1/datasets", json={f"field {number}": 1 for number in range(1000)}), 422)

    assert len(in_json["errors"]) == 20
    assert len(elsewhere["errors"]) == 20
    assert elsewhere["detail"].endswith("and 998 more")


@pytest.mark.parametrize(
    "rubbish",
    [b'{"images":[' + b"1," * MIB + b"1]}", b'{"images":[' + b'{"b64":""},' * (MIB // 5) + b'{"b64":""}]}', b"[" * MIB],
    ids=["numbers", "empty images", "depth"],
)
def test_megabytes_of_rubbish_cost_no_more_memory_than_they_have_bytes(
    http: TestClient, url: str, rubbish: bytes
) -> None:
    tracemalloc.start()
    try:
        answer = http.post(url, content=rubbish, headers=JSON)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert answer.status_code in (413, 422)
    assert most < 10 * len(rubbish)
    assert len(answer.content) < 10_000


def test_a_json_body_over_its_limit_has_the_code_of_every_other(http: TestClient, settings: Settings, url: str) -> None:
    large = b" " * (settings.max_predict_bytes + 1)
    assert problem(http.post(url, content=large, headers=JSON), 413)["code"] == "too_large"
    document = problem(http.post("/v1/datasets", content=large, headers=JSON), 413)
    assert document["code"] == "too_large"
    assert document["max_bytes"] == MIB


def test_bodies_beyond_what_may_be_in_memory_are_asked_to_come_again(http: TestClient, url: str) -> None:
    whole = InFlight(8 * len(PHOTO), stall_seconds=60)
    state = http.app.state  # type: ignore[attr-defined]
    state.desk = replace(state.desk, in_flight=whole)
    with whole.share() as other:
        other.add(6 * len(PHOTO))
        assert http.post(url, content=PHOTO, headers=JPEG).status_code == 200
        other.add(1)
        refused = http.post(url, content=PHOTO, headers=JPEG)
        assert problem(refused, 503)["code"] == "overloaded"
        assert refused.headers["retry-after"] == "1"
        assert problem(http.post(url, content=iter([PHOTO]), headers=JPEG), 503)["code"] == "overloaded"
    assert http.post(url, content=PHOTO, headers=JPEG).status_code == 200


def test_a_body_that_is_alone_is_let_in_and_all_is_given_back() -> None:
    whole = InFlight(100, stall_seconds=60)
    with whole.share() as large:
        large.add(80)
        large.add(80)
    with whole.share() as first, whole.share() as second:
        first.add(60)
        second.add(20)
        with pytest.raises(errors.Overloaded):
            second.add(1)


def test_a_body_leaves_room_for_smaller_ones() -> None:
    whole = InFlight(100, stall_seconds=60)
    with ExitStack() as open_:
        large, other, small, tiny = (open_.enter_context(whole.share()) for _ in range(4))
        large.add(60)
        with pytest.raises(errors.Overloaded):
            other.expect(21)
        other.add(15)
        small.add(12)
        with pytest.raises(errors.Overloaded):
            other.add(1)
        tiny.add(6)
