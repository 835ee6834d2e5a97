"""What happens when parts of the service die while jobs run: nothing that was acknowledged is lost."""

import signal
import socket
from pathlib import Path

import pytest
import redis

from tests import factories
from tests.e2e import service
from tests.e2e.conftest import ELSEWHERE, FAST

pytestmark = pytest.mark.skipif(
    bool(ELSEWHERE), reason="this kills processes, which a service elsewhere would not like"
)


@pytest.fixture
def environment(tmp_path: Path, postgres_url: str, redis_url: str) -> dict[str, str]:
    """Settings of the distributed service, on servers of this test's own."""
    return {
        "GRAFT_DATA_DIR": str(tmp_path / "data"),
        "GRAFT_DATABASE_URL": postgres_url,
        "GRAFT_BROKER_URL": redis_url,
        **FAST,
    }


def test_a_worker_killed_while_training_costs_one_attempt(tmp_path: Path) -> None:
    with service.embedded(tmp_path, **FAST) as running, running.http() as http:
        dataset_id = service.create_dataset(http, name="killed")
        archive = factories.zip_of(tmp_path, factories.photos(each=20))
        service.succeeded(http, service.upload(http, dataset_id, archive)["job"]["id"])
        recipe = {"backbone": "tinynet", "strategy": "full", "weights": "none", "epochs": 20, "batch_size": 4}
        job = service.train(http, dataset_id, "killed", **recipe)
        service.wait_for_event(http, job["id"], "checkpoint_saved")
        service.kill_worker(http)
        ended = service.succeeded(http, job["id"])
        types = [event["type"] for event in service.follow(http, job["id"])]

    assert ended["attempt"] == 2
    assert types.count("attempt_started") == 2
    assert "resumed" in types
    assert types[-1] == "succeeded"


@pytest.mark.slow
def test_a_client_that_stalls_does_not_hold_the_shutdown(tmp_path: Path) -> None:
    port = service.free_port()
    environment = {"GRAFT_DATA_DIR": str(tmp_path / "data"), **FAST}
    process = service.start(["-m", "worker.embedded", "--port", str(port)], environment, tmp_path / "service.log")
    running = service.ready(f"http://127.0.0.1:{port}", process)
    with running.http() as http:
        dataset_id = service.create_dataset(http, name="stalled")
    with socket.create_connection(("127.0.0.1", port)) as stalled:
        head = f"POST /v1/datasets/{dataset_id}/imports HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        stalled.sendall(head.encode() + b"PK")
        process.stop()

    assert process.popen.returncode in (0, -signal.SIGTERM)
    assert list((tmp_path / "data" / "uploads").iterdir()) == []


def test_a_broker_emptied_while_jobs_wait_loses_none(
    tmp_path: Path, environment: dict[str, str], redis_url: str
) -> None:
    archive = factories.zip_of(tmp_path, factories.photos(each=4))
    with service.api(tmp_path, environment) as here, here.http() as http:
        datasets = [service.create_dataset(http, name=f"waiting {number}") for number in range(4)]
        jobs = [service.upload(http, dataset_id, archive)["job"]["id"] for dataset_id in datasets]
        broker = redis.Redis.from_url(redis_url)
        assert broker.llen("cpu") == len(jobs)
        broker.flushall()
        broker.close()
        with service.celery(tmp_path, environment):
            for job_id in jobs:
                service.succeeded(http, job_id)


def test_a_broker_emptied_under_a_living_worker_silences_no_bell(
    tmp_path: Path, environment: dict[str, str], redis_url: str
) -> None:
    archive = factories.zip_of(tmp_path, factories.photos(each=4))
    with service.api(tmp_path, environment) as here, service.celery(tmp_path, environment), here.http() as http:

        def submit(name: str) -> str:
            job_id: str = service.upload(http, service.create_dataset(http, name=name), archive)["job"]["id"]
            return job_id

        service.succeeded(http, submit("before"))
        broker = redis.Redis.from_url(redis_url)
        broker.flushall()
        waiting = [submit(f"after {number}") for number in range(2)]
        broker.flushall()
        broker.close()
        for job_id in waiting:
            service.succeeded(http, job_id)


def test_a_celery_worker_killed_while_training_is_followed_by_the_next(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    archive = factories.zip_of(tmp_path, factories.photos(each=20))
    with service.api(tmp_path, environment) as here, here.http() as http:
        dataset_id = service.create_dataset(http, name="killed")
        with service.celery(tmp_path, environment) as first:
            service.succeeded(http, service.upload(http, dataset_id, archive)["job"]["id"])
            recipe = {"backbone": "tinynet", "strategy": "full", "weights": "none", "epochs": 20, "batch_size": 4}
            job = service.train(http, dataset_id, "killed", **recipe)
            service.wait_for_event(http, job["id"], "checkpoint_saved")
            first.popen.kill()
        with service.celery(tmp_path, environment):
            ended = service.succeeded(http, job["id"])

    assert ended["attempt"] == 2
