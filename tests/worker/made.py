"""What jobs have made once, put where each test begins with it: the rows of a database and the files beside them."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Table, insert, select

import migrations
from app.db import Database
from app.storage import Storage

_TABLES: Sequence[Table] = migrations.METADATA.sorted_tables


@dataclass(frozen=True)
class Made:
    """All that there was when a test had it made."""

    named: str
    rows: Mapping[Table, Sequence[dict[str, Any]]]
    folder: Path


class Shelf:
    """What was made in this process, by name, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Made] = {}

    def have(self, name: str, database: Database, files: Storage, make: Callable[[], str]) -> str:
        """What `make` returns, which is an id: called the first time with each kind of database, and later with all
        that it had made put in place of what is there."""
        name = f"{name}-{database.engine.dialect.name}"
        made = self._made.get(name)
        if made is None:
            named, folder = make(), self._folder / name
            shutil.copytree(files.root, folder)
            self._made[name] = Made(named, _rows(database), folder)
            return named
        with database.write() as session:
            for table in reversed(_TABLES):
                session.execute(table.delete())
            for table in _TABLES:
                if made.rows[table]:
                    session.execute(insert(table), made.rows[table])
        shutil.copytree(made.folder, files.root, dirs_exist_ok=True)
        return made.named


def _rows(database: Database) -> dict[Table, list[dict[str, Any]]]:
    with database.read() as session:
        return {table: [dict(row) for row in session.execute(select(table)).mappings()] for table in _TABLES}
