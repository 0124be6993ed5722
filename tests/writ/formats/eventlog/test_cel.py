"""The Canonical Event Log: one spelling, and nothing but FormatError for anything else."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog.cel import ALGORITHM_IDS, CONTENT_WRIT, CelRecord, encode_cel, encode_record, parse_cel

BOTH = (Digest.of(b"x", "sha256"), Digest.of(b"x", "sha384"))
RECORD = CelRecord(0, 13, BOTH, CONTENT_WRIT, b"content")


def field(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(4, "big") + value


def spelt(
    number: bytes = bytes(8), pcr: bytes = b"\x0d", digests: bytes = field(0x0B, bytes(32)), content: bytes = field(0xE0, b"")
) -> bytes:
    return field(0, number) + field(1, pcr) + field(3, digests) + content


@st.composite
def logs(draw: st.DrawFn) -> tuple[int, tuple[CelRecord, ...]]:
    first = draw(st.integers(0, 1 << 40))
    banks = sorted(draw(st.sets(st.sampled_from(list(SIZES)), min_size=1)), key=ALGORITHM_IDS.__getitem__)
    contents = draw(st.lists(st.binary(max_size=50), max_size=5))
    return first, tuple(
        CelRecord(
            first + at, draw(st.integers(0, 23)), tuple(Digest.of(content, bank) for bank in banks), draw(st.integers(4, 255)), content
        )
        for at, content in enumerate(contents)
    )


def test_record_has_the_documented_bytes() -> None:
    digest = Digest.of(b"x")
    expected = "000000000800000000000000050100000001" + "0d" + "03000000250b00000020" + digest.hex() + "e0000000026869"
    assert encode_record(CelRecord(5, 13, (digest,), CONTENT_WRIT, b"hi")).hex() == expected


@given(logs())
def test_log_round_trips(log: tuple[int, tuple[CelRecord, ...]]) -> None:
    first, records = log
    data = encode_cel(records)
    assert parse_cel(data, first=first) == records
    if records:
        with pytest.raises(FormatError):
            parse_cel(data, first=first + 1)


def test_no_bytes_are_no_records() -> None:
    assert parse_cel(b"") == ()


def test_no_bytes_but_the_spelling_are_read() -> None:
    assert_parser_is_total(the_record, encode_record(RECORD))
    two = encode_cel([RECORD, CelRecord(1, 13, BOTH, 4, b"")])
    assert_parser_is_total(parse_cel, two, open_ended=True)


def the_record(data: bytes) -> CelRecord:
    """One record: no bytes at all are a log too, without any."""
    records = parse_cel(data)
    if len(records) != 1:
        raise FormatError("CEL", "one record", f"{len(records)}")
    return records[0]


@given(st.integers(0, 400), st.integers(0, 255))
def test_what_is_read_is_written_back_byte_for_byte(at: int, value: int) -> None:
    data = bytearray(encode_cel([RECORD, CelRecord(1, 13, BOTH, 5, b"more")]))
    data[at % len(data)] = value
    try:
        records = parse_cel(bytes(data))
    except FormatError:
        return
    assert encode_cel(records) == data


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(spelt(number=bytes(4)), id="record number of 4 bytes"),
        pytest.param(spelt(number=b"\xff" * 8), id="record number too large"),
        pytest.param(spelt(number=bytes(7) + b"\x01"), id="record number not the first"),
        pytest.param(spelt(pcr=bytes(4)), id="PCR of 4 bytes"),
        pytest.param(spelt(pcr=b""), id="PCR of no bytes"),
        pytest.param(spelt(pcr=b"\x18"), id="PCR 24"),
        pytest.param(spelt(digests=b""), id="no digest"),
        pytest.param(spelt(digests=field(0x0B, bytes(32)) * 2), id="one algorithm twice"),
        pytest.param(spelt(digests=field(0x0C, bytes(48)) + field(0x0B, bytes(32))), id="descending algorithms"),
        pytest.param(spelt(digests=field(0x0B, bytes(31))), id="short digest"),
        pytest.param(spelt(digests=field(0x0B, bytes(48))), id="digest of another algorithm's size"),
        pytest.param(spelt(digests=field(0x12, bytes(32))), id="unknown algorithm"),
        pytest.param(spelt(digests=field(0x0B, bytes(32)) + b"\x0c\0\0"), id="trailing bytes among digests"),
        pytest.param(spelt(digests=b"\x0b\xff\xff\xff\xff" + bytes(32)), id="digest longer than its field"),
        pytest.param(spelt(content=b""), id="no content"),
        pytest.param(spelt(content=field(3, b"")), id="digests for content"),
        pytest.param(spelt(content=field(0, bytes(8))), id="record number for content"),
        pytest.param(spelt(content=b"\xe0\xff\xff\xff\xff"), id="content longer than the file"),
        pytest.param(spelt() + spelt(), id="one record number twice"),
        pytest.param(spelt() + b"\0", id="trailing byte"),
        pytest.param(field(1, b"\x0d") + field(0, bytes(8)) + spelt()[19:], id="register before number"),
        pytest.param(field(0, bytes(8)) + field(2, bytes(4)) + spelt()[19:], id="NV index"),
        pytest.param(spelt(content=field(0xE0, bytes((1 << 20) + 1))), id="content too large"),
    ],
)
def test_another_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_cel(data)


def test_plain_spelling_is_read() -> None:
    assert parse_cel(spelt()) == (CelRecord(0, 13, (Digest("sha256", bytes(32)),), CONTENT_WRIT, b""),)


def test_bounds_on_records_and_bytes_hold() -> None:
    data = encode_cel(CelRecord(at, 13, BOTH, CONTENT_WRIT, b"") for at in range(3))
    assert len(parse_cel(data, max_records=3, max_size=len(data))) == 3
    with pytest.raises(FormatError, match="at most 2 records"):
        parse_cel(data, max_records=2)
    with pytest.raises(FormatError, match="bytes"):
        parse_cel(data, max_size=len(data) - 1)


def test_a_record_without_a_spelling_cannot_be_made() -> None:
    for number, pcr, digests, content_type in [
        (-1, 13, BOTH, 0xE0),
        (1 << 63, 13, BOTH, 0xE0),
        (0, -1, BOTH, 0xE0),
        (0, 24, BOTH, 0xE0),
        (0, 13, (), 0xE0),
        (0, 13, BOTH[::-1], 0xE0),
        (0, 13, (*BOTH, BOTH[1]), 0xE0),
        (0, 13, BOTH, 3),
        (0, 13, BOTH, 256),
    ]:
        with pytest.raises(FormatError):
            CelRecord(number, pcr, digests, content_type, b"")


def test_log_of_another_implementation_is_read_as_far_as_its_register_is_a_pcr(vectors: Path) -> None:
    """go-tpm-tools' log names RTMRs (index type 108): refused as it is, read with the index retyped, and written back identically."""
    published = base64.b64decode((vectors / "audit/cel/go-tpm-tools_cel.b64").read_text())
    with pytest.raises(FormatError, match="field 108"):
        parse_cel(published)
    retyped = published.replace(b"\x6c\0\0\0\x01\x04\x03\0\0\0\x35", b"\x01\0\0\0\x01\x04\x03\0\0\0\x35")
    records = parse_cel(retyped)
    assert len(records) == 18
    assert {record.content_type for record in records} == {80}
    # their digest is of the content field with its head, ours of the content alone
    assert all(record.digests == (Digest.of(field(80, record.content), "sha384"),) for record in records)
    assert encode_cel(records) == retyped
