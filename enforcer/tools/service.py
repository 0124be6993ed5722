"""A relying service over HTTP: the canonical arguments are the body of a POST, with the token and a proof of possession bound to this very
call; redirects are not followed."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import socket
import ssl
import threading
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

from enforcer.credential import Held
from enforcer.tools.tool import CALL_WITHIN, MAX_REPLY, Led, Reply, spelt
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.formats.keys import Signer
from writ.formats.lease import LEASE_HEADER
from writ.formats.reason import Reason
from writ.formats.strict import b64url, decode_json
from writ.formats.trace import traceparent
from writ.service.clock import Clock


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

    def call(self, action: Action, method: str, arguments: bytes, held: Held | None, led: Led) -> Reply:
        """One POST and its answer. 2xx is done; what the service refused is its answer, not done. The proof names the permit's record."""
        if held is None:
            raise Unavailable(f"service {self._name}", "it takes a token, and an observed agent has none")
        payload = encode_dpop_payload(
            jti=b64url(secrets.token_bytes(24)), htm="POST", htu=action.resource, iat=self._clock.now(),
            ath=b64url(held.token.digest.value), act=action.name, res=action.resource, arg=b64url(action.arguments.value),
            led=b64url(led.record),
        )  # fmt: skip
        headers = {
            "Authorization": f"DPoP {held.compact}",
            "DPoP": sign_dpop(payload, self._key),
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        if led.trace is not None:
            headers["traceparent"] = traceparent(led.trace)
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
        return Reply(200 <= status < 300, self._spelt(body, kind), status)

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
