"""The frames of HTTP/2 (RFC 9113 4.1) as they come, whole, one by one, as far as the other side may ask for work with them.

    length (3 bytes) | type (1) | flags (1) | stream (4) | payload

h2 reads what is in them. Here is bounded what h2 would wait for or answer without a bound: long frames, long header blocks, and frames that
cost something and bring nothing on. Of those each side has an allowance, which what is said to it, and time, fill up again:

| | costs |
| --- | --- |
| HEADERS, PRIORITY, PING, WINDOW_UPDATE, DATA without data or for nobody, a frame of unknown type | 1 |
| CONTINUATION, SETTINGS | 4 |
| RST_STREAM, GOAWAY | 8: so all streams of a connection can be let go at once |
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from writ.formats.errors import FormatError

PREFACE: Final = 24
"""Bytes that a client says before its first frame (RFC 9113 3.4)."""
MAX_FRAME: Final = 16 << 10
MAX_SETTINGS: Final = 32 * 6
MAX_CONTINUATIONS: Final = 8
MAX_BLOCK: Final = 32 << 10
"""Bytes of a header block as it is compressed: `MAX_HEAD` of what is in it, and padding."""
ALLOWANCE: Final = 1000
REFILL: Final = 20.0
"""A second."""
_HEAD: Final = 9
_END_HEADERS: Final = 0x4


class Type(IntEnum):
    """RFC 9113 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


_COSTS: Final[Mapping[int, int]] = {Type.DATA: 0, Type.CONTINUATION: 4, Type.SETTINGS: 4, Type.RST_STREAM: 8, Type.GOAWAY: 8}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came; the preface is one of type None."""

    type: int | None
    data: bytes

    @property
    def last_stream(self) -> int:
        """Of a GOAWAY: the last of our streams that was heard."""
        return int.from_bytes(self.data[_HEAD : _HEAD + 4], "big") & 0x7FFFFFFF


class Frames:
    """What one side sends."""

    def __init__(self, *, preface: bool) -> None:
        """`preface` where a client sends."""
        self._data, self._preface = bytearray(), preface
        self._left, self._at = float(ALLOWANCE), time.monotonic()
        self._block = self._continuations = 0
        self.heading_since = self._at

    @property
    def heading(self) -> bool:
        """Whether a header block, or what could be one, has begun and not ended."""
        return self._preface or self._block > 0 or (len(self._data) > 3 and self._data[3] != Type.DATA)

    def take(self, data: bytes) -> Iterator[Frame]:
        """Each frame that is whole now. Raises FormatError at the first that is refused, or that there is no allowance for."""
        if not self.heading:
            self.heading_since = time.monotonic()
        self._data += data
        if self._preface and len(self._data) >= PREFACE:
            self._preface = False
            yield Frame(None, self._cut(PREFACE))
        while not self._preface and len(self._data) >= _HEAD:
            length, kind, flags = int.from_bytes(self._data[:3], "big"), self._data[3], self._data[4]
            if length > (MAX_SETTINGS if kind == Type.SETTINGS else MAX_FRAME):
                raise FormatError("http2", f"frames of at most {MAX_FRAME} bytes, SETTINGS of {MAX_SETTINGS}", f"{length} of type {kind}")
            if len(self._data) < _HEAD + length:
                return
            self._count(length, kind, ends=bool(flags & _END_HEADERS))
            yield Frame(kind, self._cut(_HEAD + length))

    def spend(self, cost: int) -> None:
        """It asked for so much work. Raises FormatError where nothing is left."""
        now = time.monotonic()
        self._left, self._at = min(ALLOWANCE, self._left + (now - self._at) * REFILL) - cost, now
        if self._left < 0:
            raise FormatError("http2", f"at most {ALLOWANCE} frames that bring nothing on, and {REFILL:.0f} a second", "more")

    def earn(self, gain: int) -> None:
        """Something was said to it that it may well answer with such frames."""
        self._left += gain

    def _count(self, length: int, kind: int, *, ends: bool) -> None:
        self.spend(_COSTS.get(kind, 1))
        if kind == Type.PUSH_PROMISE:
            raise FormatError("http2", "no PUSH_PROMISE", "one")
        if kind not in (Type.HEADERS, Type.CONTINUATION):
            self.heading_since = time.monotonic()
            return
        self._continuations = 0 if kind == Type.HEADERS else self._continuations + 1
        self._block = length + 1 if kind == Type.HEADERS else self._block + length
        if self._continuations > MAX_CONTINUATIONS or self._block > MAX_BLOCK:
            raise FormatError("http2", f"a header block of at most {MAX_BLOCK} bytes and {MAX_CONTINUATIONS} CONTINUATIONs", "a longer one")
        if ends:
            self._block, self.heading_since = 0, time.monotonic()

    def _cut(self, size: int) -> bytes:
        part = bytes(self._data[:size])
        del self._data[:size]
        return part
