"""Arrays of numbers and texts within JSON, decoded without making much more memory of them than they have bytes."""

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from app import bodies, errors
from app.predictions import texts
from app.predictions.asking import wrong
from app.settings import Settings

T = TypeVar("T")

_PIECE_BYTES = 1024 * 1024
_PLACE = re.compile(r"(?P<message>.*) - at `\$(?P<path>[^`]*)`", re.DOTALL)
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def decoded(raw: bytes | memoryview, decoder: "msgspec.json.Decoder[T]", *, within: Sequence[str | int] = ()) -> T:
    """JSON as a value of the decoder's type; `within`: the place in the body that it was at. Raises
    `RequestValidationError`, and `Invalid` for what is no JSON."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        found = _PLACE.fullmatch(str(error))
        path = found["path"] if found else ""
        steps = [int(place) if place.isdigit() else name or place for name, place in _STEP.findall(path)]
        raise wrong(("body", *within, *steps), found["message"] if found else str(error), "wrong_type") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bodies.not_json(str(error)) from error


def is_there(raw: msgspec.Raw) -> bool:
    """Whether a member was given, and not as null."""
    return bytes(memoryview(raw)[:5]) not in (b"", b"null")


def refuse_many(raw: bytes, settings: Settings) -> None:
    """Raise `TooLarge` for JSON with more numbers than are taken in it, before any of it is decoded: who decodes them
    keeps all other threads of the process waiting."""
    limit, commas = settings.max_json_numbers, 0
    for start in range(0, len(raw), _PIECE_BYTES):
        commas += raw.count(b",", start, start + _PIECE_BYTES)
        if commas > limit + texts.few(settings.max_images_per_predict):
            break
    else:
        if commas <= texts.few(settings.max_images_per_predict) or len(raw) <= texts.LONGEST_NUMBER * limit:
            return
    raise errors.TooLarge(
        f"more than {limit:,} numbers in JSON; send image files in base64, or by the Open Inference Protocol a tensor "
        "as binary data behind the JSON (Inference-Header-Content-Length)",
        code="too_many_numbers",
        detail={"max_numbers": limit},
    )


def refuse_rubble(raw: bytes | memoryview, *, max_images: int) -> None:
    """Raise `Invalid` for JSON in which there are more lists, objects and texts than so many images need: an empty list
    has two characters there and takes sixty bytes of memory."""
    text = bytes(raw)
    few = texts.few(max_images)
    # The innermost lists of images have at least three numbers each, and there are some more lists around those.
    has_short_lists = 5 * text.count(b"[") > 2 * text.count(b",") + 5 * few
    if has_short_lists or text.count(b"{") > few or text.count(b'"') > 2 * few:
        raise errors.Invalid(
            f"the body has more lists, objects or texts than {max_images} images need", code="not_images"
        )


def numbers(value: Any, what: str, *, may_have_texts: bool) -> NDArray[np.uint8] | NDArray[np.float32]:
    """Nested lists of numbers as an array: `uint8` where all are integers 0-255, and `float32` else. `may_have_texts`:
    whether there is a text in the JSON that they are from. Raises `Invalid` with the code `ragged_array` or
    `not_numbers`."""
    if may_have_texts and _has_text(value):
        raise _no_numbers(what)
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise errors.Invalid(f"{what}: lists of unequal length", code="ragged_array") from error
    if found.dtype.kind not in "iuf":
        raise _no_numbers(what)
    if found.dtype.kind != "f" and found.size and found.min() >= 0 and found.max() <= 255:
        return found.astype(np.uint8)
    with np.errstate(over="ignore"):
        return found.astype(np.float32)


def _has_text(value: Any) -> bool:
    """Whether a text is in nested lists: an array of it and numbers would have four bytes for each of its characters in
    the place of each of the numbers."""
    lists = [[value]]
    while lists:
        kinds = set(map(type, chain.from_iterable(lists)))
        if str in kinds:
            return True
        is_deeper = list in kinds
        lists = [part for part in chain.from_iterable(lists) if isinstance(part, list)] if is_deeper else []
    return False


def _no_numbers(what: str) -> errors.Invalid:
    return errors.Invalid(f"{what}: something else than numbers", code="not_numbers")
