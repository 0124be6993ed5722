"""W3C trace context: which trace a request says that it belongs to, as a record keeps it.

    00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01      version, trace id, parent id, flags

Whoever asks says what it likes: nobody checks it and nothing is decided by it. What is no `traceparent` is as if there were none, never
an error; `tracestate` and `baggage` are not looked at.

>>> said = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
>>> len(parse_traceparent(said)), traceparent(parse_traceparent(said)) == said
(25, True)
>>> parse_traceparent(said.upper())

Source: W3C Trace Context, Recommendation of 23 November 2021, sections 3.2.2 (traceparent) and 4.3 (versioning).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

HEADER: Final = b"traceparent"
MAX_LENGTH: Final = 512
"""Of a later version, which may say more."""
_SAID: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.ASCII | re.DOTALL)
_SAMPLED: Final = 1


def parse_traceparent(said: object) -> bytes | None:
    """Trace id, parent id and flags, 25 bytes; None for what is no `traceparent`, whatever it is.

    1. A version, which is not ff; 00 is 55 characters, a later one may go on behind a dash.
    2. Ids in small letters, neither of them zero.
    3. Of a later version no flag is known but `sampled`.
    """
    # 1
    found = _SAID.match(said) if isinstance(said, str) and len(said) <= MAX_LENGTH else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return None
    # 2
    trace, parent, flags = bytes.fromhex(found[2]), bytes.fromhex(found[3]), int(found[4], 16)
    if not any(trace) or not any(parent):
        return None
    # 3
    return trace + parent + bytes([flags if found[1] == "00" else flags & _SAMPLED])


def trace_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """That of the one `traceparent` among `headers`; None where there is none, or several, or another."""
    said = [value for name, value in headers if name.lower() == HEADER]
    if len(said) != 1 or not said[0].isascii():
        return None
    return parse_traceparent(said[0].decode("ascii").strip(" \t"))


def traceparent(trace: bytes) -> str:
    """The trace as a `traceparent` of version 00."""
    return f"00-{trace[:16].hex()}-{trace[16:24].hex()}-{trace[24:].hex()}"
