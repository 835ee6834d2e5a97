"""Request bodies read in pieces and never beyond a limit."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import JsonValue
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from app import arrivals, errors, files

_WRITE_BYTES = 4 * 1024 * 1024
_INLINE_BYTES = 1024 * 1024
_LEFT_PART = 4
_LEAST_BYTES = 64 * 1024
"""What a large body brings at the least while it may stall; slower ones would not arrive in the time there is."""
_MAX_JSON_BYTES = 1024 * 1024
_JOINING = 4
"""Bodies that are put together at once, as fast as memory is."""


@dataclass(frozen=True)
class Received:
    """A body that lies complete on disk."""

    size_bytes: int
    sha256: str


class InFlight:
    """The bytes of bodies that are in memory at one moment. For the event loop alone.

    A body finds room where it leaves as much as it takes, or a quarter of all: so small ones find some when large ones
    have what they get, however slowly those come.
    """

    def __init__(self, max_bytes: int, *, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        """How long a body that takes much may bring next to nothing."""
        self.joining = CapacityLimiter(_JOINING)
        """Of threads that put bodies together; those of the framework may all be waiting for the database."""
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
        self.complete_at: float | None = None
        """When the last byte had come, by `time.monotonic`."""

    def expect(self, size_bytes: int) -> None:
        """Raise `Overloaded` if as much would find no room now; nothing is reserved for who may never send it."""
        self._whole.check(size_bytes, held_bytes=self.held_bytes)

    def add(self, size_bytes: int) -> None:
        """Account for bytes before they are kept. Raises `Overloaded`."""
        self._whole.add(size_bytes, held_bytes=self.held_bytes)
        self.held_bytes += size_bytes

    async def joined(self, pieces: list[bytes]) -> bytes:
        """`pieces` as one."""
        # Large ones take a tenth of a second, in which the event loop would do nothing else; a thread lets go of the
        # interpreter meanwhile.
        if sum(map(len, pieces)) <= _INLINE_BYTES:
            return b"".join(pieces)
        return await run_sync(b"".join, pieces, limiter=self._whole.joining)

    async def coming(self, source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """`source`, accounted for. Raises as `next`."""
        while (chunk := await self.next(source)) is not None:
            yield chunk

    async def next(self, source: AsyncIterator[bytes]) -> bytes | None:
        """What comes next of `source`, accounted for; None at its end. Raises `Overloaded`, and `TooSlow` where it has
        brought much and stalls."""
        if self.held_bytes <= _INLINE_BYTES:
            chunk = await anext(source, None)
        else:
            chunk = await self._before_it_stalls(source)
        if chunk is None:
            self.complete_at = time.monotonic()
        else:
            self.add(len(chunk))
        return chunk

    async def _before_it_stalls(self, source: AsyncIterator[bytes]) -> bytes | None:
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
    _expect(request, max_bytes, share)
    received, pieces = 0, _Pieces(request)
    async for chunk in pieces if share is None else share.coming(pieces):
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes)
        yield chunk


async def whole(request: Request, *, max_bytes: int, share: Share) -> bytes:
    """All of the body in memory. Raises as `chunks`."""
    _expect(request, max_bytes, share)
    received, pieces, gathered = 0, _Pieces(request), []
    while (chunk := await share.next(pieces)) is not None:
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes)
        gathered.append(chunk)
    return await share.joined(gathered)


def _expect(request: Request, max_bytes: int, share: Share | None) -> None:
    """Raise `TooLarge` or `Overloaded` by what the head of the request says."""
    declared = request.headers.get("content-length", "")
    expected = int(declared) if declared.isdigit() else 0
    if expected > max_bytes:
        raise too_large(max_bytes)
    if share is not None:
        share.expect(expected)


class _Pieces:
    """The body of a request as it arrives. As `Request.stream`, without a generator: a prediction has no time for
    three, one within the other."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._is_complete = False

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> bytes:
        if self._is_complete:
            raise StopAsyncIteration
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._is_complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body


async def gather(
    source: AsyncIterator[bytes], *, max_bytes: int, what: str = "the body", image: int | None = None
) -> list[bytes]:
    """All of `source` in memory, in the pieces in which it came. Raises `TooLarge` as `too_large` makes it."""
    gathered: list[bytes] = []
    size = 0
    async for chunk in source:
        size += len(chunk)
        if size > max_bytes:
            raise too_large(max_bytes, what, image=image)
        gathered.append(chunk)
    return gathered


async def save(source: AsyncIterator[bytes], path: Path) -> Received:
    """Write `source` to `path`, off the event loop and in constant memory; after a failure nothing is left there.

    Raises `NoRoom` where the disk is full.
    """
    try:
        with path.open("wb") as file:
            return await _write(source, file)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if files.is_of_full_disk(error):
            raise errors.NoRoom("the service has no room left on its disk for this upload") from error
        raise


def too_large(max_bytes: int, what: str = "the body", *, image: int | None = None) -> errors.TooLarge:
    """That `what` has more bytes than that, or the image at the place `image`, from 0 on."""
    detail: dict[str, JsonValue] = {"max_bytes": max_bytes}
    if image is not None:
        what, detail["image"] = f"image {image}", image
    return errors.TooLarge(f"{what} is over the limit of {max_bytes} bytes", detail=detail)


def not_json(reason: str) -> errors.Invalid:
    """That the body is no JSON."""
    return errors.Invalid(f"the body cannot be read as JSON in UTF-8: {reason}", code="broken_json")


class JsonRoute(APIRoute):
    """A route whose body is a small JSON document, refused beyond a mebibyte, or when it does not come, before it is
    parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def limited(request: Request) -> Response:
            async with arrivals.of(request).in_time():
                body = b"".join(await gather(request.stream(), max_bytes=_MAX_JSON_BYTES, what="a JSON body"))
            try:
                return await handle(Request(request.scope, _again(body, request.receive)))
            except HTTPException as error:
                if error.status_code != HTTPStatus.BAD_REQUEST:
                    raise
                raise not_json(str(error.__cause__)) from error
            except RequestValidationError as error:
                first = error.errors()[0]
                if first["type"] != "json_invalid":
                    raise
                raise not_json(f"{first['ctx']['error']} at character {first['loc'][1]}") from error

        return limited


def _again(body: bytes, receive: Receive) -> Receive:
    """What comes as it came first, and then what else there is."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


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


def _make_durable(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
