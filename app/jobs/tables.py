"""Rows of jobs, their events, and the workers that were seen."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base

# A job that is to be cancelled finds nothing out any more, so it is in nobody's way.
_FINDING_OUT = text("state NOT IN ('cancelling', 'succeeded', 'failed', 'cancelled')")
# Imports into one dataset take turns: each makes the version after the last.
_INGESTING = text("kind = 'ingest' AND state NOT IN ('succeeded', 'failed', 'cancelled')")

LONG_AGO = datetime.fromtimestamp(0, UTC)
"""When the lease of a job that waits and yet is `finishing` ended: by any clock it is taken as a lost worker's is."""


class Job(Base):
    """One run of work. The table is the queue: see `app.jobs.leases` for how a worker takes a job."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_state_queue", "state", "queue"),
        Index("uq_jobs_one_ingest", "dataset_id", unique=True, sqlite_where=_INGESTING, postgresql_where=_INGESTING),
        Index("uq_jobs_subject", "subject", unique=True, sqlite_where=_FINDING_OUT, postgresql_where=_FINDING_OUT),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    queue: Mapped[str]
    state: Mapped[str]
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    dataset_version: Mapped[int | None]
    model_name: Mapped[str | None]
    subject: Mapped[str | None]
    """What the job is to find out, where one job at a time is enough for all who ask."""
    spec: Mapped[dict[str, Any]]
    """What was asked, as the job's kind defines it."""
    plan: Mapped[dict[str, Any] | None]
    attempt: Mapped[int]
    max_attempts: Mapped[int]
    lease_token: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    rung_at: Mapped[datetime | None]
    """When workers were last told of it; null to have them told at the next sweep."""
    last_event: Mapped[int]
    progress: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobEvent(Base):
    """One line of a job's history; `seq` counts from 1 without gaps."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    attempt: Mapped[int]
    type: Mapped[str]
    data: Mapped[dict[str, Any]]


class Worker(Base):
    """A worker process, and when it was last heard of."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    queues: Mapped[list[str]]
    weights: Mapped[dict[str, Any] | None]
    """By the name of each backbone whose weights are at hand there what `weights.identify` tells of their file; null
    for one that ranks nothing."""
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
