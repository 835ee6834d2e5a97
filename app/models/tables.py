"""Rows of models, their versions and aliases. The classifiers themselves are artifacts on disk."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, ForeignKeyConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.optimisation import AUTO


class Model(Base):
    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    latest_version: Mapped[int]
    """Of those that are there; 0 where there are none, and so no model."""
    last_number: Mapped[int]
    """The highest that a version was given, so that none stands for two, one of them deleted."""
    created_at: Mapped[datetime]


class ModelVersion(Base):
    """One immutable result of a job. The row of a deleted one stays, for what names it; its files do not."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("model_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    dataset_version: Mapped[int]
    backbone: Mapped[str]
    strategy: Mapped[str]
    labels: Mapped[list[str]]
    evaluation: Mapped[dict[str, Any]]
    provenance: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    runtime: Mapped[str] = mapped_column(default=AUTO)
    """What somebody has pinned it to be run by; this and the precision are all that changes of a version that is
    there."""
    precision: Mapped[str] = mapped_column(default=AUTO)
    pins_revision: Mapped[int] = mapped_column(default=1)
    deleted_at: Mapped[datetime | None]


class Optimisation(Base):
    """The forms of a model version as one machine has measured them; the one that came last for a kind of device
    counts. The networks lie in a folder of its own."""

    __tablename__ = "optimisations"

    id: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    device: Mapped[str]
    """`cpu` or `cuda`."""
    report: Mapped[dict[str, Any]]
    """An `app.optimisation.Report`."""
    created_at: Mapped[datetime]


class Alias(Base):
    """A movable name of a version. A removed one stays, so that its revisions go on if it is put again."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["model_id", "version"], ["model_versions.model_id", "model_versions.number"]),
    )

    model_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    keep_loaded: Mapped[bool]
    revision: Mapped[int]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class AliasMove(Base):
    """One line of an alias's history: where it points from this revision on."""

    __tablename__ = "alias_moves"
    __table_args__ = (
        ForeignKeyConstraint(["model_id", "alias"], ["aliases.model_id", "aliases.name"]),
        ForeignKeyConstraint(["model_id", "version"], ["model_versions.model_id", "model_versions.number"]),
    )

    model_id: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[str]
    """`moved`, `rolled_back` or `removed`."""
    version: Mapped[int | None]
    """None from its removal on."""
    back_to: Mapped[int | None]
    """Revision of the move that a rollback goes back to; None where there is none."""
    created_at: Mapped[datetime]


class Registry(Base):
    """The one row that tells who serves models that something about them has changed."""

    __tablename__ = "registry"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int]
