"""The head of one request, strictly: to the proxy, `CONNECT HOST:PORT` or a method on an absolute `http://` URL; within a tunnel, a path.

h11 reads lines of HTTP/1.1; what it would mend (bare line feeds, folded lines, other characters) is refused before, and what it would
choose between (a length and chunks) after. Fields of HTTP/2 become the request that those lines would have been, and are judged as that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import h11

from enforcer.gates.egress.url import path_of
from enforcer.wire.destination import HTTP, HTTPS, Destination, parse_authority
from enforcer.wire.head import FRAMING, read_request
from writ.formats.action import METHODS, WEBSOCKET
from writ.formats.errors import FormatError
from writ.formats.strict import encode_json
from writ.formats.trace import trace_of

_URL: Final = re.compile(r"http://([^/?#]+)(/[^?#]*)?(\?[^#]*)?\Z")
_HOP: Final = frozenset(
    {
        b"connection", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"keep-alive", b"te", b"trailer", b"upgrade",
        b"expect",
    }
)  # fmt: skip
"""What is said to the next hop and not beyond (RFC 9110 7.6.1). The framing is h11's to say anew."""

Headers = list[tuple[bytes, bytes]]


_OVERRIDES: Final = frozenset(
    {
        b"x-http-method", b"x-http-method-override", b"x-method-override", b"x-original-method", b"x-forwarded-method",
        b"x-original-url", b"x-rewrite-url", b"x-original-uri", b"x-forwarded-uri",
    }
)  # fmt: skip
"""By which some servers take another method or path than those of the request line."""
_PSEUDO: Final = (b":authority", b":method", b":path", b":scheme")
_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+\Z")
_VALUE: Final = re.compile(rb"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?\Z")
_LENGTH: Final = re.compile(rb"(?:0|[1-9][0-9]{0,17})\Z")
_OF_ONE_CONNECTION: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
"""RFC 9113 8.2.2."""
_HEAD_ONLY: Final = frozenset(
    {
        b"host", b"authorization", b"cookie", b"set-cookie", b"cache-control", b"content-encoding", b"content-range", b"content-type",
        b"max-forwards", b"range",
    }
)  # fmt: skip
"""What nobody may say after the content: it says whom a message is for, by whom, or how it is read (RFC 9110 6.5.1)."""
_ALIKE: Final = FRAMING | {b"host"}
"""What CGI, and whatever descends from it, takes for these where a header says `_` for `-`."""
_KEY: Final = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==\Z")
"""16 bytes in base64 (RFC 6455 4.1)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the agent asks of the proxy. `onward` is the request as it is sent on, None for a tunnel; `reader` has read the head.

    `trace` is what it says of its trace.
    """

    destination: Destination
    method: str
    target: str
    onward: h11.Request | None
    reader: h11.Connection
    trace: bytes | None = None

    @property
    def arguments(self) -> bytes:
        """The one spelling of what was asked, sealed beside the record."""
        return encode_json({"method": self.method, "target": self.target})


@dataclass(frozen=True, slots=True)
class Asked:
    """One request on a URL. `action` and `resource` are what is decided; `onward` is what is sent on once it may pass.

    `trace` is what it says of its trace.
    """

    destination: Destination
    secure: bool
    action: str
    resource: str
    onward: h11.Request
    trace: bytes | None

    @property
    def arguments(self) -> bytes:
        """The one spelling of what was asked, sealed beside the record."""
        return encode_json({"method": self.onward.method.decode("ascii"), "target": self.onward.target.decode("ascii")})


def parse_head(data: bytes) -> Wanted:
    """Read what is asked of the proxy, with what follows it. Raises FormatError.

    1. One request, strictly.
    2. CONNECT has no content.
    3. The target names a host and a port.
    4. The Host header, where there is one, names the same.
    """
    # 1
    request, reader, named = read_request(data)
    # 2
    if request.method == b"CONNECT" and (framing := FRAMING & named.keys()):
        raise FormatError("request", "for CONNECT no length and no chunks", " and ".join(sorted(k.decode() for k in framing)))
    # 3
    target = request.target.decode("ascii")
    if request.method == b"CONNECT":
        destination, path = parse_authority(target), None
    else:
        found = _URL.match(target)
        if found is None:
            raise FormatError("request.target", "http://HOST/PATH, and for anything else CONNECT HOST:PORT", repr(target)[:80])
        destination, path = parse_authority(found[1], port=HTTP), (found[2] or "/") + (found[3] or "")
    # 4
    _check_host(named, destination, HTTP if path else destination.port)
    onward = None if path is None else _onward(request, destination, path, HTTP, keep=False)
    trace = trace_of(request.headers.raw_items())
    return Wanted(destination, request.method.decode("ascii"), target, onward, reader, trace)


def asked_of_proxy(wanted: Wanted) -> Asked:
    """The same as a request on a URL, where what is wanted is no tunnel. Raises FormatError."""
    if wanted.onward is None:
        raise FormatError("request", "a request on a URL", wanted.method)
    return _asked(wanted.destination, wanted.onward, secure=False, action=_action(wanted.method))


def parse_asked(data: bytes, destination: Destination, *, secure: bool) -> tuple[Asked, h11.Connection]:
    """Read one request that was sent to `destination` itself, and who reads what follows it. Raises FormatError.

    1. One request, strictly, with a method of the list, on a path.
    2. The Host header names the destination.
    3. A WebSocket's handshake is one, whole; to anything else it is not upgraded (RFC 9110 7.8 lets a server pass over it).
    """
    # 1
    request, reader, named = read_request(data)
    action, target = _action(request.method.decode("ascii")), request.target.decode("ascii")
    if not target.startswith("/"):
        raise FormatError("request.target", "a path", repr(target)[:80])
    # 2
    if b"host" not in named:
        raise FormatError("request.host", destination.authority, "none")
    default = HTTPS if secure else HTTP
    _check_host(named, destination, default)
    # 3
    if websocket := named.get(b"upgrade", b"").lower() == b"websocket":
        _check_websocket(request, named)
        action = WEBSOCKET
    onward = _onward(request, destination, target, default, keep=True, websocket=websocket)
    return _asked(destination, onward, secure=secure, action=action), reader


def parse_fields(fields: Headers, destination: Destination, *, ended: bool) -> Asked:
    """Read the fields of one request of HTTP/2 to `destination` itself; `ended` where no content follows. Raises FormatError.

    1. :method, :scheme, :authority and :path, each once and before all else; the scheme is https.
    2. Names in small letters and values of printable ASCII, as a line of HTTP/1.1 could hold them.
    3. Nothing is said of this connection alone.
    4. One length at most, and none where nothing follows. Without one, chunks take its place further on.
    5. As a request of HTTP/1.1: its method, its path, and its authority, which names the destination.
    """
    # 1
    pseudo, rest = dict(fields[: len(_PSEUDO)]), fields[len(_PSEUDO) :]
    if tuple(sorted(pseudo)) != _PSEUDO or pseudo[b":scheme"] != b"https":
        raise FormatError("request", ":method, :scheme https, :authority and :path, each once and first", repr(sorted(pseudo))[:80])
    # 2
    _check_fields([(name[1:], value) for name, value in pseudo.items()] + rest)
    # 3
    if said := _OF_ONE_CONNECTION & {name for name, _ in rest}:
        raise FormatError("request", "nothing of one connection alone", ", ".join(sorted(name.decode() for name in said)))
    trailers = [field for field in rest if field[0] == b"te"]
    if trailers not in ([], [(b"te", b"trailers")]):
        raise FormatError("request.te", "trailers", repr(trailers)[:80])
    # 4
    lengths = [value for name, value in rest if name == b"content-length"]
    if len(lengths) > 1 or not all(map(_LENGTH.match, lengths)) or (ended and lengths not in ([], [b"0"])):
        raise FormatError("request", "at most one length, which agrees with the content", repr(lengths)[:80])
    # 5
    target = pseudo[b":path"].decode("ascii")
    if not target.startswith("/"):
        raise FormatError("request.target", "a path", repr(target)[:80])
    action = _action(pseudo[b":method"].decode("ascii"))
    headers = [(b"host", pseudo[b":authority"]), *rest]
    for name, value in headers:
        _check_host({name: value}, destination, HTTPS)
    if not ended and not lengths:
        headers.append((b"Transfer-Encoding", b"chunked"))
    try:
        request = h11.Request(
            method=pseudo[b":method"], target=target, headers=[headers[0], *(one for one in headers[1:] if one[0] != b"host")]
        )
        onward = _onward(request, destination, target, HTTPS, keep=True, more=trailers)
    except h11.LocalProtocolError as error:
        raise FormatError("request", "a request of HTTP", str(error)[:80]) from None
    return _asked(destination, onward, secure=True, action=action)


def parse_trailers(fields: Headers) -> Headers:
    """Read what follows a content of HTTP/2. Raises FormatError for what belongs into a head, or is no field."""
    _check_fields(fields)
    if said := (_HOP | FRAMING | _OVERRIDES | _HEAD_ONLY | _OF_ONE_CONNECTION) & {name for name, _ in fields}:
        raise FormatError("trailers", "nothing that belongs into a head", ", ".join(sorted(name.decode() for name in said)))
    return fields


def _check_fields(fields: Headers) -> None:
    for name, value in fields:
        if not _NAME.match(name) or not _VALUE.match(value):
            raise FormatError("request", "names in small letters, and values of printable ASCII", repr((name, value))[:80])


def _check_host(named: dict[bytes, bytes], destination: Destination, default: int) -> None:
    host = named.get(b"host")
    if host is not None and parse_authority(host.decode("ascii"), port=default) != destination:
        raise FormatError("request.host", destination.authority, repr(host.decode("ascii"))[:80])


def _check_websocket(request: h11.Request, named: dict[bytes, bytes]) -> None:
    """A client's opening handshake (RFC 6455 4.1). Raises FormatError."""
    names = [name for name, _ in request.headers]
    if names.count(b"sec-websocket-key") != 1 or names.count(b"sec-websocket-version") != 1:
        raise FormatError("request.upgrade", "one Sec-WebSocket-Key and one Sec-WebSocket-Version", "none, or several")
    words = {word.strip().lower() for word in named.get(b"connection", b"").split(b",")}
    if request.method != b"GET" or request.http_version != b"1.1" or b"upgrade" not in words or FRAMING & named.keys():
        raise FormatError("request.upgrade", "GET of HTTP/1.1 with Connection: Upgrade and no content", request.method.decode("ascii"))
    if named[b"sec-websocket-version"] != b"13" or not _KEY.match(named[b"sec-websocket-key"]):
        raise FormatError("request.upgrade", "Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key of 16 bytes", "another")


def _action(method: str) -> str:
    if method not in METHODS:
        raise FormatError("request.method", ", ".join(sorted(METHODS)), repr(method)[:40])
    return f"http.{method.lower()}"


def _asked(destination: Destination, onward: h11.Request, *, secure: bool, action: str) -> Asked:
    """The path in its one spelling, in what is decided and in what is sent on. Raises FormatError."""
    path, mark, query = onward.target.decode("ascii").partition("?")
    path = path_of(path)
    if "#" in query:
        raise FormatError("request.target", "no fragment", repr(query)[:80])
    if override := {name for name, _ in onward.headers if _is_override(name)}:
        raise FormatError("request", "no other method, path, host or length in a header", ", ".join(sorted(k.decode() for k in override)))
    sent = h11.Request(method=onward.method, target=path + mark + query, headers=list(onward.headers.raw_items()))
    resource = f"{'https' if secure else 'http'}://{destination.authority}{path}"
    return Asked(destination, secure, action, resource, sent, trace_of(onward.headers.raw_items()))


def _is_override(name: bytes) -> bool:
    spelt = name.replace(b"_", b"-")
    return spelt in _OVERRIDES or (spelt != name and spelt in _ALIKE)


def _onward(
    request: h11.Request, destination: Destination, path: str, default: int, *,
    keep: bool, websocket: bool = False, more: Iterable[tuple[bytes, bytes]] = (),
) -> h11.Request:  # fmt: skip
    """The request in origin form, as it goes on."""
    host = destination.authority.removesuffix(f":{default}")
    headers = [(b"Host", host.encode()), *end_to_end(list(request.headers.raw_items()), b"host"), *more]
    if websocket:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    elif not keep:
        headers += [(b"Connection", b"close")]
    return h11.Request(method=request.method, target=path, headers=headers)


def end_to_end(headers: Headers, *left_out: bytes) -> Headers:
    """Without what was said to this hop alone: by its name, or because Connection names it; framing is never left out."""
    listed = {
        word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")
    } - FRAMING  # fmt: skip
    gone = _HOP | listed | set(left_out)
    return [(name, value) for name, value in headers if name.lower() not in gone]
