"""AMD SEV-SNP: the attestation report, as the secure processor writes it.

    0x000 version          0x050 REPORT_DATA (64)      0x140 REPORT_ID (32)       0x1e8 current firmware: build, minor, major
    0x004 GUEST_SVN        0x090 MEASUREMENT (48)      0x160 REPORT_ID_MA (32)    0x1ec committed firmware
    0x008 POLICY           0x0c0 HOST_DATA (32)        0x180 REPORTED_TCB         0x1f0 LAUNCH_TCB
    0x010 FAMILY_ID        0x0e0 ID_KEY_DIGEST (48)    0x188 family, model,       0x1f8 LAUNCH_MIT_VECTOR (from version 5 on)
    0x020 IMAGE_ID         0x110 AUTHOR_KEY_DIGEST           stepping (from 3 on) 0x200 CURRENT_MIT_VECTOR
    0x030 VMPL                                         0x1a0 CHIP_ID (64)         0x2a0 signature: r, s (72 each, little-endian)
    0x034 SIGNATURE_ALGO   0x040 PLATFORM_INFO         0x1e0 COMMITTED_TCB        0x4a0 the end
    0x038 CURRENT_TCB      0x048 key information

All numbers are little-endian. Every byte is read, or is zero: the signature
covers the first 0x2a0, and what stands behind it could be anybody's. Version 4
was never published; what firmware writes under it is version 3 in all that is
read here, and the sixteen bytes that became the mitigation vectors of version
5 are not looked at. The layout of a TCB version depends on the product, which
a report of version 2 does not state: it stays eight bytes until somebody knows
(`parse_tcb`).

Source: AMD SEV Secure Nested Paging Firmware ABI Specification (56860)
revision 1.58, sections 2.2 (TCB_VERSION), 4.3 (guest policy), 7.3 (attestation,
ATTESTATION_REPORT), chapter 10 (signature format).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError

REPORT_SIZE: Final = 0x4A0
SIGNED_SIZE: Final = 0x2A0
"""Bytes under the signature, from the first on."""
VERSIONS: Final = (2, 3, 4, 5)
HOST: Final = 0xFFFFFFFF
"""The VMPL of a report that the hypervisor asked for."""
SIGNING_KEYS: Final = {0: "VCEK", 1: "VLEK", 7: "none"}
ECDSA_P384_SHA384: Final = 1
_COMPONENT: Final = 72
"""Bytes of r, and of s."""
_RESPONSE: Final = 32
"""Bytes of MSG_REPORT_RSP before the report: status, its size, reserved."""
_MAX_TEXT: Final = 1 << 16
_HEX: Final = re.compile(rb"[0-9A-Fa-f\s]+\Z")


@dataclass(frozen=True, slots=True)
class GuestPolicy:
    """What the owner of the guest let the firmware and the hypervisor do: POLICY, whole. A bit that is not named here is in `unknown`."""

    raw: int

    @property
    def abi(self) -> tuple[int, int]:
        """The firmware ABI that the guest needs at least: major, minor."""
        return self.raw >> 8 & 0xFF, self.raw & 0xFF

    @property
    def smt(self) -> bool:
        """Whether other threads may run on its cores."""
        return bool(self.raw >> 16 & 1)

    @property
    def reserved(self) -> bool:
        """Bit 17, which is always one."""
        return bool(self.raw >> 17 & 1)

    @property
    def migration(self) -> bool:
        """Whether a migration agent may be associated with it."""
        return bool(self.raw >> 18 & 1)

    @property
    def debug(self) -> bool:
        """Whether the hypervisor may read and write it for debugging."""
        return bool(self.raw >> 19 & 1)

    @property
    def single_socket(self) -> bool:
        """Whether it runs on one socket only."""
        return bool(self.raw >> 20 & 1)

    @property
    def cxl(self) -> bool:
        """Whether memory or devices may be behind CXL."""
        return bool(self.raw >> 21 & 1)

    @property
    def aes_256_xts(self) -> bool:
        """Whether memory must be encrypted with AES-256 XTS."""
        return bool(self.raw >> 22 & 1)

    @property
    def rapl_off(self) -> bool:
        """Whether the power meter must be off."""
        return bool(self.raw >> 23 & 1)

    @property
    def ciphertext_hiding(self) -> bool:
        """Whether ciphertext must be hidden from the host."""
        return bool(self.raw >> 24 & 1)

    @property
    def page_swap_off(self) -> bool:
        """Whether the hypervisor may not move or swap its pages."""
        return bool(self.raw >> 25 & 1)

    @property
    def unknown(self) -> int:
        """The bits that revision 1.58 reserves, which are zero in all that it knows."""
        return self.raw >> 26 << 26


@dataclass(frozen=True, slots=True, order=True)
class Firmware:
    """A version of the SEV firmware; a later one is greater."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.build}"


@dataclass(frozen=True, slots=True)
class Tcb:
    """Security patch levels of what SNP rests on. `fmc` is zero before Turin. `reserved` are the bytes that have no meaning yet."""

    fmc: int
    boot_loader: int
    tee: int
    snp: int
    microcode: int
    reserved: bytes = bytes(4)

    def reaches(self, floor: Tcb) -> bool:
        """Whether no part is lower than in `floor`. Two of which neither reaches the other are possible: it is no order."""
        return all(mine >= least for mine, least in zip(self._parts, floor._parts, strict=True))

    @property
    def _parts(self) -> tuple[int, ...]:
        return self.fmc, self.boot_loader, self.tee, self.snp, self.microcode, *self.reserved

    def __str__(self) -> str:
        return f"fmc {self.fmc} boot loader {self.boot_loader} tee {self.tee} snp {self.snp} microcode {self.microcode}"


def parse_tcb(raw: bytes, line: str) -> Tcb:
    """The TCB_VERSION `raw` (8 bytes) of a product line: "Turin" has a layout of its own, with the level of its FMC."""
    if line == "Turin":
        return Tcb(raw[0], raw[1], raw[2], raw[3], raw[7], b"\0" + raw[4:7])
    return Tcb(0, raw[0], raw[1], raw[6], raw[7], raw[2:6])


@dataclass(frozen=True, slots=True)
class SnpReport:
    """An ATTESTATION_REPORT as parsed. Says nothing yet about who signed it.

    `signed` are the bytes under the signature, which is `r` and `s`. Each `_tcb` is a TCB_VERSION as it stands (`parse_tcb`).
    `signing_key` is "VCEK", "VLEK" or "none"; `cpu` is family, model and stepping, None in version 2; the mitigation vectors are None
    before version 5.
    """

    signed: bytes
    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: bytes
    platform_info: int
    author_key_enabled: bool
    mask_chip_key: bool
    signing_key: str
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpu: tuple[int, int, int] | None
    chip_id: bytes
    committed_tcb: bytes
    current_firmware: Firmware
    committed_firmware: Firmware
    launch_tcb: bytes
    launch_mitigations: int | None
    current_mitigations: int | None
    r: int
    s: int

    @property
    def has_chip_id(self) -> bool:
        """Whether the chip says which it is: its host may hide that (MaskChipId)."""
        return any(self.chip_id)

    @property
    def ciphertext_hidden(self) -> bool:
        """Whether the platform hides ciphertext from its host."""
        return bool(self.platform_info >> 4 & 1)

    @property
    def aliases_checked(self) -> bool:
        """Whether the platform looked for memory modules that lie about their size since its last reset, and found none."""
        return bool(self.platform_info >> 5 & 1)


class _Fields:
    """Fields of a report by their offset."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def raw(self, at: int, size: int) -> bytes:
        return self._data[at : at + size]

    def uint(self, at: int, size: int) -> int:
        return int.from_bytes(self._data[at : at + size], "little")

    def zero(self, at: int, end: int) -> None:
        if any(self._data[at:end]):
            raise FormatError("SNP report", f"zeros in the reserved bytes {at:#x} to {end:#x}", "others", at)

    def firmware(self, at: int) -> Firmware:
        self.zero(at + 3, at + 4)
        return Firmware(self._data[at + 2], self._data[at + 1], self._data[at])


def parse_report(data: bytes) -> SnpReport:
    """Read exactly one report of 1184 bytes. Raises FormatError, and nothing else."""
    if len(data) != REPORT_SIZE:
        raise FormatError("SNP report", f"{REPORT_SIZE} bytes", f"{len(data)} bytes")
    f = _Fields(data)
    version, key_information = f.uint(0x00, 4), f.uint(0x48, 4)
    if version not in VERSIONS:
        raise FormatError("SNP report.version", f"one of {', '.join(map(str, VERSIONS))}", str(version), 0)
    vmpl, algorithm, signing_key = f.uint(0x30, 4), f.uint(0x34, 4), SIGNING_KEYS.get(key_information >> 2 & 7)
    if vmpl > 3 and vmpl != HOST:
        raise FormatError("SNP report.vmpl", "0 to 3, or all ones", str(vmpl), 0x30)
    if algorithm != ECDSA_P384_SHA384:
        raise FormatError("SNP report.signature_algo", "1, ECDSA on P-384 with SHA-384", str(algorithm), 0x34)
    if signing_key is None or key_information >> 5:
        raise FormatError("SNP report.key_information", "VCEK, VLEK or none, and no bit beyond", f"{key_information:#x}", 0x48)
    f.zero(0x4C, 0x50)
    f.zero(0x188 if version == 2 else 0x18B, 0x1A0)
    f.zero(0x1F8 if version < 4 else 0x208, SIGNED_SIZE)
    f.zero(SIGNED_SIZE + 2 * _COMPONENT, REPORT_SIZE)
    mitigations = (f.uint(0x1F8, 8), f.uint(0x200, 8)) if version >= 5 else (None, None)
    return SnpReport(
        signed=data[:SIGNED_SIZE],
        version=version,
        guest_svn=f.uint(0x04, 4),
        policy=GuestPolicy(f.uint(0x08, 8)),
        family_id=f.raw(0x10, 16),
        image_id=f.raw(0x20, 16),
        vmpl=vmpl,
        current_tcb=f.raw(0x38, 8),
        platform_info=f.uint(0x40, 8),
        author_key_enabled=bool(key_information & 1),
        mask_chip_key=bool(key_information >> 1 & 1),
        signing_key=signing_key,
        report_data=f.raw(0x50, 64),
        measurement=f.raw(0x90, 48),
        host_data=f.raw(0xC0, 32),
        id_key_digest=f.raw(0xE0, 48),
        author_key_digest=f.raw(0x110, 48),
        report_id=f.raw(0x140, 32),
        report_id_ma=f.raw(0x160, 32),
        reported_tcb=f.raw(0x180, 8),
        cpu=None if version == 2 else (data[0x188], data[0x189], data[0x18A]),
        chip_id=f.raw(0x1A0, 64),
        committed_tcb=f.raw(0x1E0, 8),
        current_firmware=f.firmware(0x1E8),
        committed_firmware=f.firmware(0x1EC),
        launch_tcb=f.raw(0x1F0, 8),
        launch_mitigations=mitigations[0],
        current_mitigations=mitigations[1],
        r=f.uint(SIGNED_SIZE, _COMPONENT),
        s=f.uint(SIGNED_SIZE + _COMPONENT, _COMPONENT),
    )


def split_report(data: bytes) -> tuple[bytes, bytes]:
    """The report's bytes in what a tool wrote, and the certificate table behind it; nothing is judged of either. Raises FormatError.

    A tool writes the report alone, in hexadecimal or base64, in the guest device's buffer (MSG_REPORT_RSP, filled up with zeros), or with
    the host's table of certificates behind it, as an extended request gives it. The table is empty where there is none.
    """
    if data[:4] not in (b"\2\0\0\0", b"\3\0\0\0", b"\4\0\0\0", b"\5\0\0\0") and len(data) != REPORT_SIZE:
        data = _from_text(data)
    head = data[:_RESPONSE]
    if head == bytes(4) + REPORT_SIZE.to_bytes(4, "little") + bytes(24):
        report, rest = data[_RESPONSE : _RESPONSE + REPORT_SIZE], data[_RESPONSE + REPORT_SIZE :]
        if any(rest):
            raise FormatError("SNP report", "zeros behind the report in its buffer", f"{len(rest)} bytes", _RESPONSE + REPORT_SIZE)
        return report, b""
    return data[:REPORT_SIZE], data[REPORT_SIZE:]


def _from_text(data: bytes) -> bytes:
    """What hexadecimal or base64 says, with white space anywhere; what is neither stays."""
    if len(data) > _MAX_TEXT or not data.isascii():
        return data
    text = b"".join(data.split())
    try:
        if _HEX.match(text):
            return bytes.fromhex(text.decode("ascii"))
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return data
