"""Keeping rankings, and finding them again."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import errors
from app.datasets import service as datasets
from app.datasets.tables import DatasetVersion
from app.db import new_id
from app.models import service as models
from app.profile import is_thin
from app.ranking import MeasuredNetwork, Ranking
from app.rankings.schemas import RankingRead, RankingSummary
from app.rankings.tables import StoredRanking

_RANKING = TypeAdapter(Ranking)


def find(session: Session, ranking_id: str) -> StoredRanking:
    row = session.get(StoredRanking, ranking_id)
    if row is None:
        raise errors.NotFound(f"no ranking {ranking_id}", code="ranking_not_found")
    return row


def newest_first(session: Session, *, limit: int, after: str | None) -> Sequence[StoredRanking]:
    query = select(StoredRanking).order_by(StoredRanking.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(StoredRanking.id < after)
    return session.scalars(query).all()


def summary(row: StoredRanking) -> RankingSummary:
    """What a list has of it."""
    found = figures(row)
    return RankingSummary(
        id=row.id,
        dataset_id=row.dataset_id,
        dataset_version=row.dataset_version,
        created_at=row.created_at,
        networks=len(found.measured),
        best=found.best.name,
    )


def read(session: Session, row: StoredRanking) -> RankingRead:
    return RankingRead.of(row, datasets.name_of(session, row.dataset_id))


def deleted(session: Session, row: StoredRanking) -> set[str]:
    """Those of its networks that are models which are not there any more."""
    return {entry.name for entry in figures(row).measured if entry.is_own and not _is_there(session, entry)}


def hindrances(session: Session, row: StoredRanking) -> dict[str, str]:
    """By the names of its networks, why no training on the version that was ranked on can start from them."""
    labels = set(datasets.version_of(session, row.dataset_id, row.dataset_version).labels)
    found = {entry.name: _hindrance(session, entry, labels) for entry in figures(row).measured if entry.is_own}
    return {name: why for name, why in found.items() if why is not None}


def _hindrance(session: Session, entry: MeasuredNetwork, labels: set[str]) -> str | None:
    name, _, number = entry.name.rpartition("@")
    try:
        known = models.find_version(session, name, int(number)).labels
    except errors.NotFound:
        return f"{entry.name} is deleted"
    if labels.intersection(known):
        return None
    return (
        f"none of the labels of {entry.name} is one of this version, and --label-map would have to say which are meant"
    )


def _is_there(session: Session, entry: MeasuredNetwork) -> bool:
    name, _, number = entry.name.rpartition("@")
    return models.is_there(session, name, int(number))


def newest_of_all(session: Session, version: DatasetVersion) -> StoredRanking | None:
    """The last ranking, on the content of `version`, of all backbones whose weights were at hand; None also where that
    is of a few images of each label, as once was ranked on of many labels."""
    query = select(StoredRanking).where(
        StoredRanking.content_hash == version.content_hash, StoredRanking.is_of_all.is_(True)
    )
    row = session.scalar(query.order_by(StoredRanking.created_at.desc(), StoredRanking.id.desc()).limit(1))
    return None if row is None or _is_thin(row) else row


def _is_thin(row: StoredRanking) -> bool:
    setting = row.body["setting"]
    return "measured_labels" not in setting and is_thin(
        classes=setting["classes"], images=setting["images"], measured=setting["measured_images"]
    )


def figures(row: StoredRanking) -> Ranking:
    """What was measured."""
    return _RANKING.validate_python(row.body)


def record(
    session: Session, version: DatasetVersion, ranking: Ranking, *, is_of_all: bool, job_id: str, now: datetime
) -> str:
    """Keep what a job has found on `version`. Returns its id."""
    row = StoredRanking(
        id=new_id("rnk"),
        dataset_id=version.dataset_id,
        dataset_version=version.number,
        content_hash=version.content_hash,
        is_of_all=is_of_all,
        body=asdict(ranking),
        job_id=job_id,
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row.id
