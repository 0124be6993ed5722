"""The client of a role to the verifier: HTTP/1.1 over TLS 1.3, bounded in time and size, obeying no redirect and no proxy.

Every answer is untrusted: what it says is judged by whoever parses it. With a
signer each request carries a DPoP proof (RFC 9449) over method, address and body:

    POST /v1/attest HTTP/1.1
    DPoP: <jws: jti random, htm POST, htu https://verifier.example/v1/attest, iat, arg>

A network fault is Unavailable, whatever it was, and never a permission.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import re
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, cast
from urllib.parse import urlsplit

from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.jose import b64url, encode_dpop_payload, sign_dpop
from writ.formats.keys import Signer
from writ.service.clock import Clock

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_ANSWER: Final = 4 << 20
"""Bytes of one answer's body, unless the caller states another bound."""

_CHUNK: Final = 64 * 1024
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?\Z", re.ASCII)
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?\Z", re.ASCII)
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:; ?[a-z]+=[A-Za-z0-9._-]+)*\Z", re.ASCII)

_CERTIFICATE_FAULTS: Final = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed and not trusted",
    19: "ends in a root that is not trusted",
    20: "was issued by a CA that is not trusted",
    21: "was issued by a CA that is not trusted",
    62: "names another host",
    64: "names another address",
}
"""X509_V_ERR_* numbers of OpenSSL (x509_vfy.h), in our words."""


RECEIPT_HEADER: Final = "Writ-Receipt"
"""The COSE Receipt of the decision in an answer to evidence, in base64url."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, unjudged. `content_type` is "" where none was sent, `receipt` (of the transparency log) too."""

    status: int
    content_type: str
    body: bytes
    receipt: str = ""


class Uplink:
    """Requests to one server, one at a time, over one connection that is kept while it lasts. Close it, or use `with`."""

    def __init__(
        self,
        base_url: str,
        *,
        ca_file: Path | None,
        signer: Signer | None,
        clock: Clock,
        timeout: float = 10.0,
        max_answer: int = MAX_ANSWER,
        bearer: str | None = None,
        slowest: int | None = None,
    ) -> None:
        """`base_url` is `https://host[:port][/prefix]`, or `http:` to a loopback address; `ca_file` None takes the system's CAs.

        `timeout` is for a whole request, connection and answer included; with `slowest` a body has what it takes over a line of so many
        bytes a second beside it.
        `bearer` is an operator's API key. Raises FormatError for an address or CA file that is not one.
        """
        self._address = _parse_base(base_url)
        self._context = _tls(ca_file) if self._address.tls else None
        self._signer, self._clock = signer, clock
        self._timeout, self._max_answer, self._slowest = timeout, max_answer, slowest
        self._bearer = bearer
        self._connection: _Connection | None = None
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        """The address in its one spelling: lower case, no default port, no slash at the end."""
        return self._address.url

    def post(self, path: str, body: bytes, content_type: str, *, retry: bool = False) -> Answer:
        """The answer to POST `path`.

        `retry` says that the server takes these bytes twice for once (as
        `attest` does): only then are they sent again after a connection that
        broke when they may have arrived, once, within the same deadline and
        with a new proof. Raises Unavailable.
        """
        if not _CONTENT_TYPE.match(content_type):
            raise Misuse(f"no content type: {content_type!r}")
        return self._request("POST", path, body, content_type, retry)

    def get(self, path: str) -> Answer:
        """The answer to GET `path`; a broken connection is tried once more. Raises Unavailable."""
        return self._request("GET", path, None, None, True)

    def close(self) -> None:
        """The connection is closed; the next request opens another."""
        with self._lock:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _request(self, method: str, path: str, body: bytes | None, content_type: str | None, again: bool) -> Answer:
        if not _PATH.match(path):
            raise Misuse(f"no request path: {path[:80]!r}")
        within = self._timeout + (len(body or b"") / self._slowest if self._slowest else 0.0)
        deadline = time.monotonic() + within
        if not self._lock.acquire(timeout=self._timeout):
            raise Unavailable(self.base_url, "another request is under way")
        try:
            while True:
                try:
                    return self._attempt(method, path, body, content_type, deadline)
                except TimeoutError:
                    raise Unavailable(self.base_url, f"no answer in {within:.3g} s") from None
                except _BrokenError as error:
                    if not (again and error.may_repeat):
                        raise Unavailable(self.base_url, error.detail) from None
                    again = False
        finally:
            self._lock.release()

    def _attempt(self, method: str, path: str, body: bytes | None, content_type: str | None, deadline: float) -> Answer:
        """1. A connection, new unless the kept one is still open. 2. Send. 3. Read, bounded. 4. Keep or close."""
        done = False
        try:
            connection = self._connected(deadline)
            try:
                connection.request(method, self._address.prefix + path, body=body, headers=self._headers(method, path, body, content_type))
                answer, keep = self._answer(connection.getresponse())
            except TimeoutError:  # an OSError too, and there is no time for another attempt
                raise
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenError(_network_fault(error), may_repeat=True) from None
            done = keep
            return answer
        finally:
            if not done:
                self._drop()

    def _connected(self, deadline: float) -> _Connection:
        if self._connection is not None and not self._connection.alive():
            self._drop()
        if self._connection is None:
            connection = _Connection(self._address, self._context)
            connection.deadline = min(deadline, time.monotonic() + self._timeout)
            try:
                connection.connect()
            except TimeoutError:
                connection.shut()
                raise _BrokenError(f"no connection in {self._timeout:g} s", may_repeat=False) from None
            except OSError as error:
                connection.shut()
                raise _BrokenError(_network_fault(error), may_repeat=False) from None
            self._connection = connection
        self._connection.deadline = deadline
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shut()
            self._connection = None

    def _headers(self, method: str, path: str, body: bytes | None, content_type: str | None) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "writ"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if self._bearer is not None:
            headers["Authorization"] = f"Bearer {self._bearer}"
        if self._signer is not None:
            headers["DPoP"] = sign_dpop(
                encode_dpop_payload(
                    jti=secrets.token_urlsafe(24),
                    htm=method,
                    htu=self.base_url + path.partition("?")[0],
                    iat=self._clock.now(),
                    arg=b64url(Digest.of(body or b"").value),
                ),
                self._signer,
            )
        return headers

    def _answer(self, response: http.client.HTTPResponse) -> tuple[Answer, bool]:
        """The answer and whether the connection can be kept. What is too long, unbounded or a redirect is refused."""
        if 300 <= response.status < 400:
            raise _BrokenError(f"expected an answer, got a redirect ({response.status})", may_repeat=False)
        declared = response.length
        if declared is None and not response.chunked:
            raise _BrokenError("expected an answer that states its length, got one that does not", may_repeat=False)
        if declared is not None and declared > self._max_answer:
            raise _BrokenError(f"expected at most {self._max_answer} bytes, got {declared}", may_repeat=False)
        body = bytearray()
        while chunk := response.read(_CHUNK):
            body += chunk
            if len(body) > self._max_answer:
                raise _BrokenError(f"expected at most {self._max_answer} bytes, got more", may_repeat=False)
        if declared is not None and len(body) != declared:
            raise _BrokenError(f"expected {declared} bytes, got {len(body)}", may_repeat=True)
        content_type = response.getheader("Content-Type") or ""
        return Answer(response.status, content_type, bytes(body), response.headers.get(RECEIPT_HEADER, "")), not response.will_close


class _BrokenError(Exception):
    """A request did not come to its end. `may_repeat`: a second attempt has a chance, if the caller allows one."""

    def __init__(self, detail: str, *, may_repeat: bool) -> None:
        self.detail = detail
        self.may_repeat = may_repeat
        super().__init__(detail)


def _network_fault(error: OSError | http.client.HTTPException) -> str:
    """What happened, in our words or the system's own for an errno; never a library's text."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate {_CERTIFICATE_FAULTS.get(error.verify_code, f'was refused (code {error.verify_code})')}"
    if isinstance(error, ssl.SSLError):
        return "no TLS 1.3 connection"
    if isinstance(error, socket.gaierror):
        return "the name of the server is unknown"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server closed the connection"
    if isinstance(error, http.client.HTTPException):
        return "expected an HTTP answer, got something else"
    return error.strerror or "the connection broke"


# --- the address --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Address:
    tls: bool
    host: str
    port: int
    prefix: str
    url: str


def _parse_base(text: str) -> _Address:
    what, shown = "verifier address", repr(text.rpartition("@")[2][:80])  # without a password, if there is one
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise FormatError(what, "https://host[:port]", shown) from None
    if parts.scheme not in ("http", "https") or not host or not text.isascii() or not text.isprintable():
        raise FormatError(what, "https://host[:port]", shown)
    if parts.username is not None or parts.query or parts.fragment or not _PREFIX.match(parts.path):
        raise FormatError(what, "no user, query or fragment", "one of them")
    tls = parts.scheme == "https"
    if not tls and not _is_loopback(host):
        raise FormatError(what, "https, or http to a loopback address", f"http to {host[:80]}")
    default = 443 if tls else 80
    port = default if port is None else port
    name = f"[{host}]" if ":" in host else host
    prefix = parts.path.rstrip("/")
    url = f"{parts.scheme}://{name}" + ("" if port == default else f":{port}") + prefix
    return _Address(tls, host, port, prefix, url)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """TLS 1.3 only, certificate and name checked, nothing resumed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    try:
        context.load_verify_locations(cafile=ca_file)
    except ssl.SSLError:
        raise FormatError(f"CA file {ca_file}", "certificates in PEM", "something else") from None
    except OSError as error:
        raise FormatError(f"CA file {ca_file}", "a readable file", error.strerror or "an unreadable one") from None
    return context


# --- one deadline over all that a connection does -----------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    """An HTTP connection of which every operation ends by `deadline` (time.monotonic seconds)."""

    def __init__(self, address: _Address, context: ssl.SSLContext | None) -> None:
        super().__init__(address.host, address.port)
        self._address, self._context = address, context
        self._socket: socket.socket | None = None
        self.deadline = 0.0

    def left(self) -> float:
        """Seconds left, above 0. Raises TimeoutError."""
        if (left := self.deadline - time.monotonic()) <= 0:
            raise TimeoutError
        return left

    def connect(self) -> None:
        """Connected, with TLS if the address asks for it; without TLS the peer is on this machine. Raises OSError."""
        sock = self._reach()
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                sock.settimeout(self.left())
                sock = self._context.wrap_socket(sock, server_hostname=self._address.host)
            elif not _is_loopback(sock.getpeername()[0]):
                raise ConnectionRefusedError(0, "localhost is not this machine")
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        # http.client asks of its socket only what _DeadlineSocket has
        self.sock = cast("socket.socket", _DeadlineSocket(sock, self.left))

    def _reach(self) -> socket.socket:
        """A TCP connection to the first of the host's addresses that answers."""
        refused: OSError = ConnectionRefusedError(0, "the server has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.left())
                sock.connect(address)
            except OSError as error:
                sock.close()
                refused = error
            else:
                return sock
        raise refused

    def shut(self) -> None:
        """The connection is closed for good, whatever was still to be read from it."""
        with contextlib.suppress(OSError):
            self.close()
            if self._socket is not None:
                self._socket.close()

    def alive(self) -> bool:
        """Whether the idle connection is still open: nothing is to be read from it, neither data nor its end."""
        if self._socket is None or self.sock is None:
            return False
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poller.poll(0)


class _DeadlineSocket:
    """A socket that gives each operation only the time that is left."""

    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self._sock, self._left = sock, left

    def sendall(self, data: bytes) -> None:
        """All of `data` is sent. Raises TimeoutError."""
        view = memoryview(data)
        while view:
            self._sock.settimeout(self._left())
            view = view[self._sock.send(view[:_CHUNK]) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        """A reader; it keeps the deadline too."""
        if mode != "rb":
            raise Misuse(f"no mode {mode!r}")
        return io.BufferedReader(_DeadlineReader(self._sock, self._left))

    def close(self) -> None:
        """Nothing: http.client closes before the answer is read; `_Connection.shut` is the end."""


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        super().__init__()
        self._sock, self._left = sock, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._sock.settimeout(self._left())
        return self._sock.recv_into(buffer)
