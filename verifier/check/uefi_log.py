"""`verifier check uefi-log`: a firmware event log, replayed; and what `check quote --log` asks of one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Final

from verifier.check.finding import Finding, Options, read_file
from writ.formats.digest import PCR_COUNT, SIZES
from writ.formats.errors import FormatError
from writ.formats.eventlog.uefi import MAX_LOG_SIZE, LogKind, UefiLog, read_uefi_log
from writ.formats.strict import Fields, decode_json
from writ.verdict.appraise.boot import BootClaims, judge_boot
from writ.verdict.firmware_faults import known_faults
from writ.verdict.registers import RTMR_BANK, replay_registers, replay_rtmrs, replayed_banks

_BEST: Final = ("sha512", "sha3_512", "sha384", "sha3_384", "sha256", "sha3_256", "sha1")
"""Banks, the one first in which a log by itself is read."""


def check_uefi_log(finding: Finding, args: argparse.Namespace, _options: Options) -> None:
    """1. It parses. 2. Where it leads, in each bank. 3. What it says, as far as the values of --pcrs vouch for it.

    Without --pcrs it is read as if the registers held what it leads to: accepted is then a log that is well formed and whose data fit
    its digests; no register was compared.
    """
    # 1
    log, fault = read_uefi_log(read_file(args.file, MAX_LOG_SIZE))
    # 2
    finding.claims |= {"events": len(log.events), "startup_locality": log.startup_locality, "secure_boot": None}
    finding.claims |= _registers(log)
    # 3
    if fault is not None:
        raise fault
    if args.pcrs is None:
        values = {bank: dict(replay_registers(log, bank)) for bank in replayed_banks(log)}
        if log.kind is LogKind.CCEL:
            values = {RTMR_BANK: dict(enumerate(replay_rtmrs(log)))}
        values = {bank: registers for bank, registers in values.items() if registers}
    else:
        values = _read_values(read_file(args.pcrs))
    _judge(finding, log, values)


def judge_log(finding: Finding, data: bytes, values: Mapping[str, Mapping[int, bytes]]) -> None:
    """Judge a log against quoted values, bank -> register -> value: `secure_boot` becomes a claim, what is wrong a reason.

    Only banks that the log has are judged; a log of none of them is refused. Raises FormatError for a malformed log.
    """
    log, fault = read_uefi_log(data)
    if fault is not None:
        raise fault
    _judge(finding, log, values)


def _judge(finding: Finding, log: UefiLog, values: Mapping[str, Mapping[int, bytes]]) -> None:
    """Reasons of every bank that both have; claims of the strongest of them."""
    extended = {name for event in log.events for name, _ in event.digests} & {*replayed_banks(log)}
    banks = [bank for bank in _BEST if bank in values and bank in extended]
    for bank in sorted(values.keys() - extended):
        finding.note("uefi-log-mismatch", f"uefi_log.{bank}", "a bank of the log", ", ".join(sorted(extended)) or "none")
    if not banks and extended:
        finding.refuse("uefi-log-mismatch", "uefi_log", f"a bank of {', '.join(sorted(extended))}", ", ".join(sorted(values)) or "none")
    faults: set[str] = set()
    for place, bank in enumerate(banks):
        claims, reasons = judge_boot(log, values[bank], bank)
        finding.reasons.extend(reasons)
        faults |= {fault.name for fault in known_faults(bank, claims.unreplayed)}
        if place == 0:
            finding.claims |= _boot(claims)
    if faults:
        finding.claims["known_faults"] = sorted(faults)


def _read_values(data: bytes) -> dict[str, dict[int, bytes]]:
    """Register values as JSON: bank -> index -> hex. Raises FormatError."""
    what = "register values"
    document = Fields(decode_json(data, what), what)
    found: dict[str, dict[int, bytes]] = {}
    for bank in SIZES:
        if document.has(bank):
            registers = document.mapping(bank, most=PCR_COUNT)
            found[bank] = {_index(index): _value(text, bank) for index, text in registers.items()}
    document.done()
    return found


def _index(text: object) -> int:
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 2 or int(text) >= PCR_COUNT:
        raise FormatError("register values", f"an index from 0 to {PCR_COUNT - 1}", repr(text)[:40])
    return int(text)


def _value(text: object, bank: str) -> bytes:
    if not isinstance(text, str) or len(text) != 2 * SIZES[bank] or set(text) - set("0123456789abcdef"):
        raise FormatError("register values", f"{SIZES[bank]} bytes of {bank} in lower-case hex", repr(text)[:40])
    return bytes.fromhex(text)


def _registers(log: UefiLog) -> dict[str, object]:
    if log.kind is LogKind.CCEL:
        return {"rtmrs": {str(number): value.hex() for number, value in enumerate(replay_rtmrs(log))}}
    banks = {bank: replay_registers(log, bank) for bank in replayed_banks(log)}
    return {"pcrs": {bank: {str(index): value.hex() for index, value in values.items()} for bank, values in banks.items() if values}}


def _boot(claims: BootClaims) -> dict[str, object]:
    """The claims of a boot, in hex and text."""
    return {
        "secure_boot": claims.secure_boot,
        "applications": [application.digest.hex() for application in claims.applications],
        "command_lines": [line.text or line.digest.hex() for line in claims.command_lines],
        "initrds": [digest.hex() for digest in claims.initrds],
        "sections": {name: digest.hex() for name, digest in claims.sections},
        "authorities": [authority.variable or authority.digest.hex() for authority in claims.authorities],
    }
