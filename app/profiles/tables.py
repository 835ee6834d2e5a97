"""Rows of profiles."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class StoredProfile(Base):
    """What was measured of one content with one set of values. `content_hash` makes it that of every version with the
    same images and labels, whatever dataset it is of."""

    __tablename__ = "profiles"
    __table_args__ = (
        UniqueConstraint("content_hash", "backbone", "weights_sha256"),
        Index("ix_profiles_content", "content_hash", "backbone", "weights"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    dataset_version: Mapped[int]
    """The version that was measured, for others may have the same content."""
    content_hash: Mapped[str]
    backbone: Mapped[str]
    weights: Mapped[str]
    """What was asked for: `pretrained`, or the name of published weights. `body` names those that the file was taken
    for, which may be others."""
    weights_sha256: Mapped[str]
    """Of the file."""
    body: Mapped[dict[str, Any]]
    """An `app.profile.Profile`."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]
