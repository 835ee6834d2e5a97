"""HTTP on one connection: what uvicorn does, and what HTTP asks of a server besides."""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """Ignores offers to go on in another protocol, such as `Upgrade: h2c`, as RFC 9110 (7.8) allows: such a request is
    answered as any other. The parser takes all that follows its head for the other protocol, its body among it."""

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
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._is_offer():
            super().on_message_complete()

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
