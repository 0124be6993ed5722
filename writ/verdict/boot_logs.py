"""The logs of a boot: judged when they come, carried through the boot, owed by a host that sent them before."""

from __future__ import annotations

from typing import Final

from writ.formats.boot_state import MOST_REASONS, MOST_VALUES, BootState
from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog.cel_json import parse_systemd_log
from writ.formats.eventlog.uefi import LogKind, parse_uefi_log
from writ.formats.evidence import Evidence
from writ.formats.reason import Reason
from writ.formats.state import HostState
from writ.formats.tpm.pcr import PcrValues
from writ.verdict.appraise.boot import judge_boot, measured_values
from writ.verdict.epoch import Epoch
from writ.verdict.registers import FIRMWARE_PCRS, replay_registers, replayed_banks

_CLAIM: Final = "uefi_log"
_LOADER_PCRS: Final = (8, 9)


def follow_boot(
    evidence: Evidence, state: HostState | None, epoch: Epoch, pcrs: PcrValues, runtime_pcr: int
) -> tuple[BootState | None, tuple[Reason, ...]]:
    """What is known of this boot, and what stands against it. `pcrs` are the quoted values.

    What `runtime_pcr` holds is the runtime log's to explain.

    1. Logs that came are judged, whatever was known: what the quoted registers vouch for is this boot, and a log that did not lead to
       them says nothing of it. It may have been read while a register moved, and must not lock a host until its next boot.
    2. Without them, and in the same boot, what is known stands, as long as nothing was extended into the firmware's registers since.
       Registers above may have moved: what they held at the time is in what they hold now.
    3. In another boot, a host that sent logs before owes them; after a resume too, since a TPM Restart clears the registers and
       counts like one: another kernel may have booted behind the same firmware.
    """
    known = state.boot if state is not None and epoch.kind == "same" else None
    # 1
    if evidence.uefi_log is not None:
        boot = _judged(evidence.uefi_log, evidence.systemd_log, pcrs, runtime_pcr)
        return boot, boot.reasons
    # 2
    if known is not None:
        moved = [
            Reason("uefi-log-mismatch", f"{_CLAIM}.{pcrs.bank}.pcr{index}", value.hex(), pcrs.get(index).hex())
            for index, value in known.registers
            if index in FIRMWARE_PCRS and pcrs.get(index) != value
        ]
        return known, (*known.reasons, *moved)
    # 3
    if state is not None and "uefi" in state.logs:
        return None, (Reason("boot-log-required", _CLAIM, "the firmware's log of this boot", "none"),)
    return None, ()


def _judged(data: bytes, systemd: bytes | None, pcrs: PcrValues, runtime_pcr: int) -> BootState:
    name = Digest.of(data)
    try:
        log = parse_uefi_log(data)
        userspace = () if systemd is None else parse_systemd_log(systemd)
    except FormatError as error:
        return BootState(name, (), (), None, (), (Reason("uefi-log-malformed", error.what, error.expected, error.got),))
    if log.kind is LogKind.CCEL:
        return BootState(name, (), (), None, (), (Reason("uefi-log-malformed", f"{_CLAIM}.kind", "a log of PCRs", "one of RTMRs"),))
    if pcrs.bank not in replayed_banks(log):
        got = ", ".join(replayed_banks(log)) or "none that can be replayed"
        return BootState(name, (), (), None, (), (Reason("uefi-log-mismatch", f"{_CLAIM}.banks", pcrs.bank, got),))
    claims, reasons = judge_boot(log, {index: value for index, value in pcrs.values if index != runtime_pcr}, pcrs.bank, userspace)
    values = tuple((environment, tuple(sorted(known.items()))) for environment, known in sorted(measured_values(claims).items()))
    if any(len(known) > MOST_VALUES for _, known in values):
        longest = max(len(known) for _, known in values)
        return BootState(name, (), (), None, (), (Reason("uefi-log-malformed", _CLAIM, f"at most {MOST_VALUES} values", str(longest)),))
    replayed = replay_registers(log, pcrs.bank)
    loader = tuple((index, replayed.get(index, bytes(SIZES[pcrs.bank]))) for index in _LOADER_PCRS)
    return BootState(name, claims.registers, loader, claims.secure_boot, values, reasons[:MOST_REASONS])
