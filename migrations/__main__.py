"""`python -m migrations [upgrade | check | new MESSAGE]` on the database that the settings name."""

import sys
import tempfile
from pathlib import Path

from alembic.util import CommandError

import migrations
from app.db import Database
from app.settings import from_environment


def main(arguments: list[str]) -> int:
    match arguments or ["upgrade"]:
        case ["upgrade"]:
            return _upgrade()
        case ["check"]:
            return _check()
        case ["new", message]:
            return _new(message)
    print(__doc__, file=sys.stderr)
    return 2


def _upgrade() -> int:
    database = Database(from_environment().sqlalchemy_url)
    migrations.upgrade(database)
    database.close()
    return 0


def _check() -> int:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'check.db'}")
        migrations.upgrade(database)
        try:
            migrations.check(database)
        except CommandError as error:
            print(f"the tables in code and the migrations differ: {error}", file=sys.stderr)
            return 1
        finally:
            database.close()
    print("the tables in code are what the migrations make")
    return 0


def _new(message: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'new.db'}")
        migrations.upgrade(database)
        migrations.new_revision(database, message)
        database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
