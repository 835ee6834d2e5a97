"""Rows of data sets, their versions and their imports. The images themselves are in Lance tables."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base

_NOT_DELETED = text("deleted_at IS NULL")


class Dataset(Base):
    __tablename__ = "datasets"
    __table_args__ = (
        Index("uq_datasets_name", "name", unique=True, sqlite_where=_NOT_DELETED, postgresql_where=_NOT_DELETED),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str]
    validation_fraction: Mapped[float]
    seed: Mapped[int]
    latest_version: Mapped[int | None]
    revision: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class DatasetVersion(Base):
    """An immutable state of a dataset: a tagged version of its Lance table."""

    __tablename__ = "dataset_versions"

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    labels: Mapped[list[str]]
    counts: Mapped[dict[str, Any]]
    images: Mapped[int]
    content_hash: Mapped[str]
    table_tag: Mapped[str]
    created_at: Mapped[datetime]


class Import(Base):
    """An archive that was uploaded, and what became of it."""

    __tablename__ = "imports"

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    job_id: Mapped[str] = mapped_column(index=True)
    file_name: Mapped[str | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    accepted: Mapped[int | None]
    refused: Mapped[int | None]
    ignored: Mapped[int | None]
    version: Mapped[int | None]
    created_at: Mapped[datetime]


class RefusedItem(Base):
    """A file of an import that did not become an item, and why."""

    __tablename__ = "refused_items"

    import_id: Mapped[str] = mapped_column(ForeignKey("imports.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    code: Mapped[str]
    message: Mapped[str]
