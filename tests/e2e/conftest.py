"""Services for the end-to-end tests: embedded, distributed, or one that runs elsewhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from tests import databases, factories
from tests.e2e import service
from tests.e2e.service import Service

FAST = {
    "GRAFT_THREADS": "1",
    "GRAFT_OPTIMISE_SECONDS": "0.1",
    "GRAFT_LEASE_SECONDS": "4",
    "GRAFT_HEARTBEAT_SECONDS": "0.5",
    "GRAFT_SWEEP_SECONDS": "1",
    "GRAFT_RING_AGAIN_SECONDS": "2",
    "GRAFT_MAX_IMAGE_PIXELS": "2000000",
}
ELSEWHERE = os.environ.get("GRAFT_TEST_URL")


@pytest.fixture(scope="session", params=["elsewhere"] if ELSEWHERE else ["embedded", "distributed"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, in each of its two forms and for all modules; or only the one that `GRAFT_TEST_URL` names."""
    if ELSEWHERE:
        yield Service(ELSEWHERE)
        return
    folder: Path = tmp_path_factory.mktemp(request.param)
    factories.write_weights(folder / "weights")
    settings = {**FAST, "GRAFT_WEIGHTS_DIR": str(folder / "weights")}
    if request.param == "embedded":
        with service.embedded(folder, **settings) as here:
            yield here
        return
    database_url = request.getfixturevalue("service_postgres_url")
    redis_url = request.getfixturevalue("service_redis_url")
    with service.distributed(folder, database_url, redis_url, **settings) as here:
        yield here


@pytest.fixture(scope="session")
def service_postgres_url(postgres_server: URL, postgres_template: str) -> Iterator[str]:
    with databases.postgres_copy(postgres_server, postgres_template) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def service_redis_url(redis_server: str) -> str:
    return f"{redis_server}/1"
