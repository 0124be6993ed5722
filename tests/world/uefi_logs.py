"""UEFI event logs made for tests: any log that the format allows, and the log of a whole boot with the registers that it leads to."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from writ.formats.eventlog.uefi import (
    BANKS,
    EV_EFI_ACTION,
    EV_EFI_BOOT_SERVICES_APPLICATION,
    EV_EFI_PLATFORM_FIRMWARE_BLOB,
    EV_EFI_VARIABLE_AUTHORITY,
    EV_EFI_VARIABLE_BOOT,
    EV_EFI_VARIABLE_DRIVER_CONFIG,
    EV_EVENT_TAG,
    EV_IPL,
    EV_NO_ACTION,
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
    guid_bytes,
)

IDS = {name: number for number, (name, _) in BANKS.items()}
X509_LIST = guid_bytes("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
SHA256_LIST = guid_bytes("c1c41626-504c-4092-aca9-41f936934328")
HASHED = ("sha1", "sha256", "sha384", "sha512")


def encode_spec_id(banks: Sequence[tuple[int, int]], *, vendor: bytes = b"", pcr: int = 0, errata: int = 2) -> bytes:
    """The header event of a crypto-agile log; `banks` are (algorithm id, digest size)."""
    data = struct.pack("<16sIBBBBI", b"Spec ID Event03\0", 0, 0, 2, errata, 2, len(banks))
    data += b"".join(struct.pack("<HH", *bank) for bank in banks) + bytes([len(vendor)]) + vendor
    return encode_sha1_event(pcr, EV_NO_ACTION, bytes(20), data)


def encode_sha1_event(pcr: int, kind: int, digest: bytes, data: bytes) -> bytes:
    """TCG_PCClientPCREvent."""
    return struct.pack("<II20sI", pcr, kind, digest, len(data)) + data


def encode_event2(pcr: int, kind: int, digests: Iterable[tuple[int, bytes]], data: bytes) -> bytes:
    """TCG_PCR_EVENT2; `digests` are (algorithm id, digest)."""
    rows = list(digests)
    body = b"".join(struct.pack("<H", number) + digest for number, digest in rows)
    return struct.pack("<III", pcr, kind, len(rows)) + body + struct.pack("<I", len(data)) + data


def number_of(bank: str) -> int:
    """The algorithm id of a bank, also of one without a name."""
    return IDS[bank] if bank in IDS else int(bank.removeprefix("alg-"), 16)


def encode_log(log: UefiLog, *, padding: bytes | None = None) -> bytes:
    """The bytes of a log; `padding` as many zeros as it says unless given."""
    tail = bytes(log.padding) if padding is None else padding
    if log.kind is LogKind.SHA1:
        return b"".join(encode_sha1_event(e.pcr, e.type, e.digests[0][1], e.data) for e in log.events) + tail
    head = encode_spec_id([(number_of(name), size) for name, size in log.banks])
    rows = (encode_event2(e.pcr, e.type, ((number_of(name), value) for name, value in e.digests), e.data) for e in log.events)
    return head + b"".join(rows) + tail


def renumbered(events: Iterable[UefiEvent]) -> tuple[UefiEvent, ...]:
    """The events counted from 0."""
    return tuple(UefiEvent(at, e.pcr, e.type, e.digests, e.data) for at, e in enumerate(events))


@st.composite
def uefi_logs(draw: st.DrawFn, *, most: int = 12) -> UefiLog:
    """Any log that the format allows: all three kinds, unknown algorithms, missing banks, start-up locality, padding."""
    kind = draw(st.sampled_from(LogKind))
    banks: tuple[tuple[str, int], ...]
    if kind is LogKind.SHA1:
        banks, registers = (("sha1", 20),), st.integers(0, 23)
    elif kind is LogKind.CCEL:
        banks, registers = (("sha384", 48),), st.integers(1, 4)
    else:
        known = st.sampled_from([*BANKS.values(), ("alg-0x7f01", 17), ("alg-0x7f02", 64)])
        banks, registers = tuple(draw(st.lists(known, min_size=1, max_size=5, unique=True))), st.integers(0, 23)
    events: list[UefiEvent] = []
    locality: int | None = None
    if kind is LogKind.CRYPTO_AGILE and draw(st.booleans()):
        locality = draw(st.sampled_from((0, 3, 4)))
        events.append(UefiEvent(0, 0, EV_NO_ACTION, tuple((n, bytes(s)) for n, s in banks), b"StartupLocality\0" + bytes([locality])))
    types = st.sampled_from((EV_SEPARATOR, EV_IPL, EV_EFI_ACTION, EV_EFI_VARIABLE_DRIVER_CONFIG, 0x8401, EV_NO_ACTION))
    least = 0 if kind is LogKind.CRYPTO_AGILE else 1
    for at in range(draw(st.integers(least, most))):
        own = banks if kind is not LogKind.CRYPTO_AGILE else tuple(draw(st.lists(st.sampled_from(banks), min_size=1, unique=True)))
        digests = tuple((name, draw(st.binary(min_size=size, max_size=size))) for name, size in own)
        first = kind is not LogKind.CRYPTO_AGILE and at == 0
        pcr, what = draw(registers), EV_SEPARATOR if first else draw(types)
        events.append(UefiEvent(len(events), pcr, what, digests, draw(st.binary(max_size=60))))
    if kind is LogKind.CRYPTO_AGILE and {name for name, _ in banks} == {"sha384"}:  # of PCR 0, so that it is no CCEL
        events.append(UefiEvent(len(events), 0, EV_SEPARATOR, (("sha384", bytes(48)),), b""))
    return UefiLog(kind, banks, tuple(events), locality, draw(st.sampled_from((0, 1, 11, 40, 200))))


def signature_list(kind: bytes, entries: Iterable[bytes], owner: bytes = bytes(16)) -> bytes:
    """An EFI_SIGNATURE_LIST of entries of one size."""
    rows = [owner + entry for entry in entries]
    size = len(rows[0])
    return struct.pack("<16sIII", kind, 28 + size * len(rows), 0, size) + b"".join(rows)


def image_load(path: str, length: int = 4096) -> bytes:
    """UEFI_IMAGE_LOAD_EVENT with a file path."""
    text = path.encode("utf-16-le") + b"\0\0"
    nodes = struct.pack("<BBH", 4, 4, 4 + len(text)) + text + b"\x7f\xff\x04\0"
    return struct.pack("<QQQQ", 0x1000, length, 0, len(nodes)) + nodes


@dataclass
class Boot:
    """A machine that boots a unified kernel image: change a field, measure, and the log is that of another boot."""

    banks: tuple[str, ...] = ("sha1", "sha256")
    secure_boot: bytes = b"\x01"
    firmware: bytes = b"firmware 1.0"
    db: tuple[bytes, ...] = (b"certificate of a vendor",)
    loader: bytes = b"the loader's hashed bytes"
    cmdline: str = "root=/dev/vda1 ro"
    initrd: bytes = b"an initrd"
    kernel: bytes = b"a kernel"
    locality: int | None = None
    grub_commands: int = 0
    dbx: int = 2
    events: list[UefiEvent] = field(default_factory=list)

    def add(self, pcr: int, kind: int, data: bytes, measured: bytes | None = None) -> None:
        """One event whose digests are over `measured`, by default its data."""
        hashed = data if measured is None else measured
        digests = tuple((bank, hashlib.new(bank, hashed).digest()) for bank in self.banks)
        self.events.append(UefiEvent(len(self.events), pcr, kind, digests, data))

    def measure(self) -> UefiLog:
        """Boot, and give the log."""
        self.events.clear()
        if self.locality is not None:
            zero = tuple((bank, bytes(dict(BANKS.values())[bank])) for bank in self.banks)
            self.events.append(UefiEvent(0, 0, EV_NO_ACTION, zero, b"StartupLocality\0" + bytes([self.locality])))
        self.add(0, EV_S_CRTM_VERSION, "1.0".encode("utf-16-le") + b"\0\0")
        self.add(0, EV_EFI_PLATFORM_FIRMWARE_BLOB, struct.pack("<QQ", 0x82_0000, len(self.firmware)), self.firmware)
        self._variables()
        self.add(1, EV_EFI_VARIABLE_BOOT, encode_variable(Variable(GLOBAL_VARIABLE, "BootOrder", b"\1\0")), b"\1\0")
        self.add(4, EV_EFI_ACTION, b"Calling EFI Application from Boot Option")
        for pcr in range(7):
            self.add(pcr, EV_SEPARATOR, bytes(4))
        if self.secure_boot == b"\x01":
            self.add(7, EV_EFI_VARIABLE_AUTHORITY, encode_variable(Variable(IMAGE_SECURITY, "db", bytes(16) + self.db[0])))
        self.add(4, EV_EFI_BOOT_SERVICES_APPLICATION, image_load("\\EFI\\BOOT\\BOOTX64.EFI"), self.loader)
        for number in range(self.grub_commands):
            command = b"[ -f (hd0,gpt2)/boot/grub/command-%d.cfg ]" % number
            self.add(8, EV_IPL, b"grub_cmd: " + command + b"\0", command)
        for name, content in ((".linux", self.kernel), (".initrd", self.initrd)):
            wide = name.encode("utf-16-le") + b"\0\0"
            self.add(11, EV_IPL, wide, name.encode() + b"\0")
            self.add(11, EV_IPL, wide, content)
        self.add(9, EV_EVENT_TAG, tag(LOAD_OPTIONS_TAG, b"LOADED_IMAGE::LoadOptions\0"), self.cmdline.encode("utf-16-le") + b"\0\0")
        self.add(9, EV_EVENT_TAG, tag(INITRD_TAG, b"Linux initrd\0"), self.initrd)
        self.add(5, EV_EFI_ACTION, b"Exit Boot Services Invocation")
        sizes = dict(BANKS.values())
        return UefiLog(LogKind.CRYPTO_AGILE, tuple((bank, sizes[bank]) for bank in self.banks), tuple(self.events), self.locality, 0)

    def _variables(self) -> None:
        certificates = signature_list(X509_LIST, self.db)
        forbidden = signature_list(SHA256_LIST, (hashlib.sha256(b"%d" % number).digest() for number in range(self.dbx)))
        for name, namespace, data in (
            ("SecureBoot", GLOBAL_VARIABLE, self.secure_boot),
            ("PK", GLOBAL_VARIABLE, certificates),
            ("KEK", GLOBAL_VARIABLE, certificates),
            ("db", IMAGE_SECURITY, certificates),
            ("dbx", IMAGE_SECURITY, forbidden),
        ):
            self.add(7, EV_EFI_VARIABLE_DRIVER_CONFIG, encode_variable(Variable(namespace, name, data)))
        self.add(7, EV_SEPARATOR, bytes(4))


def tag(number: int, data: bytes) -> bytes:
    """TCG_PCClientTaggedEvent."""
    return struct.pack("<II", number, len(data)) + data


def registers(log: UefiLog, bank: str = "sha256", *, quoted: Iterable[int] = range(16)) -> dict[int, bytes]:
    """What a TPM would hold after these events, computed here and not by the product."""
    size = dict(BANKS.values())[bank]
    values = {pcr: bytes(size) for pcr in quoted}
    if 0 in values and log.startup_locality:
        values[0] = bytes(size - 1) + bytes([log.startup_locality])
    for event in log.events:
        digest = dict(event.digests).get(bank)
        if event.type != EV_NO_ACTION and digest is not None and event.pcr in values:
            values[event.pcr] = hashlib.new(bank, values[event.pcr] + digest).digest()
    return values
