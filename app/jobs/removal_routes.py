"""Routes that delete: a data set, a version of a model, or a model with all of them."""

from http import HTTPStatus

from fastapi import APIRouter

from app.bodies import JsonRoute
from app.datasets.routes import DatasetId
from app.deps import DatabaseDep, RevisionDep
from app.jobs import removals
from app.models.routes import DirectoryDep, Name, Number
from app.problems import responses

of_datasets = APIRouter(prefix="/v1/datasets/{dataset_id}", tags=["datasets"], route_class=JsonRoute)
router = APIRouter(prefix="/v1/models/{name}", tags=["models"], route_class=JsonRoute)


@of_datasets.delete("", status_code=HTTPStatus.NO_CONTENT, responses=responses(404, 409, 412, 422, 428))
def delete_dataset(dataset_id: DatasetId, database: DatabaseDep, revision: RevisionDep) -> None:
    """Delete a data set with its images. One that a job works with stays until that has ended. Models trained on it
    stay."""
    with database.write() as session:
        removals.delete_dataset(session, dataset_id, revision=revision, now=database.now(session))


@router.delete("", status_code=HTTPStatus.NO_CONTENT, responses=responses(404, 409, 412, 422, 428))
def delete_model(name: Name, database: DatabaseDep, directory: DirectoryDep, revision: RevisionDep) -> None:
    """Delete a model with all its versions, those that the `ETag` in `If-Match` knows of. One that has an alias, or
    with which a job works, stays as a whole. Numbers are not given again if its name is: versions of a new one go on
    from there."""
    with database.write() as session:
        removals.delete_model(session, name, revision=revision, now=database.now(session))
    directory.refresh()


@router.delete("/versions/{number}", status_code=HTTPStatus.NO_CONTENT, responses=responses(404, 409, 422))
def delete_model_version(name: Name, number: Number, database: DatabaseDep, directory: DirectoryDep) -> None:
    """Delete a version with its files; the model goes with its last one. One that an alias points to, or that a job
    works with, stays. The name alone addresses the newest of those that are left, and no version gets the number
    again."""
    with database.write() as session:
        removals.delete_version(session, name, number, now=database.now(session))
    directory.refresh()
