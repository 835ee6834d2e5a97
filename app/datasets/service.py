"""What can be done with data sets, with the queries that do it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import errors
from app.datasets.schemas import DatasetCreate, DatasetPatch
from app.datasets.tables import Dataset, DatasetVersion, Import, RefusedItem
from app.db import new_id

_COMPARED = 200
"""Names that one which is not there is compared with, those of the newest data sets."""


@dataclass(frozen=True)
class NewVersion:
    """A version that an import has written to the Lance table and that is to be registered."""

    number: int
    labels: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    images: int
    content_hash: str
    table_tag: str


@dataclass(frozen=True)
class Refusal:
    path: str
    code: str
    message: str


def create(session: Session, wanted: DatasetCreate, *, now: datetime) -> Dataset:
    dataset = Dataset(
        id=new_id("ds"),
        name=wanted.name,
        description=wanted.description,
        validation_fraction=wanted.validation_fraction,
        seed=wanted.seed,
        created_at=now,
        updated_at=now,
    )
    session.add(dataset)
    _flush_name(session, wanted.name)
    return dataset


def find(session: Session, reference: str) -> Dataset:
    """The dataset with this id, or else with this name. Raises `NotFound`, with the nearest names."""
    dataset = session.get(Dataset, reference)
    if dataset is None:
        dataset = session.scalar(select(Dataset).where(Dataset.name == reference, Dataset.deleted_at.is_(None)))
    if dataset is None:
        nearest = errors.nearest_names(reference, _newest_names(session))
        message, offered = f"no dataset {reference}{errors.did_you_mean(nearest)}", list[JsonValue](nearest)
        raise errors.NotFound(message, code="dataset_not_found", detail={"nearest": offered})
    if dataset.deleted_at is not None:  # whoever has its id may know it by its name alone
        raise errors.NotFound(f"dataset {dataset.name!r} was deleted", code="dataset_not_found")
    return dataset


def _newest_names(session: Session) -> Sequence[str]:
    query = select(Dataset.name).where(Dataset.deleted_at.is_(None)).order_by(Dataset.id.desc()).limit(_COMPARED)
    return session.scalars(query).all()


def called(session: Session, dataset_id: str) -> str:
    """The name of a data set, with a word where it is deleted."""
    found = session.get_one(Dataset, dataset_id)
    return found.name if found.deleted_at is None else f"{found.name} (deleted)"


def newest_first(session: Session, *, limit: int, after: str | None) -> Sequence[Dataset]:
    query = select(Dataset).where(Dataset.deleted_at.is_(None)).order_by(Dataset.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Dataset.id < after)
    return session.scalars(query).all()


def change(session: Session, reference: str, wanted: DatasetPatch, *, revision: int | None, now: datetime) -> Dataset:
    """Rename or describe anew. Raises `PreconditionFailed` unless the dataset is at `revision` (None: any)."""
    dataset_id = find(session, reference).id
    values = wanted.model_dump(exclude_none=True)
    try:
        _update(session, dataset_id, revision, {**values, "updated_at": now})
    except IntegrityError as error:
        raise _name_taken(str(wanted.name)) from error
    session.expire_all()
    return find(session, dataset_id)


def delete(session: Session, reference: str, *, revision: int | None, now: datetime) -> None:
    """Delete; the row stays for the provenance of models, the images go once no job reads them."""
    _update(session, find(session, reference).id, revision, {"deleted_at": now})


def find_version(session: Session, reference: str, number: int | None) -> DatasetVersion:
    """Version `number`, or the newest for None. Raises `NotFound`, and `Conflict` where there is none yet."""
    dataset = find(session, reference)
    wanted = dataset.latest_version if number is None else number
    if wanted is None:
        last = next(iter(imports_newest_first(session, dataset.id, limit=1, after=None)), None)
        advice = "import photos first"
        if last is not None:
            advice = f"its newest import is {last.job_id}: wait for that job, or see why it failed"
        raise errors.Conflict(f"dataset {reference} has no version yet; {advice}", code="dataset_has_no_version")
    version = session.get(DatasetVersion, (dataset.id, wanted))
    if version is None:
        raise errors.NotFound(f"dataset {reference} has no version {wanted}", code="version_not_found")
    return version


def asked_version(session: Session, reference: str, number: int | None) -> DatasetVersion:
    """As `find_version`, for a body with the fields `dataset` and `version`, at which the errors point."""
    with errors.blaming("dataset"):
        find(session, reference)
    with errors.blaming("dataset" if number is None else "version"):
        return find_version(session, reference, number)


def version_of(session: Session, dataset_id: str, number: int) -> DatasetVersion:
    """Version `number`, also of a dataset that was deleted while a job was at it."""
    version = session.get(DatasetVersion, (dataset_id, number))
    if version is None:
        raise errors.NotFound(f"dataset {dataset_id} has no version {number}", code="version_not_found")
    return version


def name_of(session: Session, dataset_id: str) -> str | None:
    """What the dataset is called now; None once it is deleted."""
    return session.scalar(select(Dataset.name).where(Dataset.id == dataset_id, Dataset.deleted_at.is_(None)))


def known_labels(session: Session, reference: str) -> tuple[str, ...]:
    """Labels of the newest version; none before the first import."""
    if find(session, reference).latest_version is None:
        return ()
    return tuple(find_version(session, reference, None).labels)


def versions_newest_first(
    session: Session, reference: str, *, limit: int, after: int | None
) -> Sequence[DatasetVersion]:
    dataset_id = find(session, reference).id
    query = select(DatasetVersion).where(DatasetVersion.dataset_id == dataset_id)
    if after is not None:
        query = query.where(DatasetVersion.number < after)
    return session.scalars(query.order_by(DatasetVersion.number.desc()).limit(limit + 1)).all()


def table_tags(session: Session, dataset_id: str) -> Sequence[str]:
    """Where the versions of the dataset lie in its table, in order."""
    query = select(DatasetVersion.table_tag).where(DatasetVersion.dataset_id == dataset_id)
    return session.scalars(query.order_by(DatasetVersion.number)).all()


def find_import(session: Session, reference: str, import_id: str) -> Import:
    dataset_id = find(session, reference).id
    found = session.get(Import, import_id)
    if found is None or found.dataset_id != dataset_id:
        raise errors.NotFound(f"dataset {reference} has no import {import_id}", code="import_not_found")
    return found


def imports_newest_first(session: Session, reference: str, *, limit: int, after: str | None) -> Sequence[Import]:
    dataset_id = find(session, reference).id
    query = select(Import).where(Import.dataset_id == dataset_id).order_by(Import.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Import.id < after)
    return session.scalars(query).all()


def refused_items(session: Session, import_id: str, *, limit: int, after: int) -> Sequence[RefusedItem]:
    query = select(RefusedItem).where(RefusedItem.import_id == import_id, RefusedItem.position > after)
    return session.scalars(query.order_by(RefusedItem.position).limit(limit + 1)).all()


def telling_refusals(session: Session, import_id: str, *, limit: int) -> list[Refusal]:
    """So many of what an import refused, in the order of the archive, but those last that the data set has already."""
    of_import = select(RefusedItem).where(RefusedItem.import_id == import_id)
    ordered = of_import.order_by(RefusedItem.code == "duplicate", RefusedItem.position)
    return [Refusal(row.path, row.code, row.message) for row in session.scalars(ordered.limit(limit))]


def record_refusals(session: Session, import_id: str, refusals: Sequence[Refusal]) -> None:
    """Keep what an import refused; what an earlier attempt at it had kept is replaced."""
    session.query(RefusedItem).where(RefusedItem.import_id == import_id).delete()
    session.add_all(
        RefusedItem(import_id=import_id, position=position, path=item.path, code=item.code, message=item.message)
        for position, item in enumerate(refusals, start=1)
    )
    session.execute(update(Import).where(Import.id == import_id).values(refused=len(refusals)))


def add_version(
    session: Session,
    import_id: str,
    dataset_id: str,
    version: NewVersion,
    *,
    accepted: int,
    ignored: int,
    now: datetime,
) -> None:
    """Register what an import wrote as the newest version of its dataset."""
    session.add(
        DatasetVersion(
            dataset_id=dataset_id,
            number=version.number,
            labels=list(version.labels),
            counts={label: dict(counts) for label, counts in version.counts.items()},
            images=version.images,
            content_hash=version.content_hash,
            table_tag=version.table_tag,
            created_at=now,
        )
    )
    session.execute(
        update(Import).where(Import.id == import_id).values(accepted=accepted, ignored=ignored, version=version.number)
    )
    session.execute(
        update(Dataset)
        .where(Dataset.id == dataset_id)
        .values(latest_version=version.number, revision=Dataset.revision + 1, updated_at=now)
    )


def _update(session: Session, dataset_id: str, revision: int | None, values: dict[str, object]) -> None:
    statement = update(Dataset).where(Dataset.id == dataset_id, Dataset.deleted_at.is_(None))
    if revision is not None:
        statement = statement.where(Dataset.revision == revision)
    changed = session.execute(
        statement.values(**values, revision=Dataset.revision + 1).returning(Dataset.id),
        execution_options={"synchronize_session": False},
    ).first()
    if changed is None:
        raise errors.PreconditionFailed(
            f"dataset {dataset_id} has changed since; read it again for its present ETag and repeat"
        )


def _flush_name(session: Session, name: str) -> None:
    try:
        session.flush()
    except IntegrityError as error:
        raise _name_taken(name) from error


def _name_taken(name: str) -> errors.Conflict:
    return errors.Conflict(f"there is a dataset named {name!r} already", code="dataset_name_taken")
