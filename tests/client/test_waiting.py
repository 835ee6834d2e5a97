"""What the command line says of a job that waits, and of one that nobody waits for any more."""

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from typer.testing import CliRunner, Result

from client import cli, waiting
from client.api import Client
from client.connection import Page
from client.values import Arm, Experiment, Job
from tests.client import answering
from tests.client.test_show import JOB


def job(number: int, kind: str = "train", state: str = "queued") -> Job:
    return msgspec.structs.replace(JOB, id=f"job_{number}", kind=kind, state=state, queue="gpu")


class Service(answering.Server):
    """Job 5 is a ranking; it waits for so many looks at it, and whoever follows it then is interrupted."""

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.looks_until_begun = 0
        self.others: list[Job] = []


class _Handler(answering.Handler):
    server: Service

    def do_POST(self) -> None:  # noqa: N802 -- as http.server calls it
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/experiments":
            arms = {f"arm {number}": Arm(f"job_{number}", "queued", None, "m", None, None, 0.0) for number in (5, 6)}
            self._answer(Experiment("exp_1", arms, None))
        else:
            self._answer(job(5, "rank"))

    def do_GET(self) -> None:  # noqa: N802 -- as http.server calls it
        asked = urlsplit(self.path)
        if asked.path == "/v1/jobs":
            (state,) = parse_qs(asked.query)["state"]
            found = sorted((one for one in self.server.others if one.state == state), key=lambda one: one.id)
            self._answer(Page(found[::-1], has_more=False))
        elif asked.path.endswith("/events"):
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
            with suppress(OSError):
                self.rfile.read(1)  # until the client is gone
        else:
            self.server.looks_until_begun -= 1
            self._answer(job(5, "rank", "queued" if self.server.looks_until_begun >= 0 else "running"))

    def _answer(self, value: object) -> None:
        self.answer(200, msgspec.json.encode(value))


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Also where the tests are run in the background, in which a shell has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def service() -> Iterator[Service]:
    with answering.serving(Service()) as here:
        yield here


def graft(service: Service, *command: str) -> Result:
    return CliRunner().invoke(cli.app, [*command, "--url", service.url])


def test_whoever_stops_waiting_is_told_which_job_goes_on_and_how_to_stop_it(service: Service) -> None:
    ended = graft(service, "rank", "insects")

    assert ended.stdout == "rank backbones on insects: job_5\n"
    assert ended.stderr == "job_5 goes on; `graft cancel job_5` stops it\n"
    assert ended.exit_code == 130


def test_of_several_jobs_that_were_begun_together_those_that_go_on_are_told(service: Service) -> None:
    ended = graft(service, "control", "insects", "--model", "m")

    assert ended.stderr == "job_5, job_6 go on; `graft cancel job_5` and so on stop them\n"


def test_a_job_that_waits_is_told_with_what_is_before_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_FIRST_LOOK_SECONDS", 0.0)
    service.others = [job(1, state="running"), job(4), job(7)]
    service.looks_until_begun = 8

    told = graft(service, "rank", "insects").stdout.splitlines()

    assert told == [
        "rank backbones on insects: job_5",
        "rank backbones on insects: waiting: 2 jobs before it (train job_1 is running)",
    ]


@pytest.mark.parametrize(
    ("kind", "others", "told"),
    [
        ("train", [], "waiting for a worker"),
        ("train", [job(4)], "waiting: 1 job before it (none is running)"),
        ("rank", [job(3, "optimise"), job(4, state="running")], "waiting: 1 job before it (train job_4 is running)"),
        ("train", [job(1, "optimise", "running")], "waiting until optimise job_1 gives way"),
        ("optimise", [job(1, "optimise", "running")], "waiting: 1 job before it (optimise job_1 is running)"),
        ("train", [msgspec.structs.replace(job(1, "ingest", "running"), queue="cpu")], "waiting for a worker"),
        ("optimise", [job(3, "optimise"), job(6), job(7, "optimise")], "waiting: 2 jobs before it (none is running)"),
    ],
)
def test_before_a_job_are_those_that_its_queue_gives_first(
    service: Service, kind: str, others: list[Job], told: str
) -> None:
    service.others = others
    with Client(service.url) as client:
        assert waiting.before(client, job(5, kind)) == told
