"""Migrated databases for tests: migrated once, then copied, or emptied for the next test."""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Table, create_engine, func, insert, select, text
from sqlalchemy.engine import URL, Connection

import migrations
from app.db import Database

_MANY_BYTES = 1_000_000


def sqlite_copy(path: Path) -> str:
    """URL of a new, migrated SQLite database at `path`."""
    path.write_bytes(_migrated_sqlite())
    return f"sqlite:///{path}"


@cache
def _migrated_sqlite() -> bytes:
    with tempfile.TemporaryDirectory(prefix="graft-sqlite-") as folder:
        path = Path(folder) / "graft.db"
        migrate(f"sqlite:///{path}")
        return path.read_bytes()


def migrate(url: str) -> None:
    database = Database(url)
    migrations.upgrade(database)
    database.close()


def administer(server: URL, *statements: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def hurry(server: URL) -> None:
    """Let a PostgreSQL server that is thrown away after the tests wait for no disk."""
    settings = ("fsync", "synchronous_commit", "full_page_writes")
    administer(server, *(f"ALTER SYSTEM SET {name} = off" for name in settings), "SELECT pg_reload_conf()")


@contextmanager
def postgres_copy(server: URL, template: str) -> Iterator[URL]:
    """A copy of the template, which lasts until the block ends."""
    name = f"graft_{uuid.uuid4().hex[:12]}"
    administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.set(database=name)
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


class Emptied:
    """A migrated PostgreSQL database that is brought back to that state a hundred times as fast as one is made."""

    def __init__(self, url: URL, connection: Connection) -> None:
        self.url = url.render_as_string(hide_password=False)
        self._connection = connection
        self._tables = migrations.METADATA.sorted_tables
        self._first = {table: rows for table in self._tables if (rows := self._rows(table))}

    def empty(self) -> None:
        """End the connections of others, and leave in each table what the migrations wrote."""
        others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database()"
        self._connection.execute(text(f"{others} AND pid <> pg_backend_pid() AND backend_type = 'client backend'"))
        # For few rows to delete them is fastest; of many each would be looked for in all tables that refer to it.
        sizes = select(*(func.pg_relation_size(table.name) for table in self._tables))
        if sum(self._connection.execute(sizes).one()) > _MANY_BYTES:
            self._connection.execute(text(f"TRUNCATE {', '.join(table.name for table in self._tables)}"))
        else:
            for table in reversed(self._tables):
                self._connection.execute(table.delete())
        for table, rows in self._first.items():
            self._connection.execute(insert(table), rows)

    def _rows(self, table: Table) -> list[dict[str, Any]]:
        return [dict(row) for row in self._connection.execute(select(table)).mappings()]


@contextmanager
def emptied_postgres(server: URL, template: str) -> Iterator[Emptied]:
    """A copy of the template for many tests, one after the other."""
    with postgres_copy(server, template) as url:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield Emptied(url, connection)
        engine.dispose()
