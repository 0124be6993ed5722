"""The TCG Canonical Event Log, TLV encoding: records to frozen types and back.

Each field is type (1 byte), length (4 bytes, big-endian), value. A record is
exactly four fields in this order:

    00 00000008 0000000000000000      record number, 8 bytes
    01 00000001 0d                    PCR index, 1 byte
    03 00000025 0b 00000020 9f86…     digests: nested fields, type = TPM algorithm id
    e0 00000007 …                     content: type and bytes

Digests ascend by algorithm id and each algorithm occurs once, so a log has
one spelling. Record numbers are consecutive. The content is opaque here; ours
is `CONTENT_WRIT`, read by `runtime.py`. NV-index records are refused: an NV
index can be redefined by software, so nothing of ours is measured into one.

That a log parses says nothing about any PCR: replay it and compare with a quote.

Source: TCG Canonical Event Log Format v1.0, sections 4 and 5 (numbers as in
deployed implementations); TPM 2.0 Library Part 2, TPM_ALG_ID.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from writ.formats.digest import PCR_COUNT, SIZES, Digest
from writ.formats.errors import FormatError

FIELD_RECORD_NUMBER: Final = 0
FIELD_PCR: Final = 1
FIELD_DIGESTS: Final = 3

CONTENT_WRIT: Final = 0xE0
"""Content type of Writ's runtime events. The specification assigns 4 to 8, one vendor uses 80; ours is not registered."""

ALGORITHM_IDS: Final[dict[str, int]] = {"sha1": 0x04, "sha256": 0x0B, "sha384": 0x0C, "sha512": 0x0D}
"""TPM_ALG_ID by digest name, ascending."""

MAX_RECORDS: Final = 100_000
MAX_LOG_SIZE: Final = 32 << 20
MAX_CONTENT: Final = 1 << 20
"""Bytes."""

_NAMES: Final = {number: name for name, number in ALGORITHM_IDS.items()}
_WHAT: Final = "CEL"


@dataclass(frozen=True, slots=True)
class CelRecord:
    """One measured event. Raises FormatError unless it has a spelling.

    `digests` are what was extended into `pcr`, one for each bank, ascending by
    algorithm id. `content_type` is 4 to 255, `content` opaque.
    """

    record_number: int
    pcr: int
    digests: tuple[Digest, ...]
    content_type: int
    content: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.record_number < 1 << 63:
            raise FormatError(f"{_WHAT} record number", "0 to 2**63-1", str(self.record_number)[:40])
        if not 0 <= self.pcr < PCR_COUNT:
            raise FormatError(f"{_WHAT} PCR", f"0 to {PCR_COUNT - 1}", str(self.pcr)[:40])
        ids = [ALGORITHM_IDS[digest.algorithm] for digest in self.digests]
        if not ids or ids != sorted(set(ids)):
            raise FormatError(f"{_WHAT} digests", "at least one, ascending by algorithm id, each once", f"ids {ids}")
        if not FIELD_DIGESTS < self.content_type <= 0xFF:
            raise FormatError(f"{_WHAT} content type", "4 to 255", str(self.content_type)[:40])
        if len(self.content) > MAX_CONTENT:
            raise FormatError(f"{_WHAT} content", f"at most {MAX_CONTENT} bytes", f"{len(self.content)} bytes")


def _field(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(4, "big") + value


def encode_record(record: CelRecord) -> bytes:
    """The bytes of one record."""
    digests = b"".join(_field(ALGORITHM_IDS[digest.algorithm], digest.value) for digest in record.digests)
    return (
        _field(FIELD_RECORD_NUMBER, record.record_number.to_bytes(8, "big"))
        + _field(FIELD_PCR, bytes((record.pcr,)))
        + _field(FIELD_DIGESTS, digests)
        + _field(record.content_type, record.content)
    )


def encode_cel(records: Iterable[CelRecord]) -> bytes:
    """The bytes of a log: its records, one behind the other. Whether their numbers follow each other is the reader's to judge."""
    return b"".join(map(encode_record, records))


def _read_field(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """The type of the field at `at`, and where its value starts and ends; the whole lies before `end`."""
    start = at + 5
    if start > end:
        raise FormatError(_WHAT, "a field head of 5 bytes", f"{end - at} bytes", at)
    stop = start + int.from_bytes(data[at + 1 : start], "big")
    if stop > end:
        raise FormatError(_WHAT, f"a field of {stop - start} bytes", f"{end - start} bytes", at)
    return data[at], start, stop


def _expect(data: bytes, at: int, kind: int, size: int | None, name: str) -> tuple[int, int]:
    found, start, stop = _read_field(data, at, len(data))
    if found != kind:
        raise FormatError(_WHAT, f"the {name} (field {kind})", f"field {found}", at)
    if size is not None and stop - start != size:
        raise FormatError(_WHAT, f"a {name} of {size} bytes", f"{stop - start} bytes", at)
    return start, stop


def _read_digests(data: bytes, start: int, stop: int) -> tuple[Digest, ...]:
    digests: list[Digest] = []
    while start < stop:
        number, value, end = _read_field(data, start, stop)
        if number not in _NAMES:
            raise FormatError(_WHAT, "a known hash algorithm id", f"{number:#04x}", start)
        if end - value != SIZES[_NAMES[number]]:
            raise FormatError(_WHAT, f"{SIZES[_NAMES[number]]} bytes of {_NAMES[number]}", f"{end - value} bytes", start)
        digests.append(Digest(_NAMES[number], data[value:end]))
        start = end
    return tuple(digests)


def parse_cel(data: bytes, *, first: int = 0, max_records: int = MAX_RECORDS, max_size: int = MAX_LOG_SIZE) -> tuple[CelRecord, ...]:
    """Read a log whose record numbers are `first`, `first` + 1, …

    No bytes are no records. Raises FormatError, and nothing else, on any
    bytes: a truncated record, another order of fields, an unknown algorithm, a
    number out of sequence, trailing bytes, too many records or bytes.
    """
    if len(data) > max_size:
        raise FormatError(_WHAT, f"at most {max_size} bytes", f"{len(data)} bytes")
    records: list[CelRecord] = []
    at = 0
    while at < len(data):
        if len(records) == max_records:
            raise FormatError(_WHAT, f"at most {max_records} records", "more", at)
        # 1. Its number, the next one.
        start, stop = _expect(data, at, FIELD_RECORD_NUMBER, 8, "record number")
        number = int.from_bytes(data[start:stop], "big")
        if number != first + len(records):
            raise FormatError(_WHAT, f"record number {first + len(records)}", f"{number}", at)
        # 2. Its register.
        start, stop = _expect(data, stop, FIELD_PCR, 1, "PCR index")
        pcr = data[start]
        # 3. What was extended.
        start, stop = _expect(data, stop, FIELD_DIGESTS, None, "digests")
        digests = _read_digests(data, start, stop)
        # 4. What it stands for.
        content_type, start, stop = _read_field(data, stop, len(data))
        records.append(CelRecord(number, pcr, digests, content_type, data[start:stop]))
        at = stop
    return tuple(records)
