"""The database's history: one for SQLite and PostgreSQL alike."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from app import idempotency
from app.datasets import tables as datasets
from app.db import Database
from app.experiments import tables as experiments
from app.jobs import tables as jobs
from app.models import tables as models
from app.profiles import tables as profiles
from app.rankings import tables as rankings

METADATA = idempotency.IdempotencyKey.metadata
_TABLES = (
    datasets.Dataset,
    jobs.Job,
    models.Model,
    profiles.StoredProfile,
    experiments.Experiment,
    rankings.StoredRanking,
)
assert {table.__tablename__ for table in _TABLES} <= METADATA.tables.keys()


def upgrade(database: Database) -> None:
    """Bring the database to the newest revision, in one transaction."""
    with database.engine.execution_options(graft_write=True).begin() as connection:
        command.upgrade(_config(connection), "head")


def check(database: Database) -> None:
    """Raise alembic's `CommandError` where the tables in code and the history differ."""
    with database.engine.begin() as connection:
        command.check(_config(connection))


def new_revision(database: Database, message: str) -> None:
    """Write the file of a revision that brings the history to the tables in code."""
    with database.engine.begin() as connection:
        command.revision(_config(connection), message=message, autogenerate=True)


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    return config
