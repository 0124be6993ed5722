from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.writ.formats.tpm.damage import assert_total, reads_exactly_or_refuses
from tests.writ.formats.tpm.strategies import attests
from writ.formats.errors import FormatError, Misuse
from writ.formats.tpm.attest import TPM_GENERATED, Attest, CertifyInfo, CreationInfo, QuoteInfo, encode_attest, parse_attest
from writ.formats.tpm.pcr import PcrSelection

QUOTE = Attest(
    magic=TPM_GENERATED,
    type_tag=0x8018,
    qualified_signer=b"\x00\x0b" + bytes(32),
    extra_data=b"\xaa" * 32,
    clock=1_000,
    reset_count=3,
    restart_count=1,
    safe=True,
    firmware_version=0x2019_1023_0016_3636,
    body=QuoteInfo(PcrSelection((("sha256", (0, 1, 10)),)), b"\xbb" * 32),
)
CERTIFY = replace(QUOTE, type_tag=0x8017, body=CertifyInfo(b"\x00\x0b" + b"\1" * 32, b"\x00\x0b" + b"\2" * 32))
CREATION = replace(QUOTE, type_tag=0x801A, body=CreationInfo(b"\x00\x0b" + b"\1" * 32, b"\3" * 32))


@given(attests())
def test_attest_is_read_as_it_was_written(attest: Attest) -> None:
    assert parse_attest(encode_attest(attest)) == attest
    assert parse_attest(attest.raw).raw == attest.raw


@given(st.binary(max_size=200))
def test_any_bytes_are_an_attest_or_a_format_error(data: bytes) -> None:
    reads_exactly_or_refuses(parse_attest, encode_attest, data)


@pytest.mark.parametrize("specimen", [QUOTE, CERTIFY, CREATION], ids=lambda a: a.type)
def test_damaged_attest_is_refused(specimen: Attest) -> None:
    assert_total(parse_attest, encode_attest, specimen.raw)


def test_each_type_has_its_own_part_and_no_other() -> None:
    assert [(a.type, a.quote is None, a.certify is None, a.creation is None) for a in (QUOTE, CERTIFY, CREATION)] == [
        ("quote", False, True, True),
        ("certify", True, False, True),
        ("creation", True, True, False),
    ]


def test_wrong_magic_is_kept_for_the_judge() -> None:
    assert parse_attest(b"\xff\x54\x43\x48" + QUOTE.raw[4:]) == replace(QUOTE, magic=0xFF544348)


@pytest.mark.parametrize("tag", [0x8014, 0x8015, 0x8016, 0x8019, 0x801C, 0, 0xFFFF])
def test_type_that_is_not_read_is_unknown_and_kept_raw(tag: int) -> None:
    attest = parse_attest(QUOTE.raw[:4] + tag.to_bytes(2, "big") + QUOTE.raw[6:])
    assert (attest.type, attest.type_tag, attest.quote) == ("unknown", tag, None)
    assert isinstance(attest.body, bytes)
    assert QUOTE.raw.endswith(attest.body)


def test_quote_relabelled_as_certification_is_not_one() -> None:
    with pytest.raises(FormatError):
        parse_attest(QUOTE.raw[:4] + b"\x80\x17" + QUOTE.raw[6:])


@pytest.mark.parametrize("safe", [2, 255])
def test_safe_that_is_neither_yes_nor_no_is_refused(safe: int) -> None:
    at = QUOTE.raw.index(b"\xaa" * 32) + 32 + 8 + 4 + 4
    assert QUOTE.raw[at] == 1
    with pytest.raises(FormatError, match="safe"):
        parse_attest(QUOTE.raw[:at] + bytes([safe]) + QUOTE.raw[at + 1 :])


def test_largest_fields_fit_and_one_byte_more_does_not() -> None:
    largest = replace(QUOTE, qualified_signer=bytes(66), extra_data=bytes(66), body=QuoteInfo(PcrSelection(()), bytes(64)))
    assert parse_attest(encode_attest(largest)) == largest
    assert parse_attest(replace(CERTIFY, body=CertifyInfo(bytes(66), bytes(66))).raw).certify == CertifyInfo(bytes(66), bytes(66))
    assert parse_attest(replace(CREATION, body=CreationInfo(bytes(66), bytes(64))).raw).creation == CreationInfo(bytes(66), bytes(64))
    with pytest.raises(FormatError, match="qualifiedSigner at byte 8: expected at most 66 bytes, got 67"):
        parse_attest(QUOTE.raw[:6] + b"\x00\x43" + bytes(200))
    with pytest.raises(FormatError, match="extraData at byte 10: expected at most 66 bytes, got 67"):
        parse_attest(QUOTE.raw[:6] + b"\x00\x00\x00\x43" + bytes(200))


@pytest.mark.parametrize(
    "body",
    [
        QuoteInfo(PcrSelection(()), bytes(65)),
        CertifyInfo(bytes(67), b""),
        CertifyInfo(b"", bytes(67)),
        CreationInfo(bytes(67), b""),
        CreationInfo(b"", bytes(65)),
    ],
)
def test_body_that_does_not_fit_is_not_written(body: QuoteInfo | CertifyInfo | CreationInfo) -> None:
    tag = {QuoteInfo: 0x8018, CertifyInfo: 0x8017, CreationInfo: 0x801A}[type(body)]
    with pytest.raises(FormatError):
        encode_attest(replace(QUOTE, type_tag=tag, body=body))


def test_oversized_attest_is_refused_before_it_is_read() -> None:
    with pytest.raises(FormatError, match="at most 4096 bytes"):
        parse_attest(replace(QUOTE, type_tag=0x8019, body=b"").raw + bytes(5000))


@pytest.mark.parametrize("tag, body", [(0x8018, b""), (0x8019, QUOTE.body), (0x8017, CREATION.body)])
def test_type_tag_that_contradicts_the_body_is_misuse(tag: int, body: QuoteInfo | CreationInfo | bytes) -> None:
    with pytest.raises(Misuse):
        replace(QUOTE, type_tag=tag, body=body)


@pytest.mark.parametrize(
    "field, value",
    [("extra_data", bytes(67)), ("qualified_signer", bytes(67)), ("clock", 1 << 64), ("reset_count", -1), ("firmware_version", 1 << 64)],
)
def test_field_that_does_not_fit_is_not_written(field: str, value: object) -> None:
    with pytest.raises(FormatError):
        encode_attest(replace(QUOTE, **{field: value}))  # type: ignore[arg-type] # one field at a time, each of its own type
