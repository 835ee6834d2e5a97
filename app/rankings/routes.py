"""Routes of rankings: as values, as a page, and as a picture."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from app.backbones import answering, pages
from app.backbones.answering import PageFormat
from app.bodies import JsonRoute
from app.db import Database
from app.deps import DatabaseDep
from app.problems import responses
from app.rankings import charts, service
from app.rankings.charts import CostName
from app.rankings.schemas import RankingRead

router = APIRouter(prefix="/v1/rankings", tags=["rankings"], route_class=JsonRoute)

RankingId = Annotated[str, Path(max_length=100, description="Id of the ranking, as its job gives it.")]
CostQuery = Annotated[
    CostName, Query(description="What accuracy is set against: time, multiply-adds, or bytes of values.")
]

_SVG = "image/svg+xml"


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
    found = _read(database, ranking_id)
    return answering.answer(
        request, wanted, {pages.JSON: found.model_dump_json, pages.HTML: lambda: charts.page(ranking_id, found.figures)}
    )


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
        return RankingRead.of(service.find(session, ranking_id))
