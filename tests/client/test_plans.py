"""`graft plan` with a service that answers what it is told to."""

from collections.abc import Iterator

import msgspec
import pytest
from typer.testing import CliRunner

from client import cli
from client.values import Job, Planned
from tests.client import answering
from tests.client.test_show import JOB, PLANNED

MEASURED = msgspec.structs.replace(JOB, kind="analyse", state="succeeded")


class Service(answering.Server):
    """Its answers to requests for plans, in turn, the last one again and again; each job has ended."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.answers: list[Planned | Job] = []
        self.asked: list[bytes] = []


class _Handler(answering.Handler):
    server: Service

    def do_POST(self) -> None:  # noqa: N802 -- as http.server calls it
        self.server.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        found = self.server.answers[min(len(self.server.asked), len(self.server.answers)) - 1]
        self.answer(202 if isinstance(found, Job) else 200, msgspec.json.encode(found))

    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        if self.path.endswith("/events"):
            self.answer(200, b"", Content_Type="text/event-stream")
        else:
            (job,) = (one for one in self.server.answers if isinstance(one, Job) and self.path.endswith(one.id))
            self.answer(200, msgspec.json.encode(job))


@pytest.fixture
def service() -> Iterator[Service]:
    with answering.serving(Service()) as here:
        yield here


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
