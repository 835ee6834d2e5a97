"""Request bodies read in pieces and never beyond a limit."""

import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message, Receive

from app import errors

_WRITE_BYTES = 4 * 1024 * 1024
_MAX_JSON_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Received:
    """A body that lies complete on disk."""

    size_bytes: int
    sha256: str


async def chunks(request: Request, *, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body as it arrives. Raises `TooLarge` as soon as it is known to be over the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


async def read(request: Request, *, max_bytes: int) -> bytes:
    """The whole body, for requests whose limit fits in memory."""
    return b"".join([chunk async for chunk in chunks(request, max_bytes=max_bytes)])


class JsonRoute(APIRoute):
    """A route whose body is a small JSON document, refused beyond a mebibyte before it is parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def limited(request: Request) -> Response:
            try:
                return await handle(Request(request.scope, _limited(request.receive)))
            except HTTPException as error:
                if error.status_code != HTTPStatus.BAD_REQUEST:
                    raise
                raise errors.Invalid("the body cannot be read as JSON in UTF-8", code="broken_json") from error

        return limited


def _limited(receive: Receive) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > _MAX_JSON_BYTES:
            # The one exception that FastAPI lets through while it parses a body.
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a JSON body may have {_MAX_JSON_BYTES} bytes here"
            )
        return message

    return counting


@asynccontextmanager
async def form(request: Request, *, max_bytes: int) -> AsyncIterator[FormData]:
    """A multipart body; its files are on disk until the block ends. Raises `TooLarge` and `Invalid`."""
    parser = MultiPartParser(request.headers, chunks(request, max_bytes=max_bytes))
    try:
        parsed = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise errors.Invalid(f"the form cannot be read: {error}", code="broken_form") from error
    try:
        yield parsed
    finally:
        await parsed.close()


async def file_chunks(upload: UploadFile) -> AsyncIterator[bytes]:
    """The content of a multipart file."""
    while chunk := await upload.read(_WRITE_BYTES):
        yield chunk


async def save(source: AsyncIterator[bytes], path: Path) -> Received:
    """Write `source` to `path`, off the event loop and in constant memory; after a failure nothing is left there."""
    digest, size, pending = hashlib.sha256(), 0, bytearray()

    def write(data: bytes) -> None:
        digest.update(data)
        file.write(data)

    with path.open("wb") as file:
        try:
            async for chunk in source:
                pending += chunk
                size += len(chunk)
                if len(pending) >= _WRITE_BYTES:
                    await run_in_threadpool(write, bytes(pending))
                    pending.clear()
            await run_in_threadpool(write, bytes(pending))
            await run_in_threadpool(_make_durable, file)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return Received(size_bytes=size, sha256=digest.hexdigest())


def _make_durable(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _too_large(max_bytes: int) -> errors.TooLarge:
    return errors.TooLarge(f"the body is over the limit of {max_bytes} bytes", detail={"max_bytes": max_bytes})
