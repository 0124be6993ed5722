"""Registers: a log is exposed as far as a quoted value vouches for it, and no further."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.uefi_logs import HASHED, Boot, encode_log, registers, renumbered, uefi_logs
from writ.formats.digest import hash_bytes
from writ.formats.errors import Misuse
from writ.formats.eventlog.cel_json import UserspaceEvent
from writ.formats.eventlog.uefi import EV_EFI_HCRTM_EVENT, EV_NO_ACTION, EV_SEPARATOR, LogKind, UefiEvent, UefiLog, parse_uefi_log
from writ.verdict.registers import append_userspace, cover, extend_all, replay_registers, replay_rtmrs, replayed_banks


def event(pcr: int, content: bytes, bank: str = "sha256", kind: int = EV_SEPARATOR) -> UefiEvent:
    return UefiEvent(0, pcr, kind, ((bank, hash_bytes(bank, content)),), content)


def log_of(*events: UefiEvent, locality: int | None = None, kind: LogKind = LogKind.CRYPTO_AGILE) -> UefiLog:
    banks = (("sha384", 48),) if kind is LogKind.CCEL else (("sha256", 32), ("sm3_256", 32))
    return UefiLog(kind, banks, renumbered(events), locality, 0)


@given(uefi_logs())
def test_replay_is_the_same_in_every_bank_as_one_made_here(log: UefiLog) -> None:
    for bank in replayed_banks(log):
        if bank in HASHED and log.kind is not LogKind.CCEL:
            ours = replay_registers(log, bank)
            size = dict(log.banks)[bank]
            for pcr, value in ours.items():
                expected = b"\xff" * size if pcr in range(17, 23) else bytes(size)
                expected = bytes(size - 1) + bytes([log.startup_locality]) if pcr == 0 and log.startup_locality else expected
                for row in log.events:
                    digest = dict(row.digests).get(bank)
                    if row.pcr == pcr and row.type != EV_NO_ACTION and digest is not None:
                        expected = hashlib.new(bank, expected + digest).digest()
                assert value == expected


@given(uefi_logs(), st.data())
def test_only_events_within_a_quoted_value_are_exposed(log: UefiLog, data: st.DataObject) -> None:
    for bank in replayed_banks(log):
        values = dict(enumerate(replay_rtmrs(log))) if log.kind is LogKind.CCEL else replay_registers(log, bank)
        chosen = data.draw(st.sets(st.sampled_from(sorted(values)))) if values else set()
        quoted = {index: values[index] for index in chosen}

        covered = cover(log, quoted, bank)

        shift = 1 if log.kind is LogKind.CCEL else 0
        assert covered.mismatches == ()
        assert {row.pcr - shift for row in covered.events} <= chosen
        assert all(row.type != EV_NO_ACTION and row.digest(bank) for row in covered.events)
        assert dict(covered.registers) == quoted


def test_startup_locality_and_hcrtm_are_in_pcr_0() -> None:
    log = log_of(event(0, b"hcrtm", kind=EV_EFI_HCRTM_EVENT), locality=4)
    start = bytes(31) + b"\x04"

    assert replay_registers(log, "sha256")[0] == extend_all(start, [hash_bytes("sha256", b"hcrtm")], "sha256")


def test_no_action_extends_nothing_and_is_not_exposed() -> None:
    log = log_of(event(3, b"note", kind=EV_NO_ACTION), event(3, b"one"))

    covered = cover(log, registers(log), "sha256")

    assert [row.data for row in covered.events] == [b"one"]


def test_tail_of_a_runtime_register_is_neither_exposed_nor_a_fault() -> None:
    log = log_of(event(11, b"one"), event(11, b"later"))

    covered = cover(log, registers(log_of(event(11, b"one"))), "sha256")

    assert [row.data for row in covered.events] == [b"one"]
    assert (covered.tails, covered.mismatches) == (((11, 1),), ())


def test_tail_of_a_firmware_register_is_a_mismatch() -> None:
    log = log_of(event(4, b"one"), event(4, b"added"))

    covered = cover(log, registers(log_of(event(4, b"one"))), "sha256")

    assert [(miss.register, miss.beyond) for miss in covered.mismatches] == [(4, 1)]
    assert covered.events == ()


def test_register_that_is_not_quoted_gives_nothing() -> None:
    log = log_of(event(4, b"one"), event(7, b"two"))

    covered = cover(log, {7: registers(log)[7]}, "sha256")

    assert [row.pcr for row in covered.events] == [7]
    assert [register for register, _ in covered.registers] == [7]


def test_register_that_others_extended_is_in_no_list() -> None:
    covered = cover(log_of(event(7, b"two")), dict.fromkeys((10, 15, 16, 23), b"\x01" * 32) | {3: bytes(32)}, "sha256")

    assert covered.registers == ((3, bytes(32)),)
    assert (covered.mismatches, covered.silent) == ((), ())


def test_register_whose_events_were_all_cut_is_a_mismatch_or_silent() -> None:
    quoted = dict.fromkeys((*range(10), 11, 12, 13, 14), b"\x01" * 32)

    covered = cover(log_of(), quoted, "sha256")

    assert [miss.register for miss in covered.mismatches] == list(range(8))
    assert [register for register, _ in covered.silent] == [8, 9, 11, 12, 13, 14]


def test_ccel_is_judged_by_rtmr() -> None:
    log = log_of(event(1, b"a", "sha384"), event(3, b"b", "sha384"), kind=LogKind.CCEL)
    rtmrs = replay_rtmrs(log)
    assert [any(value) for value in rtmrs] == [True, False, True, False]

    covered = cover(log, {0: rtmrs[0], 1: b"\x01" * 48, 2: bytes(48), 3: b"\x01" * 48}, "sha384")

    assert [row.data for row in covered.events] == [b"a"]
    assert [miss.register for miss in covered.mismatches] == [1]
    assert covered.tails == ((2, 1),)  # RTMR 2 goes on being extended; its event is not exposed


def test_userspace_log_leads_on() -> None:
    log = log_of(event(11, b"stub"))
    ready = UserspaceEvent(11, (("sha256", hash_bytes("sha256", b"ready")), ("sha1", bytes(20))), "ready", "phase", "")
    whole = log_of(event(11, b"stub"), event(11, b"ready"))

    assert [miss.register for miss in cover(log, registers(whole), "sha256").mismatches] == [11]
    covered = cover(append_userspace(log, (ready,)), registers(whole), "sha256")
    assert [row.data for row in covered.events] == [b"stub", b"ready"]
    assert covered.events[1].digests == (("sha256", hash_bytes("sha256", b"ready")),)


def test_bank_without_a_hash_function_is_not_replayed() -> None:
    log = log_of(event(4, b"one"))
    assert replayed_banks(log) == ("sha256",)
    for bank in ("sm3_256", "sha384"):
        with pytest.raises(Misuse):
            cover(log, {}, bank)
    with pytest.raises(Misuse):
        extend_all(b"", [], "sm3_256")
    with pytest.raises(Misuse):
        replay_rtmrs(log)


def test_log_of_another_boot_or_bank_covers_nothing_that_differs() -> None:
    mine, other = Boot().measure(), replace(Boot(), cmdline="init=/bin/sh").measure()

    covered = cover(parse_uefi_log(encode_log(other)), registers(mine), "sha256")

    assert [miss.register for miss in covered.mismatches] == [9]
    assert not any(row.pcr == 9 for row in covered.events)
    assert cover(mine, registers(mine, "sha1"), "sha256").events == ()
