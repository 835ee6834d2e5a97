"""Routes for the anatomy of backbones and of described stacks, and for the pictures made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Query, Request, Response

from app import errors
from app.backbones import anatomy, answering, catalogue, charts, pages, routes
from app.backbones.anatomies import Anatomies, Question
from app.backbones.anatomy import Anatomy
from app.backbones.anatomy_schemas import (
    MAX_BATCH,
    MAX_SIZE,
    AnatomyRead,
    ComparedRead,
    Dtype,
    FiguresRead,
    StackCreate,
    StackRead,
    StacksCreate,
    StacksRead,
)
from app.bodies import JsonRoute
from app.problems import responses

router = APIRouter(tags=["backbones"], route_class=JsonRoute)

_SVG = "image/svg+xml"
_SVG_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {_SVG: {"schema": {"type": "string"}}}}
}
# Computing takes the interpreter's lock, and predictions of this process need it too.
_ANATOMIES_AT_ONCE = 2
_KEPT = 256


@dataclass(frozen=True)
class Workshop:
    """What the routes share."""

    anatomies: Anatomies
    limiter: anyio.CapacityLimiter


def workshop() -> Workshop:
    """To be made where the application starts, inside its event loop."""
    return Workshop(Anatomies(capacity=_KEPT), anyio.CapacityLimiter(_ANATOMIES_AT_ONCE))


def _question(
    name: routes.BackboneName,
    side: Annotated[
        int | None,
        Query(alias="input", ge=1, le=MAX_SIZE, description="Side of the image; left out, that of the catalogue."),
    ] = None,
    batch: Annotated[int, Query(ge=1, le=MAX_BATCH, description="Images at once, for the figures in bytes.")] = 1,
    dtype: Annotated[Dtype, Query(description="Of weights and activations.")] = "float32",
) -> Question:
    entry = routes.find(name)
    return Question(entry.name, side or entry.input_size, batch, dtype)


QuestionDep = Annotated[Question, Depends(_question)]


@router.get("/v1/backbones/chart.svg", response_class=Response, responses={**_SVG_ANSWER, **responses(422)})
def read_chart(
    family: Annotated[str | None, Query(max_length=100, description="Only this family.")] = None,
    max_params: Annotated[int | None, Query(ge=0, description="Most parameters.")] = None,
    max_gmac: Annotated[float | None, Query(ge=0, description="Most multiply-adds, in thousand millions.")] = None,
) -> Response:
    """Accuracy against multiply-adds of every network with published weights, as a picture."""
    points = charts.points(catalogue.select(family=family, max_params=max_params, max_gmac=max_gmac))
    if not points:
        raise errors.Invalid("no network with published accuracy is within these limits", code="empty_chart")
    return Response(charts.accuracy(points), media_type=_SVG)


@router.get(
    "/v1/backbones/{name}/anatomy",
    response_model=AnatomyRead,
    responses={
        200: {"content": {media: {"schema": {"type": "string"}} for media in (pages.CSV, pages.HTML)}},
        **responses(404, 422),
    },
)
async def read_anatomy(
    request: Request,
    question: QuestionDep,
    wanted: Annotated[Literal["json", "csv", "html"] | None, answering.FORMAT] = None,
) -> Response:
    """The layers of a network one by one, computed from the network itself."""
    media_type = answering.chosen(request, wanted, _ANSWERS)
    return answering.answered(await _made(request, question, _ANSWERS[media_type]), media_type)


@router.get(
    "/v1/backbones/{name}/anatomy.svg", response_class=Response, responses={**_SVG_ANSWER, **responses(404, 422)}
)
async def read_anatomy_picture(request: Request, question: QuestionDep) -> Response:
    """Where a network's activation memory and its parameters are, layer by layer, as a picture."""
    return Response(await _made(request, question, charts.layers), media_type=_SVG)


@router.post("/v1/anatomy", summary="Compare Stacks", responses=responses(422))
async def read_stacks(request: Request, body: StacksCreate) -> StacksRead:
    """The anatomy of stacks of layers that you describe, and how they compare: three 3x3 against one 7x7."""
    shared: Workshop = request.app.state.anatomies
    found = await run_sync(lambda: [_of_stack(stack, body) for stack in body.stacks], limiter=shared.limiter)
    named = [(stack.name, figures) for stack, figures in zip(body.stacks, found, strict=True)]
    return StacksRead(
        comparison=[_compared(name, figures, first=found[0]) for name, figures in named],
        stacks=[StackRead(name=name, **_figures(figures)) for name, figures in named],
        counted=anatomy.COUNTED,
    )


async def _made(request: Request, question: Question, make: Callable[[str, Anatomy], str]) -> str:
    """What `make` makes of the anatomy asked for, away from the event loop."""
    shared: Workshop = request.app.state.anatomies
    return await run_sync(lambda: make(question.backbone, shared.anatomies.get(question)), limiter=shared.limiter)


def _of_stack(stack: StackCreate, body: StacksCreate) -> Anatomy:
    layers = [layer.layer() for layer in stack.layers]
    try:
        return anatomy.of_stack(
            layers, size=stack.input.size, channels=stack.input.channels, batch=body.batch, dtype=body.dtype
        )
    except errors.Invalid as error:
        detail = {**error.detail, "stack": stack.name}
        raise errors.Invalid(f"stack {stack.name!r}, {error.message}", code=error.code, detail=detail) from error


def _compared(name: str, found: Anatomy, *, first: Anatomy) -> ComparedRead:
    totals, last = found.totals, found.rows[-1]
    return ComparedRead(
        name=name,
        layers=found.layers,
        activation_functions=sum(row.type == "relu" for row in found.rows),
        parameters=totals.parameters,
        parameters_ratio=_ratio(totals.parameters, first.totals.parameters),
        macs=totals.macs,
        macs_ratio=_ratio(totals.macs, first.totals.macs),
        all_values=totals.all_values,
        training_bytes=found.memory.training,
        receptive_field=last.receptive_field,
        output=list(last.output),
    )


def _ratio(value: int, first: int) -> float | None:
    return round(value / first, 4) if first else None


def _figures(found: Anatomy) -> dict[str, Any]:
    return {name: getattr(FiguresRead.model_validate(found), name) for name in FiguresRead.model_fields}


def _json(backbone: str, found: Anatomy) -> str:
    return AnatomyRead(backbone=backbone, counted=anatomy.COUNTED, **_figures(found)).model_dump_json()


_ANSWERS: dict[str, Callable[[str, Anatomy], str]] = {
    pages.JSON: _json,
    pages.CSV: lambda _backbone, found: pages.csv_table(found),
    pages.HTML: lambda backbone, found: pages.html_table(backbone, found, described=charts.describe_layers(found)),
}
