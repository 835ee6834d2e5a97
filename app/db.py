"""The database: declarative base, portable column types, and the only place that commits.

SQLite and PostgreSQL run the same statements; what differs between them is settled here, when the engine is made.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uuid_utils
from sqlalchemy import JSON, DateTime, Dialect, Engine, MetaData, String, create_engine, event, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

_AFTER_COMMIT = "graft_after_commit"
_BEFORE_COMMIT = "graft_before_commit"
_BUSY_TIMEOUT_SECONDS = 30
_REPLACEMENT = "\ufffd"
# For PostgreSQL: a server that is gone is noticed well before a lease runs out.
_PATIENCE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time; aware UTC in Python on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanString(TypeDecorator[str]):
    """Text of any origin: what no database can take of it, NUL and halves of surrogate pairs, is replaced."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else _storable(value).replace("\0", _REPLACEMENT)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        datetime: UtcDateTime,
        str: CleanString,
        dict[str, Any]: JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql"),
        list[str]: JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql"),
    }


class Database:
    """Connections of one process. A transaction is a `with` block: `read()`, or `write()`, which commits at its end."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self._writing = self.engine.execution_options(graft_write=True)
        # SQLite has one writer at a time. Those of this process take turns here, each woken the moment it is next;
        # asleep within SQLite, which looks again now and then, the last of many would wait too long.
        self._turn: AbstractContextManager[object] = (
            threading.Lock() if self.engine.dialect.name == "sqlite" else nullcontext()
        )

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view; nothing done in it is kept."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: committed at the end, or rolled back by any exception. What waits for the commit runs then."""
        with self._turn, Session(self._writing, expire_on_commit=False) as session:
            yield session
            session.flush()
            for last in session.info.pop(_BEFORE_COMMIT, ()):
                last(session)
            session.commit()
        for action in session.info.pop(_AFTER_COMMIT, ()):
            action()

    def now(self, session: Session) -> datetime:
        """The time that all who share this database agree on: its server's clock, or this machine's."""
        if self.engine.dialect.name == "sqlite":
            return utc_now()
        return session.execute(select(func.clock_timestamp(type_=UtcDateTime))).scalar_one()

    def close(self) -> None:
        self.engine.dispose()


def before_commit(session: Session, action: Callable[[Session], None]) -> None:
    """Do `action` as the last thing of the transaction of `session`, and once however often it is asked for.

    What all transactions write, such as a count, is locked from then on; locked last, it is held for a moment only, and
    nobody who holds it waits for another lock.
    """
    session.info.setdefault(_BEFORE_COMMIT, {})[action] = None


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Run `action` once the transaction of `session` is durable; never if it is rolled back."""
    session.info.setdefault(_AFTER_COMMIT, []).append(action)


def new_id(prefix: str) -> str:
    """An id that sorts by the time it was made, such as `job_0193…`."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def utc_now() -> datetime:
    return datetime.now(UTC)


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        patience = {name: value for name, value in _PATIENCE.items() if name not in parsed.query}
        return create_engine(parsed, connect_args=patience, pool_pre_ping=True, **_SHARED)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS}, **_SHARED)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _storable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _json(value: object) -> str:
    written = _storable(json.dumps(value, ensure_ascii=False))
    # An escaped backslash is looked at first, so that the text `\u0000`, which is written `\\u0000`, stays what it is.
    return re.sub(r"(\\\\)|\\u0000", lambda match: match[1] or _REPLACEMENT, written)


# More connections than an API process has threads for requests (40, and those for predictions), so that none waits for
# one that another thread cannot give back.
_SHARED: dict[str, Any] = {"pool_size": 10, "max_overflow": 50, "json_serializer": _json}


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A reader that turns writer fails at once when another process wrote meanwhile, whatever the timeout:
    # whoever means to write says so from the start, and waits its turn.
    write = connection.get_execution_options().get("graft_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
