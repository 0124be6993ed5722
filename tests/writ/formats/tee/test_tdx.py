"""Quotes of TDX and SGX are read to the byte, whatever follows them is told, and rubbish gives FormatError and nothing else."""

from __future__ import annotations

import struct

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.tdx import ENCLAVE, QE_SIGNER, TDX_10, TDX_15, TDX_15_MIGRATED, Platform, point
from writ.formats.errors import FormatError
from writ.formats.tee.tdx import INTEL_QE, MAX_QUOTE, EnclaveReport, TdReport, Tee, parse_quote, pck_chain, read_quote, read_quote_body
from writ.formats.x509 import parse_certificate

ONE = Platform()
SHAPES = [(4, TDX_10), (5, TDX_10), (5, TDX_15), (5, TDX_15_MIGRATED), (3, ENCLAVE), (4, ENCLAVE), (5, ENCLAVE)]


@pytest.mark.parametrize("version, body_type", SHAPES)
def test_quote_says_what_was_put_in(version: int, body_type: int) -> None:
    data = ONE.quote(version, body_type)

    quote = parse_quote(data)

    body = quote.body
    assert (body.version, body.key_type, body.tee) == (version, 2, Tee.SGX if body_type == ENCLAVE else Tee.TDX)
    assert body.body_type == (body_type if version == 5 else 0)
    assert (body.qe_vendor, body.user_data, body.raw) == (INTEL_QE, b"\x75" * 20, data[: len(body.raw)])
    assert body.report.report_data == ONE.report_data
    assert quote.attestation_key == point(ONE.attestation_key)
    assert (quote.qe_authentication, quote.certification_type, quote.certification) == (b"\xaa" * 32, 5, ONE.chain())
    assert (quote.qe_report.isv_prod_id, quote.qe_report.isv_svn, quote.qe_report.mr_signer) == (2, 4, ONE.qe_signer)
    assert quote.end == len(data)


@pytest.mark.parametrize("version, body_type", SHAPES[:4])
def test_fields_of_a_td_stand_where_the_specification_has_them(version: int, body_type: int) -> None:
    report = read_quote_body(ONE.quote(version, body_type)).report

    assert isinstance(report, TdReport)
    assert (report.tee_tcb_svn, report.mr_seam, report.mr_td) == (ONE.tee_tcb_svn, b"\x5e" * 48, ONE.mr_td)
    assert (report.td_attributes, report.xfam, report.debug) == (bytes((0, 0, 0, 16)) + bytes(4), bytes((0xE7, 2, 6)) + bytes(5), False)
    assert (report.rtmrs, report.mr_config_id, report.mr_owner, report.mr_owner_config) == (ONE.rtmrs, *[bytes(48)] * 3)
    assert report.tee_tcb_svn2 == (ONE.tee_tcb_svn2 if body_type >= TDX_15 else None)
    assert report.mr_service_td == (bytes(48) if body_type >= TDX_15 else None)
    if body_type < TDX_15_MIGRATED:
        assert report.migration is None
        return
    assert report.migration is not None
    assert (report.migration.vmid, report.migration.td_id) == (2, bytes(range(32)))
    assert (report.migration.dev_info, report.migration.current_service_td_hash) == (b"\xde" * 48, b"\x22" * 48)


def test_fields_of_an_enclave_stand_where_the_specification_has_them() -> None:
    report = read_quote_body(ONE.quote(3, ENCLAVE)).report

    assert isinstance(report, EnclaveReport)
    assert (report.cpu_svn, report.misc_select, report.attributes[:1]) == (b"\x0c" * 16, bytes(4), b"\x05")
    assert (report.mr_enclave, report.mr_signer, report.isv_prod_id, report.isv_svn) == (b"\xee" * 32, b"\xab" * 32, 3, 4)
    assert not report.debug
    assert len(report.raw) == 384


@pytest.mark.parametrize("version, body_type", SHAPES)
def test_quote_reader_is_total(version: int, body_type: int) -> None:
    data = ONE.quote(version, body_type)
    assert_parser_is_total(lambda given: (quote := parse_quote(given), pck_chain(quote)), data, flips=400, open_ended=True)


@pytest.mark.parametrize("version, body_type", SHAPES)
def test_quote_is_read_at_no_other_length(version: int, body_type: int) -> None:
    data = ONE.quote(version, body_type)
    for length in (*range(0, len(data), 37), len(data) - 1):
        with pytest.raises(FormatError):
            parse_quote(data[:length])


def test_zeros_behind_a_quote_are_the_buffers_and_anything_else_is_refused() -> None:
    data = ONE.quote()

    assert parse_quote(data + bytes(3000)).end == len(data)
    for behind in (b"\x01", bytes(100) + b"\xff", b"text"):
        with pytest.raises(FormatError, match="zeros behind it"):
            parse_quote(data + behind)
        assert read_quote(data + behind).end == len(data)


@pytest.mark.parametrize(
    "at, value, said",
    [
        (0, struct.pack("<H", 2), "3, 4 or 5"),
        (0, struct.pack("<H", 6), "3, 4 or 5"),
        (0, struct.pack("<H", 3), "SGX"),  # version 3 of a TD
        (2, struct.pack("<H", 3), "P-256"),
        (4, struct.pack("<I", 0x82), "129"),
        (48 + 584, struct.pack("<I", 4 << 20), "bytes"),
        (48 + 584, struct.pack("<I", 600), "bytes"),
        (48 + 584 + 4 + 128, struct.pack("<H", 5), "type 6"),
    ],
)
def test_field_out_of_its_range_is_refused(at: int, value: bytes, said: str) -> None:
    data = ONE.quote()
    with pytest.raises(FormatError, match=said):
        parse_quote(data[:at] + value + data[at + len(value) :])


@pytest.mark.parametrize("kind, size", [(1, 584), (2, 648), (3, 584), (5, 584), (0, 584), (4, 648)])
def test_body_of_another_size_or_kind_than_its_type_is_refused(kind: int, size: int) -> None:
    data = ONE.quote(5, TDX_15)
    with pytest.raises(FormatError, match="for TDX type 2 of 584 bytes, 3 of 648 bytes, 4 of 885 bytes"):
        parse_quote(data[:48] + struct.pack("<HI", kind, size) + data[54:])


def test_length_within_the_signature_data_is_exact_on_each_level() -> None:
    for kind in (3, 4):
        data = ONE.quote(kind, ENCLAVE)
        at = 48 + 384
        (size,) = struct.unpack_from("<I", data, at)
        with pytest.raises(FormatError, match="nothing more"):
            parse_quote(data[:at] + struct.pack("<I", size + 5) + data[at + 4 :] + b"\1" * 5)
    data = ONE.quote()
    outer = 48 + 584 + 4 + 128 + 2
    (size,) = struct.unpack_from("<I", data, outer)
    grown = bytearray(data + b"\1" * 5)
    struct.pack_into("<I", grown, outer, size + 5)
    struct.pack_into("<I", grown, 48 + 584, len(data) - 48 - 584 - 4 + 5)
    with pytest.raises(FormatError, match=r"quote\.QE at byte \d+: expected nothing more"):
        parse_quote(bytes(grown))


def test_certification_data_of_an_unknown_type_is_refused_and_of_a_known_one_kept() -> None:
    for kind in (0, 6, 8):
        with pytest.raises(FormatError, match="type 1 to 5, or 7"):
            parse_quote(ONE.quote(certification=(kind, b"")))
    for kind in (1, 2, 3, 7):
        quote = parse_quote(ONE.quote(certification=(kind, b"\x01" * 404)))
        assert (quote.certification_type, quote.certification, pck_chain(quote)) == (kind, b"\x01" * 404, ())


def test_chain_is_read_as_pem_with_what_tools_add_and_as_der() -> None:
    certificates = (ONE.pck(), ONE.pck_ca.certificate(), ONE.root.certificate())
    expected = tuple(map(parse_certificate, certificates))
    for data in (ONE.chain() + b"\0", ONE.chain().replace(b"\n", b"\r\n"), b"a text\n" + ONE.chain() + b"\0\0", b"".join(certificates)):
        assert pck_chain(parse_quote(ONE.quote(certification=(5, data)))) == expected
    assert (
        pck_chain(parse_quote(ONE.quote(certification=(4, ONE.chain().split(b"-----BEGIN")[1].join((b"-----BEGIN", b"")))))) == expected[:1]
    )


def test_chain_that_is_none_is_refused() -> None:
    for data in (b"", b"no certificate", ONE.chain()[:-30], b"\x30\x82\x01\x00", b"".join([ONE.pck()] * 17), ONE.chain() * 6):
        with pytest.raises(FormatError):
            pck_chain(parse_quote(ONE.quote(certification=(5, data))))


def test_longer_than_a_kernels_buffer_is_refused() -> None:
    assert MAX_QUOTE == 65_536
    assert parse_quote(ONE.quote().ljust(MAX_QUOTE, b"\0")) == parse_quote(ONE.quote())
    with pytest.raises(FormatError, match="at most"):
        parse_quote(ONE.quote().ljust(MAX_QUOTE + 1, b"\0"))


def test_debug_is_any_bit_of_tud_and_of_an_enclave_its_own() -> None:
    for bit in range(8):
        report = read_quote_body(Platform(td_attributes=1 << 28 | 1 << bit).quote()).report
        assert report.debug
    assert read_quote_body(Platform(enclave_attributes=b"\x07" + bytes(15), qe_signer=QE_SIGNER).quote(3, ENCLAVE)).report.debug
