"""Event logs replayed to register values, and of a log only what a quote vouches for.

A log is read by software and proves nothing. A register is quoted by the TPM, and each of its events is in its value: event by event,

    value <- H(value || digest),   from the value that the register had after start-up.

So a log is judged register by register. Where the events of one, or the first of them, lead to the quoted value, those events
happened, in that order; where they do not, none of them is exposed (invariant I2). Behind the quoted value there may be a tail: a
log is read after the quote, and a register may have been extended meanwhile. A tail is not exposed, and is no fault in the
registers that software extends at run time; in PCR 0 to 7 nothing is extended once the boot loader has ended, so a tail there is a
mismatch: an event was added that no register holds. An event of type EV_NO_ACTION is extended into nothing and so is never exposed either.

Source: TCG PC Client Platform Firmware Profile 1.06, sections 3.3 (PCR usage), 10.4.5 (EV_NO_ACTION); TPM 2.0 Library Part 1,
section 17 (PCR operations); UEFI 2.10, section 38.4.1 (RTMRs).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from writ.formats.errors import Misuse
from writ.formats.eventlog.cel_json import UserspaceEvent
from writ.formats.eventlog.uefi import EV_IPL, EV_NO_ACTION, LogKind, UefiEvent, UefiLog

REPLAYABLE: Final = ("sha1", "sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512")
"""Banks whose hash function every Python has. Others (SM3) are read, and never replayed: what cannot be replayed is not trusted."""

FIRMWARE_PCRS: Final = range(8)
"""Extended by firmware and boot loader only: complete before the operating system runs (PFP 1.06, section 3.3.4)."""
FIRMWARE_RTMRS: Final = range(2)
"""The same of RTMRs: 0 and 1 are of firmware and boot loader, 2 and 3 of what runs later (UEFI 2.10, section 38.4.1)."""
LOGGED_PCRS: Final = frozenset({8, 9, *range(11, 15)})
LOGGED_RTMRS: Final = frozenset({2})
"""Registers above the firmware's that loader, kernel stub and systemd extend and log. One that is not as it was at start-up, and of
which the log says nothing, is silent: others wrote there, or its events were cut out. PCR 10 is IMA's, 15 and above and RTMR 3 belong
to whoever runs later. Writ's own runtime register is one of these by choice of an operator: give its quoted value to the runtime log,
not here."""
RTMR_COUNT: Final = 4
RTMR_BANK: Final = "sha384"
_ALL_ONES: Final = range(17, 23)
"""PCRs of dynamic launch: all ones until one takes place (PC Client Platform TPM Profile 1.06, section 4.6.2)."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A register whose events do not lead to the quoted value.

    `replayed` is where they all lead; `beyond` counts the events behind the quoted value where it was met.
    """

    register: int
    quoted: bytes
    replayed: bytes
    beyond: int = 0


@dataclass(frozen=True, slots=True)
class CoveredEvents:
    """What of a log a set of quoted registers vouches for. `cover` makes it.

    `events` in the order of the log, only such as lie within a register's quoted value. `registers` are those that replay, also
    without any event, with their quoted values. `mismatches` are the quoted registers that do not replay. `silent` are those of
    LOGGED_PCRS and LOGGED_RTMRS that hold something of which the log has no event. `tails` counts the events behind a quoted value.
    """

    kind: LogKind
    bank: str
    events: tuple[UefiEvent, ...]
    registers: tuple[tuple[int, bytes], ...]
    mismatches: tuple[Mismatch, ...]
    silent: tuple[tuple[int, bytes], ...]
    tails: tuple[tuple[int, int], ...]


def initial_value(log: UefiLog, register: int, size: int) -> bytes:
    """The value of `register` after start-up, `size` bytes: zeros; the start-up locality in PCR 0; ones in the PCRs of dynamic launch."""
    if log.kind is LogKind.CCEL:
        return bytes(size)
    if register == 0:
        return (log.startup_locality or 0).to_bytes(size, "big")
    return b"\xff" * size if register in _ALL_ONES else bytes(size)


def _extended(log: UefiLog, bank: str) -> dict[int, list[tuple[UefiEvent, bytes]]]:
    """By register, the events that extend it in `bank`, with their digests, in order."""
    found: dict[int, list[tuple[UefiEvent, bytes]]] = {}
    for event in log.events:
        if event.type == EV_NO_ACTION:
            continue
        for name, digest in event.digests:
            if name == bank:
                found.setdefault(event.pcr, []).append((event, digest))
                break
    return found


def _size(log: UefiLog, bank: str) -> int:
    """The digest size of `bank`. Raises Misuse for one that the log does not name or that cannot be replayed."""
    size = dict(log.banks).get(bank)
    if size is None or bank not in REPLAYABLE:
        raise Misuse(f"bank {bank!r} is not in this log, or cannot be replayed")
    return size


def replayed_banks(log: UefiLog) -> tuple[str, ...]:
    """The banks of `log` that can be replayed."""
    return tuple(name for name, _ in log.banks if name in REPLAYABLE)


def replay_registers(log: UefiLog, bank: str) -> dict[int, bytes]:
    """Where the whole log leads in `bank`: by register, of those that it extends there. Proves nothing by itself. Raises Misuse."""
    size = _size(log, bank)
    values: dict[int, bytes] = {}
    for register, rows in sorted(_extended(log, bank).items()):
        values[register] = extend_all(initial_value(log, register, size), (digest for _, digest in rows), bank)
    return values


def replay_rtmrs(log: UefiLog) -> tuple[bytes, ...]:
    """RTMR 0 to 3 as a CCEL leads to them. Raises Misuse for a log of another kind."""
    if log.kind is not LogKind.CCEL:
        raise Misuse("RTMRs are of a CCEL")
    values = replay_registers(log, RTMR_BANK)
    return tuple(values.get(number + 1, bytes(48)) for number in range(RTMR_COUNT))


def cover(log: UefiLog, quoted: Mapping[int, bytes], bank: str) -> CoveredEvents:
    """Split `log` by what `quoted` vouches for.

    `quoted` is register index -> value in `bank`, taken from a verified quote: PCRs, or for a CCEL RTMR 0 to 3 by their own
    numbers. A quoted register that the log has no event of replays where its value is the initial one; else it is a mismatch if the
    firmware owns it, silent if it is among LOGGED_PCRS or LOGGED_RTMRS, and in no list where others write. Raises Misuse for a bank
    that the log does not name.
    """
    size, function = _size(log, bank), getattr(hashlib, bank)
    extended = _extended(log, bank)
    shift = 1 if log.kind is LogKind.CCEL else 0
    held: set[int] = set()
    registers: list[tuple[int, bytes]] = []
    mismatches: list[Mismatch] = []
    silent: list[tuple[int, bytes]] = []
    tails: list[tuple[int, int]] = []
    for register, target in sorted(quoted.items()):
        rows = extended.get(register + shift, [])
        firmware = register in (FIRMWARE_RTMRS if shift else FIRMWARE_PCRS)
        logged = register in (LOGGED_RTMRS if shift else LOGGED_PCRS)
        value = initial_value(log, register + shift, size)
        matched = 0 if value == target else -1
        for count, (_, digest) in enumerate(rows, 1):
            value = function(value + digest).digest()
            if value == target:
                matched = count
        beyond = len(rows) - matched
        if matched < 0 and not rows and logged:
            silent.append((register, target))
        elif matched < 0 and (rows or firmware):
            mismatches.append(Mismatch(register, target, value))
        elif matched >= 0 and beyond and firmware:
            mismatches.append(Mismatch(register, target, value, beyond))
        elif matched >= 0:
            held.update(event.number for event, _ in rows[:matched])
            registers.append((register, target))
            if beyond:
                tails.append((register, beyond))
    events = tuple(event for event in log.events if event.number in held)
    return CoveredEvents(log.kind, bank, events, tuple(registers), tuple(mismatches), tuple(silent), tuple(tails))


def append_userspace(log: UefiLog, events: Iterable[UserspaceEvent]) -> UefiLog:
    """`log` followed by what systemd says it extended since: as little believed, and covered by the same quoted values.

    Only the banks that the log has are taken over.
    """
    banks = {name for name, _ in log.banks}
    added = list(log.events)
    for event in events:
        digests = tuple((name, value) for name, value in event.digests if name in banks)
        added.append(UefiEvent(len(added), event.pcr, EV_IPL, digests, event.text.encode("utf-8", "replace")))
    return replace(log, events=tuple(added))


def extend_all(value: bytes, digests: Iterable[bytes], bank: str) -> bytes:
    """`value` extended by each of `digests` in turn. Raises Misuse."""
    if bank not in REPLAYABLE:
        raise Misuse(f"bank {bank!r} cannot be replayed")
    function = getattr(hashlib, bank)
    for digest in digests:
        value = function(value + digest).digest()
    return value
