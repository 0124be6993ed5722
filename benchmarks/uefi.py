"""A firmware log of 50 KB: parsed, replayed against a quote and read, beside the hashing that it cannot do without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from benchmarks.measure import Case
from tests.world.uefi_logs import Boot, encode_log, registers
from writ.formats.eventlog.uefi import parse_uefi_log
from writ.verdict.appraise.boot import judge_boot, measured_values

BANK = "sha256"
SIZE = 50_000


def uefi_log() -> Iterator[Case]:
    """One case: a boot through GRUB with as many commands as make the log 50 KB."""
    commands = 0
    while len(encode_log(Boot(grub_commands=commands, dbx=400).measure())) < SIZE:
        commands += 10
    log = Boot(grub_commands=commands, dbx=400).measure()
    data, quoted = encode_log(log), registers(log)
    extended = [(event.pcr, event.digest(BANK) or b"", event.data) for event in log.events]

    def ours() -> object:
        claims, reasons = judge_boot(parse_uefi_log(data), quoted, BANK)
        return measured_values(claims), reasons

    def bare() -> object:
        held = {pcr: bytes(32) for pcr, _, _ in extended}
        for pcr, digest, content in extended:
            hashlib.sha256(content).digest()
            held[pcr] = hashlib.sha256(held[pcr] + digest).digest()
        return held

    yield Case(f"UEFI log of {len(data) // 1000} KB judged", "hashlib alone", ours, bare, len(log.events), "event")
