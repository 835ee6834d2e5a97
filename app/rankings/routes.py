"""Routes of rankings: a list of them, and each as values, as a page, and as a picture."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from app.backbones import answering, pages
from app.backbones.answering import PageFormat
from app.bodies import JsonRoute
from app.db import Database
from app.deps import DatabaseDep, Listing, RankingPageDep, listing
from app.problems import responses
from app.rankings import charts, service
from app.rankings.charts import CostName
from app.rankings.schemas import RankingRead, RankingSummary

router = APIRouter(prefix="/v1/rankings", tags=["rankings"], route_class=JsonRoute)

RankingId = Annotated[str, Path(max_length=100, description="Id of the ranking, as its job gives it.")]
CostQuery = Annotated[
    CostName, Query(description="What accuracy is set against: time, multiply-adds, or bytes of values.")
]

_SVG = "image/svg+xml"


@router.get("", responses=responses(422))
def list_rankings(database: DatabaseDep, page: RankingPageDep) -> Listing[RankingSummary]:
    """All rankings, newest first."""
    with database.read() as session:
        rows = service.newest_first(session, limit=page.limit, after=page.after)
        return listing([service.summary(row) for row in rows], page.limit)


@router.get(
    "/{ranking_id}",
    response_model=RankingRead,
    responses={**answering.AS_PAGE, **responses(404, 422)},
)
def read_ranking(
    ranking_id: RankingId,
    request: Request,
    database: DatabaseDep,
    wanted: PageFormat = None,
) -> Response:
    """The networks in order with their scores and costs, and where the scores disagree; for browsers as a page."""
    with database.read() as session:
        found = service.read(session, service.find(session, ranking_id))

    def page() -> str:
        with database.read() as session:
            row = service.find(session, ranking_id)
            return charts.page(found, service.hindrances(session, row), service.deleted(session, row))

    return answering.answer(request, wanted, {pages.JSON: found.model_dump_json, pages.HTML: page})


@router.get(
    "/{ranking_id}/chart.svg",
    response_class=Response,
    responses={
        200: {"description": "The picture.", "content": {_SVG: {"schema": {"type": "string"}}}},
        **responses(404, 422),
    },
)
def read_ranking_chart(ranking_id: RankingId, database: DatabaseDep, cost: CostQuery = "latency") -> Response:
    """Accuracy of the probe against what a prediction costs, as a picture for light and dark screens."""
    return Response(charts.tradeoff(_read(database, ranking_id).figures, cost), media_type=_SVG)


def _read(database: Database, ranking_id: str) -> RankingRead:
    with database.read() as session:
        return service.read(session, service.find(session, ranking_id))
