"""The predict route: an image as the body, in a form, or as base64 in JSON."""

from functools import lru_cache
from typing import Any

import msgspec
from fastapi import Request, Response
from starlette.datastructures import QueryParams

from app import queries
from app.predictions import asking, images
from app.predictions.engine import Answered
from app.predictions.images import IMAGE_TYPES
from app.predictions.loaded import Answer
from app.predictions.parameters import REFERENCE, TIMEOUT
from app.predictions.schemas import PredictBody, PredictRead
from app.problems import responses

router = asking.router("/v1/models", "predictions")

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
    }
}
_TOP_K, _MOST_LABELS = 5, 1000
_QUERY: list[dict[str, Any]] = [
    {
        "name": "top_k",
        "in": "query",
        "required": False,
        "description": "How many labels for each image.",
        "schema": {"type": "integer", "minimum": 1, "maximum": _MOST_LABELS, "default": _TOP_K},
    },
    {
        "name": "threshold",
        "in": "query",
        "required": False,
        "description": "The least probability of a label that is told.",
        "schema": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
    },
]


@router.post(
    "/{reference}/predict",
    responses={200: {"model": PredictRead}, **responses(404, 408, 413, 415, 422, 429, 503)},
    openapi_extra={
        "parameters": [REFERENCE, TIMEOUT, *_QUERY],
        "requestBody": {
            "required": True,
            "content": {
                **dict.fromkeys(IMAGE_TYPES, _BINARY),
                "multipart/form-data": _FORM,
                "application/json": {"schema": {"$ref": f"#/components/schemas/{PredictBody.__name__}"}},
            },
        },
    },
)
async def predict(request: Request) -> Response:
    """Labels for one image or several, each with its probability, and whether the image is like nothing that the model
    was trained on."""
    top_k, threshold = _wanted(request.scope["query_string"])
    settings = asking.desk(request).settings
    found = await asking.answered(
        request, request.path_params["reference"], lambda share: images.read(request, settings, share)
    )
    return Response(msgspec.json.encode(_read(found, top_k, threshold)), media_type="application/json")


@lru_cache(maxsize=256)
def _wanted(query_string: bytes) -> tuple[int, float]:
    """How many labels, and from which probability on. Raises `UnknownName`, `Invalid` and
    `RequestValidationError`."""
    query = QueryParams(query_string)
    queries.check(query, [parameter["name"] for parameter in _QUERY])
    top_k = asking.whole_number(query.get("top_k", str(_TOP_K)), ("query", "top_k"), least=1, most=_MOST_LABELS)
    return top_k, asking.number(query.get("threshold", "0"), ("query", "threshold"), least=0, most=1)


def _read(found: Answered, top_k: int, threshold: float) -> dict[str, Any]:
    """A `PredictRead`."""
    return {
        "model": found.version.model_name,
        "version": found.version.number,
        "predictions": [_prediction(answer, top_k, threshold) for answer in found.answers],
        "timing": {
            "waited_ms": _milliseconds(found.timing.waited),
            "decoding_ms": _milliseconds(found.timing.decoding),
            "inference_ms": _milliseconds(found.timing.passing),
            "whole_ms": _milliseconds(found.timing.whole),
        },
    }


def _prediction(answer: Answer, top_k: int, threshold: float) -> dict[str, Any]:
    ranked = answer.ranked(top_k, threshold)
    return {
        "labels": [{"label": item.label, "probability": item.probability} for item in ranked],
        "unknown": answer.is_unknown,
        "similarity": answer.similarity,
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
