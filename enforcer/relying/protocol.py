"""HTTP/1.1 as the relying process reads it: what has two readings is answered 400 before any application sees it.

llhttp, by httptools, reads (it refuses two lengths, a folded header, a bare line feed, a space before the colon); uvicorn serves.
What both would let pass, and two readers could take for two requests, is refused here.

Source: RFC 9112 sections 2.3, 3.2 and 9.3.
"""

from __future__ import annotations

from typing import Any, Final

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 32_768
"""Bytes of a request line and its headers, which nginx and Envoy bound lower."""


class StrictProtocol(HttpToolsProtocol):
    """One connection. A request that is refused ends it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._head, self._in_body = 0, False

    def data_received(self, data: bytes) -> None:
        """What came is read, unless the head that it belongs to is too long."""
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD and not self._in_body and not self.transport.is_closing():
            self.send_400_response(f"expected a head of at most {MAX_HEAD} bytes, got more")

    def on_headers_complete(self) -> None:
        """The request is begun: a head in bounds, one Host, a path and nothing else, HTTP/1.0 or 1.1, no other protocol to go on in."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            raise HttpParserError(f"a head of at most {MAX_HEAD} bytes")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if not self.url.startswith(b"/") or b"#" in self.url or hosts != 1 or self.parser.get_http_version() not in ("1.0", "1.1"):
            raise HttpParserError("one Host, and a target that is a path")
        if self.parser.should_upgrade():
            raise HttpParserError("no other protocol")
        self._head, self._in_body = 0, True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole; what follows is another head."""
        self._head, self._in_body = 0, False
        super().on_message_complete()
