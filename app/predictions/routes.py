"""The predict route: an image as the body, in a form, or as base64 in JSON."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from app import bodies, errors
from app.deps import Parts, PartsDep
from app.models import service
from app.predictions.engine import Engine, Ranked
from app.predictions.schemas import LabelProbability, PredictBody, Prediction, PredictRead
from app.problems import responses

router = APIRouter(prefix="/v1/models", tags=["predictions"])

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
    }
}

Reader = Callable[[Request, Parts], Awaitable[list[bytes]]]


@router.post(
    "/{reference}/predict",
    responses=responses(404, 413, 415, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                **dict.fromkeys(_IMAGE_TYPES, _BINARY),
                "multipart/form-data": _FORM,
                "application/json": {"schema": {"$ref": f"#/components/schemas/{PredictBody.__name__}"}},
            },
        }
    },
)
async def predict(
    reference: Annotated[str, Path(max_length=100, description="`name` or `name@version`.", examples=["patterns"])],
    request: Request,
    parts: PartsDep,
    top_k: Annotated[int, Query(ge=1, le=1000, description="How many labels for each image.")] = 5,
) -> PredictRead:
    """Labels for one image or several, each with its probability."""
    version = await run_sync(_find, parts, reference)
    images = await _reader(request)(request, parts)
    if len(images) > parts.settings.max_images_per_predict:
        raise errors.TooLarge(
            f"{len(images)} images, over the limit of {parts.settings.max_images_per_predict} a request",
            code="too_many_images",
        )
    engine: Engine = request.app.state.engine
    limiter: anyio.CapacityLimiter = request.app.state.predict_limiter
    ranked = await run_sync(lambda: engine.classify(version, images, top_k=top_k), limiter=limiter)
    return PredictRead(
        model=version.model_name, version=version.number, predictions=[_prediction(labels) for labels in ranked]
    )


def _find(parts: Parts, reference: str) -> service.Served:
    with parts.database.read() as session:
        return service.served(session, reference)


def _reader(request: Request) -> Reader:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _READERS:
        raise errors.UnsupportedMedia(
            f"{media_type or 'a body without Content-Type'} is not taken here; send the image itself as "
            f"{', '.join(_IMAGE_TYPES)}, a form with the field 'file', or application/json",
            detail={"accepted": [*_READERS]},
        )
    return _READERS[media_type]


async def _read_raw(request: Request, parts: Parts) -> list[bytes]:
    return [await bodies.read(request, max_bytes=parts.settings.max_image_bytes)]


async def _read_form(request: Request, parts: Parts) -> list[bytes]:
    async with bodies.form(request, max_bytes=parts.settings.max_predict_bytes) as form:
        files = [file for file in form.getlist("file") if isinstance(file, UploadFile)]
        if not files:
            raise errors.Invalid("the form has no file field named 'file'", code="file_missing")
        return [await file.read() for file in files]


async def _read_json(request: Request, parts: Parts) -> list[bytes]:
    raw = await bodies.read(request, max_bytes=parts.settings.max_predict_bytes)
    try:
        body = PredictBody.model_validate_json(raw)
    except ValidationError as error:
        places = [{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors(include_url=False)]
        raise RequestValidationError(places) from error
    return [_from_base64(image.b64, place) for place, image in enumerate(body.images)]


def _from_base64(text: str, place: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.BadImage(
            f"image {place}: not base64 ({error})", code="not_base64", detail={"image": place}
        ) from error


def _prediction(labels: Sequence[Ranked]) -> Prediction:
    return Prediction(labels=[LabelProbability(label=item.label, probability=item.probability) for item in labels])


_READERS: dict[str, Reader] = {
    **dict.fromkeys((*_IMAGE_TYPES, "image/jpg"), _read_raw),
    "multipart/form-data": _read_form,
    "application/json": _read_json,
}
