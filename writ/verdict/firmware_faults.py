"""Machines whose boot log is known not to replay, each with its source.

An entry excuses nothing: a log that does not replay stays refused, since an edited log looks the same. It tells an operator that
others saw this picture (this bank, these registers) on that machine, and where to read about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class FirmwareFault:
    """One fault as published. `banks` are those in which it was seen, none where the source does not say; `registers` do not replay."""

    name: str
    machine: str
    banks: tuple[str, ...]
    registers: tuple[int, ...]
    what: str
    source: str


FAULTS: Final = (
    FirmwareFault(
        "supermicro-sha1-column",
        "Supermicro server with Infineon TPM, firmware 7.62, Windows Server 2022",
        ("sha1",),
        (0, 1, 2, 3, 4, 5, 6, 7),
        "The SHA-1 digests in the log are not those extended, and those of Windows are absent; the SHA-256 bank replays.",
        "immune-gmbh/guard-oss, apisrv/test/IMN-SUPERMICRO-EPP-MSDefender.evidence.json",
    ),
    FirmwareFault(
        "vmware-pcr0",
        "VMware virtual machine with a virtual TPM (seen with RHEL 8)",
        (),
        (0,),
        "PCR 0 does not replay.",
        "google/go-tpm-tools#223",
    ),
    FirmwareFault(
        "dell-poweredge-pcr0",
        "Dell PowerEdge servers",
        ("sha256",),
        (0,),
        "PCR 0 does not replay, the other registers do.",
        "fwupd/firmware-dell#34",
    ),
    FirmwareFault(
        "fitlet2-pcr0",
        "CompuLab Fitlet2",
        ("sha256",),
        (0,),
        "PCR 0 does not replay.",
        "fwupd/fwupd#2181",
    ),
    FirmwareFault(
        "dasharo-v540tu-pcr1",
        "NovaCustom V54 14th Gen, Dasharo v1.0.0-rc4",
        ("sha256",),
        (1,),
        "PCR 1 does not replay.",
        "Dasharo/dasharo-issues#1496",
    ),
    FirmwareFault(
        "slimbootloader-pcr7",
        "Slim Bootloader on Ice Lake-D with Boot Guard profile 3, before its change 2027",
        (),
        (7,),
        "The digest of the authority in the log is not the one extended.",
        "slimbootloader/slimbootloader#2013",
    ),
    FirmwareFault(
        "systemd-nvpcr-pcr9",
        "Any machine with systemd 259 or later",
        (),
        (9,),
        "systemd extends PCR 9 when it sets up NvPCRs, and logs that in its own log: send tpm2-measure.log too.",
        "google/go-attestation#498",
    ),
)


def known_faults(bank: str, registers: Iterable[int]) -> tuple[FirmwareFault, ...]:
    """The faults that show this very picture: each of `registers` fails in `bank`, and no other."""
    failed = frozenset(registers)
    return tuple(fault for fault in FAULTS if failed and frozenset(fault.registers) == failed and (not fault.banks or bank in fault.banks))
