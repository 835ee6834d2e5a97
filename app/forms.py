"""Files in HTML forms, read as they arrive."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app import bodies, errors
from app.bodies import Share

_MAX_PART_HEADERS_BYTES = 8 * 1024


@dataclass(frozen=True)
class FormFile:
    """A file of a form; its content is to be read before the next one is asked for, or not at all."""

    name: str
    content: AsyncIterator[bytes]


async def files(
    request: Request, field: str, *, max_bytes: int, share: Share | None = None
) -> AsyncGenerator[FormFile, None]:
    """The files that a form has in `field`, its only one, as they arrive; nothing of it is kept. Raises `UnknownName`,
    `Invalid` and as `chunks`."""
    found = False
    async with aclosing(_parts(request, bodies.chunks(request, max_bytes=max_bytes, share=share))) as parts:
        async for part in parts:
            if not isinstance(part, _Part):
                continue
            if part.field != field:
                raise errors.UnknownName("form field", part.field, [field])
            if part.file_name is None:
                raise errors.Invalid(
                    f"the form's field {field!r} has no filename, so it is a text and no file; curl sends a file for "
                    f"{field}=@path",
                    code="file_missing",
                )
            found = True
            yield FormFile(part.file_name, _content(parts))
    if not found:
        raise errors.Invalid(f"the form has no field {field!r}", code="file_missing")


@dataclass(frozen=True)
class _Part:
    """The beginning of one part of a form."""

    field: str
    file_name: str | None


class _PartEnd:
    """The end of one."""


_Event = _Part | _PartEnd | bytes


class _Events:
    """What the parser of forms calls, as a list of what it found."""

    def __init__(self) -> None:
        self.found: list[_Event] = []
        self.is_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_to_name,
            "on_header_value": self._add_to_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._headers = {}

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name = self._joined(self._name, data[start:end])

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value = self._joined(self._value, data[start:end])

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise _broken_form("a part has no name")
        file_name = options.get(b"filename")
        self.found.append(
            _Part(
                field=options[b"name"].decode(errors="replace"),
                file_name=file_name.decode(errors="replace") if file_name is not None else None,
            )
        )

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self.found.append(data[start:end])

    def _end_part(self) -> None:
        self.found.append(_PartEnd())

    def _end(self) -> None:
        self.is_complete = True

    def _joined(self, text: bytes, more: bytes) -> bytes:
        if len(text) + len(more) > _MAX_PART_HEADERS_BYTES:
            raise _broken_form("a part has a header that is too long")
        return text + more


async def _parts(request: Request, source: AsyncGenerator[bytes, None]) -> AsyncGenerator[_Event, None]:
    boundary = parse_options_header(request.headers.get("content-type"))[1].get(b"boundary")
    if not boundary:
        raise _broken_form("its Content-Type has no boundary")
    events = _Events()
    try:
        parser = MultipartParser(boundary, events.callbacks())  # type: ignore[arg-type]
        async with aclosing(source):
            async for chunk in source:
                parser.write(chunk)
                for event in events.found:
                    yield event
                events.found.clear()
    except FormParserError as error:
        raise _broken_form(str(error)) from error
    if not events.is_complete:
        raise _broken_form("it ends in the middle")


async def _content(parts: AsyncIterator[_Event]) -> AsyncIterator[bytes]:
    async for event in parts:
        if not isinstance(event, bytes):
            return
        yield event


def _broken_form(what: str) -> errors.Invalid:
    return errors.Invalid(f"the form cannot be read: {what}", code="broken_form")
