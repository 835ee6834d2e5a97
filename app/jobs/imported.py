"""What became of the imports into a data set."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.datasets import service as datasets
from app.datasets.tables import Import
from app.jobs import service, summaries
from app.jobs.schemas import ENDED
from app.jobs.summaries import Summary


@dataclass(frozen=True)
class ImportLine:
    """An import with its job."""

    id: str
    file_name: str | None
    refused: int
    """Files that did not become items."""
    job: Summary

    @property
    def has_ended(self) -> bool:
        return self.job.job.state in ENDED

    @property
    def told(self) -> str:
        """Why it made no version, or how far it is; empty where it made one."""
        job = self.job.job
        if job.error is not None:
            return job.error.message
        return "" if job.state == "succeeded" else self.job.progress or job.state


def newest_first(session: Session, dataset_id: str, *, limit: int) -> Sequence[ImportLine]:
    """At most `limit` imports into the data set."""
    rows = datasets.imports_newest_first(session, dataset_id, limit=limit, after=None)[:limit]
    return [_line(session, row) for row in rows]


def _line(session: Session, row: Import) -> ImportLine:
    return ImportLine(row.id, row.file_name, row.refused or 0, summaries.of(session, service.find(session, row.job_id)))
