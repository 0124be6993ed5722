"""The head of one request to the proxy, strictly: `CONNECT HOST:PORT`, or a method on an absolute `http://` URL.

h11 reads it; what h11 would mend (bare line feeds, folded lines, other characters) is refused before, and what it would choose
between (a length and chunks) after.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import h11

from enforcer.gates.egress.destination import Destination, parse_authority
from writ.formats.errors import FormatError
from writ.formats.strict import encode_json

MAX_HEAD: Final = 16 << 10
END: Final = b"\r\n\r\n"
HTTP: Final = 80
_HEAD: Final = re.compile(rb"(?:[\x21-\x7e][\x20-\x7e\t]*\r\n)+\r\n\Z")
_URL: Final = re.compile(r"http://([^/?#]+)(/[^?#]*)?(\?[^#]*)?\Z")
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_HOP: Final = frozenset(
    {
        b"connection", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"keep-alive", b"te", b"trailer", b"upgrade",
        b"expect",
    }
)  # fmt: skip
"""What is said to the next hop and not beyond (RFC 9110 7.6.1). The framing is h11's to say anew."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the agent asks of the proxy. `onward` is the request as it is sent on, None for a tunnel; `reader` has read the head."""

    destination: Destination
    method: str
    target: str
    onward: h11.Request | None
    reader: h11.Connection

    @property
    def arguments(self) -> bytes:
        """The one spelling of what was asked, sealed beside the record."""
        return encode_json({"method": self.method, "target": self.target})


def parse_head(data: bytes) -> Wanted:
    """Read the head, with what follows it. Raises FormatError.

    1. Lines of printable ASCII, none folded, each ending CR LF.
    2. h11 finds one request in it: one Host, headers well spelt, lengths that agree.
    3. CONNECT has no content; anything else says its length in one way.
    4. The target names a host and a port.
    5. The Host header, where there is one, names the same.
    """
    # 1
    head = data[: data.find(END) + len(END)]
    if not _HEAD.match(head):
        raise FormatError("request", "lines of printable ASCII, each ending CR LF, none folded", repr(head)[:80])
    # 2
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    try:
        reader.receive_data(data)
        request = reader.next_event()
    except h11.RemoteProtocolError as error:
        raise FormatError("request", "a request of HTTP/1.1", str(error)[:80]) from None
    if not isinstance(request, h11.Request) or request.http_version not in (b"1.0", b"1.1"):
        raise FormatError("request", "a request of HTTP/1.1", repr(head)[:80])
    # 3
    named = dict(request.headers)
    framing = _FRAMING & named.keys()
    if len(framing) > 1 or (framing and request.method == b"CONNECT"):
        raise FormatError("request", "a length or chunks, and for CONNECT none", " and ".join(sorted(k.decode() for k in framing)))
    if b"transfer-encoding" in framing and request.http_version != b"1.1":
        raise FormatError("request", "chunks in HTTP/1.1 only", "chunks in HTTP/1.0")
    # 4
    target = request.target.decode("ascii")
    if request.method == b"CONNECT":
        destination, path = parse_authority(target), None
    else:
        found = _URL.match(target)
        if found is None:
            raise FormatError("request.target", "http://HOST/PATH, and for anything else CONNECT HOST:PORT", repr(target)[:80])
        destination, path = parse_authority(found[1], port=HTTP), (found[2] or "/") + (found[3] or "")
    # 5
    host = named.get(b"host")
    if host is not None and parse_authority(host.decode("ascii"), port=HTTP if path else destination.port) != destination:
        raise FormatError("request.host", destination.authority, repr(host.decode("ascii"))[:80])
    onward = None if path is None else _onward(request, destination, path)
    return Wanted(destination, request.method.decode("ascii"), target, onward, reader)


def _onward(request: h11.Request, destination: Destination, path: str) -> h11.Request:
    """The request in origin form, for this one exchange on a connection of its own."""
    host = destination.authority.removesuffix(f":{HTTP}")
    headers = [(b"Host", host.encode()), *end_to_end(list(request.headers.raw_items()), b"host"), (b"Connection", b"close")]
    return h11.Request(method=request.method, target=path, headers=headers)


def end_to_end(headers: Headers, *left_out: bytes) -> Headers:
    """Without what was said to this hop alone: by its name, or because Connection names it; framing is never left out."""
    listed = {
        word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")
    } - _FRAMING  # fmt: skip
    gone = _HOP | listed | set(left_out)
    return [(name, value) for name, value in headers if name.lower() not in gone]
