"""HTTP on one connection: what uvicorn does, and what clients ask of a server besides."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from app import logs, problems

_HEAD_BYTES = 64 * 1024
"""Of the address and the headers of a request, and the trailers of its body."""
_AROUND_HEADER_BYTES = len(": \r\n")
_UNREAD_BYTES = 256 * 1024
"""As much of a body as there may be before it is asked for. Photos are less: to stop reading, and begin again, takes
longer than to read them."""
_FREE_CHUNKS = 2000
"""In so many a body may come however little is in each: to read a chunk takes as long as if it were large."""
_LEAST_CHUNK_BYTES = 64
"""That there are on average in the chunks beyond those."""
_SMALL_CHUNK_BYTES = 1024
"""Where there are less on average, the body is read one piece at a time, however many the system has of it, and whoever
else wants the event loop, or a thread the interpreter, has it in between."""
REST_SECONDS = 0.004
"""From one such piece to the next."""
_HELD_BYTES = 64 * 1024
_LINGER_SECONDS = 1.0
"""How long a connection that is to end goes on taking what comes. Where it ended at once, the system would tell the
other side so, which may drop the answer that it has not read: RFC 9112, 9.6."""
_GRACE_SECONDS = 0.2
"""That a connection of a process which is to stop has for the head of a request that is on its way."""
_TOLD = 300
"""Characters of what is wrong, which may have the whole address in it."""


class _Refused(httptools.HttpParserError):
    """What could be read, and is not taken."""

    status: ClassVar[HTTPStatus]
    code: ClassVar[str]


class HeadTooLarge(_Refused):
    """More than there may be before and after the body of a request."""

    status, code = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"


class HeadTooSlow(_Refused):
    """A head of which not all comes in the time there is."""

    status, code = HTTPStatus.REQUEST_TIMEOUT, "too_slow"


class ChunksTooSmall(_Refused):
    """A body in more chunks than there may be for its bytes."""

    status, code = HTTPStatus.BAD_REQUEST, "chunks_too_small"


class Connection(HttpToolsProtocol):
    """Ignores offers to go on in another protocol, such as `Upgrade: h2c`, as RFC 9110 (7.8) allows: such a request is
    answered as any other. The parser takes all that follows its head for the other protocol, its body among it.

    Ends where the head of a request does not come, however much of it does: clients that never ask anything would take
    the place of those that do. With a problem document where some of it has come, where a head is larger than any has
    to be, where a body comes in chunks that are too small, and where what comes is no request.
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
        self._pacing: Pacing
        self.url = b""
        self._is_in_head = False
        self._is_in_body = False
        """Or in the trailers behind it."""
        self._head_bytes = 0
        """That the parser has told of the request, without its body."""
        self._body_bytes = self._chunks = 0
        self._untold_bytes = 0
        """That came since it told anything: it keeps what it has of a header until that has ended."""
        self._is_stopping = False
        self._last_words: bytes | None = None
        """What is to be said, once all before it have their answers, of what is no request; nothing behind it is
        read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = self._pacing = Pacing(transport, self.loop)
        self._together = Together(transport, self.loop, is_more_coming=self._is_more_coming)
        self.transport = cast("asyncio.Transport", self._together)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._last_words is not None or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserCallbackError as error:
            self._refuse(error.__context__)
        except httptools.HttpParserInvalidURLError as error:
            self._refuse(httptools.HttpParserError(f"{error}: in an address, all but plain ASCII is percent-encoded"))
        except httptools.HttpParserError as error:
            self._refuse(error)
        else:
            if self._has_chunks_below(_SMALL_CHUNK_BYTES):
                self._pacing.rest()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = self._body_bytes = self._chunks = self._untold_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._take(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._take(len(name) + len(value) + _AROUND_HEADER_BYTES)
        if self._is_in_head:  # and not behind the body, where nobody looks for headers any more
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self.parser.get_method() == b"CONNECT":
            raise httptools.HttpParserError("tunnels are not made here")
        if not self._is_offer():
            self._stop_waiting()
            super().on_headers_complete()
            self._is_in_body = True
            if self._is_stopping:
                self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._has_chunks_below(_LEAST_CHUNK_BYTES):
            raise ChunksTooSmall(
                f"a body has {_FREE_CHUNKS} chunks at the most and one more for each {_LEAST_CHUNK_BYTES} bytes of it: "
                "send it in larger ones, or with Content-Length"
            )

    def on_body(self, body: bytes) -> None:
        self._untold_bytes = 0
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            return
        self.cycle.body += body
        if len(self.cycle.body) > _UNREAD_BYTES:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._is_in_body = False
        if not self._is_offer():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._together is not None:
            self._together.flush()
        is_last = not self.pipeline
        super().on_response_complete()
        if self._last_words is not None:
            if is_last:
                self._end()
        elif self.cycle.response_complete:  # nothing else has been asked yet
            self._await_head()

    def shutdown(self) -> None:
        """End once what was asked is answered; what has been asked nothing yet, or is being asked, in a moment."""
        if self.cycle is None or (self._is_in_head and self.cycle.response_complete):
            self._is_stopping = True
            self._stop_waiting()
            self._head_timer = self.loop.call_later(_GRACE_SECONDS, self.transport.close)
        else:
            super().shutdown()

    def _has_chunks_below(self, size_bytes: int) -> bool:
        return self._chunks > _FREE_CHUNKS + self._body_bytes // size_bytes

    def _is_more_coming(self) -> bool:
        return self._is_in_body or self._last_words is not None

    def _await_head(self) -> None:
        self._stop_waiting()
        self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _give_up(self) -> None:
        """No head has come."""
        if self._is_in_head:
            self._refuse(HeadTooSlow(f"the head of the request did not arrive within {self.head_seconds:g} s"))
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._untold_bytes += len(rest)
            try:
                self.parser.feed_data(rest)
                self._check_size()
                return
            except httptools.HttpParserUpgrade as upgrade:
                (head_bytes,) = upgrade.args
                rest = rest[head_bytes:]
                self._take_head_without_offer()

    def _take(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        self._untold_bytes = 0
        self._check_size()

    def _check_size(self) -> None:
        if self._head_bytes + self._untold_bytes > _HEAD_BYTES:
            raise HeadTooLarge(f"the address and the headers of a request have {_HEAD_BYTES // 1024} KiB at the most")

    def _refuse(self, reason: BaseException | None) -> None:
        """Say why this is no request, unless it has an answer or one is on its way, and end; but those before it have
        their answers first."""
        self.logger.warning("Invalid HTTP request received: %s", str(reason)[:_TOLD])
        has_answer = self._is_in_body and self.cycle.response_started
        self._last_words = b"" if has_answer else self._refusal(reason)
        if self._is_in_body and self.pipeline:
            self.pipeline.popleft()  # its own, which was queued behind the others
        elif self._is_in_body or self.cycle is None or self.cycle.response_complete:
            self._end()

    def _end(self) -> None:
        if self._last_words:
            self.transport.write(self._last_words)
        self.transport.close()

    def _refusal(self, reason: BaseException | None) -> bytes:
        status, code, detail = HTTPStatus.BAD_REQUEST, "bad_request", "this cannot be read as HTTP/1.1"
        if isinstance(reason, _Refused):
            status, code, detail = reason.status, reason.code, str(reason)
        elif isinstance(reason, httptools.HttpParserError):
            detail += f" ({str(reason)[:_TOLD]})"
        document = problems.unrouted(status, code, detail, self.url.partition(b"?")[0].decode(errors="replace"))
        headers = [
            *self.server_state.default_headers,
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(document)),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return STATUS_LINE[status] + lines + b"\r\n" + document

    def _is_offer(self) -> bool:
        """Whether the request that is being parsed can be answered without its upgrade."""
        return bool(self.parser.should_upgrade())

    def _take_head_without_offer(self) -> None:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))


class Pacing(FlowControl):
    """Stops reading for a moment where that is asked for, whoever asks to go on meanwhile."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(transport)
        self._loop = loop
        self._is_resting = self._is_to_go_on = False

    def rest(self) -> None:
        """Read nothing for some milliseconds; and then go on, unless it was paused already, and still is."""
        if not self._is_resting:
            self._is_to_go_on = not self.read_paused
            self.pause_reading()
            self._is_resting = True
            self._loop.call_later(REST_SECONDS, self._go_on)

    def pause_reading(self) -> None:
        if self._is_resting:
            self._is_to_go_on = False
        super().pause_reading()

    def resume_reading(self) -> None:
        if self._is_resting:
            self._is_to_go_on = True
        else:
            super().resume_reading()

    def _go_on(self) -> None:
        self._is_resting = False
        if self._is_to_go_on and not self._transport.is_closing():
            self.resume_reading()


class Together:
    """A transport that sends the head of an answer with the beginning of its body, where that comes at once: to send
    is the dearest of what is done for an answer; and that ends, where more is coming, in a while. All else is the
    transport's."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, *, is_more_coming: Callable[[], bool]
    ) -> None:
        self._transport, self._loop, self._is_more_coming = transport, loop, is_more_coming
        self._is_ending = False
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
        if not self.is_closing():
            self._transport.write(whole)

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more. Something may come all the same, which nobody wants."""
        return self._is_ending or self._transport.is_closing()

    def close(self) -> None:
        """Send what is held, and end."""
        if self.is_closing():
            return
        self.flush()
        if not self._is_more_coming():
            self._transport.close()
            return
        self._is_ending = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._loop.call_later(_LINGER_SECONDS, self._transport.close)


def waiting(*, head_seconds: float) -> type[Connection]:
    """Those that wait so long for the head of a request."""

    class Waiting(Connection):
        pass

    Waiting.head_seconds = head_seconds
    return Waiting
