"""Images as tensors of the Open Inference Protocol: the forms in which they are taken, and how they are read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from app import bodies, errors
from app.predictions import arrays, images
from app.predictions.loaded import Given, Normalised
from app.predictions.tensors import LENGTH_BYTES, InferGiven, TensorGiven
from app.settings import Settings

_ANY = msgspec.json.Decoder()


@dataclass(frozen=True)
class Input:
    """One of the forms in which images are taken."""

    datatype: str
    axes: str
    """As people write shapes; N images."""
    shape_of: Callable[[int], list[int]]
    """For the side of the version's images in pixels, as the metadata has it."""
    fits: Callable[[Sequence[int]], bool]
    in_json: Callable[[TensorGiven, Settings], list[Given]]
    in_binary: Callable[[TensorGiven, memoryview, Settings], list[Given]]


def images_of(given: InferGiven, behind: memoryview, settings: Settings) -> list[Given]:
    """The images of the one input that a request has. Raises `Invalid`, `TooLarge`, `BadImage` and
    `RequestValidationError`."""
    tensor = _only(given.inputs)
    form = INPUTS[tensor.name]
    if tensor.datatype != form.datatype:
        raise errors.Invalid(
            f"input {tensor.name!r} is {form.datatype}, not {tensor.datatype[:20]!r}",
            code="wrong_datatype",
            detail={"datatype": form.datatype},
        )
    if not tensor.shape or min(tensor.shape) < 1 or not form.fits(tensor.shape):
        raise errors.Invalid(
            f"input {tensor.name!r} has the shape {form.axes}, N at least 1, not {tensor.shape[:8]}", code="wrong_shape"
        )
    if tensor.shape[0] > settings.max_images_per_predict:
        raise images.too_many(settings)
    size = tensor.binary_size
    if len(behind) != (size or 0):
        raise errors.Invalid(
            f"{len(behind)} bytes come after the JSON, and its binary_data_size is {size or 0}",
            code="wrong_binary_data_size",
        )
    has_data = arrays.is_there(tensor.data)
    if has_data == (size is not None):
        raise errors.Invalid(
            f"input {tensor.name!r} needs either data in the JSON or binary_data_size bytes after it",
            code="tensor_data_twice" if has_data else "tensor_data_missing",
        )
    return form.in_json(tensor, settings) if size is None else form.in_binary(tensor, behind, settings)


def _only(inputs: Sequence[TensorGiven]) -> TensorGiven:
    if len(inputs) != 1:
        raise errors.Invalid(f"{len(inputs)} inputs where one is taken, of {', '.join(INPUTS)}", code="not_one_input")
    tensor = inputs[0]
    if tensor.name not in INPUTS:
        raise errors.UnknownName("input", tensor.name[:100], INPUTS)
    if "shared_memory_region" in (tensor.parameters or {}):
        raise errors.Invalid("shared memory is not taken here; send the tensor itself", code="shared_memory")
    return tensor


def _files_in_json(tensor: TensorGiven, settings: Settings) -> list[Given]:
    values = _flat(_in_json(tensor, settings))
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != len(values):
        raise errors.Invalid("image files within JSON are texts in base64", code="not_texts")
    _check_count(tensor, len(texts))
    return [images.from_base64(text, place, settings.max_image_bytes) for place, text in enumerate(texts)]


def _files_in_binary(tensor: TensorGiven, behind: memoryview, settings: Settings) -> list[Given]:
    found: list[Given] = []
    start = 0
    while start < len(behind):
        content = start + LENGTH_BYTES
        end = content + int.from_bytes(behind[start:content], "little")
        if end > len(behind):
            raise errors.Invalid(
                f"image {len(found)} is said to end {end - len(behind)} bytes after the request does",
                code="broken_bytes_tensor",
                detail={"image": len(found)},
            )
        if end - content > settings.max_image_bytes:
            raise bodies.too_large(settings.max_image_bytes, f"image {len(found)}")
        if len(found) == tensor.shape[0]:
            raise _wrong_length(tensor, "more")
        found.append(bytes(behind[content:end]))
        start = end
    _check_count(tensor, len(found))
    return found


def _floats_in_json(tensor: TensorGiven, settings: Settings) -> list[Given]:
    values = arrays.numbers(_in_json(tensor, settings), f"input {tensor.name!r}").astype(np.float32, copy=False)
    _check_count(tensor, values.size)
    return [Normalised(image) for image in values.reshape(tensor.shape)]


def _floats_in_binary(tensor: TensorGiven, behind: memoryview, settings: Settings) -> list[Given]:
    _check_count(tensor, len(behind) / 4)
    return [Normalised(image) for image in np.frombuffer(behind, "<f4").reshape(tensor.shape)]


def _bytes_in_json(tensor: TensorGiven, settings: Settings) -> list[Given]:
    values = arrays.numbers(_in_json(tensor, settings), f"input {tensor.name!r}")
    _check_count(tensor, values.size)
    if values.dtype != np.uint8:
        raise errors.Invalid(f"input {tensor.name!r} has values that are not whole or not 0-255", code="not_uint8")
    return [*values.reshape(tensor.shape)]


def _bytes_in_binary(tensor: TensorGiven, behind: memoryview, settings: Settings) -> list[Given]:
    _check_count(tensor, len(behind))
    # A copy, since runtimes want arrays that could be written to.
    return [*np.frombuffer(behind, np.uint8).reshape(tensor.shape).copy()]


INPUTS: dict[str, Input] = {
    "image": Input(
        "BYTES",
        "[N] or [N, 1]",
        lambda side: [-1, 1],
        lambda shape: len(shape) == 1 or (len(shape) == 2 and shape[1] == 1),
        _files_in_json,
        _files_in_binary,
    ),
    "pixels": Input(
        "FP32",
        "[N, 3, height, width]",
        lambda side: [-1, 3, side, side],
        lambda shape: len(shape) == 4 and shape[1] == 3,
        _floats_in_json,
        _floats_in_binary,
    ),
    "raw_pixels": Input(
        "UINT8",
        "[N, height, width, 3]",
        lambda side: [-1, side, side, 3],
        lambda shape: len(shape) == 4 and shape[3] == 3,
        _bytes_in_json,
        _bytes_in_binary,
    ),
}
"""Image files; what networks take: scaled to 0-1 and normalised; and RGB pixels 0-255."""


def _in_json(tensor: TensorGiven, settings: Settings) -> Any:
    arrays.refuse_rubble(tensor.data, max_images=settings.max_images_per_predict)
    return arrays.decoded(tensor.data, _ANY)


def _flat(value: Any) -> list[Any]:
    """The elements of a list, or of the lists in it."""
    if not isinstance(value, list):
        return [value]
    return [element for part in value for element in (part if isinstance(part, list) else [part])]


def _check_count(tensor: TensorGiven, count: float) -> None:
    if count != math.prod(tensor.shape):
        raise _wrong_length(tensor, f"{count:g}")


def _wrong_length(tensor: TensorGiven, count: str) -> errors.Invalid:
    return errors.Invalid(
        f"input {tensor.name!r} of shape {tensor.shape} has {math.prod(tensor.shape)} elements, and there are {count}",
        code="wrong_data_length",
    )
