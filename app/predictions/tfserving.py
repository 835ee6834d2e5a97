"""TensorFlow Serving's REST API for predictions: images by row or by column.

Of each image all labels are told, the most probable first, with their probabilities, as `labels` and `probabilities`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from fastapi import Request, Response

from app import arrivals, bodies, errors
from app.bodies import Share
from app.predictions import arrays, asking, images, parameters, texts
from app.predictions.loaded import Answer, Given
from app.predictions.protocol_schemas import ServingBody, ServingRead
from app.predictions.texts import LongTexts
from app.predictions.v2 import version_reference
from app.problems import responses
from app.settings import Settings

router = asking.router("/v1/models", "tensorflow serving")

_SIGNATURE = "serving_default"
_INPUT = "image"
_ANY = msgspec.json.Decoder()
_JSON = "application/json"
_CONTENT = {_JSON: {"schema": {"$ref": f"#/components/schemas/{ServingBody.__name__}"}}}
_BODY = {"required": True, "content": _CONTENT}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"model": ServingRead},
    **responses(404, 408, 413, 415, 422, 429, 503),
}


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    signature_name: str | None = None
    instances: msgspec.Raw = msgspec.Raw()
    inputs: msgspec.Raw = msgspec.Raw()


_REQUEST = msgspec.json.Decoder(_Body)


@router.post(
    "/{reference}:predict",
    responses=_ANSWERS,
    openapi_extra={"parameters": [parameters.REFERENCE, parameters.TIMEOUT], "requestBody": _BODY},
)
async def predict_as_serving(request: Request) -> Response:
    """Labels and their probabilities, in the form of TensorFlow Serving."""
    return await _predicted(request, request.path_params["reference"])


@router.post(
    "/{name}/versions/{number}:predict",
    responses=_ANSWERS,
    openapi_extra={"parameters": [parameters.MODEL, parameters.VERSION, parameters.TIMEOUT], "requestBody": _BODY},
)
async def predict_with_version(request: Request) -> Response:
    """As for a model."""
    return await _predicted(request, version_reference(request.path_params["name"], request.path_params["number"]))


@router.post(
    "/{name}/labels/{alias}:predict",
    responses=_ANSWERS,
    openapi_extra={"parameters": [parameters.MODEL, parameters.ALIAS, parameters.TIMEOUT], "requestBody": _BODY},
)
async def predict_with_alias(request: Request) -> Response:
    """As for a model; what TensorFlow Serving calls a label of a version is an alias here."""
    return await _predicted(request, f"{request.path_params['name']}:{request.path_params['alias']}")


async def _predicted(request: Request, reference: str) -> Response:
    call = _Call(request)
    found = await asking.answered(request, reference, call.read)
    return Response(msgspec.json.encode(call.document(found.answers)), media_type=_JSON)


class _Call:
    """One call of `:predict`."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._settings = asking.desk(request).settings
        self._is_by_row = True

    async def read(self, share: Share) -> Sequence[Given]:
        """The images of the body. Raises `UnsupportedMedia`, `TooLarge`, `TooSlow`, `Invalid`, `Overloaded`, `BadImage`
        and `RequestValidationError`."""
        media_type = self._request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
        # What curl -d calls JSON, in all the examples of TensorFlow Serving.
        if media_type not in (_JSON, "application/x-www-form-urlencoded"):
            raise errors.UnsupportedMedia(f"{media_type} is not taken here; send {_JSON}", detail={"accepted": [_JSON]})
        async with arrivals.of(self._request).in_time():
            body = await bodies.whole(self._request, max_bytes=self._settings.max_predict_bytes, share=share)
        if len(body) <= texts.INLINE_BYTES:
            return self._parsed(body)
        return await asking.parsed(self._request, self._parsed, body)

    def document(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """A `ServingRead`."""
        rows = [_row(answer) for answer in answers]
        if self._is_by_row:
            return {"predictions": rows}
        return {"outputs": {field: [row[field] for row in rows] for field in rows[0]}}

    def _parsed(self, raw: bytes) -> list[Given]:
        short, long_texts = texts.cut(raw, self._settings)
        arrays.refuse_many(short, self._settings)
        body = arrays.decoded(short, _REQUEST)
        if body.signature_name not in (None, "", _SIGNATURE):
            raise errors.UnknownName("signature", str(body.signature_name)[:100], [_SIGNATURE])
        self._is_by_row = arrays.is_there(body.instances)
        if self._is_by_row == arrays.is_there(body.inputs):
            raise errors.Invalid("a request has either instances or inputs", code="not_one_format")
        field, content = ("instances", body.instances) if self._is_by_row else ("inputs", body.inputs)
        text = bytes(content)
        if text.count(b'"b64"') > self._settings.max_images_per_predict:
            raise images.too_many(self._settings)
        arrays.refuse_rubble(text, max_images=self._settings.max_images_per_predict)
        values = arrays.decoded(text, _ANY, within=(field,))
        given = _listed(values if self._is_by_row else _of_input(values), self._settings)
        # But for those that say which input an image is of: a text as short as that makes nothing large.
        may_have_texts = text.count(b'"') > 2 * text.count(b'"%s"' % _INPUT.encode())
        found = [
            _pixels(value, place, may_have_texts=may_have_texts)
            if isinstance(value, list)
            else _file(value, place, long_texts, self._settings)
            for place, value in enumerate(map(_of_input, given))
        ]
        long_texts.refuse_others()
        return found


def _listed(values: Any, settings: Settings) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise errors.Invalid("the images are a list with at least one", code="no_images")
    if len(values) > settings.max_images_per_predict:
        raise images.too_many(settings)
    return values


def _of_input(value: Any) -> Any:
    """What is said for the one input that there is, by its name or, as there is no other, without."""
    if not isinstance(value, dict) or "b64" in value:
        return value
    if [*value] != [_INPUT]:
        other = next((name for name in value if name != _INPUT), "")
        raise errors.UnknownName("input", other[:100], [_INPUT])
    return value[_INPUT]


def _file(value: Any, place: int, long: LongTexts, settings: Settings) -> Given:
    if isinstance(value, dict) and [*value] == ["b64"] and isinstance(value["b64"], str):
        return long.image(value["b64"], place, settings.max_image_bytes)
    raise errors.BadImage(
        f'image {place}: neither {{"b64": "…"}} nor rows of pixels', code="not_an_image", detail={"image": place}
    )


def _pixels(value: Sequence[Any], place: int, *, may_have_texts: bool) -> Given:
    pixels = arrays.numbers(value, f"image {place}", may_have_texts=may_have_texts)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise errors.Invalid(
            f"image {place}: pixels are rows of [red, green, blue], not an array of the shape {[*pixels.shape]}",
            code="wrong_shape",
        )
    if pixels.dtype != np.uint8 and not (pixels.min() >= 0 and pixels.max() <= 255):
        raise errors.Invalid(f"image {place}: pixels are from 0 to 255", code="pixels_out_of_range")
    return pixels


def _row(answer: Answer) -> dict[str, Any]:
    ranked = answer.ranked(len(answer.labels))
    row: dict[str, Any] = {
        "labels": [item.label for item in ranked],
        "probabilities": [item.probability for item in ranked],
    }
    if answer.similarity is not None:
        row |= {"unknown": answer.is_unknown, "similarity": answer.similarity}
    return row
