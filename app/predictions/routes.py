"""The predict route: an image as the body, in a form, or as base64 in JSON."""

import base64
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Annotated

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app import bodies, errors
from app.bodies import InFlight, Share
from app.deps import PartsDep
from app.models.directory import Directory
from app.models.routes import ModelReference
from app.predictions.engine import Answer, Engine
from app.predictions.schemas import LabelProbability, PredictBody, Prediction, PredictRead
from app.problems import responses
from app.settings import Settings

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

Reader = Callable[[Request, Settings, Share], Awaitable[list[bytes]]]


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
    reference: ModelReference,
    request: Request,
    parts: PartsDep,
    top_k: Annotated[int, Query(ge=1, le=1000, description="How many labels for each image.")] = 5,
) -> PredictRead:
    """Labels for one image or several, each with its probability, and whether the image is like nothing that the model
    was trained on."""
    directory: Directory = request.app.state.directory
    version = await directory.find(reference)
    engine: Engine = request.app.state.engine
    limiter: anyio.CapacityLimiter = request.app.state.predict_limiter
    in_flight: InFlight = request.app.state.predict_bodies
    read = _reader(request)
    with in_flight.share() as share:
        images = await read(request, parts.settings, share)
        answers = await run_sync(lambda: engine.classify(version, images, top_k=top_k), limiter=limiter)
    return PredictRead(
        model=version.model_name, version=version.number, predictions=[_prediction(answer) for answer in answers]
    )


def _reader(request: Request) -> Reader:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _READERS:
        raise errors.UnsupportedMedia(
            f"{media_type or 'a body without Content-Type'} is not taken here; send the image itself as "
            f"{', '.join(_IMAGE_TYPES)}, a form with the field 'file', or application/json",
            detail={"accepted": [*_READERS]},
        )
    return _READERS[media_type]


async def _read_raw(request: Request, settings: Settings, share: Share) -> list[bytes]:
    body = bodies.chunks(request, max_bytes=settings.max_image_bytes, share=share)
    return [await bodies.gather(body, max_bytes=settings.max_image_bytes)]


async def _read_form(request: Request, settings: Settings, share: Share) -> list[bytes]:
    images: list[bytes] = []
    async with aclosing(bodies.files(request, "file", max_bytes=settings.max_predict_bytes, share=share)) as files:
        async for file in files:
            place = len(images)
            if place == settings.max_images_per_predict:
                raise _too_many_images(settings)
            images.append(await bodies.gather(file.content, max_bytes=settings.max_image_bytes, what=f"image {place}"))
    return images


async def _read_json(request: Request, settings: Settings, share: Share) -> list[bytes]:
    body = bodies.chunks(request, max_bytes=settings.max_predict_bytes, share=share)
    raw = await bodies.gather(body, max_bytes=settings.max_predict_bytes)
    return await run_sync(_from_json, raw, settings)


def _from_json(raw: bytes, settings: Settings) -> list[bytes]:
    # Between n images there are n - 1 commas, and base64 has none: what has many more is not worth parsing, which would
    # make gigabytes of objects from megabytes of rubbish.
    if raw.count(b",") >= 4 * settings.max_images_per_predict:
        raise _too_many_images(settings)
    try:
        body = PredictBody.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in found]) from error
    if len(body.images) > settings.max_images_per_predict:
        raise _too_many_images(settings)
    return [_from_base64(image.b64, place, settings.max_image_bytes) for place, image in enumerate(body.images)]


def _from_base64(text: str, place: int, max_bytes: int) -> bytes:
    if len(text) // 4 * 3 - text[-2:].count("=") > max_bytes:
        raise bodies.too_large(max_bytes, f"image {place}")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # also of characters beyond ASCII
        raise errors.BadImage(
            f"image {place}: not base64 ({error})", code="not_base64", detail={"image": place}
        ) from error


def _too_many_images(settings: Settings) -> errors.TooLarge:
    limit = settings.max_images_per_predict
    return errors.TooLarge(
        f"more than {limit} images, the limit of one request", code="too_many_images", detail={"max_images": limit}
    )


def _prediction(answer: Answer) -> Prediction:
    labels = [LabelProbability(label=item.label, probability=item.probability) for item in answer.labels]
    return Prediction(labels=labels, unknown=answer.is_unknown, similarity=answer.similarity)


_READERS: dict[str, Reader] = {
    **dict.fromkeys((*_IMAGE_TYPES, "image/jpg"), _read_raw),
    "multipart/form-data": _read_form,
    "application/json": _read_json,
}
