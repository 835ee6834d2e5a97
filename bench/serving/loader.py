"""An open load: requests leave when their time has come, whether or not earlier ones were answered, as from very many
callers. It speaks HTTP/1.1 over kept connections, as little of it as is needed to leave the cores to the server."""

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

NO_ANSWER = 0
"""In place of a status: the connection was refused or lost, or nothing came for `GIVE_UP_SECONDS`."""
GIVE_UP_SECONDS = 60.0
_MOST_CONNECTIONS = 2000
# Shorter than servers keep idle connections: one that is just being closed is no dropped request.
_IDLE_SECONDS = 2.0
_LOST = (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@dataclass(frozen=True)
class Call:
    """One request and what became of it."""

    at: float
    """Seconds from the start of the load."""
    seconds: float
    status: int
    body: bytes


@dataclass(frozen=True)
class Calls:
    """All requests of a load."""

    calls: tuple[Call, ...]
    held_back: int
    """Not sent: too many connections waited for an answer, or the cores were too busy to send it in time."""

    @property
    def statuses(self) -> dict[int, int]:
        return dict(sorted(Counter(call.status for call in self.calls).items()))

    def percentile(self, share: float) -> float:
        """Seconds within which this share (0-1) of the calls ended; infinite where there are none."""
        seconds = sorted(call.seconds for call in self.calls)
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else float("inf")

    @property
    def median(self) -> float:
        return statistics.median([call.seconds for call in self.calls if call.status == 200] or [float("inf")])


def request(url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """A POST as it goes over the wire."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Loader:
    """Sends requests to one server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = parts.hostname, parts.port
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._started = time.perf_counter()

    async def open_loop(self, requests: Iterator[bytes], *, rate: float, seconds: float) -> Calls:
        """`rate` requests per second for so long, at even distances; then their answers are waited for."""
        self._started = time.perf_counter()
        done: list[Call] = []
        waiting: set[asyncio.Task[None]] = set()

        async def send(request: bytes) -> None:
            done.append(await self.call(request))

        wanted = round(rate * seconds)
        for number in range(wanted):
            await asyncio.sleep(max(0.0, self._started + number / rate - time.perf_counter()))
            if time.perf_counter() > self._started + seconds:
                break
            if len(waiting) < _MOST_CONNECTIONS:
                task = asyncio.create_task(send(next(requests)))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
        while waiting:
            await asyncio.wait(waiting)
        return Calls(tuple(done), wanted - len(done))

    async def closed_loop(self, requests: Iterator[bytes], *, callers: int, seconds: float) -> Calls:
        """So many callers for so long, each with one request after the other."""
        self._started = time.perf_counter()

        async def caller() -> list[Call]:
            done = []
            while time.perf_counter() < self._started + seconds:
                done.append(await self.call(next(requests)))
            return done

        found = await asyncio.gather(*(caller() for _ in range(callers)))
        return Calls(tuple(call for calls in found for call in calls), 0)

    async def call(self, request: bytes) -> Call:
        """One request."""
        started = time.perf_counter()
        status, body = NO_ANSWER, b""
        with contextlib.suppress(*_LOST):
            async with asyncio.timeout(GIVE_UP_SECONDS):
                status, body = await self._exchange(request)
        ended = time.perf_counter()
        return Call(started - self._started, ended - started, status, body)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        reader, writer = await self._connection()
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        except BaseException:
            writer.close()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((time.perf_counter(), reader, writer))
        return int(head[0].split()[1]), body

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        oldest = time.perf_counter() - _IDLE_SECONDS
        while self._idle:
            since, reader, writer = self._idle.pop()
            if since > oldest and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address)

    def close(self) -> None:
        for _, _, writer in self._idle:
            writer.close()
        self._idle.clear()


def settled_at(calls: Sequence[Call], *, within: float, in_a_row: int = 5) -> float:
    """From when on so many calls one after the other were answered `within` seconds; infinite where never."""
    good = 0
    for number, call in enumerate(calls):
        good = good + 1 if call.status == 200 and call.seconds <= within else 0
        if good == in_a_row:
            return calls[number - in_a_row + 1].at
    return float("inf")
