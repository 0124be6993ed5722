"""RATS Conceptual Message Wrappers: a typed blob (record), and a map of them (collection).

    {"quote": ["application/vnd.writ.quote", h'…', 4], "__cmwc_t": "tag:…"}        4 = evidence (bit 2)

Ours is a flat CBOR collection with text labels. Foreign ones may have integer
labels, tagged records and collections within collections.

>>> parse_collection(encode_collection({"q": ("text/plain", b"hi", None)}, collection_type=None)).get("q")
Record(type='text/plain', value=b'hi', indicator=None)

Source: RFC 9999 sections 3.1 to 3.3; RFC 9277 section 4.3 for TN().
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cbor2

from writ.formats.errors import FormatError
from writ.formats.strict import MAX_SIZE, Fields, b64url, decode_cbor, decode_json, encode_cbor, encode_json, parse_b64url

REFERENCE_VALUES: Final = 1
ENDORSEMENTS: Final = 2
EVIDENCE: Final = 4
ATTESTATION_RESULTS: Final = 8
APPRAISAL_POLICY: Final = 16

_TYPE_KEY: Final = "__cmwc_t"
_INDICATORS: Final = 31
_TN: Final = range(0x63740101, 0x63740101 + 255 * 256)
"""Tags that stand for CoAP content formats 0 to 65024 (RFC 9277 section 4.3)."""
_MOST: Final = 64
_MOST_DEEP: Final = 4


@dataclass(frozen=True, slots=True)
class Record:
    """One message. `type` is a media type or a CoAP content format; `indicator` a set of bits, or None."""

    type: str | int
    value: bytes
    indicator: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.type, str):
            if not 3 <= len(self.type) <= 256 or "/" not in self.type or not self.type.isascii() or not self.type.isprintable():
                raise FormatError("CMW record", "a media type", repr(self.type)[:80])
        elif isinstance(self.type, bool) or not 0 <= self.type <= 65535:
            raise FormatError("CMW record", "a content format from 0 to 65535", repr(self.type)[:40])
        if self.indicator is not None and (isinstance(self.indicator, bool) or not 1 <= self.indicator <= _INDICATORS):
            raise FormatError("CMW record", f"an indicator from 1 to {_INDICATORS}", repr(self.indicator)[:40])


@dataclass(frozen=True, slots=True)
class Collection:
    """Messages by label, in the order of their encoding. Never empty."""

    type: str | None
    members: tuple[tuple[str | int, Record | Collection], ...]

    def get(self, label: str | int) -> Record | Collection | None:
        """The member called `label`, where there is one."""
        return dict(self.members).get(label)

    def record(self, label: str | int) -> Record | None:
        """The member called `label`, where there is one and it is a record."""
        member = self.get(label)
        return member if isinstance(member, Record) else None


def encode_collection(members: Mapping[str, tuple[str | int, bytes, int | None]], *, collection_type: str | None) -> bytes:
    """The CBOR collection of (type, value, indicator) by label. Raises FormatError for what `parse_collection` would refuse."""
    value: dict[str, object] = {label: _items(Record(*member)) for label, member in members.items()}
    if collection_type is not None:
        value[_TYPE_KEY] = collection_type
    data = encode_cbor(value)
    parse_collection(data, max_size=len(data))
    return data


def _items(record: Record) -> list[object]:
    return [record.type, record.value, *([] if record.indicator is None else [record.indicator])]


def parse_collection(data: bytes, *, what: str = "CMW collection", foreign: bool = False, max_size: int = MAX_SIZE) -> Collection:
    """Read a CBOR collection of 1 to 64 members. Raises FormatError.

    Ours is deterministic, flat and has text labels; with `foreign` the labels
    may be integers, records may be tagged by content format, and collections
    may stand within, four deep.
    """
    value = decode_cbor(data, what, max_size=max_size, tags=_TN if foreign else (), one_spelling=not foreign)
    return _collection(value, what, foreign, 1)


def _collection(value: object, what: str, foreign: bool, depth: int) -> Collection:
    if not isinstance(value, dict) or depth > _MOST_DEEP:
        raise FormatError(what, f"a map, at most {_MOST_DEEP} deep", type(value).__name__)
    kind = _collection_type(value.get(_TYPE_KEY), what) if _TYPE_KEY in value else None
    members = {label: member for label, member in value.items() if label != _TYPE_KEY}
    if not 1 <= len(members) <= _MOST:
        raise FormatError(what, f"1 to {_MOST} members", f"{len(members)}")
    found: list[tuple[str | int, Record | Collection]] = []
    for label, member in members.items():
        if (isinstance(label, str) and not 1 <= len(label) <= 128) or not (foreign or isinstance(label, str)):
            raise FormatError(what, "labels of 1 to 128 characters", repr(label)[:80])
        if isinstance(member, dict) and foreign:
            found.append((label, _collection(member, what, foreign, depth + 1)))
        else:
            found.append((label, _record(member, what)))
    return Collection(kind, tuple(found))


def _collection_type(value: object, what: str) -> str:
    return Fields({_TYPE_KEY: value}, what).text(_TYPE_KEY, least=1, most=256)


def _record(value: object, what: str) -> Record:
    if isinstance(value, cbor2.CBORTag) and isinstance(value.value, bytes):
        high, low = divmod(value.tag - _TN.start, 256)
        if low == 255:
            raise FormatError(what, "a tag of a content format", f"tag {value.tag}")
        return Record(high * 255 + low, value.value)
    if not isinstance(value, list) or not 2 <= len(value) <= 3:
        raise FormatError(what, "a record of type, value and perhaps an indicator", type(value).__name__)
    kind, content, indicator = value[0], value[1], value[2] if len(value) == 3 else None
    _record_types(kind, content, bytes, indicator, len(value), what)
    return Record(kind, content, indicator)


def _record_types(kind: Any, content: object, content_type: type, indicator: Any, size: int, what: str) -> None:
    if not isinstance(kind, str | int) or not isinstance(content, content_type) or (size == 3 and not isinstance(indicator, int)):
        raise FormatError(what, "a record of type, value and perhaps an indicator", "other types")


def parse_record(data: bytes, *, what: str = "CMW record", foreign: bool = False, max_size: int = MAX_SIZE) -> Record:
    """Read one CBOR record, an array or (foreign) tagged by its content format. Raises FormatError."""
    return _record(decode_cbor(data, what, max_size=max_size, tags=_TN if foreign else (), one_spelling=not foreign), what)


def encode_record(record: Record) -> bytes:
    """The record as a CBOR array."""
    return encode_cbor(_items(record))


def parse_json_record(data: bytes, *, what: str = "CMW record", max_size: int = MAX_SIZE) -> Record:
    """Read one JSON record, `["<media type>", "<base64url>", indicator?]`. Raises FormatError."""
    value = decode_json(data, what, max_size=max_size)
    if not isinstance(value, list) or not 2 <= len(value) <= 3:
        raise FormatError(what, "an array of type, value and perhaps an indicator", type(value).__name__)
    kind, content, indicator = value[0], value[1], value[2] if len(value) == 3 else None
    _record_types(kind, content, str, indicator, len(value), what)
    return Record(kind, parse_b64url(content, what), indicator)


def encode_json_record(record: Record) -> bytes:
    """The record as a JSON array."""
    items = _items(record)
    items[1] = b64url(record.value)
    return encode_json(items)
