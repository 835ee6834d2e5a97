"""What happens when parts of the service die while jobs run: nothing that was acknowledged is lost."""

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
from sqlalchemy.engine import URL

from tests import databases, factories
from tests.e2e import service
from tests.e2e.conftest import ELSEWHERE, FAST
from tests.e2e.service import Process, Service

pytestmark = pytest.mark.skipif(
    bool(ELSEWHERE), reason="this kills processes, which a service elsewhere would not like"
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, service_postgres_url: str, broker_url: str) -> dict[str, str]:
    """Settings of the distributed service, on a broker of this module's own."""
    return {
        "GRAFT_DATA_DIR": str(tmp_path_factory.mktemp("robust") / "data"),
        "GRAFT_DATABASE_URL": service_postgres_url,
        "GRAFT_BROKER_URL": broker_url,
        **FAST,
    }


@pytest.fixture(scope="module")
def service_postgres_url(postgres_server: URL, postgres_template: str) -> Iterator[str]:
    with databases.postgres_copy(postgres_server, postgres_template) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def broker_url(redis_server: str) -> str:
    return f"{redis_server}/2"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """The API without a worker."""
    with service.api(tmp_path_factory.mktemp("api"), environment) as here, here.http() as client:
        yield client


@pytest.fixture(scope="module")
def worker(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], http: httpx.Client
) -> Iterator[Process]:
    """A Celery worker to that API."""
    with service.celery(tmp_path_factory.mktemp("worker"), environment) as process:
        yield process


@pytest.fixture
def broker(broker_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(broker_url) as client:
        yield client


def training(http: httpx.Client, folder: Path, *, name: str = "killed") -> str:
    """Id of a job that trains long enough to be killed meanwhile."""
    dataset_id = service.create_dataset(http, name=name)
    archive = factories.zip_of(folder, factories.photos(each=20))
    service.succeeded(http, service.upload(http, dataset_id, archive)["job"]["id"])
    recipe = {"backbone": "tinynet", "strategy": "full", "weights": "none", "epochs": 20, "batch_size": 4}
    job_id: str = service.train(http, dataset_id, name, **recipe)["id"]
    return job_id


@dataclass(frozen=True)
class Alone:
    """An embedded service, which a test may end."""

    url: str
    process: Process
    data: Path


@pytest.fixture(scope="module")
def alone() -> Iterator[Alone]:
    port = service.free_port()
    # Its path leaves room for that of a socket in it, as pytest's own may not.
    with tempfile.TemporaryDirectory(prefix="graft-") as temporary:
        folder = Path(temporary)
        environment = {"GRAFT_DATA_DIR": str(folder / "data"), **FAST}
        process = service.start(["-m", "worker.embedded", "--port", str(port)], environment, folder / "service.log")
        try:
            yield Alone(service.ready(f"http://127.0.0.1:{port}", process).url, process, folder / "data")
        finally:
            process.stop()


def test_a_worker_killed_while_training_costs_one_attempt(alone: Alone, tmp_path: Path) -> None:
    with Service(alone.url).http() as http:
        job_id = training(http, tmp_path)
        service.wait_for_event(http, job_id, "checkpoint_saved")
        service.kill_worker(http)
        ended = service.succeeded(http, job_id)
        types = [event["type"] for event in service.follow(http, job_id)]

    assert ended["attempt"] == 2
    assert types.count("attempt_started") == 2
    assert "resumed" in types
    assert types[-1] == "succeeded"


def sockets_of_jobs(worker: int) -> list[Path]:
    """Where a worker's process asks for the processes of its jobs."""
    (server,) = (child for child in psutil.Process(worker).children() if "forkserver" in " ".join(child.cmdline()))
    return [Path(socket.laddr) for socket in server.net_connections(kind="unix") if socket.laddr]


def imported(http: httpx.Client, folder: Path) -> dict[str, Any]:
    """The job, ended well, of an import into a data set of its own."""
    archive = factories.zip_of(folder, factories.photos(each=4))
    accepted = service.upload(http, service.create_dataset(http, name=folder.name), archive)
    return service.succeeded(http, accepted["job"]["id"])


def test_a_socket_that_was_tidied_away_costs_no_attempt(alone: Alone, tmp_path: Path) -> None:
    with Service(alone.url).http() as http:
        worker = service.worker_process(http)
        (path,) = sockets_of_jobs(worker)
        assert path.is_relative_to(alone.data / "sockets")
        shutil.rmtree(path.parent)
        assert imported(http, tmp_path)["attempt"] == 1
        assert service.worker_process(http) == worker
    assert f"whose socket is in {path.parent}" in alone.process.log.read_text()


def test_a_worker_that_can_start_no_process_is_followed_by_one_that_can(alone: Alone, tmp_path: Path) -> None:
    sockets = alone.data / "sockets"
    with Service(alone.url).http() as http:
        (path,) = sockets_of_jobs(service.worker_process(http))
        assert path.is_relative_to(sockets)
        shutil.rmtree(sockets)
        sockets.write_bytes(b"in the way")
        assert imported(http, tmp_path)["attempt"] == 1
        assert not sockets_of_jobs(service.worker_process(http))[0].is_relative_to(sockets)
    assert "this worker can run no jobs any more, and ends" in alone.process.log.read_text()


@pytest.mark.slow
def test_a_client_that_stalls_does_not_hold_the_shutdown(alone: Alone) -> None:
    """The last test of that service."""
    before = len(alone.process.log.read_text())
    with Service(alone.url).http() as http:
        dataset_id = service.create_dataset(http, name="stalled")
        worker = service.worker_process(http)
    with socket.create_connection(("127.0.0.1", httpx.URL(alone.url).port or 0)) as stalled:
        head = f"POST /v1/datasets/{dataset_id}/imports HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        stalled.sendall(head.encode() + b"PK")
        alone.process.stop()

    assert alone.process.popen.returncode in (0, -signal.SIGTERM)
    assert not psutil.pid_exists(worker)
    assert "Traceback" not in alone.process.log.read_text()[before:]
    assert list((alone.data / "uploads").iterdir()) == []


INTERRUPTED = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is not the default of what runs in the background
runpy.run_module("worker.embedded", run_name="__main__")
"""


def test_ctrl_c_while_it_starts_ends_the_embedded_service_quietly(tmp_path: Path) -> None:
    """As a terminal does it, which tells all processes of the group in its foreground."""
    port = service.free_port()
    arguments = ["-c", INTERRUPTED, "--port", str(port)]
    environment = {"GRAFT_DATA_DIR": str(tmp_path / "data"), **FAST}
    process = service.start(arguments, environment, tmp_path / "service.log", process_group=0)
    try:
        while not (workers := psutil.Process(process.popen.pid).children()):
            time.sleep(0.05)
        (worker,) = workers
        while worker.cpu_times().user < 0.5:  # it imports, which takes some seconds of it
            time.sleep(0.05)
        os.killpg(process.popen.pid, signal.SIGINT)
        assert process.popen.wait(timeout=60) == 0
    finally:
        process.stop()
    assert not worker.is_running()
    logged = process.log.read_text()
    assert f"Graft will be at http://127.0.0.1:{port}, " in logged
    assert "Traceback" not in logged


def test_a_broker_emptied_while_jobs_wait_loses_none(
    request: pytest.FixtureRequest, tmp_path: Path, http: httpx.Client, broker: redis.Redis
) -> None:
    archive = factories.zip_of(tmp_path, factories.photos(each=4))
    datasets = [service.create_dataset(http, name=f"waiting {number}") for number in range(4)]
    jobs = [service.upload(http, dataset_id, archive)["job"]["id"] for dataset_id in datasets]
    assert broker.llen("cpu") == len(jobs)
    broker.flushdb()
    request.getfixturevalue("worker")  # which must not begin before
    for job_id in jobs:
        service.succeeded(http, job_id)


@pytest.mark.usefixtures("worker")
def test_a_broker_emptied_under_a_living_worker_silences_no_bell(
    tmp_path: Path, http: httpx.Client, broker: redis.Redis
) -> None:
    archive = factories.zip_of(tmp_path, factories.photos(each=4))

    def submit(name: str) -> str:
        job_id: str = service.upload(http, service.create_dataset(http, name=name), archive)["job"]["id"]
        return job_id

    service.succeeded(http, submit("before"))
    broker.flushdb()
    waiting = [submit(f"after {number}") for number in range(2)]
    broker.flushdb()
    for job_id in waiting:
        service.succeeded(http, job_id)


def test_a_celery_worker_whose_socket_was_tidied_away_goes_on(
    tmp_path: Path, http: httpx.Client, worker: Process
) -> None:
    service.ready(str(http.base_url), worker)
    (path,) = sockets_of_jobs(service.worker_process(http))
    shutil.rmtree(path.parent)

    assert imported(http, tmp_path)["attempt"] == 1


def test_a_celery_worker_killed_while_training_is_followed_by_the_next(
    tmp_path: Path, environment: dict[str, str], http: httpx.Client, worker: Process
) -> None:
    job_id = training(http, tmp_path)
    service.wait_for_event(http, job_id, "checkpoint_saved")
    worker.popen.kill()
    with service.celery(tmp_path, environment):
        ended = service.succeeded(http, job_id)

    assert ended["attempt"] == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_celery_worker_that_is_told_to_end_with_all_its_processes_costs_no_attempt(
    tmp_path: Path, environment: dict[str, str], http: httpx.Client, number: signal.Signals
) -> None:
    """As systemd tells them, and a terminal."""
    with service.celery(tmp_path, environment, process_group=0) as here:
        job_id = training(http, tmp_path, name=number.name.lower())
        service.wait_for_event(http, job_id, "checkpoint_saved")
        begun = psutil.Process(here.popen.pid).children(recursive=True)
        os.killpg(here.popen.pid, number)
        here.popen.wait(timeout=60)
        job = http.get(f"/v1/jobs/{job_id}").json()
        history = http.get(f"/v1/jobs/{job_id}/events").json()["data"]
        http.post(f"/v1/jobs/{job_id}/cancel")

    assert (job["state"], job["attempt"]) == ("queued", 0)
    assert [event["data"]["code"] for event in history if event["type"] == "attempt_ended"] == ["worker_stopped"]
    _, left = psutil.wait_procs(begun, timeout=10)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
