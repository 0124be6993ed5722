"""Measured boot: from the events that a quote vouches for to typed claims.

The type of an event is in no digest, nor is its data where the digest is over something else. Whoever edits a log can retype
events, and root can extend more of them once the system runs. So:

1. Only covered events are looked at (`writ.verdict.registers.cover`).
2. What an event is follows from its digest: the known digests (separators, SecureBoot set or not) are recognised whatever type and
   data stand beside them; else the digest is recomputed from the data in each way that the specification knows.
3. Secure Boot is on only where the firmware measured it so before its separator, and nothing measured says it is off.
4. Each event of the registers that tell what was booted ends up in a claim: one that explains nothing is an application in PCR 4,
   and among the `others` elsewhere. Retyping moves an event between claims, and both differ from the reference values; nothing hides.

A digest of a file (application, initrd, section, command line given by the kernel) is a claim by itself: its name is a hint, its
place among the others is proven. What this does not prove: that the values are good ones (compare with reference values), that the
firmware measured what it should (PCR 0 and 2 name the firmware), or anything of what ran later.

In a CCEL the registers are RTMR 0 (firmware and variables), 1 (loader) and 2 (command line, initrd, loader's files).

Source: TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4 (registers), 3.3.4.8 (PCR 7), 10.4.2 (what is hashed by type);
UEFI 2.10, sections 3.3 (SecureBoot), 38.4.1; systemd 257, src/boot/measure.c; UAPI Linux TPM PCR Registry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError, Misuse
from writ.formats.eventlog.cel_json import UserspaceEvent
from writ.formats.eventlog.uefi import (
    EV_ACTION,
    EV_EFI_ACTION,
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EFI_BOOT_SERVICES_DRIVER,
    EV_EFI_VARIABLE_AUTHORITY,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_EVENT_TAG,
    EV_IPL,
    EV_S_CRTM_VERSION,
    EV_SEPARATOR,
    LogKind,
    UefiEvent,
    UefiLog,
)
from writ.formats.eventlog.uefi_data import (
    GLOBAL_VARIABLE,
    IMAGE_SECURITY,
    INITRD_TAG,
    LOAD_OPTIONS_TAG,
    Variable,
    encode_variable,
    ipl_preimages,
    ipl_text,
    parse_image_load,
    parse_tagged,
    parse_variable,
)
from writ.formats.reason import Reason
from writ.verdict.registers import CoveredEvents, append_userspace, cover, extend_all, replay_registers

FIRMWARE: Final = "firmware"
SECURE_BOOT: Final = "secure-boot"
BOOT: Final = "boot"
"""The three environments of boot reference values. Each is compared whole: a value too many or too few is a difference.

firmware      pcr0, pcr2 (CCEL: rtmr0): the registers
secure-boot   secure-boot: SHA-256 of "on", "off" or "unknown"; pk, kek, db, dbx: SHA-256 of the variable's content
boot          application.N: in the order in which they were loaded, the Authenticode digest
              cmdline: what the kernel was given (UTF-16 with NUL); cmdline.loader.N: what GRUB or systemd-stub passed on
              initrd, and initrd.N for a second: the file
              uki.NAME: section .NAME of a unified kernel image
              other.N: of register N, SHA-256 over the digests of the events that are none of the above, in order; of a register that
              holds something of which the log says nothing, SHA-256 of its value
"""
BOOT_ENVIRONMENTS: Final = (BOOT, FIRMWARE, SECURE_BOOT)

_SEPARATORS: Final = (bytes(4), b"\xff" * 4)
_ERROR: Final = b"\x01\x00\x00\x00"
"""A separator over this says that the firmware met an error while it measured (PFP 1.06, section 10.4.1)."""
_SECURE_BOOT_ON: Final = Variable(GLOBAL_VARIABLE, "SecureBoot", b"\x01")
_KEYS: Final = {
    (GLOBAL_VARIABLE, "PK"): "pk",
    (GLOBAL_VARIABLE, "KEK"): "kek",
    (IMAGE_SECURITY, "db"): "db",
    (IMAGE_SECURITY, "dbx"): "dbx",
}
UKI_PCR: Final = 11
"""Of systemd-stub, and then of systemd's phases."""
PHASES: Final = (b"enter-initrd", b"leave-initrd", b"sysinit", b"ready", b"shutdown", b"final")
"""systemd-pcrphase extends these words into PCR 11 while the system comes up and goes down; systemd before 254 logs none of them."""
_MAX_ACTION: Final = 255
_MAX_SECTION: Final = 32
_IMAGE_TYPES: Final = (EV_EFI_BOOT_SERVICES_APPLICATION, EV_EFI_BOOT_SERVICES_DRIVER)


@dataclass(frozen=True, slots=True)
class Application:
    """A program that firmware or loader started: its Authenticode digest in the bank, and where it came from, which is a hint."""

    digest: bytes
    path: str


@dataclass(frozen=True, slots=True)
class Authority:
    """What let a program run under Secure Boot. `variable` names where it stands, "" where the digest is not over the data."""

    digest: bytes
    variable: str
    data: bytes


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A kernel's command line: what was extended, the text where the log holds it and the digest is right, and who passed it on."""

    digest: bytes
    text: str
    given_by: str


@dataclass(frozen=True, slots=True)
class BootClaims:
    """What the quoted registers say of how this machine booted. `judge_boot` makes it.

    `registers` are those that replay, with their values in `bank`; `unreplayed` are the quoted ones that do not. `secure_boot` is None
    where nothing covered says. `variables` are pk, kek, db, dbx as measured before the separator (`parse_signature_lists` reads their
    data). `sections` and `initrds` are digests in the bank. `phases` are the words of systemd that PCR 11 holds. `others` are
    (register, digest) of the events that are nothing else. `silent` are registers that hold something of which the log says nothing,
    with their values: their events may have been cut out.
    """

    kind: LogKind
    bank: str
    registers: tuple[tuple[int, bytes], ...]
    unreplayed: tuple[int, ...]
    secure_boot: bool | None
    variables: tuple[tuple[str, Variable], ...]
    authorities: tuple[Authority, ...]
    applications: tuple[Application, ...]
    command_lines: tuple[CommandLine, ...]
    initrds: tuple[bytes, ...]
    sections: tuple[tuple[str, bytes], ...]
    phases: tuple[str, ...]
    firmware_version: str
    others: tuple[tuple[int, bytes], ...]
    silent: tuple[tuple[int, bytes], ...]


def judge_boot(
    log: UefiLog, quoted: Mapping[int, bytes], bank: str, userspace: tuple[UserspaceEvent, ...] = ()
) -> tuple[BootClaims, tuple[Reason, ...]]:
    """What `log` says as far as `quoted` vouches for it, and what is wrong with it, sorted.

    `quoted` is register -> value in `bank` of a verified quote (RTMR numbers for a CCEL), without Writ's runtime register. One that
    is not quoted, or does not replay, gives no claim. `userspace` is systemd's own log, where the host has one: it explains what was
    extended since, in the PCRs that both use. Raises Misuse for a bank that the log does not name.
    """
    # 1. Only what is covered.
    log = append_userspace(log, userspace)
    covered = cover(log, quoted, bank)
    if any(miss.register == UKI_PCR for miss in covered.mismatches) and log.kind is not LogKind.CCEL:
        covered = cover(_with_phases(log, quoted[UKI_PCR], bank), quoted, bank)
    # 2. By register.
    reader = _Reader(bank)
    roles = _CCEL_ROLES if log.kind is LogKind.CCEL else _TCG_ROLES
    registers: dict[int, list[UefiEvent]] = {}
    for event in covered.events:
        registers.setdefault(event.pcr, []).append(event)
    for register, events in sorted(registers.items()):
        if role := roles.get(register):
            role(reader, events)
    # 3. What it comes to.
    reasons = sorted({*mismatch_reasons(covered), *reader.reasons})
    return reader.claims(covered), tuple(reasons)


def mismatch_reasons(covered: CoveredEvents) -> list[Reason]:
    """A reason for each quoted register that the log does not replay to."""
    name = "rtmr" if covered.kind is LogKind.CCEL else "pcr"
    found = []
    for miss in covered.mismatches:
        got = miss.replayed.hex() + (f", with {miss.beyond} events behind the quoted value" if miss.beyond else "")
        found.append(Reason("uefi-log-mismatch", f"uefi_log.{covered.bank}.{name}{miss.register}", miss.quoted.hex(), got))
    return found


def _with_phases(log: UefiLog, target: bytes, bank: str) -> UefiLog:
    """`log` with the words that systemd extended into PCR 11 since, where some of them in their order lead to `target`; else `log`."""
    value = replay_registers(log, bank).get(UKI_PCR)
    for words in (PHASES, PHASES[2:]):
        reached, added = value, list(log.events)
        for word in words:
            digest: bytes = getattr(hashlib, bank)(word).digest()
            added.append(UefiEvent(len(added), UKI_PCR, EV_IPL, ((bank, digest),), word))
            reached = None if reached is None else extend_all(reached, (digest,), bank)
            if reached == target:
                return replace(log, events=tuple(added))
    return log


class _Reader:
    """Reads the covered events of one log in one bank, register by register."""

    def __init__(self, bank: str) -> None:
        self.bank = bank
        self.reasons: list[Reason] = []
        self._function = getattr(hashlib, bank)
        self._separators = {self._hash(value) for value in _SEPARATORS}
        self._error = self._hash(_ERROR)
        self._on = self._hash(encode_variable(_SECURE_BOOT_ON))
        self._off = {self._hash(encode_variable(replace(_SECURE_BOOT_ON, data=data))) for data in (b"", b"\0")}
        self._phases = {self._hash(word): word.decode("ascii") for word in PHASES}
        self._secure_boot: set[bool] = set()
        self._keys: dict[str, Variable] = {}
        self._authorities: list[Authority] = []
        self._applications: list[Application] = []
        self._command_lines: list[CommandLine] = []
        self._initrds: list[bytes] = []
        self._sections: list[tuple[str, bytes]] = []
        self._ran: list[str] = []
        self._version = ""
        self._others: list[tuple[int, bytes]] = []

    def claims(self, covered: CoveredEvents) -> BootClaims:
        """All that was read."""
        shift = 1 if covered.kind is LogKind.CCEL else 0
        secure_boot = None if not self._secure_boot else False not in self._secure_boot
        return BootClaims(
            kind=covered.kind,
            bank=covered.bank,
            registers=covered.registers,
            unreplayed=tuple(miss.register for miss in covered.mismatches),
            secure_boot=secure_boot,
            variables=tuple(sorted(self._keys.items())),
            authorities=tuple(self._authorities),
            applications=tuple(self._applications),
            command_lines=tuple(self._command_lines),
            initrds=tuple(self._initrds),
            sections=tuple(self._sections),
            phases=tuple(self._ran),
            firmware_version=self._version,
            others=tuple((register - shift, digest) for register, digest in self._others),
            silent=covered.silent,
        )

    def _hash(self, data: bytes) -> bytes:
        digest: bytes = self._function(data).digest()
        return digest

    def _digest(self, event: UefiEvent) -> bytes:
        digest = event.digest(self.bank)
        if digest is None:
            raise Misuse("a covered event has a digest in its bank")
        return digest

    def _mark(self, event: UefiEvent, digest: bytes) -> bool:
        """Whether the event is a separator; one that reports an error is a reason."""
        if digest == self._error and not _is_value(event.data, _ERROR):
            claim = f"uefi_log.event{event.number}"
            self.reasons.append(Reason("uefi-measurement-error", claim, "a separator over 0 or ffffffff", "one over 1"))
            return True
        return digest in self._separators

    def _wrong(self, event: UefiEvent, digest: bytes) -> None:
        """The data beside a digest is not what its type says was hashed."""
        got = self._hash(event.data).hex()
        self.reasons.append(Reason("event-digest-mismatch", f"uefi_log.event{event.number}", digest.hex(), got))

    def firmware(self, events: list[UefiEvent]) -> None:
        """PCR 0: the version of the S-CRTM, where its digest is right."""
        for event in events:
            digest = self._digest(event)
            if not self._mark(event, digest) and event.type == EV_S_CRTM_VERSION and digest == self._hash(event.data):
                self._version = self._version or ipl_text(event.data)[:200]

    def variables(self, events: list[UefiEvent]) -> None:
        """PCR 7: Secure Boot's state and keys up to the separator, the authorities behind it."""
        before = True
        for event in events:
            digest = self._digest(event)
            if self._mark(event, digest):
                before = False
                continue
            explained = digest == self._hash(event.data)
            # 1. SecureBoot, known by its digest alone. On counts only before the separator, off always.
            if digest == self._on or digest in self._off:
                if digest in self._off or before:
                    self._secure_boot.add(digest == self._on)
                if not explained:
                    self._wrong(event, digest)
                continue
            variable = _variable(event.data) if explained else None
            # 2. What explains itself as no variable.
            if variable is None:
                if event.type == EV_EFI_VARIABLE_AUTHORITY and not before:
                    self._authorities.append(Authority(digest, "", b""))
                    continue
                if not explained and event.type in (EV_EFI_VARIABLE_DRIVER_CONFIG, EV_SEPARATOR):
                    self._wrong(event, digest)
                self._others.append((event.pcr, digest))
            # 3. Keys before the separator, the first of each; authorities.
            elif (variable.namespace, variable.name) == (GLOBAL_VARIABLE, "SecureBoot"):
                self._secure_boot.add(False)
            elif before and event.type != EV_EFI_VARIABLE_AUTHORITY:
                key = _KEYS.get((variable.namespace, variable.name))
                if key is None or self._keys.setdefault(key, variable) != variable:
                    self._others.append((event.pcr, digest))
            else:
                self._authorities.append(Authority(digest, variable.name, variable.data))

    def applications(self, events: list[UefiEvent]) -> None:
        """PCR 4: everything that is no separator, no action and no partition table was started.

        An action is a short printable text, which some firmware ends with a NUL. No program that firmware loads is one: what is hashed
        of it holds a header of other bytes. Otherwise the hashed bytes of a program could be logged as an action and explain its digest.
        """
        for event in events:
            digest, data = self._digest(event), event.data
            if self._mark(event, digest):
                continue
            bare = data.rstrip(b"\0")
            text = len(bare) <= _MAX_ACTION and bare.isascii() and bare.decode("ascii").isprintable()
            explained = digest in (self._hash(data), self._hash(bare))
            if explained and (text or data.startswith(b"EFI PART")):
                continue
            if not explained and event.type in (EV_EFI_ACTION, EV_ACTION, EV_SEPARATOR):
                self._wrong(event, digest)
            self._applications.append(Application(digest, _path(data) if event.type in _IMAGE_TYPES else ""))

    def files(self, events: list[UefiEvent]) -> None:
        """PCR 8, 9 and 11 to 14: command lines, initrds, sections of a unified kernel image, systemd's phases, and the rest."""
        section: tuple[str, bytes] | None = None
        for event in events:
            digest, data = self._digest(event), event.data
            # 1. A section: its name, then its content.
            if section is not None:
                self._sections.append((section[0], digest))
                section = None
                continue
            name = _section_name(data) if event.type == EV_IPL else ""
            if name and digest == self._hash(name.encode("ascii") + b"\0"):
                section = name[1:], digest
                continue
            # 2. A phase or a separator, known by its digest alone.
            if digest in self._phases and event.pcr == UKI_PCR:
                self._ran.append(self._phases[digest])
            elif self._mark(event, digest) or not self._named(event, digest):
                self._others.append((event.pcr, digest))
        if section is not None:
            self._others.append((events[-1].pcr, section[1]))

    def _named(self, event: UefiEvent, digest: bytes) -> bool:
        """Whether the event is a command line or an initrd, which it is then."""
        data = event.data
        if event.type == EV_EVENT_TAG:
            number = _tag(data)
            if number == LOAD_OPTIONS_TAG:
                self._command_lines.append(CommandLine(digest, "", "kernel"))
            elif number == INITRD_TAG:
                self._initrds.append(digest)
            return number in (LOAD_OPTIONS_TAG, INITRD_TAG)
        grub = data.startswith((b"kernel_cmdline", b"grub_kernel_cmdline"))
        wide = len(data) > 3 and data[1] == 0 and data[3] == 0 and data[0] != 0x2E
        if event.type != EV_IPL or not (grub or wide):
            return False
        hashed = next((preimage for preimage in ipl_preimages(data) if digest == self._hash(preimage)), None)
        if hashed is None and not grub:
            return False
        self._command_lines.append(CommandLine(digest, "" if hashed is None else ipl_text(hashed), "grub" if grub else "stub"))
        return True


_Role = Callable[[_Reader, list[UefiEvent]], None]
_TCG_ROLES: Final[dict[int, _Role]] = {
    0: _Reader.firmware, 4: _Reader.applications, 7: _Reader.variables, **dict.fromkeys((8, 9, UKI_PCR, 12, 13, 14), _Reader.files),
}  # fmt: skip
_CCEL_ROLES: Final[dict[int, _Role]] = {1: _Reader.variables, 2: _Reader.applications, 3: _Reader.files}


def _variable(data: bytes) -> Variable | None:
    try:
        return parse_variable(data)
    except FormatError:
        return None


def _is_value(data: bytes, value: bytes) -> bool:
    """Whether this is a variable with that value: in a CCEL, boot order 1, 0 is hashed like an error and into the same register."""
    variable = _variable(data)
    return variable is not None and variable.data == value


def _path(data: bytes) -> str:
    try:
        return parse_image_load(data).path[:_MAX_ACTION]
    except FormatError:
        return ""


def _section_name(data: bytes) -> str:
    """The name of a section with its dot, as systemd-stub logs it, or ""."""
    name = ipl_text(data) if data[:2] == b".\0" else ""
    return name if name.isascii() and 1 < len(name) <= _MAX_SECTION else ""


def _tag(data: bytes) -> int | None:
    try:
        return parse_tagged(data).id
    except FormatError:
        return None


def measured_values(claims: BootClaims) -> dict[str, dict[str, Digest]]:
    """The claims as reference values are compared: environment -> name -> digest, as FIRMWARE, SECURE_BOOT and BOOT describe.

    Digests are of the bank, those over a variable's content or a fold SHA-256. An environment whose registers are not covered is
    absent. Raises Misuse for a bank that reference values cannot name.
    """
    if claims.bank not in SIZES:
        raise Misuse(f"no reference values in bank {claims.bank!r}")
    found: dict[str, dict[str, Digest]] = {}
    registers, ccel = dict(claims.registers), claims.kind is LogKind.CCEL
    # 1. The firmware, by its registers.
    names = {0: "rtmr0"} if ccel else {0: "pcr0", 2: "pcr2"}
    if names.keys() <= registers.keys():
        found[FIRMWARE] = {name: Digest(claims.bank, registers[register]) for register, name in names.items()}
    # 2. Secure Boot.
    if (0 if ccel else 7) in registers:
        state = {True: b"on", False: b"off", None: b"unknown"}[claims.secure_boot]
        found[SECURE_BOOT] = {"secure-boot": Digest.of(state), **{name: Digest.of(variable.data) for name, variable in claims.variables}}
    # 3. What was loaded.
    if (1 if ccel else 4) in registers:
        rows = [(f"application.{number}", application.digest) for number, application in enumerate(claims.applications)]
        kernel = [line.digest for line in claims.command_lines if line.given_by == "kernel"]
        rows += [(_numbered("cmdline", number), digest) for number, digest in enumerate(kernel)]
        loader = [line.digest for line in claims.command_lines if line.given_by != "kernel"]
        rows += [(f"cmdline.loader.{number}", digest) for number, digest in enumerate(loader)]
        rows += [(_numbered("initrd", number), digest) for number, digest in enumerate(claims.initrds)]
        seen: dict[str, int] = {}
        for name, digest in claims.sections:
            rows.append((_numbered(f"uki.{name}", seen.get(name, 0)), digest))
            seen[name] = seen.get(name, 0) + 1
        values = {name: Digest(claims.bank, digest) for name, digest in rows}
        folds: dict[int, list[bytes]] = {}
        for register, digest in claims.others:
            if ccel and register == 0:  # in rtmr0 already, with the boot order among it
                continue
            folds.setdefault(register, []).append(digest)
        values |= {f"other.{register}": Digest.of(b"".join(digests)) for register, digests in folds.items()}
        values |= {f"other.{register}": Digest.of(value) for register, value in claims.silent}
        found[BOOT] = values
    return found


def _numbered(name: str, number: int) -> str:
    """The first of its kind goes by its name alone."""
    return name if number == 0 else f"{name}.{number}"
