"""The service as users run it: processes of its own, spoken to over HTTP alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ENDED = ("succeeded", "failed", "cancelled")
START_SECONDS = 200
JOB_SECONDS = 240


@dataclass(frozen=True)
class Service:
    """A running service, by its address."""

    url: str

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120)


@dataclass(frozen=True)
class Process:
    """One process of the service and where its output goes."""

    popen: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """End it as an operator would; kill it only where that has no effect."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


@contextmanager
def taken_port() -> Iterator[int]:
    """A port that is in use until the block ends."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def free_port() -> int:
    with taken_port() as port:
        return port


def start(arguments: list[str], environment: dict[str, str], log: Path, *, process_group: int | None = None) -> Process:
    """Start a process of the service with only its own GRAFT_ settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT_")}
    with log.open("ab") as output:
        popen = subprocess.Popen(
            [sys.executable, *arguments],
            env={
                **inherited,
                "GRAFT_DOWNLOAD_WEIGHTS": "false",
                "GRAFT_OPTIMISE_AFTER_TRAINING": "false",
                **environment,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[2],
            process_group=process_group,
        )
    return Process(popen, log)


@contextmanager
def embedded(folder: Path, **settings: str) -> Iterator[Service]:
    """`graft up` on SQLite, with one worker as its child."""
    port = free_port()
    environment = {"GRAFT_DATA_DIR": str(folder / "data"), **settings}
    process = start(["-m", "worker.embedded", "--port", str(port)], environment, folder / "service.log")
    try:
        yield ready(f"http://127.0.0.1:{port}", process)
    finally:
        process.stop()


@contextmanager
def distributed(folder: Path, database_url: str, broker_url: str, **settings: str) -> Iterator[Service]:
    """The API and a Celery worker as processes of their own, on PostgreSQL and Redis."""
    environment = {
        "GRAFT_DATA_DIR": str(folder / "data"),
        "GRAFT_DATABASE_URL": database_url,
        "GRAFT_BROKER_URL": broker_url,
        **settings,
    }
    with api(folder, environment) as service, celery(folder, environment) as worker:
        yield ready(service.url, worker)


@contextmanager
def api(folder: Path, environment: dict[str, str]) -> Iterator[Service]:
    port = free_port()
    arguments = ["-m", "app.server", "--host", "127.0.0.1", "--port", str(port)]
    process = start(arguments, environment, folder / "api.log")
    try:
        yield ready(f"http://127.0.0.1:{port}", process, workers=0)
    finally:
        process.stop()


@contextmanager
def celery(folder: Path, environment: dict[str, str], *, process_group: int | None = None) -> Iterator[Process]:
    options = ["--pool", "threads", "--concurrency", "1", "--queues", "cpu,gpu", "--without-gossip", "--without-mingle"]
    arguments = ["-m", "celery", "--app", "worker.tasks", "worker", *options]
    process = start(arguments, environment, folder / "worker.log", process_group=process_group)
    try:
        yield process
    finally:
        process.stop()


def ready(url: str, process: Process, *, workers: int = 1) -> Service:
    """Wait until the service answers and has so many workers."""
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(base_url=url, timeout=10) as http:
        while time.monotonic() < deadline:
            if process.popen.poll() is not None:
                raise AssertionError(f"the service ended at its start:\n{process.log.read_text()[-5000:]}")
            try:
                answer = http.get("/readyz")
                if answer.status_code == 200 and len(answer.json()["workers"]) >= workers:
                    return Service(url)
            except httpx.TransportError:
                pass  # not listening yet
            time.sleep(0.1)
    raise AssertionError(f"the service was not ready after {START_SECONDS} s:\n{process.log.read_text()[-5000:]}")


def create_dataset(http: httpx.Client, **fields: Any) -> str:
    answer = http.post("/v1/datasets", json=fields)
    assert answer.status_code == 201, answer.text
    identifier: str = answer.json()["id"]
    return identifier


def upload(http: httpx.Client, dataset_id: str, archive: Path) -> dict[str, Any]:
    """Start an import; the answer."""
    with archive.open("rb") as file:
        answer = http.post(
            f"/v1/datasets/{dataset_id}/imports", content=file, headers={"Content-Type": "application/zip"}
        )
    assert answer.status_code == 202, answer.text
    accepted: dict[str, Any] = answer.json()
    return accepted


def train(http: httpx.Client, dataset_id: str, model: str, **recipe: Any) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json={"dataset": dataset_id, "model": model, "recipe": recipe})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def measure(http: httpx.Client, dataset_id: str, **recipe: Any) -> dict[str, Any]:
    """The job that measures the data set, which was not measured before."""
    answer = http.post("/v1/plans", json={"dataset": dataset_id, "recipe": recipe, "measure": True})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def follow(http: httpx.Client, job_id: str) -> Generator[dict[str, Any], None, None]:
    """The job's events as they happen, without the progress between them, until it has ended."""
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}) as stream:
        assert stream.status_code == 200
        for line in stream.iter_lines():
            told = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if "seq" in told:
                yield told


def wait_for_event(http: httpx.Client, job_id: str, kind: str) -> None:
    """Return as soon as the job has an event of this kind."""
    with closing(follow(http, job_id)) as events:
        assert any(event["type"] == kind for event in events), f"the job ended without {kind}"


def finished(http: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job once it has ended, however."""
    return in_state(http, job_id, *ENDED)


def in_state(http: httpx.Client, job_id: str, *states: str) -> dict[str, Any]:
    """The job once it is in one of these states."""
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").json()
        if job["state"] in states:
            return job
        time.sleep(0.05)
    raise AssertionError(f"the job was not {' or '.join(states)} within {JOB_SECONDS} s: {job}")


def succeeded(http: httpx.Client, job_id: str) -> dict[str, Any]:
    job = finished(http, job_id)
    assert job["state"] == "succeeded", job["error"]
    return job


def kill_worker(http: httpx.Client) -> int:
    """Kill the worker process with SIGKILL, as the kernel does when memory runs out; its process id."""
    process_id = worker_process(http)
    os.kill(process_id, signal.SIGKILL)
    return process_id


def worker_process(http: httpx.Client) -> int:
    """Id of the process of the only worker."""
    (worker,) = http.get("/readyz").json()["workers"]
    return int(worker["id"].rpartition(":")[2])
