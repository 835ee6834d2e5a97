"""Rows of experiments."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Experiment(Base):
    """Trainings of one version that are to be compared."""

    __tablename__ = "experiments"

    id: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    dataset_version: Mapped[int]
    backbone: Mapped[str]
    arms: Mapped[dict[str, Any]]
    """By the name of each arm the id of its job."""
    created_at: Mapped[datetime]
