"""Predictions over real connections: whose client goes away, which form answers, and how a process stops."""

import io
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.settings import Settings
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.app.serving import Listening
from tests.e2e import service

PHOTO = factories.image(factories.COLOURS["red"])
SIDE = 3000
"""Of photos that are small files, and take a good while to decode."""
PREDICT = "/v1/models/insects/predict"
SECONDS = 60


@pytest.fixture(scope="module")
def slow() -> bytes:
    """Such a photo."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), factories.COLOURS["red"]).save(buffer, "PNG")
    return buffer.getvalue()


def settings(folder: Path) -> Settings:
    return Settings(data_dir=folder / "data", database_url=sqlite_url(folder), threads=1)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Listening]:
    with serving.listening(settings(tmp_path)) as found:
        yield found


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def answered(url: str) -> None:
    """Ask for one photo."""
    headers = {"Content-Type": "image/jpeg"}
    httpx.post(f"{url}{PREDICT}", content=PHOTO, headers=headers, timeout=SECONDS).raise_for_status()


def request(here: Listening, *photos: bytes) -> bytes:
    """As it goes over the wire."""
    made = httpx.Request("POST", f"{here.url}{PREDICT}", files=[("file", ("photo", photo)) for photo in photos])
    body = made.read()
    head = [f"POST {PREDICT} HTTP/1.1", *(f"{name}: {value}" for name, value in made.headers.items())]
    return "\r\n".join([*head, "", ""]).encode() + body


def test_what_waits_for_a_client_that_goes_away_is_dropped(here: Listening, slow: bytes) -> None:
    answered(here.url)  # loads the model
    address = httpx.URL(here.url)
    with socket.create_connection((address.host, address.port or 0)) as client:
        client.sendall(request(here, *[slow] * 40))
        until(lambda: serving.metric(here.url, "graft_queued_images") >= 30)
    until(lambda: serving.metric(here.url, 'graft_predictions_total{model="insects",outcome="client_gone"}') == 1)

    assert serving.metric(here.url, "graft_queued_images") == 0
    assert serving.metric(here.url, 'graft_predicted_images_total{model="insects"}') == 1


def test_a_form_that_does_not_load_is_counted_and_the_next_one_answers(tmp_path: Path) -> None:
    with serving.listening(settings(tmp_path), "onnxruntime", network=b"no network") as here:
        answered(here.url)

        assert serving.metric(here.url, 'graft_runtime_fallbacks_total{form="onnxruntime-fp32"}') == 1
        assert serving.metric(here.url, 'graft_model_loads_total{form="torch-fp32"}') == 1


def test_a_process_that_is_told_to_stop_answers_the_predictions_that_it_has_accepted(
    tmp_path: Path, slow: bytes
) -> None:
    given, port = settings(tmp_path), service.free_port()
    serving.register(given)
    environment = {
        "GRAFT_DATA_DIR": str(given.data_dir),
        "GRAFT_DATABASE_URL": given.sqlalchemy_url,
        "GRAFT_THREADS": "1",
    }
    process = service.start(["-m", "app.server", "--port", str(port)], environment, tmp_path / "server.log")
    try:
        url = service.ready(f"http://127.0.0.1:{port}", process, workers=0).url
        answered(url)  # loads the model
        files = [("file", ("photo", slow))] * 10
        with ThreadPoolExecutor(1) as caller:
            answer = caller.submit(httpx.post, f"{url}{PREDICT}", files=files, timeout=SECONDS)
            until(lambda: serving.metric(url, "graft_queued_images") >= 5)
            process.popen.terminate()
            found = answer.result()
        ended = process.popen.wait(timeout=SECONDS)
    finally:
        process.stop()

    assert found.status_code == 200, found.text
    assert len(found.json()["predictions"]) == 10
    assert ended in (0, -signal.SIGTERM)
