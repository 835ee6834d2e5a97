"""A process for predictions alone: what it has in memory when it begins to listen."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidRequestError

from app.settings import Settings
from tests import factories
from tests.app import serving
from tests.app.conftest import sqlite_url
from tests.e2e import service
from tests.problems import problem

PATIENCE = 60.0
PHOTO = factories.image(factories.COLOURS["red"])
ASKING = {"Content-Type": "image/png", "X-Request-Timeout": "60"}
_LOOKS = 5
"""At a database that is away, after which a process that did not wait for it would listen long since."""


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Of a service whose one model is kept in memory."""
    given = Settings(data_dir=tmp_path / "data", database_url=sqlite_url(tmp_path), threads=1)
    with serving.listening(given) as first:
        put = httpx.put(
            f"{first.url}/v1/models/insects/aliases/production", json={"version": 1, "keep_loaded": True}, timeout=60
        )
        assert put.status_code == 201, put.text
        answer = httpx.post(f"{first.url}/v1/models/insects/predict", content=PHOTO, headers=ASKING, timeout=60)
        assert answer.status_code == 200, answer.text  # nobody is to load it any more when the tests begin
    return given


def manifest(given: Settings) -> Path:
    return next((given.data_dir / "models").glob("*/artifact.json"))


def hold_up(path: Path) -> Callable[[Callable[[], object]], None]:
    """Let whoever reads the file wait. The function that is returned waits for one who does, calls what it is given and
    lets the reader go on."""
    content = path.read_text()
    path.unlink()
    os.mkfifo(path)

    def go_on(meanwhile: Callable[[], object]) -> None:
        # One reader alone is served, so what is read again is the file.
        with path.open("w") as pipe:
            meanwhile()
            path.unlink()
            path.write_text(content)
            pipe.write(content)

    return go_on


@dataclass
class Starting:
    """A process that is being started, and is asked whether it is ready as soon as it listens."""

    thread: threading.Thread
    listens: threading.Event
    answers: list[httpx.Response]


@contextmanager
def starting(given: Settings) -> Iterator[Starting]:
    """At the end it must have come to listen."""
    listens, is_over = threading.Event(), threading.Event()
    answers: list[httpx.Response] = []

    def run() -> None:
        with serving.started(given, warm_seconds=PATIENCE) as here:
            listens.set()
            answers.append(httpx.get(f"{here.url}/v2/health/ready", timeout=60))
            assert is_over.wait(PATIENCE)

    thread = threading.Thread(target=run)
    thread.start()
    yield Starting(thread, listens, answers)
    assert listens.wait(PATIENCE)
    is_over.set()
    thread.join()


class Away:
    """While it lasts, every statement of this process fails, as where the server of the database is gone."""

    def __init__(self) -> None:
        self.refused = threading.Semaphore(0)
        event.listen(Engine, "before_cursor_execute", self._refuse)

    def end(self) -> None:
        event.remove(Engine, "before_cursor_execute", self._refuse)

    def _refuse(self, *_: object) -> None:
        self.refused.release()
        raise ConnectionError("gone")


@pytest.fixture
def away(given: Settings) -> Iterator[Away]:
    """From when there is what `given` says."""
    assert given.data_dir.is_dir()
    away = Away()
    yield away
    with suppress(InvalidRequestError):  # where the test has ended it
        away.end()


def test_it_listens_once_what_it_keeps_is_loaded(given: Settings) -> None:
    go_on = hold_up(manifest(given))
    early: list[bool] = []
    with starting(given) as process:
        go_on(lambda: early.append(process.listens.is_set()))
    assert early == [False]
    assert [answer.json() for answer in process.answers] == [{"ready": True}]


def test_where_the_database_is_away_it_listens_once_that_is_back_and_what_it_keeps_is_loaded(
    given: Settings, away: Away
) -> None:
    go_on = hold_up(manifest(given))
    early: list[bool] = []
    with starting(given) as process:
        for _ in range(_LOOKS):
            assert away.refused.acquire(timeout=PATIENCE)
        early.append(process.listens.is_set())
        away.end()
        go_on(lambda: early.append(process.listens.is_set()))
    assert early == [False, False]
    assert [answer.json() for answer in process.answers] == [{"ready": True}]


def test_where_the_database_stays_away_it_is_not_ready_until_that_is_back(given: Settings, away: Away) -> None:
    with serving.started(given, warm_seconds=0.01) as here, httpx.Client(base_url=here.url, timeout=60) as http:
        assert problem(http.get("/v2/health/ready"), 503)["code"] == "registry_unknown"
        away.end()
        assert http.post("/v1/models/insects/predict", content=PHOTO, headers=ASKING).status_code == 200
        assert http.get("/v2/health/ready").json() == {"ready": True}


def test_it_waits_no_longer_than_it_may(given: Settings, caplog: pytest.LogCaptureFixture) -> None:
    go_on = hold_up(manifest(given))
    with serving.started(given, warm_seconds=0.01) as here, httpx.Client(base_url=here.url, timeout=60) as http:
        early: list[httpx.Response] = []
        go_on(lambda: early.append(http.get("/v2/health/ready")))
        assert problem(early[0], 503)["code"] == "model_loading"
        assert http.post("/v1/models/insects/predict", content=PHOTO, headers=ASKING).status_code == 200
    assert "not loaded after 0.01 s" in caplog.text


def test_what_cannot_be_loaded_does_not_keep_it_from_listening(given: Settings) -> None:
    manifest(given).unlink()
    with serving.started(given, warm_seconds=PATIENCE) as here:
        assert httpx.get(f"{here.url}/v2/health/ready", timeout=60).json() == {"ready": True}


def test_a_process_that_is_told_to_stop_before_it_listens_does_so(given: Settings, tmp_path: Path) -> None:
    environment = {"GRAFT_DATA_DIR": str(given.data_dir), "GRAFT_DATABASE_URL": given.sqlalchemy_url}
    log = tmp_path / "server.log"
    go_on = hold_up(manifest(given))
    process = service.start(["-m", "app.server", "predict", "--port", "0"], environment, log)
    ends: list[int] = []

    def stop() -> None:
        process.popen.terminate()
        ends.append(process.popen.wait(PATIENCE))

    try:
        with suppress(BrokenPipeError):  # nobody reads on
            go_on(stop)
    finally:
        process.stop()
    assert ends == [-signal.SIGTERM], log.read_text()
