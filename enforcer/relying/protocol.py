"""HTTP/1.1 as the relying process reads it: what has two readings is answered 400 before any application sees it.

llhttp, by httptools, reads (it refuses two lengths, a folded header, a bare line feed, a space before the colon); uvicorn serves.
What both would let pass, and two readers could take for two requests, is refused here. And uvicorn waits as long as somebody likes for
a head, for the rest of a body whose request it has answered, and for an answer to be taken; here a connection on which nothing is asked in
time is closed, and one on which nothing is taken (`service.unsent`).

Source: RFC 9112 sections 2.3, 3.2, 6.1, 7.1.2 and 9.3.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from writ.service.unsent import Taken

MAX_HEAD: Final = 32_768
"""Bytes of a request line and its headers, which nginx and Envoy bound lower."""


class StrictProtocol(Taken, HttpToolsProtocol):
    """One connection. A request that is refused ends it, as does one that is not asked within uvicorn's `timeout_keep_alive`."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._head, self._in_body = 0, False
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head is awaited."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._await_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What came is read, unless the head that it belongs to is too long."""
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD and not self._in_body and not self.transport.is_closing():
            self.send_400_response(f"expected a head of at most {MAX_HEAD} bytes, got more")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of a head, and none behind a body."""
        if self._in_body:
            raise HttpParserError("no trailers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is begun: a head in bounds, one Host, a path and nothing else, HTTP/1.0 or 1.1, no other protocol to go on in.

        A body is as long as it says, or in chunks, which HTTP/1.0 does not know, and nothing else.
        """
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            raise HttpParserError(f"a head of at most {MAX_HEAD} bytes")
        hosts = sum(name == b"host" for name, _ in self.headers)
        version = self.parser.get_http_version()
        if not self.url.startswith(b"/") or b"#" in self.url or hosts != 1 or version not in ("1.0", "1.1"):
            raise HttpParserError("one Host, and a target that is a path")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version == "1.0"):
            raise HttpParserError("chunks, of HTTP/1.1, and no other coding")
        if self.parser.should_upgrade():
            raise HttpParserError("no other protocol")
        self._head, self._in_body = 0, True
        self._await_nothing()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole; what follows is another head."""
        self._head, self._in_body = 0, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The next head is awaited, and what is left of the body before it, unless another request is being answered."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._await_head()

    def _await_head(self) -> None:
        self._await_nothing()
        self._patience = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def _await_nothing(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
