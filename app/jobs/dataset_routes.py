"""The route of a data set: as values, or as a page with its labels, its versions and what became of its imports."""

import shlex

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from app.backbones import answering, pages
from app.backbones.answering import PageFormat
from app.bodies import JsonRoute
from app.datasets import service as datasets
from app.datasets.routes import DatasetId
from app.datasets.schemas import DatasetRead, VersionRead
from app.deps import DatabaseDep, etag
from app.jobs import imported
from app.problems import responses

router = APIRouter(prefix="/v1/datasets/{dataset_id}", tags=["datasets"], route_class=JsonRoute)

_SHOWN = 20


@router.get("", response_model=DatasetRead, responses={**answering.AS_PAGE, **responses(404, 422)})
def read_dataset(dataset_id: DatasetId, request: Request, database: DatabaseDep, wanted: PageFormat = None) -> Response:
    """One data set, with the `ETag` that a change of it must name; for browsers as a page, with the labels of its
    newest version, all versions, and what became of its imports."""
    with database.read() as session:
        dataset = DatasetRead.model_validate(found := datasets.find(session, dataset_id))
        revision = found.revision

    def page() -> str:
        with database.read() as session:
            return _page(session, dataset)

    answer = answering.answer(request, wanted, {pages.JSON: dataset.model_dump_json, pages.HTML: page})
    answer.headers["ETag"] = etag(revision)
    return answer


def _page(session: Session, dataset: DatasetRead) -> str:
    """The newest twenty versions and imports are shown."""
    versions = datasets.versions_newest_first(session, dataset.id, limit=_SHOWN, after=None)
    lines = imported.newest_first(session, dataset.id, limit=_SHOWN)
    return (
        pages.environment("app.jobs")
        .get_template("dataset.html")
        .render(
            dataset=dataset,
            called=_called(dataset),
            versions=[VersionRead.model_validate(row) for row in versions[:_SHOWN]],
            imports=lines,
            is_busy=any(not line.has_ended for line in lines),
        )
    )


def _called(dataset: DatasetRead) -> str:
    """What the data set is called in a command; a name that looks like an option is none."""
    return dataset.id if dataset.name.startswith("-") else shlex.quote(dataset.name)
