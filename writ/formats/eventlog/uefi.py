"""TCG event logs of UEFI firmware: bytes to frozen events, every bank kept, nothing judged.

Three kinds of log, all little-endian:

    sha1            TCG_PCClientPCREvent, one after the other:
                    pcr u32, type u32, SHA-1 digest 20, size u32, data
    crypto-agile    one TCG_PCClientPCREvent whose data is the Spec ID event (it names the banks and their digest sizes),
                    then TCG_PCR_EVENT2: pcr u32, type u32, count u32, count x (algorithm u16, digest), size u32, data
    ccel            the same bytes, from a confidential guest: the register is a measurement register (1 to 4 are RTMR 0 to 3),
                    the one bank is SHA-384

    00000000 03000000 00..00 2d000000 "Spec ID Event03\\0" ...     the header, counted as no event
    00000000 08000080 04000000 0400 d1ee... 0b00 6603... 10000000 ...

Firmware and kernels pad a log with zeros, with 0xff, or with zeros and then 0xff; anything else after the last event is refused.
An event may carry fewer banks than the header names (Windows extends only the banks it uses), none twice, and no other.
The event type is in no digest, so a type is a hint and nothing here or elsewhere believes it.

That a log parses says nothing about any register: see `writ.verdict.registers`.

Source: TCG PC Client Platform Firmware Profile 1.06, sections 10.2 (structures), 10.4 (types), 10.4.5.1 (Spec ID);
TCG EFI Platform Specification 1.22, section 7 (SHA-1 logs); UEFI 2.10, section 38.4 (EFI_CC_MR_INDEX).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from struct import Struct
from typing import Final

from writ.formats.digest import PCR_COUNT
from writ.formats.errors import FormatError

MAX_LOG_SIZE: Final = 4 << 20
"""Bytes with padding; four times the 1 MiB that td-shim sets aside, sixty-four times EDK II's default area."""
MAX_EVENTS: Final = 20_000
"""GRUB logs each of its commands: real logs hold up to a thousand events."""
MAX_EVENT_DATA: Final = 1 << 20
"""Bytes; the largest real payloads are dbx (24 KiB) and the boot variables."""
MAX_ALGORITHMS: Final = 16
"""TPM 2.0 Library Part 2, TPML_DIGEST_VALUES: HASH_COUNT is at most 16 in practice (implementation dependent)."""
MAX_DIGEST: Final = 64
"""Bytes; the largest TPMU_HA."""

EV_PREBOOT_CERT: Final = 0x00
EV_POST_CODE: Final = 0x01
EV_NO_ACTION: Final = 0x03
EV_SEPARATOR: Final = 0x04
EV_ACTION: Final = 0x05
EV_EVENT_TAG: Final = 0x06
EV_S_CRTM_CONTENTS: Final = 0x07
EV_S_CRTM_VERSION: Final = 0x08
EV_COMPACT_HASH: Final = 0x0C
EV_IPL: Final = 0x0D
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x8000_0001
EV_EFI_VARIABLE_BOOT: Final = 0x8000_0002
EV_EFI_BOOT_SERVICES_APPLICATION: Final = 0x8000_0003
EV_EFI_BOOT_SERVICES_DRIVER: Final = 0x8000_0004
EV_EFI_GPT_EVENT: Final = 0x8000_0006
EV_EFI_ACTION: Final = 0x8000_0007
EV_EFI_PLATFORM_FIRMWARE_BLOB: Final = 0x8000_0008
EV_EFI_PLATFORM_FIRMWARE_BLOB2: Final = 0x8000_000A
EV_EFI_VARIABLE_BOOT2: Final = 0x8000_000C
EV_EFI_HCRTM_EVENT: Final = 0x8000_0010
EV_EFI_VARIABLE_AUTHORITY: Final = 0x8000_00E0
"""Event types, PFP 1.06 table 27. Hints, all of them."""

NO_REGISTER: Final = 0xFFFF_FFFF
"""The register index of an EV_NO_ACTION event that stands for none."""

BANKS: Final[dict[int, tuple[str, int]]] = {
    0x0004: ("sha1", 20),
    0x000B: ("sha256", 32),
    0x000C: ("sha384", 48),
    0x000D: ("sha512", 64),
    0x0012: ("sm3_256", 32),
    0x0027: ("sha3_256", 32),
    0x0028: ("sha3_384", 48),
    0x0029: ("sha3_512", 64),
}
"""TPM_ALG_ID -> bank name and digest size (TCG Algorithm Registry 1.34). Another is called `alg-0xNNNN`, of the size in the header."""

_WHAT: Final = "UEFI log"
_SPEC_ID: Final = b"Spec ID Event03\0"
_LOCALITY: Final = b"StartupLocality\0"
_LOCALITIES: Final = (0, 3, 4)
"""TPM2_Startup comes from locality 0 or 3; 4 stands for an H-CRTM sequence (PFP 1.06, section 10.4.5.3)."""
_SHA1_HEAD: Final = Struct("<II20sI")
_EVENT2_HEAD: Final = Struct("<III")
_SIZE: Final = Struct("<I")
_ALGORITHM: Final = Struct("<H")
_SPEC_ID_HEAD: Final = Struct("<16sIBBBBI")
_ALGORITHM_SIZE: Final = Struct("<HH")


class LogKind(Enum):
    """Which of the three kinds of log."""

    SHA1 = "sha1"
    CRYPTO_AGILE = "crypto-agile"
    CCEL = "ccel"


@dataclass(frozen=True, slots=True)
class UefiEvent:
    """One event as written. Nothing says yet that any register holds it, or that `type` is its type.

    `number` counts from 0 behind the header. `pcr` is the register's index as logged: a PCR, in a CCEL 0 for MRTD and 1 to 4 for
    RTMR 0 to 3, or NO_REGISTER. `digests` are (bank, digest) as logged, raw.
    """

    number: int
    pcr: int
    type: int
    digests: tuple[tuple[str, bytes], ...]
    data: bytes

    def digest(self, bank: str) -> bytes | None:
        """What was extended in `bank`, or None where the event has no digest of that bank."""
        for name, value in self.digests:
            if name == bank:
                return value
        return None


@dataclass(frozen=True, slots=True)
class UefiLog:
    """A parsed log.

    `banks` are (name, digest size) as the header names them; of a SHA-1 log ("sha1", 20). `startup_locality` is what a
    StartupLocality event says, or None. `padding` is the number of bytes behind the last event.
    """

    kind: LogKind
    banks: tuple[tuple[str, int], ...]
    events: tuple[UefiEvent, ...]
    startup_locality: int | None
    padding: int


def parse_uefi_log(data: bytes) -> UefiLog:
    """Read a whole log of any of the three kinds. Raises FormatError, and nothing else, on any bytes."""
    log, fault = read_uefi_log(data)
    if fault is not None:
        raise fault
    return log


def read_uefi_log(data: bytes) -> tuple[UefiLog, FormatError | None]:
    """The log as far as it can be read, and what is wrong behind that, or None. Raises FormatError where not even its head can be read."""
    # 1. Bounded, and a head.
    if len(data) > MAX_LOG_SIZE:
        raise FormatError(_WHAT, f"at most {MAX_LOG_SIZE} bytes", f"{len(data)} bytes")
    if len(data) < _SHA1_HEAD.size:
        raise FormatError(_WHAT, f"a first event of at least {_SHA1_HEAD.size} bytes", f"{len(data)} bytes", 0)
    _, kind, _, size = _SHA1_HEAD.unpack_from(data)
    start = _SHA1_HEAD.size
    banks: dict[int, tuple[str, int]] | None = None
    if kind == EV_NO_ACTION and data.startswith(_SPEC_ID, start):
        if len(data) < start + size:
            raise FormatError(_WHAT, f"a Spec ID event of {size} bytes", f"{len(data) - start} bytes", start)
        banks = _read_spec_id(data[start : start + size], start)
    # 2. The events.
    events: list[UefiEvent] = []
    fault: FormatError | None = None
    if banks is None:
        at, fault = _read_sha1_events(data, events)
        names: tuple[tuple[str, int], ...] = (BANKS[0x0004],)
    else:
        at, fault = _read_events2(data, start + size, banks, events)
        names = tuple(banks.values())
    if fault is None and banks is None and not events:
        fault = FormatError(_WHAT, "at least one event", "none", 0)
    # 3. What the log says of itself as a whole.
    log_kind = LogKind.SHA1 if banks is None else LogKind.CCEL if _is_ccel(names, events) else LogKind.CRYPTO_AGILE
    locality: int | None = None
    try:
        locality = _startup_locality(events)
    except FormatError as error:
        fault = fault or error
    return UefiLog(log_kind, names, tuple(events), locality, len(data) - at), fault


def _read_spec_id(data: bytes, offset: int) -> dict[int, tuple[str, int]]:
    """The banks that a TCG_EfiSpecIdEvent names: algorithm id -> name and digest size."""
    what = f"{_WHAT} Spec ID event"
    if len(data) < _SPEC_ID_HEAD.size:
        raise FormatError(what, f"at least {_SPEC_ID_HEAD.size} bytes", f"{len(data)} bytes", offset)
    count = _SPEC_ID_HEAD.unpack_from(data)[6]
    if not 1 <= count <= MAX_ALGORITHMS:
        raise FormatError(what, f"1 to {MAX_ALGORITHMS} algorithms", str(count), offset)
    end = _SPEC_ID_HEAD.size + count * _ALGORITHM_SIZE.size
    if len(data) <= end:
        raise FormatError(what, f"{count} algorithms and a vendor size", f"{len(data)} bytes", offset)
    banks: dict[int, tuple[str, int]] = {}
    for number, size in _ALGORITHM_SIZE.iter_unpack(data[_SPEC_ID_HEAD.size : end]):
        name, known = BANKS.get(number, (f"alg-{number:#06x}", size))
        if number in banks:
            raise FormatError(what, "each algorithm once", f"{name} twice", offset)
        if size != known or not 1 <= size <= MAX_DIGEST:
            expected = f"{known} bytes of {name}" if number in BANKS else f"1 to {MAX_DIGEST} bytes of {name}"
            raise FormatError(what, expected, f"{size} bytes", offset)
        banks[number] = (name, size)
    if len(data) != end + 1 + data[end]:
        raise FormatError(what, f"{data[end]} bytes of vendor information", f"{len(data) - end - 1} bytes", offset)
    return banks


def _blank(data: bytes) -> bool:
    """Whether this is zeros, then 0xff: no event has such a head, and padding has no other."""
    return not data.lstrip(b"\x00").lstrip(b"\xff")


def _register(pcr: int, kind: int, at: int) -> FormatError | None:
    """What is wrong with a register index, or None."""
    if pcr < PCR_COUNT or (pcr == NO_REGISTER and kind == EV_NO_ACTION):
        return None
    return FormatError(_WHAT, f"a register from 0 to {PCR_COUNT - 1}", str(pcr), at)


def _read_sha1_events(data: bytes, events: list[UefiEvent]) -> tuple[int, FormatError | None]:
    """Append the events of a SHA-1 log to `events`; where the padding starts, and what is wrong there, or None."""
    at, end, head = 0, len(data), _SHA1_HEAD.size
    while at < end:
        if _blank(data[at : at + head]):
            return at, None if _blank(data[at:]) else FormatError(_WHAT, "an event, or padding to the end", "both", at)
        if end - at < head:
            return at, FormatError(_WHAT, f"an event head of {head} bytes", f"{end - at} bytes", at)
        pcr, kind, digest, size = _SHA1_HEAD.unpack_from(data, at)
        if fault := _register(pcr, kind, at):
            return at, fault
        if size > MAX_EVENT_DATA or size > end - at - head:
            return at, FormatError(_WHAT, f"{size} bytes of event data, at most {MAX_EVENT_DATA}", f"{end - at - head} bytes", at)
        if len(events) == MAX_EVENTS:
            return at, FormatError(_WHAT, f"at most {MAX_EVENTS} events", "more", at)
        stop = at + head + size
        if pcr == NO_REGISTER:
            # Windows closes its SHA-1 logs with a record of its own, which the specification of these logs does not know: not an event.
            if not _blank(data[stop:]):
                return at, FormatError(_WHAT, "a record without a register only at the end", f"{end - stop} bytes behind it", at)
            return stop, None
        events.append(UefiEvent(len(events), pcr, kind, (("sha1", digest),), data[stop - size : stop]))
        at = stop
    return at, None


def _read_events2(data: bytes, at: int, banks: dict[int, tuple[str, int]], events: list[UefiEvent]) -> tuple[int, FormatError | None]:
    """Append the TCG_PCR_EVENT2 from `at` on to `events`; where the padding starts, and what is wrong there, or None."""
    end = len(data)
    while at < end:
        if _blank(data[at : at + 12]):
            return at, None if _blank(data[at:]) else FormatError(_WHAT, "an event, or padding to the end", "both", at)
        if end - at < 12:
            return at, FormatError(_WHAT, "an event head of 12 bytes", f"{end - at} bytes", at)
        pcr, kind, count = _EVENT2_HEAD.unpack_from(data, at)
        if fault := _register(pcr, kind, at):
            return at, fault
        if not 1 <= count <= len(banks):
            return at, FormatError(_WHAT, f"1 to {len(banks)} digests", str(count), at)
        cursor = at + 12
        digests: list[tuple[str, bytes]] = []
        seen: set[int] = set()
        for _ in range(count):
            if end - cursor < 2:
                return at, FormatError(_WHAT, "an algorithm id", f"{end - cursor} bytes", cursor)
            (number,) = _ALGORITHM.unpack_from(data, cursor)
            if number not in banks or number in seen:
                return at, FormatError(_WHAT, "an algorithm of the Spec ID event, once", f"{number:#06x}", cursor)
            seen.add(number)
            name, size = banks[number]
            cursor += 2 + size
            digests.append((name, data[cursor - size : cursor]))
        if end - cursor < 4:
            return at, FormatError(_WHAT, f"{count} digests and a size", f"{end - at} bytes", at)
        (size,) = _SIZE.unpack_from(data, cursor)
        stop = cursor + 4 + size
        if size > MAX_EVENT_DATA or stop > end:
            return at, FormatError(_WHAT, f"{size} bytes of event data, at most {MAX_EVENT_DATA}", f"{end - cursor - 4} bytes", at)
        if len(events) == MAX_EVENTS:
            return at, FormatError(_WHAT, f"at most {MAX_EVENTS} events", "more", at)
        events.append(UefiEvent(len(events), pcr, kind, tuple(digests), data[cursor + 4 : stop]))
        at = stop
    return at, None


def _is_ccel(banks: tuple[tuple[str, int], ...], events: list[UefiEvent]) -> bool:
    """Whether the registers are measurement registers: SHA-384 alone, and only 1 to 4 extended.

    A TPM's log always extends PCR 0, with its S-CRTM version and separator; no event extends MRTD, which has index 0 in a CCEL.
    """
    extended = {event.pcr for event in events if event.type != EV_NO_ACTION}
    return banks == (("sha384", 48),) and bool(extended) and extended <= {1, 2, 3, 4}


def _startup_locality(events: list[UefiEvent]) -> int | None:
    """What the one StartupLocality event says, or None. Raises FormatError where it occurs twice or says what cannot be."""
    found: int | None = None
    for event in events:
        if event.type != EV_NO_ACTION or not event.data.startswith(_LOCALITY):
            continue
        if found is not None:
            raise FormatError(_WHAT, "one StartupLocality event", "another", None)
        value = event.data[len(_LOCALITY) :]
        if not value or value[0] not in _LOCALITIES or any(value[1:]):  # coreboot fills its events up with zeros
            raise FormatError(_WHAT, "StartupLocality 0, 3 or 4 in one byte", value[:8].hex() or "none")
        found = value[0]
    return found
