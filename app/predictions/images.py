"""Images as requests bring them: as the body itself, in a form, or as base64 in JSON."""

import base64
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app import arrivals, bodies, errors
from app.bodies import Share
from app.predictions import asking
from app.predictions.schemas import PredictBody
from app.settings import Settings

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")

INLINE_BYTES = 64 * 1024
"""JSON of so much is decoded in less time than another thread takes to begin."""

Reader = Callable[[Request, Settings, Share], Awaitable[list[bytes]]]


async def read(request: Request, settings: Settings, share: Share) -> list[bytes]:
    """The images of a request, accounted for in `share`. Raises `UnsupportedMedia`, `TooLarge`, `TooSlow`, `Invalid`,
    `Overloaded`, `BadImage` and `RequestValidationError`."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _READERS:
        raise errors.UnsupportedMedia(
            f"{media_type or 'a body without Content-Type'} is not taken here; send the image itself as "
            f"{', '.join(IMAGE_TYPES)}, a form with the field 'file', or application/json",
            detail={"accepted": [*_READERS]},
        )
    async with arrivals.of(request).in_time():
        return await _READERS[media_type](request, settings, share)


def from_base64(text: str, place: int, max_bytes: int) -> bytes:
    """One image. Raises `TooLarge` and `BadImage`."""
    if len(text) // 4 * 3 - text[-2:].count("=") > max_bytes:
        raise bodies.too_large(max_bytes, f"image {place}")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # also of characters beyond ASCII
        raise errors.BadImage(
            f"image {place}: not base64 ({error})", code="not_base64", detail={"image": place}
        ) from error


def too_many(settings: Settings) -> errors.TooLarge:
    limit = settings.max_images_per_predict
    return errors.TooLarge(
        f"more than {limit} images, the limit of one request", code="too_many_images", detail={"max_images": limit}
    )


@contextmanager
def of_body() -> Iterator[None]:
    """Inside, what pydantic finds wrong is told as being in the body."""
    try:
        yield
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in found]) from error


async def _read_raw(request: Request, settings: Settings, share: Share) -> list[bytes]:
    return [await bodies.whole(request, max_bytes=settings.max_image_bytes, share=share)]


async def _read_form(request: Request, settings: Settings, share: Share) -> list[bytes]:
    images: list[bytes] = []
    async with aclosing(bodies.files(request, "file", max_bytes=settings.max_predict_bytes, share=share)) as files:
        async for file in files:
            place = len(images)
            if place == settings.max_images_per_predict:
                raise too_many(settings)
            images.append(await bodies.gather(file.content, max_bytes=settings.max_image_bytes, what=f"image {place}"))
    return images


async def _read_json(request: Request, settings: Settings, share: Share) -> list[bytes]:
    raw = await bodies.whole(request, max_bytes=settings.max_predict_bytes, share=share)
    if len(raw) <= INLINE_BYTES:
        return _from_json(raw, settings)
    return await asking.parsed(request, _from_json, raw, settings)


def _from_json(raw: bytes, settings: Settings) -> list[bytes]:
    # Between n images there are n - 1 commas, and base64 has none: what has many more is not worth parsing, which would
    # make gigabytes of objects from megabytes of rubbish.
    limit = settings.max_images_per_predict
    if raw.count(b",") >= 4 * limit:
        if raw.count(b'"b64"') > limit:
            raise too_many(settings)
        raise errors.Invalid(f"the body has more fields than {limit} images need", code="not_images")
    with of_body():
        body = PredictBody.model_validate_json(raw)
    if len(body.images) > limit:
        raise too_many(settings)
    return [from_base64(image.b64, place, settings.max_image_bytes) for place, image in enumerate(body.images)]


_READERS: dict[str, Reader] = {
    **dict.fromkeys((*IMAGE_TYPES, "image/jpg"), _read_raw),
    "multipart/form-data": _read_form,
    "application/json": _read_json,
}
