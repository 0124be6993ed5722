"""The head of one request of HTTP/1.1, strictly: what h11 would mend is refused before, and what it would choose between after."""

from __future__ import annotations

import re
import time
from typing import Final

import h11

from enforcer.wire.limits import Ended
from enforcer.wire.stream import Stream
from writ.formats.errors import FormatError

MAX_HEAD: Final = 16 << 10
END: Final = b"\r\n\r\n"
FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_HEAD: Final = re.compile(rb"(?:[\x21-\x7e][\x20-\x7e\t]*\r\n)+\r\n\Z")


def head_of(near: Stream, within: float, idle: float) -> bytes:
    """What came, at least to the end of a head; none where nothing came at all. `idle` seconds for its first byte, `within` for the rest.

    Raises FormatError above `MAX_HEAD`, Ended where it does not come whole in time.
    """
    data, seconds, end = b"", idle, None
    while END not in data:
        if len(data) > MAX_HEAD:
            raise FormatError("request", f"a head of at most {MAX_HEAD} bytes", "a longer one")
        near.settimeout(max(0.001, seconds))
        try:
            part = near.recv(MAX_HEAD)
        except TimeoutError:
            raise Ended("idle") from None
        if not part and not data:
            return b""
        end = end or time.monotonic() + within
        seconds = end - time.monotonic()
        if not part or seconds < 0:
            raise Ended("idle")
        data += part
    if data.index(END) > MAX_HEAD:
        raise FormatError("request", f"a head of at most {MAX_HEAD} bytes", "a longer one")
    return data


def read_request(data: bytes) -> tuple[h11.Request, h11.Connection, dict[bytes, bytes]]:
    """The request that `data` begins with, who reads on, and its headers by name. Raises FormatError.

    1. Lines of printable ASCII, none folded, each ending CR LF.
    2. h11 finds one request in it: one Host, headers well spelt, lengths that agree.
    3. It says its length in one way.
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
    framing = FRAMING & named.keys()
    if len(framing) > 1:
        raise FormatError("request", "a length or chunks", " and ".join(sorted(k.decode() for k in framing)))
    if b"transfer-encoding" in framing and request.http_version != b"1.1":
        raise FormatError("request", "chunks in HTTP/1.1 only", "chunks in HTTP/1.0")
    return request, reader, named
