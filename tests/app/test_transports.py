"""What a connection does with its transport, without a network."""

import asyncio
from collections.abc import Iterator

import pytest
from fastapi import Response
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from app import connections
from tests.app.test_connections import CHUNKED, PHOTO, head, in_chunks


class Wire(asyncio.Transport):
    """Takes down what is written to it, whether it is to read, and when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False
        self.heard: list[str] = []
        """When it was to stop reading, and to go on."""

    def pause_reading(self) -> None:
        self.heard.append("paused")

    def resume_reading(self) -> None:
        self.heard.append("resumed")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    found = asyncio.new_event_loop()
    yield found
    found.close()


def test_what_is_written_goes_out_before_the_event_loop_does_anything_else(loop: asyncio.AbstractEventLoop) -> None:
    wire = Wire()
    together = connections.Together(wire, loop, is_more_coming=lambda: False)
    together.write(b"head")
    together.write(b"body")
    assert wire.written == []

    loop.run_until_complete(asyncio.sleep(0))
    assert wire.written == [b"headbody"]


def test_no_more_is_held_than_a_little(loop: asyncio.AbstractEventLoop) -> None:
    wire = Wire()
    connections.Together(wire, loop, is_more_coming=lambda: False).write(bytes(1_000_000))
    assert list(map(len, wire.written)) == [1_000_000]


def test_what_is_held_goes_out_before_the_connection_is_closed(loop: asyncio.AbstractEventLoop) -> None:
    wire = Wire()
    together = connections.Together(wire, loop, is_more_coming=lambda: False)
    together.write(b"last words")
    together.close()
    assert (wire.written, wire.is_closed) == ([b"last words"], True)

    together.write(b"too late")
    loop.run_until_complete(asyncio.sleep(0))
    assert wire.written == [b"last words"]


@pytest.mark.parametrize(("size", "expected"), [(64, ["paused", "resumed"] * 3), (1024, [])])
def test_a_body_in_small_chunks_is_read_piece_by_piece(
    loop: asyncio.AbstractEventLoop, size: int, expected: list[str]
) -> None:
    """Also one that was answered before, of which the system may have megabytes."""
    wire = Wire()
    loop.run_until_complete(_read(answering(loop), wire, size))
    assert wire.heard == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], ["paused", "resumed"]),
        (["resume"], ["paused", "resumed"]),  # as whoever reads the body does at once
        (["pause"], ["paused"]),
        (["pause", "resume"], ["paused", "resumed"]),
    ],
)
def test_nobody_ends_a_rest_before_its_time(
    loop: asyncio.AbstractEventLoop, asked: list[str], expected: list[str]
) -> None:
    wire = Wire()
    loop.run_until_complete(_rest(wire, asked))
    assert wire.heard == expected


async def _rest(wire: Wire, asked: list[str]) -> None:
    pacing = connections.Pacing(wire, asyncio.get_running_loop())
    pacing.rest()
    for wish in asked:
        {"pause": pacing.pause_reading, "resume": pacing.resume_reading}[wish]()
    assert wire.heard == ["paused"]
    await asyncio.sleep(2 * connections.REST_SECONDS)


def test_a_rest_of_what_was_paused_before_goes_on_when_that_is_asked_for(loop: asyncio.AbstractEventLoop) -> None:
    wire = Wire()
    pacing = connections.Pacing(wire, loop)
    pacing.pause_reading()
    pacing.rest()
    loop.run_until_complete(asyncio.sleep(2 * connections.REST_SECONDS))
    assert wire.heard == ["paused"]

    pacing.resume_reading()
    assert wire.heard == ["paused", "resumed"]


def answering(loop: asyncio.AbstractEventLoop) -> connections.Connection:
    """One whose requests are all answered before their bodies are read."""
    config = Config(_answer_at_once, http=connections.Connection, lifespan="off", log_config=None)
    return connections.Connection(config, ServerState(), {}, loop)


async def _answer_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    await Response()(scope, receive, send)


async def _read(connection: connections.Connection, wire: Wire, size: int) -> None:
    connection.connection_made(wire)
    connection.data_received(CHUNKED)
    await asyncio.sleep(0)
    assert wire.written
    for _ in range(3):
        connection.data_received(in_chunks(bytes(size * 2_500), size).removesuffix(b"0\r\n\r\n"))
        async with asyncio.timeout(60):
            while wire.heard[-1:] == ["paused"]:
                await asyncio.sleep(0)
    connection.connection_lost(ConnectionResetError())


@pytest.mark.parametrize("before", [[], [head(), PHOTO]], ids=["new", "used"])
@pytest.mark.parametrize("first", [0, 30], ids=["nothing", "part"])
def test_a_request_that_is_on_its_way_when_a_process_is_to_stop_is_the_last_one(
    loop: asyncio.AbstractEventLoop, before: list[bytes], first: int
) -> None:
    """But not one on a connection that has been used and is idle, of which there may be many."""
    wire = Wire()
    loop.run_until_complete(_stop(answering(loop), wire, before, first))
    assert wire.is_closed
    assert b"connection: close\r\n" in wire.written[-1] or (before and not first)


async def _stop(connection: connections.Connection, wire: Wire, before: list[bytes], first: int) -> None:
    connection.connection_made(wire)
    for data in before:
        connection.data_received(data)
    await asyncio.sleep(0)
    assert len(wire.written) == len(before) // 2
    connection.data_received(head()[:first])
    connection.shutdown()
    if not wire.is_closed:
        connection.data_received(head()[first:] + PHOTO)
        await asyncio.sleep(0)
    connection.connection_lost(ConnectionResetError())


def test_a_connection_on_which_nothing_is_asked_any_more_is_closed_when_a_process_stops(
    loop: asyncio.AbstractEventLoop,
) -> None:
    wire = Wire()
    connection = answering(loop)

    async def stop() -> None:
        connection.connection_made(wire)
        connection.shutdown()
        async with asyncio.timeout(60):
            while not wire.is_closed:
                await asyncio.sleep(0)

    loop.run_until_complete(stop())
    assert not wire.written
