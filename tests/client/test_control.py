"""`graft control` with a service whose runs have ended."""

from collections.abc import Iterator

import msgspec
import pytest
from typer.testing import CliRunner, Result

from client import cli
from client.values import Arm, Experiment, JobError, Verdict
from tests.client import answering
from tests.client.test_show import JOB

DONE = Arm("job_done", "succeeded", None, "insects-probe", 0.9, {"low": 0.8, "high": 0.95}, 12.0)
FAILED = Arm("job_failed", "failed", JobError("out_of_memory", "the [first] batch", {}), "x", None, None, 3.0)
STOPPED = Arm("job_stopped", "cancelled", None, "x", None, None, 3.0)
VERDICT = Verdict("undecided", None, ["There is nothing to compare."])


class Service(answering.Server):
    """Its only experiment has these arms."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.arms: dict[str, Arm] = {}


class _Handler(answering.Handler):
    server: Service

    def do_POST(self) -> None:  # noqa: N802 -- as http.server calls it
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer_with_experiment()

    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        if self.path.endswith("/events"):
            self.answer(200, b"", Content_Type="text/event-stream")
        elif self.path.startswith("/v1/jobs/"):
            (arm,) = (arm for arm in self.server.arms.values() if self.path.endswith(arm.job_id))
            self.answer(200, msgspec.json.encode(msgspec.structs.replace(JOB, id=arm.job_id, state=arm.state)))
        else:
            self._answer_with_experiment()

    def _answer_with_experiment(self) -> None:
        self.answer(200, msgspec.json.encode(Experiment("exp_1", self.server.arms, VERDICT)))


@pytest.fixture
def service() -> Iterator[Service]:
    with answering.serving(Service()) as here:
        yield here


def control(service: Service) -> Result:
    return CliRunner().invoke(cli.app, ["control", "photos", "--model", "insects", "--url", service.url])


def test_runs_that_have_not_succeeded_are_told_with_the_reason_and_are_no_success(service: Service) -> None:
    service.arms = {"probe": DONE, "fine_tune": FAILED, "scratch": STOPPED}
    result = control(service)

    assert result.exit_code == 1, result.output
    assert "fine_tune: out_of_memory: the [first] batch" in result.stdout
    assert "There is nothing to compare." in result.stdout
    assert result.stderr == "Error: these runs have not succeeded: fine_tune, scratch\n"


def test_runs_that_have_all_succeeded_are_a_success(service: Service) -> None:
    service.arms = {"probe": DONE, "scratch": msgspec.structs.replace(DONE, job_id="job_other")}
    result = control(service)

    assert result.exit_code == 0, result.output
    assert "90.0 %" in result.stdout
