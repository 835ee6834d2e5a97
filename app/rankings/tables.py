"""Rows of rankings."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class StoredRanking(Base):
    """What came of comparing networks on one content. `content_hash` makes it that of every version with the same
    images and labels."""

    __tablename__ = "rankings"
    __table_args__ = (Index("ix_rankings_content", "content_hash", "is_of_all"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    dataset_version: Mapped[int]
    """The version that was measured, for others may have the same content."""
    content_hash: Mapped[str]
    is_of_all: Mapped[bool]
    """Whether all backbones with weights at hand were compared, as `backbone: auto` does, and not chosen ones."""
    body: Mapped[dict[str, Any]]
    """An `app.ranking.Ranking`."""
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]
