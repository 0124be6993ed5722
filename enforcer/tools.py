"""What a permitted action is forwarded to: a local program on standard input and output, or a relying service over HTTP.

A local program is started by the holder, in the instance's own cgroup but not
among the agent's processes, under another uid, so that the agent can neither
signal nor trace it nor write to its pipes. It gets one JSON-RPC 2.0 request a
line and answers with one a line; there is no handshake, and no more of MCP than
this one method (a whole server of it is `mcp_server`):

    {"id":1,"jsonrpc":"2.0","method":"tools/call","params":{"arguments":{…},"name":"read"}}

A relying service gets the canonical arguments as the body of a POST, with the
token and a proof of possession bound to this very call; redirects are not followed.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from enforcer.credential import Held
from enforcer.estate import HeldTool
from enforcer.launch.cgroup import Cgroup
from enforcer.launch.process import Program, Running, start
from enforcer.standstill import Standstill
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.formats.keys import Signer
from writ.formats.lease import LEASE_HEADER
from writ.formats.reason import Reason
from writ.formats.strict import b64url, decode_json, encode_json
from writ.service.clock import Clock

CALL_WITHIN: Final = 30.0
MAX_REPLY: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: the result as JSON bytes in one spelling, and whether the tool says that it did what was asked."""

    done: bool
    body: bytes


def spelt(value: object) -> bytes:
    """The one spelling of decoded JSON. Raises FormatError for text that has none (a lone surrogate)."""
    try:
        return encode_json(value)
    except UnicodeEncodeError:
        raise FormatError("JSON text", "Unicode", "a lone surrogate") from None


class Tool(Protocol):
    """Something an action can be forwarded to."""

    def action(self, method: str, arguments: bytes) -> Action:
        """The action that this call is. Raises FormatError."""

    def turn(self) -> AbstractContextManager[object]:
        """The caller's turn: within it, nobody else's call comes between what is decided and what is forwarded."""

    def against(self, method: str) -> Reason | None:
        """What the tool itself has against this call, before anybody decides it. Raises Unavailable, FormatError."""

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, record: bytes = b"") -> Reply:
        """Forward an action that passes, whose record has this leaf hash; an observed one has no token. Raises Unavailable, FormatError."""

    def leave(self, within: float) -> HeldTool | None:
        """No call is made any more, and one in flight fails. What goes over to other code, which is only what runs by itself."""

    def close(self) -> None:
        """End it, and whatever call is in flight."""


def piped(program: Program, cgroup: Cgroup, errors: int) -> tuple[Running, tuple[int, int]]:
    """`program` runs, its standard error going to `errors`; what it reads, and what it says, are ours. Raises Unavailable."""
    server_in, into = os.pipe()
    out, server_out = os.pipe()
    try:
        running = start(program, cgroup, (server_in, server_out, errors))
    except Unavailable:
        os.close(into)
        os.close(out)
        raise
    finally:
        os.close(server_in)
        os.close(server_out)
    os.set_blocking(into, False)
    return running, (into, out)


class StdioTool:
    """A local program. One call at a time; one that breaks the protocol is out of use, a late answer is passed over."""

    def __init__(self, name: str, running: Running, pipes: tuple[int, ...], asked: int = 0, rest: bytes = b"") -> None:
        """`running` takes requests and answers on `pipes`; with none it is out of use. It was `asked` so often; `rest` was read."""
        self._name, self._running, self._next, self._rest = name, running, asked, rest
        self._in, self._out = pipes or (-1, -1)
        self._lock, self._still = threading.RLock(), Standstill()

    @classmethod
    def started(cls, name: str, program: Program, cgroup: Cgroup, errors: int) -> StdioTool:
        """Start it, its standard error going to `errors`. Raises Unavailable."""
        return cls(name, *piped(program, cgroup, errors))

    def leave(self, within: float) -> HeldTool:
        """No call is made any more, and one in flight fails: an answer to it that comes late is passed over."""
        self._still.call()
        if not self._lock.acquire(timeout=within):
            raise Unavailable(f"tool {self._name}", "its call does not end")
        self._lock.release()
        pipes = () if self._in < 0 else (self._in, self._out)
        return HeldTool(self._name, self._running.outer.pid, self._running.init, pipes, self._next, self._rest)

    @property
    def pid(self) -> int:
        """The pid of its sandbox."""
        return self._running.outer.pid

    def action(self, method: str, arguments: bytes) -> Action:
        """`tool.call` on `mcp:<tool>/<method>`."""
        return Action("tool.call", f"mcp:{self._name}/{method}", Digest.of(arguments))

    def turn(self) -> AbstractContextManager[object]:
        """It does one thing at a time: a call that waits for another is decided when it can be done, under the token of then."""
        return self._lock

    def against(self, method: str) -> Reason | None:
        """Nothing: it says nothing of itself."""

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, record: bytes = b"") -> Reply:
        """One tools/call and its answer."""
        with self._lock:
            if self._in < 0 or self._still.called:
                raise Unavailable(f"tool {self._name}", "it is not running")
            self._next += 1
            request = b'{"id":%d,"jsonrpc":"2.0","method":"tools/call","params":{"arguments":%s,"name":%s}}\n' % (
                self._next, arguments, encode_json(method),
            )  # fmt: skip
            end = time.monotonic() + CALL_WITHIN
            try:
                self._write(request, end)
                while True:
                    reply = self._answer(self._read_line(end))
                    if reply is not None:
                        return reply
                    if time.monotonic() > end:
                        raise Unavailable(f"tool {self._name}", f"old answers only within {CALL_WITHIN:.0f} s")
            except FormatError:
                self._drop()
                raise

    def _write(self, data: bytes, end: float) -> None:
        view = memoryview(data)
        while view:
            if not select.select([self._still.descriptor], [self._in], [], max(0.0, end - time.monotonic()))[1]:
                self._drop()  # half a request may be in the pipe
                raise Unavailable(f"tool {self._name}", f"it took no request within {CALL_WITHIN:.0f} s")
            try:
                view = view[os.write(self._in, view) :]
            except OSError as error:
                self._drop()
                raise Unavailable(f"tool {self._name}", f"{error.strerror}") from None

    def _read_line(self, end: float) -> bytes:
        while b"\n" not in self._rest:
            if len(self._rest) > MAX_REPLY:
                raise FormatError(f"tool {self._name}", f"a line of at most {MAX_REPLY} bytes", "more")
            ready = select.select([self._out, self._still.descriptor], [], [], max(0.0, end - time.monotonic()))[0]
            if self._still.called:
                raise Unavailable(f"tool {self._name}", "the enforcer comes over to other code")
            if not ready:
                raise Unavailable(f"tool {self._name}", f"no answer within {CALL_WITHIN:.0f} s")
            part = os.read(self._out, 65536)
            if not part:
                self._drop()
                raise Unavailable(f"tool {self._name}", "it ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _answer(self, line: bytes) -> Reply | None:
        """The reply to the request in flight; None for a late one to an earlier request."""
        value = decode_json(line, f"tool {self._name}", max_size=MAX_REPLY)
        if not isinstance(value, Mapping) or value.get("jsonrpc") != "2.0" or type(value.get("id")) is not int or value["id"] > self._next:
            raise FormatError(f"tool {self._name}", f"a JSON-RPC 2.0 answer to {self._next}", repr(value)[:80])
        if value["id"] < self._next:
            return None
        if ("result" in value) == ("error" in value):
            raise FormatError(f"tool {self._name}", "a result or an error", "both or none")
        if "error" in value:
            return Reply(False, spelt(value["error"]))
        result: Any = value["result"]
        return Reply(not (isinstance(result, Mapping) and result.get("isError") is True), spelt(result))

    def _drop(self) -> None:
        if self._in >= 0:
            os.close(self._in)
            os.close(self._out)
            self._in = self._out = -1

    def close(self) -> None:
        """Kill it. A call in flight fails."""
        with contextlib.suppress(OSError):
            self._running.outer.kill()
        with self._lock:
            self._drop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.outer.wait(timeout=5)


class RelyingService:
    """A service that checks Writ's tokens itself (`enforcer.relying`). The agent sees neither token nor proof."""

    def __init__(self, name: str, url: str, key: Signer, clock: Clock, cafile: str | None = None) -> None:
        """`url` is https, or http to a loopback address. Raises FormatError."""
        parts = urlsplit(url)
        loopback = parts.hostname in ("127.0.0.1", "localhost", "::1")
        plain = parts.scheme == "https" or (parts.scheme == "http" and loopback)
        if not plain or not parts.hostname or parts.query or parts.fragment:
            raise FormatError(f"services.{name}.url", "an https URL without query, or http to loopback", repr(url)[:120])
        self._name, self._url, self._key, self._clock = name, url.rstrip("/"), key, clock
        self._tls = ssl.create_default_context(cafile=cafile) if parts.scheme == "https" else None
        self._live: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = False

    def action(self, method: str, arguments: bytes) -> Action:
        """`http.post` on the exact URL, as the service's middleware reads it from the request."""
        return Action("http.post", f"{self._url}/{method}", Digest.of(arguments))

    def turn(self) -> AbstractContextManager[object]:
        """At once: no call waits for another."""
        return contextlib.nullcontext()

    def against(self, method: str) -> Reason | None:
        """Nothing: what it does is behind its URL."""

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, record: bytes = b"") -> Reply:
        """One POST and its answer. 2xx is done; what the service refused is its answer, not done."""
        if held is None:
            raise Unavailable(f"service {self._name}", "it takes a token, and an observed agent has none")
        payload = encode_dpop_payload(
            jti=b64url(secrets.token_bytes(24)), htm="POST", htu=action.resource, iat=self._clock.now(),
            ath=b64url(held.token.digest.value), act=action.name, res=action.resource, arg=b64url(action.arguments.value),
        )  # fmt: skip
        headers = {
            "Authorization": f"DPoP {held.compact}",
            "DPoP": sign_dpop(payload, self._key),
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        if held.lease is not None:
            headers[LEASE_HEADER] = b64url(held.lease.data)
        parts = urlsplit(action.resource)
        made = http.client.HTTPSConnection if self._tls is not None else http.client.HTTPConnection
        options: dict[str, Any] = {"timeout": CALL_WITHIN} | ({"context": self._tls} if self._tls is not None else {})
        connection = made(parts.hostname or "", parts.port, **options)
        with self._lock:
            if self._closed:
                raise Unavailable(f"service {self._name}", "cut off")
            self._live.add(connection)
        try:
            connection.request("POST", parts.path or "/", body=arguments, headers=headers)
            answer = connection.getresponse()
            body = answer.read(MAX_REPLY + 1)
            status, kind = answer.status, answer.headers.get_content_type()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"service {self._name}", type(error).__name__) from None
        finally:
            with self._lock:
                self._live.discard(connection)
            connection.close()
        return Reply(200 <= status < 300, self._spelt(body, kind))

    def _spelt(self, body: bytes, kind: str) -> bytes:
        """JSON in one spelling; text becomes a JSON text. Raises FormatError for anything else, and above the bound."""
        if len(body) > MAX_REPLY:
            raise FormatError(f"service {self._name}", f"at most {MAX_REPLY} bytes", "more")
        if not kind.startswith("text/"):
            return spelt(decode_json(body, f"service {self._name}", max_size=MAX_REPLY))
        try:
            return spelt(body.decode("utf-8"))
        except UnicodeDecodeError:
            raise FormatError(f"service {self._name}", "UTF-8", "other bytes") from None

    def leave(self, within: float) -> None:
        """It is made anew from the configuration."""
        self.close()

    def close(self) -> None:
        """No call is made any more, and those in flight are cut off."""
        with self._lock:
            self._closed = True
            for connection in self._live:
                with contextlib.suppress(OSError, AttributeError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
