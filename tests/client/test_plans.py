"""`graft plan` with a service that answers what it is told to."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
from typer.testing import CliRunner

from client import cli
from client.values import Job, Planned
from tests.client.test_show import JOB, PLANNED

MEASURED = msgspec.structs.replace(JOB, kind="analyse", state="succeeded")


class Service(ThreadingHTTPServer):
    """Its answers to requests for plans, in turn, the last one again and again; each job has ended."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Planned | Job] = []
        self.asked: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        self.server.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        found = self.server.answers[min(len(self.server.asked), len(self.server.answers)) - 1]
        self._answer(202 if isinstance(found, Job) else 200, msgspec.json.encode(found))

    def do_GET(self) -> None:
        if self.path.endswith("/events"):
            self._answer(200, b"", content_type="text/event-stream")
        else:
            (job,) = (one for one in self.server.answers if isinstance(one, Job) and self.path.endswith(one.id))
            self._answer(200, msgspec.json.encode(job))

    def _answer(self, status: int, body: bytes, *, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as here:
        thread = threading.Thread(target=here.serve_forever, args=(0.02,))
        thread.start()
        yield here
        here.shutdown()
        thread.join()


def test_what_has_to_be_ranked_and_measured_first_is_waited_for(service: Service) -> None:
    ranked = msgspec.structs.replace(MEASURED, id="job_ranked", kind="rank")
    service.answers = [ranked, MEASURED, PLANNED]
    result = CliRunner().invoke(cli.app, ["plan", "insects", "--url", service.url])

    assert result.exit_code == 0, result.output
    assert "head on resnet50" in result.stdout


def test_a_service_that_wants_to_measure_again_and_again_is_not_asked_for_ever(service: Service) -> None:
    service.answers = [MEASURED]
    result = CliRunner().invoke(cli.app, ["plan", "insects", "--url", service.url])

    assert result.exit_code == 1
    assert f"the service has to measure insects once more ({MEASURED.id}): ask again" in result.stderr
