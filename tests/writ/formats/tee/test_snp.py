"""SEV-SNP reports: every field from where the specification has it, and nothing that is not one."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest

from tests.parsers import assert_parser_is_total
from tests.world.amd import OFFSETS, TCB, TURIN_TCB, Amd, SnpChip, raw_tcb
from writ.formats.errors import FormatError
from writ.formats.tee.snp import HOST, REPORT_SIZE, Firmware, GuestPolicy, SnpReport, Tcb, parse_report, parse_tcb, split_report

CHIP = SnpChip()
SPECIMEN = CHIP.report()


def whole(**given: int | bytes) -> bytes:
    """A report with a signature that nobody asks about here."""
    return CHIP.body(**given).ljust(REPORT_SIZE, b"\0")  # type: ignore[arg-type]


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_each_field_is_read_from_its_place(version: int) -> None:
    """Each field once alone with a value of its own, all else as it was."""
    plain = parse_report(whole(version=version))
    values: dict[str, tuple[Any, str, object]] = {
        "guest_svn": (7, "guest_svn", 7), "family_id": (b"f" * 16, "family_id", b"f" * 16), "image_id": (b"i" * 16, "image_id", b"i" * 16),
        "vmpl": (2, "vmpl", 2), "current_tcb": (b"c" * 8, "current_tcb", b"c" * 8), "platform_info": (1 << 40, "platform_info", 1 << 40),
        "policy": (1 << 40, "policy", GuestPolicy(1 << 40)), "report_data": (b"d" * 64, "report_data", b"d" * 64),
        "measurement": (b"m" * 48, "measurement", b"m" * 48), "host_data": (b"h" * 32, "host_data", b"h" * 32),
        "id_key_digest": (b"k" * 48, "id_key_digest", b"k" * 48), "author_key_digest": (b"a" * 48, "author_key_digest", b"a" * 48),
        "report_id": (b"r" * 32, "report_id", b"r" * 32), "report_id_ma": (b"z" * 32, "report_id_ma", b"z" * 32),
        "reported_tcb": (b"p" * 8, "reported_tcb", b"p" * 8), "chip_id": (b"x" * 64, "chip_id", b"x" * 64),
        "committed_tcb": (b"o" * 8, "committed_tcb", b"o" * 8), "current_firmware": (b"\1\2\3", "current_firmware", Firmware(3, 2, 1)),
        "committed_firmware": (b"\4\5\6", "committed_firmware", Firmware(6, 5, 4)), "launch_tcb": (b"l" * 8, "launch_tcb", b"l" * 8),
    }  # fmt: skip
    if version >= 3:
        values["cpu"] = (b"\x1a\x02\x03", "cpu", (0x1A, 2, 3))
    if version == 5:
        values |= {"launch_mitigations": (9, "launch_mitigations", 9), "current_mitigations": (8, "current_mitigations", 8)}
    for name, (given, claim, expected) in values.items():
        found = parse_report(whole(version=version, **{name: given}))
        changed = {one.name for one in fields(SnpReport) if getattr(found, one.name) != getattr(plain, one.name)}
        assert (getattr(found, claim), changed) == (expected, {claim, "signed"}), name
    assert (plain.cpu is None, plain.launch_mitigations is None) == (version == 2, version < 5)


def test_signature_is_two_little_endian_numbers_of_72_bytes() -> None:
    report = parse_report(CHIP.body() + b"\1".ljust(72, b"\0") + b"\0\1".ljust(72, b"\0") + bytes(368))
    assert (report.r, report.s) == (1, 256)


@pytest.mark.parametrize("bits, key, author, masked", [(0, "VCEK", 0, 0), (5, "VLEK", 1, 0), (28, "none", 0, 0), (2, "VCEK", 0, 1)])
def test_key_information(bits: int, key: str, author: int, masked: int) -> None:
    report = parse_report(whole(key_information=bits))
    assert (report.signing_key, report.author_key_enabled, report.mask_chip_key) == (key, bool(author), bool(masked))


@pytest.mark.parametrize(
    "given",
    [
        {"version": 0}, {"version": 1}, {"version": 6}, {"version": 2**32 - 1}, {"vmpl": 4}, {"signature_algo": 0}, {"signature_algo": 2},
        {"key_information": 8}, {"key_information": 24}, {"key_information": 32}, {"key_information": 1 << 31},
        {"at_4c": b"\1"}, {"at_18b": b"\1"}, {"at_19f": b"\1"}, {"at_1eb": b"\1"}, {"at_1ef": b"\1"}, {"at_208": b"\1"}, {"at_29f": b"\1"},
        {"version": 2, "at_188": b"\1"}, {"version": 2, "at_1f8": b"\1"}, {"version": 3, "at_1f8": b"\1"}, {"version": 3, "at_207": b"\1"},
        {"version": 4, "at_208": b"\1"},
    ],
)  # fmt: skip
def test_what_no_firmware_writes_is_refused(given: dict[str, int | bytes]) -> None:
    with pytest.raises(FormatError):
        parse_report(whole(**given))


def test_version_4_says_nothing_where_nobody_knows_what_it_says() -> None:
    report = parse_report(whole(version=4, at_1f8=b"\1" * 16))
    assert (report.launch_mitigations, report.current_mitigations) == (None, None)


@pytest.mark.parametrize("at", [0x2A0 + 144, 0x49F])
def test_bytes_behind_the_signature_are_zero(at: int) -> None:
    spoilt = bytearray(SPECIMEN)
    spoilt[at] = 1
    with pytest.raises(FormatError):
        parse_report(bytes(spoilt))


def test_host_may_have_asked_for_it() -> None:
    assert parse_report(whole(vmpl=HOST)).vmpl == HOST


def test_parser_is_total() -> None:
    assert_parser_is_total(parse_report, SPECIMEN)
    assert_parser_is_total(parse_report, whole(version=2))


def test_every_bit_of_a_report_is_a_field_or_refused() -> None:
    """Flipped one by one: each is either an error or another value, so none means nothing."""
    plain = parse_report(SPECIMEN)
    for bit in range(8 * REPORT_SIZE):
        spoilt = bytearray(SPECIMEN)
        spoilt[bit // 8] ^= 1 << bit % 8
        with suppress(FormatError):
            assert parse_report(bytes(spoilt)) != plain


# --- the guest's policy ---------------------------------------------------------------------------------------------------

_BITS = {
    "smt": 16, "reserved": 17, "migration": 18, "debug": 19, "single_socket": 20, "cxl": 21, "aes_256_xts": 22, "rapl_off": 23,
    "ciphertext_hiding": 24, "page_swap_off": 25,
}  # fmt: skip


@pytest.mark.parametrize("name", _BITS)
def test_each_bit_of_the_policy_alone(name: str) -> None:
    policy = GuestPolicy(1 << _BITS[name])
    assert {other for other in _BITS if getattr(policy, other)} == {name}
    assert (policy.abi, policy.unknown) == ((0, 0), 0)


def test_abi_and_unknown_bits_of_the_policy() -> None:
    assert GuestPolicy(0x3011F).abi == (1, 31)
    assert GuestPolicy(1 << 26).unknown == 1 << 26
    assert GuestPolicy(1 << 63).unknown == 1 << 63


def test_each_bit_of_the_platforms_state_alone() -> None:
    for bit in range(64):
        report = parse_report(whole(platform_info=1 << bit))
        assert (report.ciphertext_hidden, report.aliases_checked) == (bit == 4, bit == 5)


# --- TCB versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["Milan", "Genoa"])
def test_tcb_before_turin(line: str) -> None:
    assert parse_tcb(bytes.fromhex("0400000000001bde"), line) == Tcb(0, 4, 0, 27, 222)
    assert parse_tcb(bytes.fromhex("0102030405060708"), line) == Tcb(0, 1, 2, 7, 8, b"\3\4\5\6")


def test_tcb_of_turin_begins_with_its_fmc() -> None:
    assert parse_tcb(bytes.fromhex("0104020500000048"), "Turin") == TURIN_TCB
    assert parse_tcb(bytes.fromhex("0102030405060708"), "Turin") == Tcb(1, 2, 3, 4, 8, b"\0\5\6\7")
    assert raw_tcb(TURIN_TCB, "Turin") == bytes.fromhex("0104020500000048")


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("line", ["Milan", "Turin"])
def test_tcb_reaches_a_floor_in_every_part_or_not_at_all(line: str, at: int) -> None:
    raw = b"\5" * 8
    lower, higher = (raw[:at] + bytes((value,)) + raw[at + 1 :] for value in (4, 6))
    floor = parse_tcb(raw, line)
    assert floor.reaches(floor)
    assert parse_tcb(higher, line).reaches(floor)
    assert not parse_tcb(lower, line).reaches(floor)
    assert not parse_tcb(higher[1:] + b"\0", line).reaches(floor)


# --- as tools write them --------------------------------------------------------------------------------------------------


def test_report_is_found_in_what_tools_write() -> None:
    response = bytes(4) + REPORT_SIZE.to_bytes(4, "little") + bytes(24) + SPECIMEN
    hexadecimal = SPECIMEN.hex().encode()
    lines = b"\r\n".join(hexadecimal[at : at + 64] for at in range(0, len(hexadecimal), 64)) + b"\r\n"
    for data in (SPECIMEN, response, response.ljust(4000, b"\0"), hexadecimal, lines, base64.encodebytes(SPECIMEN)):
        assert split_report(data) == (SPECIMEN, b"")


def test_what_follows_a_report_is_given_apart() -> None:
    assert split_report(SPECIMEN + b"table") == (SPECIMEN, b"table")


def test_buffer_of_the_guest_device_ends_in_zeros() -> None:
    response = bytes(4) + REPORT_SIZE.to_bytes(4, "little") + bytes(24) + SPECIMEN
    with pytest.raises(FormatError):
        split_report(response + b"\0\1")


@pytest.mark.parametrize("data", [b"", b"zz", b"ab" * 40_000, b"0", "ä".encode(), b"\2\0\0\0"])
def test_rubbish_is_no_report(data: bytes) -> None:
    report, _ = split_report(data)
    with pytest.raises(FormatError):
        parse_report(report)


def test_imitation_writes_where_the_specification_says() -> None:
    """The imitation of the firmware has its own table of offsets: they do not overlap, and all lie under the signature."""
    spans = sorted(OFFSETS.values())
    assert all(at + size <= following for (at, size), (following, _) in pairwise(spans))
    assert spans[-1][0] + spans[-1][1] == 0x208
    assert SnpChip(Amd("Turin"), tcb=TURIN_TCB).chip_id[8:] == bytes(56)
    assert TCB.reserved == bytes(4)
