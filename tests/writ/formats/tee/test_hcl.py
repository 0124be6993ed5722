"""HCL reports, runtime claims and quotes in bincode: what is read, and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from hashlib import sha384

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.azure import VALUES, AzureVm, td_of
from writ.formats.errors import FormatError
from writ.formats.tee.hcl import MAX_REPORT, VtpmQuote, parse_claims, parse_hcl, parse_local_td_report, parse_vtpm_quote

VM = AzureVm()
GOOD = VM.hcl(b"\1" * 1184)


def put(at: int, value: bytes) -> bytes:
    return GOOD[:at] + value + GOOD[at + len(value) :]


def test_report_is_read_with_zeros_behind_it() -> None:
    for data in (GOOD, GOOD + bytes(300)):
        hcl = parse_hcl(data)
        assert (hcl.version, hcl.report_type, hcl.hash, hcl.request_type) == (1, "SNP", "sha256", 2)
        assert (hcl.hardware, hcl.claims) == (b"\1" * 1184, VM.claims())


def test_other_hashes_fill_more_of_the_report_data() -> None:
    hcl = parse_hcl(VM.hcl(bytes(1184), hashed=2))
    assert hcl.claims_data == sha384(VM.claims()).digest() + bytes(16)


@pytest.mark.parametrize(
    "data",
    [
        b"", GOOD[:-1], GOOD + b"\1", GOOD + bytes(10) + b"\1", GOOD.ljust(MAX_REPORT + 1, b"\0"), put(0, b"HCLB"), put(4, b"\0"),
        put(4, b"\3"),
        put(8, b"\0\0"), put(16, b"\1"), put(20, b"\1"), put(0x4C0, b"\0\0"), put(0x4C4, b"\0"), put(0x4C8, b"\3"), put(0x4CC, b"\0"),
        put(0x4CC, b"\4"), put(0x4D0, b"\xff\xff\xff\xff"), put(0x4D0, b"\0\0"), VM.hcl(b"\1" * 1025, "TDX"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_hcl(data)


def test_claims_are_read_with_members_that_nobody_knows() -> None:
    claims = parse_claims(VM.claims(more=[1]))
    assert claims.ak.key_size == 2048
    assert claims.ek is not None
    assert claims.user_data == "00" * 64
    old = json.loads(VM.claims())
    del old["user-data"], old["keys"][1]
    assert (parse_claims(json.dumps(old).encode()).ek, parse_claims(json.dumps(old).encode()).user_data) == (None, None)


@pytest.mark.parametrize(
    "claims",
    [
        b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [1]}', VM.claims().replace(b"HCLAkPub", b"HCLAk"),
        VM.claims().replace(b'"RSA"', b'"EC"', 1),
        VM.claims().replace(b'"AQAB"', b'"AQA"', 1), VM.claims().replace(b'"AQAB"', b'"Ag"', 1), VM.claims().replace(b'"AQAB"', b'1', 1),
        VM.claims(**{"vm-configuration": []}), VM.claims(**{"user-data": 1}), VM.claims() + b"\0", VM.claims(keys=[{}] * 17),
        VM.claims(keys=[{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": "AQAB"}]),
    ],
)  # fmt: skip
def test_what_are_no_claims_is_refused(claims: bytes) -> None:
    with pytest.raises(FormatError):
        parse_claims(claims)


def bincode(signature: bytes, message: bytes, pcrs: tuple[bytes, ...] = VALUES) -> bytes:
    sized: Callable[[bytes], bytes] = lambda part: struct.pack("<Q", len(part)) + part  # noqa: E731
    return sized(signature) + sized(message) + struct.pack("<Q", len(pcrs)) + b"".join(pcrs)


def test_quote_in_bincode_is_read_and_nothing_else() -> None:
    good = bincode(b"s" * 256, b"m" * 122)
    assert parse_vtpm_quote(good) == VtpmQuote(b"m" * 122, b"s" * 256, VALUES)
    for data in (b"", good[:-1], good + b"\0", good[1:], bincode(b"s", b"m", VALUES[1:]), b"\xff" * 8 + good[8:], good[:270]):
        with pytest.raises(FormatError):
            parse_vtpm_quote(data)
    with pytest.raises(FormatError):
        VtpmQuote(b"", b"", (*VALUES[:-1], b""))


def test_tdreport_is_read() -> None:
    _, raw = td_of(VM, b"\5" * 64)
    report = parse_local_td_report(raw)
    assert (report.report_data, report.mr_td, report.rtmrs) == (b"\5" * 64, VM.host.mr_td, VM.host.rtmrs)
    for data in (raw[:-1], raw + b"\0", b"\0" + raw[1:]):
        with pytest.raises(FormatError):
            parse_local_td_report(data)


def test_parsers_are_total() -> None:
    assert_parser_is_total(parse_hcl, GOOD, flips=500, open_ended=True)
    assert_parser_is_total(parse_claims, VM.claims(), flips=500)
    assert_parser_is_total(parse_vtpm_quote, VM.bincode(), flips=500)
    assert_parser_is_total(parse_local_td_report, td_of(VM, bytes(64))[1], flips=200)
