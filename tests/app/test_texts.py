"""Long texts within JSON: what is cut out, and that it is decoded as if it had not been."""

import base64
import json
import random
import time
from typing import Any

import pytest

from app import errors
from app.predictions import texts
from app.settings import Settings

SETTINGS = Settings(max_image_bytes=4_000_000)
SMALL = Settings(max_image_bytes=100_000, max_json_numbers=1_000, max_images_per_predict=1)
FILE = random.Random(0).randbytes(3_000_001)
TEXT = base64.b64encode(FILE).decode()


def read(raw: bytes, settings: Settings = SETTINGS) -> bytes:
    """The one image of a body."""
    short, long = texts.cut(raw, settings)
    assert len(short) < 1_000
    found = long.image(json.loads(short)["b64"], 0, settings.max_image_bytes)
    long.refuse_others()
    return found


def body(text: str) -> bytes:
    return b'{"a \\" b": "\\\\", "b64": "' + text.encode() + b'", "c": 1.5}'


@pytest.mark.parametrize("size", [0, 1, 2, 3, 98_303, 98_304, 98_305, 98_306, 3_000_000, 3_000_001])
def test_an_image_is_what_it_was(size: int) -> None:
    filled = body(base64.b64encode(FILE[:size]).decode())
    filled += b" " * (texts.INLINE_BYTES - len(filled))
    short, long = texts.cut(filled, SETTINGS)
    assert long.image(json.loads(short)["b64"], 0, SETTINGS.max_image_bytes) == FILE[:size]
    assert json.loads(short)["c"] == 1.5


@pytest.mark.parametrize("shift", range(8))
def test_escapes_are_undone_wherever_they_are(shift: int) -> None:
    file = FILE[shift:]
    text = base64.b64encode(file).decode()
    assert read(body(text.replace("/", "\\/").replace("+", "\\u002B"))) == file
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in text[:1_000_000])
    assert read(body(escaped)) == file[:750_000]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT[:-1], "padding"),
        (TEXT[:500_000] + "*" + TEXT[500_000:], "base64"),
        (TEXT[: 128 * 1024 - 4] + "AA==" + TEXT[: 128 * 1024], "xcess data"),
        (TEXT[:500_000] + "ä" + TEXT[500_000:], "base64"),
        (TEXT[:500_000] + "\\x" + TEXT[500_000:], "not base64"),
        (TEXT[: 128 * 1024 - 1] + "\\\\" + TEXT[: 128 * 1024], "not base64"),
        (TEXT[:500_000] + '\\"' + TEXT[500_000:], "base64"),
    ],
    ids=["cut off", "other letters", "two in one", "beyond ASCII", "no escape", "backslash", "quotation mark"],
)
def test_what_is_no_base64_is_told(text: str, said: str) -> None:
    with pytest.raises(errors.BadImage, match=said) as told:
        read(body(text))
    assert (told.value.code, told.value.detail) == ("not_base64", {"image": 0})


def test_an_image_over_the_limit_is_refused() -> None:
    most = SMALL.max_image_bytes
    assert read(body(base64.b64encode(FILE[:most]).decode()), SMALL) == FILE[:most]
    with pytest.raises(errors.TooLarge, match="image 0 is over the limit of 100000 bytes"):
        read(body(base64.b64encode(FILE[: most + 1]).decode()), SMALL)


def test_a_long_text_that_is_no_image_is_refused() -> None:
    raw = json.dumps({"b64": TEXT, "other": "x" * 20_000}).encode()
    short, long = texts.cut(raw, SETTINGS)
    assert long.image(json.loads(short)["b64"], 0, SETTINGS.max_image_bytes) == FILE
    with pytest.raises(errors.Invalid, match="20000 characters"):
        long.refuse_others()


def test_more_beside_the_images_than_they_need_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(errors.TooLarge, match="beside its image files"):
        texts.cut(body(TEXT) + b" " * 2_000_000, SMALL)
    with pytest.raises(errors.Invalid, match="fields and texts"):
        texts.cut(b'"",' * 100_000, SETTINGS)


@pytest.mark.parametrize(
    "raw",
    [b'{"b64": "' + b"\\" * 200_001, b'{"b64": "' + b"\\" * 200_000 + b'"}', b'"' * 20_001 + b" " * 99_999],
    ids=["no end", "backslashes", "quotation marks"],
)
def test_rubbish_stays_rubbish(raw: bytes) -> None:
    short, long = texts.cut(raw, SETTINGS)

    def parsed() -> Any:
        found = json.loads(short)
        long.image(found["b64"], 0, SETTINGS.max_image_bytes)

    with pytest.raises((ValueError, errors.BadImage)):
        parsed()


def test_others_go_on_while_fields_without_number_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(errors.Invalid, match="more fields"):
        texts.cut(b"{" + 100_000 * b'"a":1,' + b'"a":1}', SETTINGS)
    assert len(pauses) == 50
