"""SPDM measurements: a signed answer to a request for all blocks, and nothing less."""

from __future__ import annotations

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.nvidia import BLOCKS, NONCE, Device, record, tlv
from writ.formats.errors import FormatError
from writ.formats.tee.spdm import MAX_MESSAGE, Measurements, parse_measurements

REPORT = Device().report(blocks={2: b"\2" * 48, 1: b"\1" * 32}, opaque=tlv([(3, b"1.0\0")]))


def parse(data: bytes) -> Measurements:
    return parse_measurements(data, signature_size=96)


def test_report_gives_nonce_blocks_and_what_is_signed() -> None:
    found = parse(REPORT)
    assert (found.nonce, found.slot) == (NONCE, 0)
    assert [(block.index, block.kind, block.is_raw, block.value) for block in found.blocks] == [
        (2, 1, False, b"\2" * 48), (1, 1, False, b"\1" * 32),
    ]  # fmt: skip
    assert (found.value(1), found.value(3)) == (b"\1" * 32, None)
    assert (found.signed, found.signature) == (REPORT[:-96], REPORT[-96:])
    assert found.opaque == tlv([(3, b"1.0\0")])


def test_raw_blocks_of_any_size_are_read() -> None:
    raw = record({50: b"\1\2", 51: b""}, kind=0x83)
    changed = REPORT[:41] + bytes((2,)) + len(raw).to_bytes(3, "little") + raw + REPORT[45 + len(record({2: bytes(48), 1: bytes(32)})) :]
    assert [(block.index, block.kind, block.is_raw, block.value) for block in parse(changed).blocks] == [
        (50, 3, True, b"\1\2"), (51, 3, True, b""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "at, byte",
    [
        pytest.param(0, 0x12, id="request of SPDM 1.2"),
        pytest.param(1, 0xE1, id="another request"),
        pytest.param(2, 0x00, id="no signature asked"),
        pytest.param(3, 0x01, id="one block asked"),
        pytest.param(37, 0x12, id="response of SPDM 1.2"),
        pytest.param(38, 0x7F, id="an error"),
        pytest.param(41, 0x00, id="no blocks"),
        pytest.param(41, 0x01, id="fewer blocks than there are"),
        pytest.param(41, 0x03, id="more blocks than there are"),
        pytest.param(45, 0x00, id="index 0"),
        pytest.param(45, 0xFF, id="index 255"),
        pytest.param(45, 0x01, id="an index twice"),
        pytest.param(46, 0x02, id="not DMTF"),
        pytest.param(50, 0x2F, id="value shorter than its block"),
    ],
)
def test_what_is_no_such_message_is_refused(at: int, byte: int) -> None:
    assert REPORT[at] != byte
    with pytest.raises(FormatError):
        parse(REPORT[:at] + bytes((byte,)) + REPORT[at + 1 :])


def test_size_is_bounded() -> None:
    with pytest.raises(FormatError, match=f"at most {MAX_MESSAGE} bytes"):
        parse(bytes(MAX_MESSAGE + 1))


def test_parser_is_total() -> None:
    assert_parser_is_total(parse, REPORT)
    assert_parser_is_total(parse, Device().report(blocks=BLOCKS), flips=300)
