"""Changes of the client over a connection that loses answers: each is done once, and told as it came out."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db import Database, utc_now
from app.jobs import leases
from app.jobs.leases import Failure
from app.models import service as models
from client import answers
from client.api import Client
from client.errors import Problem, Unreachable
from client.forms import Pins
from client.recipe import Recipe, Search
from tests import factories
from tests.app.conftest import api, bell, built, dataset_id, http, sqlite_url, versioned
from tests.e2e import service

__all__ = ["api", "bell", "built", "dataset_id", "http", "versioned"]


class Line(ThreadingHTTPServer):
    """The way to the service. The answer to the next change gets lost where `is_lossy`, after which `meanwhile` is
    done."""

    is_lossy = False

    def __init__(self, http: TestClient) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.http = http
        self.meanwhile: Callable[[], object] = lambda: None


class _Handler(BaseHTTPRequestHandler):
    server: Line

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.http.request(self.command, self.path, content=body, headers=dict(self.headers))
        if self.server.is_lossy and self.command != "GET":
            self.server.is_lossy = False
            self.server.meanwhile()
            return
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def do_GET(self) -> None:
        self._pass_on()

    def do_PUT(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def line(http: TestClient, database: Database, dataset_id: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """To a service with three versions of `insects`, and `production` at the second, where it came from the first."""
    monkeypatch.setattr(answers, "FIRST_WAIT_SECONDS", 0.0)
    for _ in range(3):
        factories.register_version(database, models.new_version_id(), dataset_id, labels=("ants", "bees"))
    with Line(http) as here:
        thread = threading.Thread(target=here.serve_forever)
        thread.start()
        yield here
        here.shutdown()
        thread.join()


@pytest.fixture
def client(line: Line) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{line.server_port}") as client:
        client.put_alias("insects", "production", 1)
        client.put_alias("insects", "production", 2)
        yield client


def test_an_alias_whose_answer_was_lost_is_put_once(line: Line, client: Client) -> None:
    line.is_lossy = True
    put = client.put_alias("insects", "production", 3, keep_loaded=True, revision=2)

    assert (put.version, put.keep_loaded, put.revision) == (3, True, 3)
    assert len(list(client.alias_history("insects", "production"))) == 3


def test_a_roll_back_whose_answer_was_lost_goes_back_one_version(line: Line, client: Client) -> None:
    client.put_alias("insects", "production", 3)
    line.is_lossy = True

    assert client.roll_back("insects", "production").version == 2
    assert client.alias("insects", "production").version == 2


def test_an_alias_whose_removal_was_not_answered_is_removed(line: Line, client: Client) -> None:
    line.is_lossy = True
    client.remove_alias("insects", "production", revision=2)

    assert list(client.aliases("insects")) == []


def test_a_version_whose_deletion_was_not_answered_is_deleted(line: Line, client: Client) -> None:
    line.is_lossy = True
    client.delete_model_version("insects", 1)
    with pytest.raises(Problem, match="has no version 1"):
        client.delete_model_version("insects", 1)

    client.remove_alias("insects", "production")
    line.is_lossy = True
    client.delete_model("insects")
    assert list(client.models()) == []


def test_a_pin_whose_answer_was_lost_is_made_once(line: Line, client: Client) -> None:
    line.is_lossy = True
    pinned = client.pin("insects", 1, {"runtime": "torch"}, revision=1)

    assert (pinned.pins, pinned.revision) == (Pins("torch", "auto"), 2)


@pytest.fixture
def search(client: Client, line: Line, versioned: str) -> str:
    """Id of a search that is queued."""
    recipe = Recipe(backbone="mobilenet_v2", strategy="full", search=Search(trials=5))
    return client.train(versioned, "insects", recipe).id


def test_a_retry_whose_answer_was_lost_queues_the_job_once(line: Line, client: Client, search: str) -> None:
    client.cancel(search)
    line.is_lossy = True

    assert client.retry(search).state == "queued"
    assert [event["type"] for event in told(line, search)] == ["queued", "cancelled", "retried"]


def test_a_job_that_has_failed_again_before_the_lost_answer_is_asked_for_is_retried_once(
    line: Line, client: Client, search: str, database: Database
) -> None:
    fail(database, search)
    line.meanwhile = lambda: fail(database, search)
    line.is_lossy = True

    assert client.retry(search).state == "failed"
    assert [event["type"] for event in told(line, search)].count("retried") == 1
    assert client.retry(search).state == "queued"


def test_a_job_that_waits_is_not_said_to_be_retried_after_a_lost_answer(
    line: Line, client: Client, search: str
) -> None:
    line.is_lossy = True
    with pytest.raises(Problem, match="only one that has failed or was cancelled"):
        client.retry(search)


def test_a_search_that_ends_before_the_lost_answer_is_asked_for_again_is_finished(
    line: Line, client: Client, search: str, database: Database
) -> None:
    line.meanwhile = lambda: succeed(database, search)
    line.is_lossy = True

    assert client.finish(search).state == "succeeded"
    assert "finish_requested" in [event["type"] for event in told(line, search)]
    with pytest.raises(Problem, match="has succeeded already"):
        client.finish(search)


def test_a_job_that_ends_before_the_lost_answer_is_asked_for_again_is_resumed(
    line: Line, client: Client, search: str, database: Database
) -> None:
    client.pause(search)
    line.meanwhile = lambda: succeed(database, search)
    line.is_lossy = True

    assert client.resume(search).state == "succeeded"


def told(line: Line, job_id: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = line.http.get(f"/v1/jobs/{job_id}/events").json()["data"]
    return events


def succeed(database: Database, job_id: str) -> None:
    """End a job as its worker does."""
    with database.write() as session:
        claim = leases.claim(session, job_id, now=utc_now(), lease_seconds=30)
        assert claim is not None
        leases.succeed(session, claim, {}, now=utc_now())


def fail(database: Database, job_id: str) -> None:
    """As `succeed`, without success."""
    with database.write() as session:
        claim = leases.claim(session, job_id, now=utc_now(), lease_seconds=30)
        assert claim is not None
        leases.fail(session, claim, Failure("out_of_memory", "the batch is too large", {}), now=utc_now())


def test_what_somebody_else_has_changed_is_refused_also_after_a_lost_answer(line: Line, client: Client) -> None:
    line.meanwhile = lambda: client.put_alias("insects", "production", 1)
    line.is_lossy = True
    with pytest.raises(Problem, match="changed since"):
        client.put_alias("insects", "production", 3, revision=2)
    line.is_lossy = True
    with pytest.raises(Problem, match="changed since"):
        client.roll_back("insects", "production")


def test_what_another_has_done_first_is_refused_where_no_answer_was_lost(client: Client) -> None:
    assert client.put_alias("insects", "production", 3, revision=2).revision == 3
    with pytest.raises(Problem, match="changed since"):
        client.put_alias("insects", "production", 3, revision=2)
    assert client.roll_back("insects", "production", revision=3).version == 2
    with pytest.raises(Problem, match="changed since"):
        client.roll_back("insects", "production", revision=3)
    client.pin("insects", 1, {"runtime": "torch"}, revision=1)
    with pytest.raises(Problem, match="another revision"):
        client.pin("insects", 1, {"runtime": "torch"}, revision=1)
    client.remove_alias("insects", "production")
    with pytest.raises(Problem, match="no alias"):
        client.remove_alias("insects", "production")


def test_a_pin_that_reaches_nobody_is_said_so() -> None:
    nobody, expected = f"http://127.0.0.1:{service.free_port()}", pytest.raises(Unreachable, match="nothing answers at")
    with Client(nobody, attempts=1) as client, expected:
        client.pin("insects", 1, {"runtime": "torch"}, revision=1)
