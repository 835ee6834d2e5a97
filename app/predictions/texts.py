"""Image files in base64 within JSON. Who parses JSON keeps all other threads waiting, for half a second where the files
are large: so long texts are cut out before, and then decoded in pieces.
"""

import base64
import secrets
import time
from collections.abc import Iterator

import msgspec

from app import bodies, errors
from app.settings import Settings

INLINE_BYTES = 64 * 1024
"""JSON of so much is decoded in less time than another thread takes to begin."""
LONGEST_NUMBER = 32
"""Characters, with those around it; to read longer ones, which nothing writes, takes ten times as long."""
_LONG = 16 * 1024
"""Characters of a text that is cut out."""
_LOOKED_AT = 1024 * 1024
"""How much is searched at once."""
_PIECE = 128 * 1024
"""How much is decoded at once, in half a millisecond."""
_PAUSE_SECONDS = 0.0001
"""After each piece. Whoever waits for the interpreter would else get it after five milliseconds, each of the twenty
times that a request needs it."""
_MANY = 50_000
"""Quotation marks; there are not as many but in rubbish."""
_AT_ONCE = 1000
"""Of them, which are found in half a millisecond."""
_LONGEST_ESCAPE = 6
_FEW = 64


class LongTexts:
    """What was cut out of one body, each text with a mark that stands for it."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(16)  # nobody has the same in a body
        self._texts: dict[str, memoryview] = {}

    def add(self, text: memoryview) -> str:
        """The mark that stands for `text`, as it is between its quotation marks, from now on."""
        mark = f"{self._prefix}:{len(self._texts)}"
        self._texts[mark] = text
        return mark

    def image(self, text: str, place: int, max_bytes: int) -> bytes:
        """The image whose base64 is `text`, or what that stands for. Raises `TooLarge` and `BadImage`."""
        long = self._texts.pop(text, None)
        found: list[bytes] = []
        size = 0
        try:
            for piece in (base64.b64decode(text, validate=True),) if long is None else _decoded(long):
                found.append(piece)
                size += len(piece)
                if size > max_bytes:
                    raise bodies.too_large(max_bytes, image=place)
        except ValueError as error:  # also of characters beyond ASCII
            raise errors.BadImage(
                f"image {place}: not base64 ({error})", code="not_base64", detail={"image": place}
            ) from error
        return b"".join(found)

    def refuse_others(self) -> None:
        """Raise `Invalid` where there are some that were no image's."""
        if self._texts:
            length = max(len(text) for text in self._texts.values())
            raise errors.Invalid(f"a text of {length} characters that is no image", code="not_images")


def cut(raw: bytes, settings: Settings) -> tuple[bytes, LongTexts]:
    """JSON without its long texts, and these. Raises `Invalid`, and `TooLarge` where more is left than images need
    beside."""
    long = LongTexts()
    if len(raw) <= INLINE_BYTES:
        return raw, long
    whole, kept, start = memoryview(raw), bytearray(), 0
    for begin, end in _texts(raw):
        if end - begin > _LONG:
            kept += whole[start:begin]
            kept += long.add(whole[begin:end]).encode()
            start = end
    most = LONGEST_NUMBER * settings.max_json_numbers + few(settings.max_images_per_predict) * _LONG
    if len(kept) + len(raw) - start > most:
        raise bodies.too_large(most, "the JSON beside its image files")
    return bytes(kept + whole[start:]) if start else raw, long


def few(max_images: int) -> int:
    """What there may be in JSON beside the numbers of images."""
    return _FEW + 8 * max_images


def _texts(raw: bytes) -> Iterator[tuple[int, int]]:
    """Where each text begins and ends, without its quotation marks. Raises `Invalid` where there are many."""
    begin = -1
    at = _found(raw, b'"', 0)
    for number in range(1, _MANY + 1):
        if at < 0:
            return
        if number % _AT_ONCE == 0:
            time.sleep(_PAUSE_SECONDS)
        if begin < 0:
            begin = at + 1
        elif not _is_escaped(raw, begin, at):
            yield begin, at
            begin = -1
        at = _found(raw, b'"', at + 1)
    raise errors.Invalid("the body has more fields and texts than images need", code="not_images")


def _found(raw: bytes, what: bytes, at: int) -> int:
    """The place of a character from `at` on; -1 where there is none. In pieces, between which others can go on."""
    for start in range(at, len(raw), _LOOKED_AT):
        place = raw.find(what, start, start + _LOOKED_AT)
        if place >= 0:
            return place
    return -1


def _is_escaped(raw: bytes, begin: int, end: int) -> bool:
    """Whether an odd number of backslashes is before `end`."""
    count, look = 0, 1
    while count < end - begin:
        before = raw[max(begin, end - look) : end]
        count = len(before) - len(before.rstrip(b"\\"))
        if count < len(before):
            break
        look *= 2
    return count % 2 == 1


def _decoded(text: memoryview) -> Iterator[bytes]:
    """What a text in base64 says, in pieces. Raises `ValueError`."""
    left, is_over = b"", False
    for piece in _unescaped(text):
        ready = left + piece
        left = ready[len(ready) // 4 * 4 :]
        ready = ready[: len(ready) - len(left)]
        if is_over and (ready or left):
            raise ValueError("Excess data after padding")
        decoded = base64.b64decode(ready, validate=True)
        is_over = 4 * len(decoded) != 3 * len(ready)
        yield decoded
        time.sleep(_PAUSE_SECONDS)
    if left:
        raise ValueError("Incorrect padding")


def _unescaped(text: memoryview) -> Iterator[bytes]:
    """A text of JSON in pieces, without its escapes. Raises `ValueError` for what is none."""
    at = 0
    while at < len(text):
        piece = bytes(text[at : at + _PIECE])
        escape = piece.rfind(b"\\", max(1, len(piece) - _LONGEST_ESCAPE))
        if escape > 0 and at + len(piece) < len(text):  # or it may be cut in two
            piece = piece[:escape]
        at += len(piece)
        yield piece if b"\\" not in piece else msgspec.json.decode(b'"%s"' % piece, type=str).encode()
