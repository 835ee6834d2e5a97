"""HTTP on one connection: what uvicorn does, and what clients ask of a server besides."""

import asyncio
from typing import Any, ClassVar, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app import logs

_UNREAD_BYTES = 256 * 1024
"""As much of a body as there may be before it is asked for. Photos are less: to stop reading, and begin again, takes
longer than to read them."""
_HELD_BYTES = 64 * 1024


class Connection(HttpToolsProtocol):
    """Ignores offers to go on in another protocol, such as `Upgrade: h2c`, as RFC 9110 (7.8) allows: such a request is
    answered as any other. The parser takes all that follows its head for the other protocol, its body among it.

    Ends where the head of a request does not come, however much of it does: clients that never ask anything would take
    the place of those that do.
    """

    head_seconds: ClassVar[float] = 30.0
    """From its beginning, and from each answer, to the end of the next head; uvicorn lets any byte begin anew."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_logger = cast("Any", logs.Requests(self.access_logger))
        self._head_timer: asyncio.TimerHandle | None = None
        self._together: Together | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._together = Together(transport, self.loop)
        self.transport = cast("asyncio.Transport", self._together)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)

    def on_headers_complete(self) -> None:
        if not self._is_offer():
            self._stop_waiting()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            return
        self.cycle.body += body
        if len(self.cycle.body) > _UNREAD_BYTES:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        if not self._is_offer():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._together is not None:
            self._together.flush()
        super().on_response_complete()
        if self.cycle.response_complete:  # nothing else has been asked yet
            self._await_head()

    def _await_head(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if not self._is_offer():
                    raise httptools.HttpParserError("tunnels are not made here") from upgrade
                (head_bytes,) = upgrade.args
                rest = rest[head_bytes:]
                self._take_head_without_offer()

    def _is_offer(self) -> bool:
        """Whether the request that is being parsed can be answered without its upgrade: CONNECT is one in itself."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _take_head_without_offer(self) -> None:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))


class Together:
    """A transport that sends the head of an answer with the beginning of its body, where that comes at once: to send
    is the dearest of what is done for an answer. All else is the transport's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []
        self._held_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data`, before the event loop does anything else."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= _HELD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        if not self._held:
            return
        whole = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        if not self._transport.is_closing():
            self._transport.write(whole)

    def close(self) -> None:
        self.flush()
        self._transport.close()


def waiting(*, head_seconds: float) -> type[Connection]:
    """Those that wait so long for the head of a request."""

    class Waiting(Connection):
        pass

    Waiting.head_seconds = head_seconds
    return Waiting
