"""A registry in a database, and a directory that knows it."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import event

from app import errors
from app.datasets import service as datasets
from app.datasets.schemas import DatasetCreate
from app.db import Database, utc_now
from app.models import aliases
from app.models import service as models
from app.models.directory import Directory
from app.models.schemas import AliasPut
from tests import factories

NEVER = 3600.0
"""Seconds between two looks at the database that nobody asked for."""


@pytest.fixture
def dataset_id(database: Database) -> str:
    with database.write() as session:
        return datasets.create(session, DatasetCreate(name="photos"), now=utc_now()).id


@pytest.fixture
def add_version(database: Database, dataset_id: str) -> Callable[[], str]:
    def add() -> str:
        version_id = models.new_version_id()
        factories.register_version(database, version_id, dataset_id, labels=("ants", "bees"))
        return version_id

    return add


@pytest.fixture
def directory(database: Database) -> Iterator[Directory]:
    directory = Directory(database, poll_seconds=NEVER)
    directory.start()
    yield directory
    directory.close()


def point(database: Database, alias: str, version: int, *, keep_loaded: bool = False) -> None:
    with database.write() as session:
        wanted, now = AliasPut(version=version, keep_loaded=keep_loaded), utc_now()
        try:
            aliases.find(session, "insects", alias)
        except errors.NotFound:
            aliases.create(session, "insects", alias, wanted, now=now)
        else:
            aliases.move(session, "insects", alias, wanted, revision=None, now=now)


class Watched:
    """The statements that a database is asked."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        event.listen(database.engine, "before_cursor_execute", self._note)

    def _note(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.count += statement.startswith("SELECT")


def break_off(database: Database) -> Callable[[], None]:
    """Let every statement fail, as where the server is gone, until the function that is returned is called."""

    def refuse(*_: object) -> None:
        raise ConnectionError("gone")

    event.listen(database.engine, "before_cursor_execute", refuse)
    return lambda: event.remove(database.engine, "before_cursor_execute", refuse)
