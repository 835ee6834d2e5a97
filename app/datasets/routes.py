"""Routes of data sets and their versions."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from app import idempotency
from app.bodies import JsonRoute
from app.datasets import service
from app.datasets.schemas import DatasetCreate, DatasetPatch, DatasetRead, VersionRead
from app.deps import DatabaseDep, DatasetPageDep, IdempotentDep, Limit, Listing, RevisionDep, etag, listing
from app.problems import responses

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=JsonRoute)

DatasetId = Annotated[str, Path(max_length=100, description="Id or name of the data set.", examples=["patterns"])]
VersionNumber = Annotated[int, Path(ge=1, lt=2**31, examples=[1])]


@router.post("", status_code=HTTPStatus.CREATED, responses=responses(409, 422))
def create_dataset(
    wanted: DatasetCreate, database: DatabaseDep, request: IdempotentDep, response: Response
) -> DatasetRead:
    """Create an empty data set; photos come into it by an import."""
    with database.write() as session:
        now = database.now(session)
        existing = idempotency.take(session, request, now=now)
        if existing is None:
            dataset = service.create(session, wanted, now=now)
            idempotency.remember(session, request, dataset.id)
        else:
            dataset = service.find(session, existing)
        response.headers["Location"] = f"/v1/datasets/{dataset.id}"
        response.headers["ETag"] = etag(dataset.revision)
        return DatasetRead.model_validate(dataset)


@router.get("", responses=responses(422))
def list_datasets(database: DatabaseDep, page: DatasetPageDep) -> Listing[DatasetRead]:
    """All data sets, newest first."""
    with database.read() as session:
        rows = service.newest_first(session, limit=page.limit, after=page.after)
        return listing([DatasetRead.model_validate(row) for row in rows], page.limit)


@router.patch("/{dataset_id}", responses=responses(404, 409, 412, 422, 428))
def change_dataset(
    dataset_id: DatasetId, wanted: DatasetPatch, database: DatabaseDep, revision: RevisionDep, response: Response
) -> DatasetRead:
    """Rename a data set or describe it anew."""
    with database.write() as session:
        dataset = service.change(session, dataset_id, wanted, revision=revision, now=database.now(session))
        response.headers["ETag"] = etag(dataset.revision)
        return DatasetRead.model_validate(dataset)


@router.get("/{dataset_id}/versions", responses=responses(404, 422))
def list_versions(
    dataset_id: DatasetId,
    database: DatabaseDep,
    limit: Limit = 50,
    after: Annotated[int | None, Query(ge=1, lt=2**31, description="Number of the last version before.")] = None,
) -> Listing[VersionRead]:
    """The versions of a data set, newest first."""
    with database.read() as session:
        rows = service.versions_newest_first(session, dataset_id, limit=limit, after=after)
        return listing([VersionRead.model_validate(row) for row in rows], limit)


@router.get("/{dataset_id}/versions/{number}", responses=responses(404, 422))
def read_version(dataset_id: DatasetId, number: VersionNumber, database: DatabaseDep) -> VersionRead:
    """One version: its label index and how many images each label has in each split."""
    with database.read() as session:
        return VersionRead.model_validate(service.find_version(session, dataset_id, number))
