"""DER as certificates and CRLs use it: elements read in order, each once, with nothing left over.

Strict where a spelling could hide something (lengths, trailing bytes, tags),
and silent about the order within a SET, which real manufacturers get wrong
and which no meaning depends on. What is kept is the bytes as they came.

>>> sequence = DerReader(bytes.fromhex("30050201070500"), "specimen").sequence("whole")
>>> sequence.integer("number"), sequence.next("null").tag
(7, 5)

Source: X.690 sections 8 and 10; RFC 5280 section 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Final

from writ.formats.errors import FormatError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OID: Final = 0x06
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

_TEXTS: Final = {0x0C: "utf-8", 0x12: "ascii", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}
"""UTF8String, NumericString, PrintableString, TeletexString, IA5String, BMPString."""
_MOST_OID: Final = 64
"""Bytes of one object identifier."""
_TIMES: Final = {UTC_TIME: 12, GENERALIZED_TIME: 14}
"""Digits of each kind of time."""
_EPOCH: Final = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Element:
    """One element: its tag, its content, and all its bytes as they stand."""

    tag: int
    content: bytes
    raw: bytes


def element_end(data: bytes, at: int, what: str) -> tuple[int, int, int]:
    """(tag, start of content, end) of the element at `at`: single-byte tags, shortest definite lengths. Raises FormatError."""
    if at + 2 > len(data):
        raise FormatError(what, "a DER element", "the end", at)
    tag, length, start = data[at], data[at + 1], at + 2
    if tag & 0x1F == 0x1F:
        raise FormatError(what, "a tag of one byte", f"{tag:02x}", at)
    if length > 0x80:
        size = length - 0x80
        length = int.from_bytes(data[start : start + size], "big")
        start += size
        if size > 4 or length < 0x80 or length.bit_length() <= 8 * (size - 1):
            raise FormatError(what, "a shortest DER length", "another spelling", at)
    elif length == 0x80:
        raise FormatError(what, "a definite length", "an indefinite one", at)
    if start + length > len(data):
        raise FormatError(what, f"{length} bytes", f"{max(0, len(data) - start)} bytes", at)
    return tag, start, start + length


class DerReader:
    """Elements one after the other. Every method raises FormatError, and nothing else, on any bytes."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    @property
    def next_tag(self) -> int | None:
        """The tag of the next element, None at the end."""
        return self._data[self._at] if self.more else None

    @property
    def rest(self) -> bytes:
        """What is left."""
        return self._data[self._at :]

    def error(self, field: str, expected: str, got: str) -> FormatError:
        """The error to raise about `field`."""
        return FormatError(f"{self._what}.{field}", expected, got)

    def next(self, field: str, tag: int | None = None) -> Element:
        """The next element, which must have `tag` where one is given."""
        what = f"{self._what}.{field}"
        found, start, end = element_end(self._data, self._at, what)
        if tag is not None and found != tag:
            raise FormatError(what, f"tag {tag:02x}", f"tag {found:02x}")
        element = Element(found, self._data[start:end], self._data[self._at : end])
        self._at = end
        return element

    def optional(self, field: str, tag: int) -> Element | None:
        """The next element if it has `tag`."""
        return self.next(field) if self.next_tag == tag else None

    def inside(self, element: Element, field: str) -> DerReader:
        """A reader of what `element` holds."""
        return DerReader(element.content, f"{self._what}.{field}")

    def sequence(self, field: str, tag: int = SEQUENCE) -> DerReader:
        """A reader of the next element, a SEQUENCE or what `tag` says."""
        return self.inside(self.next(field, tag), field)

    def integer(self, field: str, *, most: int = 64) -> int:
        """A signed INTEGER of at most `most` bytes."""
        content = self.next(field, INTEGER).content
        if not 1 <= len(content) <= most:
            raise self.error(field, f"1 to {most} bytes", f"{len(content)} bytes")
        return int.from_bytes(content, "big", signed=True)

    def boolean(self, field: str) -> bool:
        """A BOOLEAN, one byte 00 or ff."""
        content = self.next(field, BOOLEAN).content
        if content not in (b"\0", b"\xff"):
            raise self.error(field, "00 or ff", content[:4].hex())
        return content == b"\xff"

    def bits(self, field: str) -> bytes:
        """A BIT STRING, all of whose bytes are whole."""
        content = self.next(field, BIT_STRING).content
        if content[:1] != b"\0":
            raise self.error(field, "a BIT STRING of whole bytes", content[:1].hex() or "nothing")
        return content[1:]

    def flags(self, field: str) -> frozenset[int]:
        """A BIT STRING of named bits: the numbers of those that are set."""
        content = self.next(field, BIT_STRING).content
        if not content or content[0] > 7 or len(content) > 5:
            raise self.error(field, "a BIT STRING of at most 32 bits", content[:8].hex() or "nothing")
        return frozenset(bit for bit in range(8 * (len(content) - 1)) if content[1 + bit // 8] >> (7 - bit % 8) & 1)

    def oid(self, field: str) -> str:
        """An OBJECT IDENTIFIER, dotted."""
        content = self.next(field, OID).content
        if not content or len(content) > _MOST_OID or content[-1] & 0x80:
            raise self.error(field, f"an object identifier of 1 to {_MOST_OID} bytes", content[:16].hex() or "nothing")
        arcs, value, fresh = [], 0, True
        for byte in content:
            if fresh and byte == 0x80:
                raise self.error(field, "arcs without leading zeros", content[:16].hex())
            value, fresh = value << 7 | byte & 0x7F, not byte & 0x80
            if fresh:
                arcs.append(value)
                value = 0
        first = min(arcs[0] // 40, 2)
        return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))

    def time(self, field: str) -> int:
        """A UTCTime or GeneralizedTime, in seconds since the epoch: whole seconds, in UTC (RFC 5280 section 4.1.2.5)."""
        element = self.next(field)
        digits = _TIMES.get(element.tag)
        text = element.content[:20].decode("ascii", "replace")
        if digits is None or len(element.content) != digits + 1 or text[-1] != "Z" or not (text[:-1].isascii() and text[:-1].isdigit()):
            raise self.error(field, "YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ", repr(text))
        century = "" if digits == 14 else "19" if text[:2] >= "50" else "20"
        try:
            return _midnight(century + text[:-7]) + _within_a_day(text[-7:-1])
        except ValueError:
            raise self.error(field, "a time that exists", repr((century + text)[:20])) from None

    def done(self) -> None:
        """Refuse bytes that nothing asked for."""
        if self.more:
            raise FormatError(self._what, "nothing more", f"{len(self._data) - self._at} bytes")


@lru_cache(maxsize=4096)
def _midnight(day: str) -> int:
    """Seconds since the epoch at the start of YYYYMMDD in UTC; a revocation list names few days, many times. Raises ValueError."""
    return 86_400 * (date(int(day[:4]), int(day[4:6]), int(day[6:])).toordinal() - _EPOCH)


def _within_a_day(text: str) -> int:
    """Seconds of HHMMSS since midnight; no leap second. Raises ValueError."""
    hour, minute, second = int(text[:2]), int(text[2:4]), int(text[4:])
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError("no such time of day")
    return 3600 * hour + 60 * minute + second


def text_of(element: Element) -> str | None:
    """The text of a string element, None where it is of another type. Raises FormatError where it is not what its type says."""
    encoding = _TEXTS.get(element.tag)
    if encoding is None:
        return None
    try:
        return element.content.decode(encoding)
    except UnicodeDecodeError:
        raise FormatError("text", f"text in {encoding}", element.content[:16].hex()) from None
