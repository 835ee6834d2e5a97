"""Routes for the evaluation of a model version: figures, pictures, worst mistakes, and the card."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import TypeAdapter, ValidationError

from app import errors, evaluation, optimisation
from app.backbones import answering, pages
from app.backbones.answering import PageFormat
from app.datasets import service as datasets
from app.deps import PartsDep
from app.evaluation import Evaluation
from app.models import artifact, cards, pictures, service, serving
from app.models.cards import Facts, Run
from app.models.routes import Name, Number
from app.models.schemas import EvaluationRead
from app.problems import responses

router = APIRouter(prefix="/v1/models/{name}/versions/{number}", tags=["models"])

_SPLIT = "validation"
_EVALUATION = TypeAdapter(Evaluation)
_SVG, _JPEG = "image/svg+xml", "image/jpeg"


@dataclass(frozen=True)
class _Judged:
    """A model version with its evaluation."""

    facts: Facts
    evaluation: Evaluation
    version_id: str


def _judged(name: Name, number: Number, parts: PartsDep) -> _Judged:
    with parts.database.read() as session:
        version = service.find_version(session, name, number)
        dataset_name = datasets.called(session, version.dataset_id)
        origin = service.origin(session, version)
        reports = [serving.report_of(row) for row in serving.newest(session, version.id).values()]
    pins = serving.process_pins(parts.settings).over(serving.pins_of(version))
    folder = parts.storage.model_version(version.id)
    try:
        found = _EVALUATION.validate_python(artifact.document(folder, "evaluation"))
    except ValidationError as error:
        raise errors.NotFound(
            f"version {number} of model {name!r} was stored without an evaluation", code="no_evaluation"
        ) from error
    facts = Facts(
        model=name,
        number=number,
        created_at=version.created_at,
        job_id=version.job_id,
        dataset_id=version.dataset_id,
        dataset_name=dataset_name,
        dataset_version=version.dataset_version,
        backbone=version.backbone,
        strategy=version.strategy,
        labels=tuple(version.labels),
        provenance=version.provenance,
        origin=origin,
        reasons=tuple(artifact.document(folder, "plan").get("reasons", ())),
        runs=tuple(
            Run(report, optimisation.choose(report, pins)[0], optimisation.explain(report, pins)) for report in reports
        ),
    )
    return _Judged(facts, found, version.id)


_JudgedDep = Annotated[_Judged, Depends(_judged)]


def _content(media_type: str, what: str, schema: dict[str, str]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": what, "content": {media_type: {"schema": schema}}}}


@router.get(
    "/evaluation",
    response_model=EvaluationRead,
    responses={**answering.AS_PAGE, **responses(404, 422, 503)},
)
def read_evaluation(
    request: Request,
    judged: _JudgedDep,
    wanted: PageFormat = None,
) -> Response:
    """All that was measured of a version on the held-out images, as JSON or as a page; shares are 0-1, log-losses in
    nats. The mistake at place i has its picture at `…/evaluation/mistakes/{i}.jpg`."""
    media_type = answering.chosen(request, wanted, _ANSWERS)
    return answering.answered(_ANSWERS[media_type](judged), media_type)


@router.get(
    "/evaluation/{picture}.svg",
    response_class=Response,
    responses={**_content(_SVG, "The picture.", {"type": "string"}), **responses(404, 422, 503)},
)
def read_evaluation_picture(
    judged: _JudgedDep,
    picture: Annotated[
        str,
        Path(max_length=100, description=f"One of {', '.join(pictures.PICTURES)}.", examples=["confusion"]),
    ],
) -> Response:
    """What is taken for what (`confusion`), whether probabilities can be taken at their word (`reliability`), how well
    each label is told from the others (`roc`), and what refusing images is good for (`rejection`)."""
    return Response(pictures.draw(picture, judged.evaluation), media_type=_SVG)


@router.get(
    "/evaluation/mistakes/{place}.jpg",
    response_class=Response,
    responses={
        **_content(_JPEG, "The thumbnail.", {"type": "string", "format": "binary"}),
        **responses(404, 422, 503),
    },
)
def read_mistake(
    judged: _JudgedDep, place: Annotated[int, Path(ge=0, lt=1000, examples=[0])], parts: PartsDep
) -> Response:
    """A small picture of one of the worst mistakes. It belongs to the model, and stays when the data set goes."""
    folder = parts.storage.model_version(judged.version_id)
    return Response(artifact.thumbnail(folder, place), media_type=_JPEG)


@router.get(
    "/card",
    response_class=Response,
    responses={
        200: {
            "description": "The card.",
            "content": {media_type: {"schema": {"type": "string"}} for media_type in (pages.MARKDOWN, pages.HTML)},
        },
        **responses(404, 422, 503),
    },
)
def read_card(
    request: Request,
    judged: _JudgedDep,
    wanted: Annotated[
        Literal["markdown", "html"] | None,
        Query(alias="format", description="Left out, the header `Accept` decides; Markdown if that does not."),
    ] = None,
) -> Response:
    """The model card in Markdown, or as a page: what the version is, how it was made, how good it is, and what is not
    known."""
    media_type = answering.chosen(request, wanted, _CARDS)
    return answering.answered(_CARDS[media_type](judged), media_type)


def _json(judged: _Judged) -> str:
    return EvaluationRead(
        model=judged.facts.model,
        version=judged.facts.number,
        split=_SPLIT,
        pictures=pictures.available(judged.evaluation),
        doubt=evaluation.doubt(judged.evaluation),
        figures=judged.evaluation,
    ).model_dump_json()


_ANSWERS: dict[str, Callable[[_Judged], str]] = {
    pages.JSON: _json,
    pages.HTML: lambda judged: cards.evaluation_page(judged.facts, judged.evaluation),
}
_CARDS: dict[str, Callable[[_Judged], str]] = {
    pages.MARKDOWN: lambda judged: cards.markdown(judged.facts, judged.evaluation),
    pages.HTML: lambda judged: cards.card_page(judged.facts, judged.evaluation),
}
