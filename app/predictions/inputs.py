"""Images as tensors of the Open Inference Protocol: the forms in which they are taken, and how they are read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from app import bodies, errors
from app.predictions import arrays, images
from app.predictions.loaded import Given, Normalised
from app.predictions.tensors import LENGTH_BYTES, InferGiven, TensorGiven
from app.predictions.texts import LongTexts
from app.settings import Settings

T = TypeVar("T", bound=np.generic)

_ANY = msgspec.json.Decoder()
_LARGEST = 2**63 - 1
"""What one number of a shape can be in the protocol."""


@dataclass(frozen=True)
class Input:
    """One of the forms in which images are taken."""

    datatype: str
    axes: str
    """As people write shapes; N images."""
    shape_of: Callable[[int], list[int]]
    """For the side of the version's images in pixels, as the metadata has it."""
    fits: Callable[[Sequence[int]], bool]
    in_json: Callable[[TensorGiven, LongTexts, Settings], list[Given]]
    in_binary: Callable[[TensorGiven, memoryview, Settings], list[Given]]


def images_of(given: InferGiven, behind: memoryview, long: LongTexts, settings: Settings) -> list[Given]:
    """The images of the one input that a request has; `long` are texts of its JSON, and `behind` is what comes after
    that. Raises `Invalid`, `TooLarge`, `BadImage` and
    `RequestValidationError`."""
    tensor = _only(given.inputs)
    form = INPUTS[tensor.name]
    if tensor.datatype != form.datatype:
        raise errors.Invalid(
            f"input {tensor.name!r} is {form.datatype}, not {tensor.datatype[:20]!r}",
            code="wrong_datatype",
            detail={"datatype": form.datatype},
        )
    if not form.fits(tensor.shape) or not all(1 <= length <= _LARGEST for length in tensor.shape):
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
    if size is not None:
        return form.in_binary(tensor, behind, settings)
    return form.in_json(tensor, long, settings)


def _only(inputs: Sequence[TensorGiven]) -> TensorGiven:
    if len(inputs) != 1:
        raise errors.Invalid(f"{len(inputs)} inputs where one is taken, of {', '.join(INPUTS)}", code="not_one_input")
    tensor = inputs[0]
    if tensor.name not in INPUTS:
        raise errors.UnknownName("input", tensor.name[:100], INPUTS)
    if "shared_memory_region" in (tensor.parameters or {}):
        raise errors.Invalid("shared memory is not taken here; send the tensor itself", code="shared_memory")
    return tensor


def _files_in_json(tensor: TensorGiven, long: LongTexts, settings: Settings) -> list[Given]:
    values = _flat(tensor, _in_json(tensor, settings))
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != len(values):
        raise errors.Invalid("image files within JSON are texts in base64", code="not_texts")
    _check_count(tensor, len(texts))
    return [long.image(text, place, settings.max_image_bytes) for place, text in enumerate(texts)]


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
            raise bodies.too_large(settings.max_image_bytes, image=len(found))
        if len(found) == tensor.shape[0]:
            raise _wrong_length(tensor, "more")
        found.append(bytes(behind[content:end]))
        start = end
    _check_count(tensor, len(found))
    return found


def _floats_in_json(tensor: TensorGiven, _: LongTexts, settings: Settings) -> list[Given]:
    values = _numbers(tensor, settings).astype(np.float32, copy=False)
    return [Normalised(image) for image in _shaped(tensor, values)]


def _floats_in_binary(tensor: TensorGiven, behind: memoryview, settings: Settings) -> list[Given]:
    _check_bytes(tensor, behind, each=4)
    return [Normalised(image) for image in np.frombuffer(behind, "<f4").reshape(tensor.shape)]


def _bytes_in_json(tensor: TensorGiven, _: LongTexts, settings: Settings) -> list[Given]:
    values = _shaped(tensor, _numbers(tensor, settings))
    return [*(values if values.dtype == np.uint8 else _as_bytes(tensor, values))]


def _as_bytes(tensor: TensorGiven, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Numbers that may be written as `12.0`. Raises `Invalid`."""
    if values.min() >= 0 and values.max() <= 255:
        found = values.astype(np.uint8)
        if np.array_equal(found, values):
            return found
    raise errors.Invalid(f"input {tensor.name!r} has values that are not whole or not 0-255", code="not_uint8")


def _bytes_in_binary(tensor: TensorGiven, behind: memoryview, settings: Settings) -> list[Given]:
    _check_bytes(tensor, behind, each=1)
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
    return arrays.decoded(tensor.data, _ANY, within=("inputs", 0, "data"))


def _numbers(tensor: TensorGiven, settings: Settings) -> NDArray[np.uint8] | NDArray[np.float32]:
    has_texts = b'"' in bytes(tensor.data)
    return arrays.numbers(_in_json(tensor, settings), f"input {tensor.name!r}", may_have_texts=has_texts)


def _flat(tensor: TensorGiven, value: Any) -> list[Any]:
    """The elements of a list, or of the lists in it. Raises `Invalid` where those contradict the tensor's shape."""
    if not isinstance(value, list):
        return [value]
    lengths = {len(part) for part in value if isinstance(part, list)}
    if not lengths:
        return value
    if lengths != {*tensor.shape[1:]} or not all(isinstance(part, list) for part in value):
        raise _wrong_nesting(tensor)
    return [element for part in value for element in part]


def _check_count(tensor: TensorGiven, count: int) -> None:
    if count != math.prod(tensor.shape):
        raise _wrong_length(tensor, str(count))


def _check_bytes(tensor: TensorGiven, behind: memoryview, *, each: int) -> None:
    size = each * math.prod(tensor.shape)
    if len(behind) != size:
        raise errors.Invalid(
            f"input {tensor.name!r} of shape {tensor.shape} has {size} bytes, and there are {len(behind)}",
            code="wrong_data_length",
        )


def _shaped(tensor: TensorGiven, values: NDArray[T]) -> NDArray[T]:
    """`values`, which come flat or nested, in the shape that the tensor is said to have. Raises `Invalid`."""
    _check_count(tensor, values.size)
    if values.ndim > 1 and [*values.shape] != tensor.shape:
        raise _wrong_nesting(tensor)
    return values.reshape(tensor.shape)


def _wrong_nesting(tensor: TensorGiven) -> errors.Invalid:
    return errors.Invalid(
        f"the lists of input {tensor.name!r} are nested otherwise than its shape {tensor.shape}; nest them so, or send "
        "one flat list",
        code="wrong_shape",
    )


def _wrong_length(tensor: TensorGiven, count: str) -> errors.Invalid:
    return errors.Invalid(
        f"input {tensor.name!r} of shape {tensor.shape} has {math.prod(tensor.shape)} elements, and there are {count}",
        code="wrong_data_length",
    )
