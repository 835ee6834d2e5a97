"""Images as requests bring them: as the body itself, in a form, or as base64 in JSON."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app import arrivals, bodies, errors, forms
from app.bodies import Share
from app.predictions import asking, texts
from app.predictions.schemas import PredictBody
from app.settings import Settings

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")

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
    return await _READERS[media_type](request, settings, share)


def too_many(settings: Settings) -> errors.TooLarge:
    limit = settings.max_images_per_predict
    return errors.TooLarge(
        f"more than {limit} images, the limit of one request", code="too_many_images", detail={"max_images": limit}
    )


@contextmanager
def of_body() -> Iterator[None]:
    """Inside, what pydantic finds wrong is told as being in the body, and `Invalid` raised for what is no JSON."""
    try:
        yield
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        if found[0]["type"] == "json_invalid":
            raise bodies.not_json(found[0]["msg"].removeprefix("Invalid JSON: ")) from error
        raise RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in found]) from error


async def _read_raw(request: Request, settings: Settings, share: Share) -> list[bytes]:
    async with arrivals.of(request).in_time():
        return [await bodies.whole(request, max_bytes=settings.max_image_bytes, share=share)]


async def _read_form(request: Request, settings: Settings, share: Share) -> list[bytes]:
    images: list[bytes] = []
    coming = forms.files(request, "file", max_bytes=settings.max_predict_bytes, share=share)
    async with arrivals.of(request).in_time(), aclosing(coming) as files:
        async for file in files:
            place = len(images)
            if place == settings.max_images_per_predict:
                raise too_many(settings)
            pieces = await bodies.gather(file.content, max_bytes=settings.max_image_bytes, image=place)
            images.append(await share.joined(pieces))
    return images


async def _read_json(request: Request, settings: Settings, share: Share) -> list[bytes]:
    async with arrivals.of(request).in_time():
        raw = await bodies.whole(request, max_bytes=settings.max_predict_bytes, share=share)
    if len(raw) <= texts.INLINE_BYTES:
        return _from_json(raw, settings)
    return await asking.parsed(request, _from_json, raw, settings)


def _from_json(raw: bytes, settings: Settings) -> list[bytes]:
    short, long_texts = texts.cut(raw, settings)
    # Between n images there are n - 1 commas, and base64 has none: what has many more is not worth parsing, which would
    # make gigabytes of objects from megabytes of rubbish.
    limit = settings.max_images_per_predict
    if short.count(b",") >= 4 * limit:
        if short.count(b'"b64"') > limit:
            raise too_many(settings)
        raise errors.Invalid(f"the body has more fields than {limit} images need", code="not_images")
    with of_body():
        body = PredictBody.model_validate_json(short)
    if len(body.images) > limit:
        raise too_many(settings)
    found = [long_texts.image(one.b64, place, settings.max_image_bytes) for place, one in enumerate(body.images)]
    long_texts.refuse_others()
    return found


_READERS: dict[str, Reader] = {
    **dict.fromkeys((*IMAGE_TYPES, "image/jpg"), _read_raw),
    "multipart/form-data": _read_form,
    "application/json": _read_json,
}
