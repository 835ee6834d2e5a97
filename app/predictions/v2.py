"""The Open Inference Protocol v2 over REST, with Triton's binary tensor data and classification extensions."""

import json
import re
from functools import partial
from itertools import islice
from typing import Any

import msgspec
from anyio.to_thread import run_sync
from fastapi import Request, Response

from app import arrivals, bodies, errors
from app.bodies import Share
from app.models import artifact as artifacts
from app.models.directory import Snapshot
from app.models.service import Served
from app.predictions import arrays, asking, inputs, outputs, parameters, texts
from app.predictions.asking import Asked
from app.predictions.engine import Answered
from app.predictions.inputs import INPUTS
from app.predictions.loaded import Given
from app.predictions.outputs import Written
from app.predictions.protocol_schemas import (
    InferBody,
    InferRead,
    LiveRead,
    ModelMetadataRead,
    ModelReadyRead,
    ReadyRead,
    ServerRead,
)
from app.predictions.tensors import InferGiven
from app.problems import responses
from app.runtimes import devices

_TAG = "open inference protocol"
router = asking.router("/v2", _TAG)
probes = asking.router("/v2/health", _TAG, asking.ProbeRoute)

_EXTENSIONS = ["binary_tensor_data", "classification"]
_PLATFORM = "graft_safetensors"
_HEADER_LENGTH = "inference-header-content-length"
_JSON, _BINARY = "application/json", "application/octet-stream"
_INLINE_BYTES = 1024 * 1024
"""So much behind the JSON is cut up in less time than another thread takes to begin."""
_SPOKEN_FOR = ("timeout", "priority", "binary_data_output", "sequence_id", "sequence_start", "sequence_end")
_MOST_VERSIONS = 100
_REQUEST = msgspec.json.Decoder(InferGiven)
_OBJECT = re.compile(rb"\s*\{")

_MODEL = {"parameters": [parameters.REFERENCE]}
_VERSION = {"parameters": [parameters.MODEL, parameters.VERSION]}
_CALL = [parameters.TIMEOUT, parameters.HEADER_LENGTH]
_FILE = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{InferBody.__name__}"}}, _BINARY: _FILE},
}
_INFERRED: dict[int | str, dict[str, Any]] = {
    200: {"model": InferRead, "content": {_BINARY: _FILE}},
    **responses(404, 408, 413, 415, 422, 429, 503),
}


@router.get("", responses={200: {"model": ServerRead}})
async def read_server(request: Request) -> Response:
    """Name, version and extensions of the server."""
    return _answer({"name": "graft", "version": request.app.version, "extensions": _EXTENSIONS})


@probes.head("/live", include_in_schema=False)
@probes.get("/live", responses={200: {"model": LiveRead}, **responses(503)})
async def read_server_live(request: Request) -> Response:
    """Whether the process answers, and has a device that computes: without one it can only be started anew."""
    await _check_device(request)
    return _answer({"live": True})


@probes.head("/ready", include_in_schema=False)
@probes.get("/ready", responses={200: {"model": ReadyRead}, **responses(503)})
async def read_server_ready(request: Request) -> Response:
    """Whether it is known which models there are, and those that are kept in memory have been loaded; that the database
    answers now is not needed for predictions."""
    place = asking.desk(request)
    await _check_device(request)
    if place.directory.snapshot.revision < 0:
        raise errors.Unavailable("the models are not known yet: the database does not answer", code="registry_unknown")
    if not place.engine.is_warm(place.kept_loaded):
        raise errors.Overloaded("models that are kept in memory are being loaded", code="model_loading")
    return _answer({"ready": True})


@router.get(
    "/models/{name}/versions/{number}",
    responses={200: {"model": ModelMetadataRead}, **responses(404, 503)},
    openapi_extra=_VERSION,
)
async def read_version_metadata(request: Request) -> Response:
    """The inputs, one of which a request has, and outputs of a version."""
    return await _metadata(request, _version(request))


@router.get(
    "/models/{reference}", responses={200: {"model": ModelMetadataRead}, **responses(404, 503)}, openapi_extra=_MODEL
)
async def read_metadata(request: Request) -> Response:
    """The inputs, one of which a request has, and outputs of a model's newest version, or the one addressed; while that
    is being loaded, of the one that answers in its place."""
    return await _metadata(request, request.path_params["reference"])


@router.get(
    "/models/{name}/versions/{number}/ready",
    responses={200: {"model": ModelReadyRead}, **responses(404, 503)},
    openapi_extra=_VERSION,
)
async def read_version_ready(request: Request) -> Response:
    """As for a model."""
    return await _ready(request, _version(request))


@router.get(
    "/models/{reference}/ready", responses={200: {"model": ModelReadyRead}, **responses(404, 503)}, openapi_extra=_MODEL
)
async def read_ready(request: Request) -> Response:
    """Whether a model was loaded here, so that it answers now, or after a moment where it had to make room for others.
    One that was not begins to load, and is not ready until it has: 503 `model_loading`."""
    return await _ready(request, request.path_params["reference"])


@router.post(
    "/models/{name}/versions/{number}/infer",
    responses=_INFERRED,
    openapi_extra={"parameters": [parameters.MODEL, parameters.VERSION, *_CALL], "requestBody": _BODY},
)
async def infer_with_version(request: Request) -> Response:
    """As for a model."""
    return await _inferred(request, _version(request))


@router.post(
    "/models/{reference}/infer",
    responses=_INFERRED,
    openapi_extra={"parameters": [parameters.REFERENCE, *_CALL], "requestBody": _BODY},
)
async def infer(request: Request) -> Response:
    """Probabilities, logits and labels of images: of files (`image`), of normalised tensors (`pixels`), or of RGB
    pixels (`raw_pixels`)."""
    return await _inferred(request, request.path_params["reference"])


def version_reference(name: str, number: str) -> str:
    """How else one says version `number` of the model `name`. Raises `NotFound` for what is no number."""
    if not (number.isascii() and number.isdigit()):
        raise errors.NotFound(
            f"model {name!r} has no version {number[:50]!r}, which is no number", code="model_version_not_found"
        )
    return f"{name}@{number}"


def _version(request: Request) -> str:
    return version_reference(request.path_params["name"], request.path_params["number"])


async def _metadata(request: Request, reference: str) -> Response:
    place = asking.desk(request)
    version = place.engine.answering(reference, await place.directory.find(reference))
    folder = place.parts.storage.model_version(version.version_id)
    described = await run_sync(artifacts.describe, folder, limiter=place.looking)
    side, labels = described.preprocessing.crop, len(described.labels)
    return _answer(
        {
            "name": version.model_name,
            "versions": _numbers(place.directory.snapshot, version),
            "platform": _PLATFORM,
            "inputs": [
                {"name": name, "datatype": form.datatype, "shape": form.shape_of(side)} for name, form in INPUTS.items()
            ],
            "outputs": [
                {"name": name, "datatype": output.datatype, "shape": output.shape_of(labels)}
                for name, output in outputs.of_version(is_calibrated=described.calibration is not None).items()
            ],
            "parameters": {
                "version": json.dumps(version.number),
                "labels": json.dumps(described.labels),
                "mean": json.dumps(described.preprocessing.mean),
                "std": json.dumps(described.preprocessing.std),
            },
        }
    )


def _numbers(known: Snapshot, version: Served) -> list[str]:
    """Of the model's versions, the newest first."""
    name = version.model_name
    newest = known.served.get(name, version).number
    numbers = (number for number in range(newest, 0, -1) if f"{name}@{number}" in known.served)
    return [str(number) for number in islice(numbers, _MOST_VERSIONS)]


async def _check_device(request: Request) -> None:
    place = asking.desk(request)
    trouble = None if place.device == "cpu" else await run_sync(devices.trouble, place.device, limiter=place.watching)
    if trouble is not None:
        raise errors.Unavailable(
            f"{place.device} does not compute for this process any more ({trouble}): it has to be started anew",
            code="device_failed",
        )


async def _ready(request: Request, reference: str) -> Response:
    version = await asking.desk(request).directory.find(reference)
    if not asking.desk(request).engine.is_ready(reference, version):
        raise errors.Overloaded(f"model {reference!r} is being loaded", code="model_loading")
    return _answer({"name": version.model_name, "ready": True})


async def _inferred(request: Request, reference: str) -> Response:
    call = _Call(request)
    found = await asking.asked(request, reference, call.read, body_names_time=True)
    return call.answer(found)


class _Call:
    """One call of `infer`."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._settings = asking.desk(request).settings
        self._wanted = InferGiven([])

    async def read(self, share: Share) -> Asked:
        """What the body asks for. Raises `UnsupportedMedia`, `TooLarge`, `TooSlow`, `Invalid`, `Overloaded`, `BadImage`
        and `RequestValidationError`."""
        length = _header_length(self._request)
        most = self._settings.max_image_bytes if length == 0 else self._settings.max_predict_bytes
        async with arrivals.of(self._request).in_time():
            body = await bodies.whole(self._request, max_bytes=most, share=share)
        if length == 0:
            self._wanted.parameters = {"binary_data_output": True}
            return Asked([body])
        if length is None:
            _check_is_json(self._request, body)
        header = body if length is None else body[:length]
        if length is not None and length > len(body):
            raise errors.Invalid(
                f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes",
                code="wrong_header_length",
            )
        behind = memoryview(body)[len(header) :]
        if len(header) <= texts.INLINE_BYTES and len(behind) <= _INLINE_BYTES:
            found = self._parsed(header, behind)
        else:
            found = await asking.parsed(self._request, self._parsed, header, behind)
        return Asked(found, _timeout_seconds(self._wanted), partial(outputs.check_version, self._wanted))

    def answer(self, found: Answered) -> Response:
        """The tensors that were asked for."""
        written = outputs.written(self._wanted, found.answers)
        document: dict[str, Any] = {
            "model_name": found.version.model_name,
            "model_version": str(found.version.number),
            "outputs": [output.tensor for output in written],
        }
        if self._wanted.id is not None:
            document["id"] = self._wanted.id
        others = _others(self._wanted)
        if others:
            document["parameters"] = others
        return _with_tensors(document, written)

    def _parsed(self, header: bytes, behind: memoryview) -> list[Given]:
        short, long_texts = texts.cut(header, self._settings)
        arrays.refuse_many(short, self._settings)
        self._wanted = arrays.decoded(short, _REQUEST)
        outputs.check(self._wanted)
        found = inputs.images_of(self._wanted, behind, long_texts, self._settings)
        long_texts.refuse_others()
        return found


def _header_length(request: Request) -> int | None:
    """Of the JSON before binary tensors; None where the body has nothing else."""
    media_type = _media_type(request)
    if media_type not in (_JSON, _BINARY):
        raise errors.UnsupportedMedia(
            f"{media_type} is not taken here; send {_JSON}, or {_BINARY} with Inference-Header-Content-Length",
            detail={"accepted": [_JSON, _BINARY]},
        )
    given = request.headers.get(_HEADER_LENGTH)
    if given is None:
        return None
    return asking.whole_number(given, ("header", "Inference-Header-Content-Length"), least=0, most=999_999_999)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()


def _check_is_json(request: Request, body: bytes) -> None:
    """Raise `Invalid` where the body was sent as more than JSON, and as no JSON comes first is most likely an image."""
    if _media_type(request) == _BINARY and _OBJECT.match(body) is None:
        raise errors.Invalid(
            f"{_BINARY} needs Inference-Header-Content-Length: the bytes of JSON before the tensors, or 0 where the "
            "body is one image file and nothing else",
            code="header_length_missing",
        )


def _timeout_seconds(wanted: InferGiven) -> float | None:
    """What the request says in microseconds; 0 says nothing."""
    given = (wanted.parameters or {}).get("timeout")
    if given is None or given == 0:
        return None
    place = ("body", "parameters", "timeout")
    if isinstance(given, bool) or not isinstance(given, int):
        raise asking.wrong(place, "should be a whole number of microseconds", "out_of_range")
    return min(asking.number(str(given), place, least=1, most=1e18) / 1e6, asking.MAX_TIMEOUT_SECONDS)


def _others(wanted: InferGiven) -> dict[str, Any]:
    """Parameters of the client's own, which come back."""
    given = (wanted.parameters or {}).items()
    return {name: value for name, value in given if name not in _SPOKEN_FOR and not name.startswith("triton_")}


def _with_tensors(document: dict[str, Any], written: list[Written]) -> Response:
    encoded = msgspec.json.encode(document)
    behind = [output.behind for output in written if output.behind is not None]
    if not behind:
        return Response(encoded, media_type=_JSON)
    headers = {"Inference-Header-Content-Length": str(len(encoded))}
    return Response(b"".join((encoded, *behind)), media_type=_BINARY, headers=headers)


def _answer(document: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(document), media_type=_JSON)
