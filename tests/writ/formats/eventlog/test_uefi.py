"""UEFI event logs: every log the format allows is read, and nothing but FormatError for anything else."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings

from tests.parsers import assert_parser_is_total
from tests.world.uefi_logs import Boot, encode_event2, encode_log, encode_sha1_event, encode_spec_id, uefi_logs
from writ.formats.errors import FormatError
from writ.formats.eventlog import uefi
from writ.formats.eventlog.uefi import (
    EV_IPL,
    EV_NO_ACTION,
    EV_SEPARATOR,
    NO_REGISTER,
    LogKind,
    UefiLog,
    parse_uefi_log,
    read_uefi_log,
)

SHA256 = [(0x0B, 32)]
HEAD = encode_spec_id(SHA256)
SEPARATOR = encode_event2(0, EV_SEPARATOR, [(0x0B, b"d" * 32)], bytes(4))


def locality(data: bytes) -> bytes:
    return encode_event2(0, EV_NO_ACTION, [(0x0B, bytes(32))], b"StartupLocality\0" + data)


@given(uefi_logs())
def test_log_is_read_as_it_was_written(log: UefiLog) -> None:
    assert parse_uefi_log(encode_log(log)) == log


@settings(max_examples=20)
@given(uefi_logs(most=5))
def test_parser_is_total(log: UefiLog) -> None:
    assert_parser_is_total(parse_uefi_log, encode_log(log), flips=150, open_ended=True)


def test_parser_is_total_on_a_whole_boot() -> None:
    assert_parser_is_total(parse_uefi_log, encode_log(Boot().measure()), flips=1_000, open_ended=True)


def test_truncated_log_is_refused_and_read_as_far_as_it_goes() -> None:
    log = Boot().measure()
    data = encode_log(log)

    read, fault = read_uefi_log(data[:-3])

    assert fault is not None
    assert read.events == log.events[:-1]
    with pytest.raises(FormatError):
        parse_uefi_log(data[:-3])


@pytest.mark.parametrize("padding", [bytes(3), bytes(5000), b"\xff" * 64, bytes(70) + b"\xff" * 64])
def test_padding_is_no_event(padding: bytes) -> None:
    log = parse_uefi_log(HEAD + SEPARATOR + padding)
    assert (len(log.events), log.padding) == (1, len(padding))

    sha1 = parse_uefi_log(encode_sha1_event(0, EV_SEPARATOR, b"d" * 20, bytes(4)) + padding)
    assert (sha1.kind, len(sha1.events), sha1.padding) == (LogKind.SHA1, 1, len(padding))


def test_header_alone_is_a_log_without_events() -> None:
    assert parse_uefi_log(HEAD).events == ()


def test_event_of_fewer_banks_than_the_header_names_is_read() -> None:
    event = encode_event2(12, EV_IPL, [(0x0B, b"d" * 32)], b"")
    log = parse_uefi_log(encode_spec_id([(0x04, 20), (0x0B, 32)]) + event)

    assert log.events[0].digest("sha256") == b"d" * 32
    assert log.events[0].digest("sha1") is None


def test_unknown_and_sm3_banks_are_read_by_their_stated_size() -> None:
    event = encode_event2(0, EV_SEPARATOR, [(0x12, b"s" * 32), (0x7F01, b"x" * 5)], b"")
    log = parse_uefi_log(encode_spec_id([(0x12, 32), (0x7F01, 5)]) + event)

    assert log.banks == (("sm3_256", 32), ("alg-0x7f01", 5))
    assert log.events[0].digests == (("sm3_256", b"s" * 32), ("alg-0x7f01", b"x" * 5))


def test_event_without_a_register_extends_none() -> None:
    event = encode_event2(NO_REGISTER, EV_NO_ACTION, [(0x0B, bytes(32))], b"note")

    assert parse_uefi_log(HEAD + SEPARATOR + event + SEPARATOR).events[1].pcr == NO_REGISTER


def test_closing_record_of_windows_is_no_event_of_a_sha1_log() -> None:
    separator, closing = (
        encode_sha1_event(0, EV_SEPARATOR, b"d" * 20, bytes(4)),
        encode_sha1_event(NO_REGISTER, EV_NO_ACTION, bytes(20), b"w"),
    )

    assert len(parse_uefi_log(separator + closing).events) == 1
    with pytest.raises(FormatError, match="only at the end"):
        parse_uefi_log(separator + closing + separator)


def test_confidential_guest_is_told_from_a_tpm_by_its_registers() -> None:
    head = encode_spec_id([(0x0C, 48)], pcr=1)
    extended = [encode_event2(register, EV_SEPARATOR, [(0x0C, bytes(48))], bytes(4)) for register in range(5)]

    assert parse_uefi_log(head + extended[1] + extended[4]).kind is LogKind.CCEL
    assert parse_uefi_log(head + b"".join(extended)).kind is LogKind.CRYPTO_AGILE


@pytest.mark.parametrize("value", [b"\x03", b"\x03" + bytes(40)])
def test_startup_locality_is_read_also_from_a_filled_up_event(value: bytes) -> None:
    assert parse_uefi_log(HEAD + locality(value) + SEPARATOR).startup_locality == 3


MALFORMED = {
    "no bytes": b"",
    "half a Spec ID event": HEAD[:-4],
    "half a head": b"\0" * 31,
    "a log of padding alone": bytes(400),
    "a register that no TPM has": HEAD + encode_event2(24, EV_SEPARATOR, [(0x0B, bytes(32))], b""),
    "no register for an event that extends": HEAD + encode_event2(NO_REGISTER, EV_SEPARATOR, [(0x0B, bytes(32))], b""),
    "no digests": HEAD + encode_event2(1, EV_SEPARATOR, [], b""),
    "more digests than banks": HEAD + encode_event2(0, EV_SEPARATOR, [(0x0B, bytes(32))] * 2, b""),
    "a bank twice": encode_spec_id([(0x0B, 32), (0x04, 20)]) + encode_event2(0, EV_SEPARATOR, [(0x0B, bytes(32))] * 2, b""),
    "a bank that the header does not name": HEAD + encode_event2(0, EV_SEPARATOR, [(0x04, bytes(20))], b""),
    "data longer than the log": HEAD + SEPARATOR[:-8] + struct.pack("<I", 1 << 31) + bytes(4),
    "an event behind padding": HEAD + bytes(12) + SEPARATOR,
    "a wrong size of a known bank": encode_spec_id([(0x0B, 20)]),
    "an empty unknown bank": encode_spec_id([(0x7F01, 0)]),
    "a bank twice in the header": encode_spec_id(SHA256 * 2),
    "no banks": encode_spec_id([]),
    "too many banks": encode_spec_id([(0x7F00 + n, 8) for n in range(17)]),
    "bytes behind the vendor information": encode_sha1_event(0, EV_NO_ACTION, bytes(20), HEAD[32:] + b"x"),
    "a start-up locality that cannot be": HEAD + locality(b"\x01"),
    "a start-up locality without a value": HEAD + locality(b""),
    "two start-up localities": HEAD + locality(b"\0") * 2,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_malformed_log_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_uefi_log(data)


def test_log_beyond_a_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uefi, "MAX_EVENTS", 2)
    assert len(parse_uefi_log(HEAD + SEPARATOR * 2).events) == 2
    with pytest.raises(FormatError, match="at most 2 events"):
        parse_uefi_log(HEAD + SEPARATOR * 3)
    with pytest.raises(FormatError, match="at most 2 events"):
        parse_uefi_log(encode_sha1_event(0, EV_SEPARATOR, b"d" * 20, bytes(4)) * 3)

    monkeypatch.setattr(uefi, "MAX_EVENT_DATA", 3)
    with pytest.raises(FormatError, match="at most 3"):
        parse_uefi_log(HEAD + SEPARATOR)

    monkeypatch.setattr(uefi, "MAX_LOG_SIZE", len(HEAD))
    with pytest.raises(FormatError, match=f"at most {len(HEAD)} bytes"):
        parse_uefi_log(HEAD + SEPARATOR)
