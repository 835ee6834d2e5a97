"""Request bodies read in pieces and never beyond a limit."""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from app import arrivals, errors

_WRITE_BYTES = 4 * 1024 * 1024
_INLINE_BYTES = 1024 * 1024
_LEFT_PART = 4
_LEAST_BYTES = 64 * 1024
"""What a large body brings at the least while it may stall; slower ones would not arrive in the time there is."""
_MAX_JSON_BYTES = 1024 * 1024
_MAX_PART_HEADERS_BYTES = 8 * 1024


@dataclass(frozen=True)
class Received:
    """A body that lies complete on disk."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class FormFile:
    """A file of a form; its content is to be read before the next one is asked for, or not at all."""

    name: str
    content: AsyncIterator[bytes]


class InFlight:
    """The bytes of bodies that are in memory at one moment. For the event loop alone.

    A body finds room where it leaves as much as it takes, or a quarter of all: so small ones find some when large ones
    have what they get, however slowly those come.
    """

    def __init__(self, max_bytes: int, *, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        """How long a body that takes much may bring next to nothing."""
        self._max_bytes = max_bytes
        self._bytes = 0

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """The part of one request, given back when the block ends."""
        share = Share(self)
        try:
            yield share
        finally:
            self._bytes -= share.held_bytes

    def add(self, size_bytes: int, *, held_bytes: int) -> None:
        self.check(size_bytes, held_bytes=held_bytes)
        self._bytes += size_bytes

    def check(self, size_bytes: int, *, held_bytes: int) -> None:
        """Raise `Overloaded` unless there is room, which there is for whoever is alone."""
        left_bytes = min(held_bytes + size_bytes, self._max_bytes // _LEFT_PART)
        if self._bytes + size_bytes + left_bytes > self._max_bytes and self._bytes > held_bytes:
            raise errors.Overloaded("too many large requests at once; send this one again in a moment")


class Share:
    """What one request has in memory."""

    def __init__(self, whole: InFlight) -> None:
        self._whole = whole
        self._waited_seconds = 0.0
        self._brought_bytes = 0
        self.held_bytes = 0

    def expect(self, size_bytes: int) -> None:
        """Raise `Overloaded` if as much would find no room now; nothing is reserved for who may never send it."""
        self._whole.check(size_bytes, held_bytes=self.held_bytes)

    def add(self, size_bytes: int) -> None:
        """Account for bytes before they are kept. Raises `Overloaded`."""
        self._whole.add(size_bytes, held_bytes=self.held_bytes)
        self.held_bytes += size_bytes

    async def coming(self, source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """`source`, accounted for. Raises `Overloaded`, and `TooSlow` where it has brought much and stalls."""
        while (chunk := await self._next(source)) is not None:
            self.add(len(chunk))
            yield chunk

    async def _next(self, source: AsyncIterator[bytes]) -> bytes | None:
        if self.held_bytes <= _INLINE_BYTES:
            return await anext(source, None)
        now = asyncio.get_running_loop().time
        began, left = now(), self._whole.stall_seconds - self._waited_seconds
        try:
            async with asyncio.timeout(left):
                chunk = await anext(source, None)
        except TimeoutError as error:
            raise errors.TooSlow(
                f"hardly anything of the request arrived for {self._whole.stall_seconds:g} s",
                detail={"max_seconds": self._whole.stall_seconds},
            ) from error
        self._waited_seconds += now() - began
        self._brought_bytes += len(chunk or b"")
        if self._brought_bytes >= _LEAST_BYTES:
            self._waited_seconds, self._brought_bytes = 0.0, 0
        return chunk


async def chunks(request: Request, *, max_bytes: int, share: Share | None = None) -> AsyncGenerator[bytes, None]:
    """The body as it arrives. Raises `TooLarge` as soon as it is known to be over the limit, and as `Share.coming`."""
    declared = request.headers.get("content-length", "")
    expected = int(declared) if declared.isdigit() else 0
    if expected > max_bytes:
        raise too_large(max_bytes)
    if share is not None:
        share.expect(expected)
    received = 0
    stream = request.stream()
    async for chunk in stream if share is None else share.coming(stream):
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes)
        yield chunk


async def whole(request: Request, *, max_bytes: int, share: Share) -> bytes:
    """All of the body in memory. Raises as `chunks`."""
    async with aclosing(chunks(request, max_bytes=max_bytes, share=share)) as found:
        pieces = [chunk async for chunk in found]
    return await _joined(pieces)


async def gather(source: AsyncIterator[bytes], *, max_bytes: int, what: str = "the body") -> bytes:
    """All of `source` in memory. Raises `TooLarge`, which calls it `what`."""
    gathered: list[bytes] = []
    size = 0
    async for chunk in source:
        size += len(chunk)
        if size > max_bytes:
            raise too_large(max_bytes, what)
        gathered.append(chunk)
    return await _joined(gathered)


async def files(
    request: Request, field: str, *, max_bytes: int, share: Share | None = None
) -> AsyncGenerator[FormFile, None]:
    """The files that a form has in `field`, its only one, as they arrive; nothing of it is kept. Raises `UnknownName`,
    `Invalid` and as `chunks`."""
    found = False
    async with aclosing(_parts(request, chunks(request, max_bytes=max_bytes, share=share))) as parts:
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


async def save(source: AsyncIterator[bytes], path: Path) -> Received:
    """Write `source` to `path`, off the event loop and in constant memory; after a failure nothing is left there.

    Raises `NoRoom` where the disk is full.
    """
    try:
        with path.open("wb") as file:
            return await _write(source, file)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.NoRoom("the service has no room left on its disk for this upload") from error
        raise


def too_large(max_bytes: int, what: str = "the body") -> errors.TooLarge:
    return errors.TooLarge(f"{what} is over the limit of {max_bytes} bytes", detail={"max_bytes": max_bytes})


class JsonRoute(APIRoute):
    """A route whose body is a small JSON document, refused beyond a mebibyte, or when it does not come, before it is
    parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def limited(request: Request) -> Response:
            async with arrivals.of(request).in_time():
                body = await gather(request.stream(), max_bytes=_MAX_JSON_BYTES, what="a JSON body")
            try:
                return await handle(Request(request.scope, _again(body, request.receive)))
            except HTTPException as error:
                if error.status_code != HTTPStatus.BAD_REQUEST:
                    raise
                raise errors.Invalid("the body cannot be read as JSON in UTF-8", code="broken_json") from error

        return limited


def _again(body: bytes, receive: Receive) -> Receive:
    """What comes as it came first, and then what else there is."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


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


async def _write(source: AsyncIterator[bytes], file: IO[bytes]) -> Received:
    digest, size, pending = hashlib.sha256(), 0, bytearray()

    def write(data: bytes) -> None:
        digest.update(data)
        file.write(data)

    async for chunk in source:
        pending += chunk
        size += len(chunk)
        if len(pending) >= _WRITE_BYTES:
            await run_in_threadpool(write, bytes(pending))
            pending.clear()
    await run_in_threadpool(write, bytes(pending))
    await run_in_threadpool(_make_durable, file)
    return Received(size_bytes=size, sha256=digest.hexdigest())


async def _joined(pieces: list[bytes]) -> bytes:
    # Large ones take a tenth of a second, in which the event loop would do nothing else; a thread of its own lets go of
    # the interpreter meanwhile.
    is_large = sum(map(len, pieces)) > _INLINE_BYTES
    return await run_in_threadpool(b"".join, pieces) if is_large else b"".join(pieces)


def _make_durable(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _broken_form(what: str) -> errors.Invalid:
    return errors.Invalid(f"the form cannot be read: {what}", code="broken_form")
