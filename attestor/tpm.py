"""The seam to a TPM: what the attestor asks of one, and what it answers. `esapi` is the real thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.lease import LeaseApproval
from writ.formats.tpm.pcr import PcrValues

QUOTED_PCRS: Final = tuple(range(16))
"""What a quote covers: every PCR that only a reboot resets."""
SOFTWARE_TCTIS: Final = ("swtpm", "mssim", "libtpms")


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The EK: its TPMT_PUBLIC, and its certificates in DER, the EK's own first; none where the TPM has none."""

    public: bytes
    certificates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Quoted:
    """A TPMS_ATTEST, a TPMT_SIGNATURE, and the PCR values that the quote's digest is over."""

    attest: bytes
    signature: bytes
    pcrs: PcrValues


@dataclass(frozen=True, slots=True)
class Stated:
    """A TPMS_ATTEST of TPM2_GetTime, and a TPMT_SIGNATURE."""

    attest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class MadeLeaseKey:
    """A lease key: TPMT_PUBLIC, TPMS_CREATION_DATA, the AK's TPM2_CertifyCreation over both, and a context.

    The private part is nowhere but in the TPM and, wrapped by it, in `context`, which this TPM loads until a reset.
    """

    public: bytes
    creation: bytes
    attest: bytes
    signature: bytes
    context: Any


@dataclass(frozen=True, slots=True)
class Clock:
    """TPMS_CLOCK_INFO: clock in milliseconds."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool


class Tpm(Protocol):
    """What the attestor asks of a TPM. Every method may raise Unavailable."""

    def banks(self) -> tuple[str, ...]:
        """The active PCR banks, by name, in the TPM's order."""
        ...

    def endorsement(self) -> Endorsement:
        """The EK and its certificates."""
        ...

    def create_ak(self) -> bytes:
        """A new AK stands in place of an older one; its TPMT_PUBLIC."""
        ...

    def ak_public(self) -> bytes:
        """TPMT_PUBLIC of the AK. Unavailable if none was created."""
        ...

    def check_ak(self) -> None:
        """The AK loads. Raises Refused `tpm-cleared` where this TPM made it and holds it no more."""
        ...

    def activate(self, credential: bytes, secret: bytes) -> bytes:
        """The secret inside a TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET made for EK and AK."""
        ...

    def extend(self, pcr: int, digests: tuple[Digest, ...]) -> None:
        """Each bank named by a digest was extended. Unavailable means that it may or may not have been: read and compare."""
        ...

    def read(self, bank: str) -> PcrValues:
        """PCRs 0 to 15 of `bank`."""
        ...

    def quote(self, extra_data: bytes, bank: str) -> Quoted:
        """A quote by the AK over PCRs 0 to 15 of `bank`, with the values it covers."""
        ...

    def clock(self) -> Clock:
        """The TPM's own time and counters."""
        ...

    def time(self, extra_data: bytes) -> Stated:
        """The TPM's time, stated by the AK."""
        ...

    def create_lease_key(self, policy: bytes, qualifying: bytes) -> MadeLeaseKey:
        """A new lease key with `policy` as its authPolicy, certified by the AK for `qualifying`."""
        ...

    def lease(self, key: MadeLeaseKey, approval: LeaseApproval, extra_data: bytes) -> Stated:
        """The TPM's time, stated by a lease key. Raises Refused `lease-refused` where the TPM refuses: it is not as was approved."""
        ...

    def close(self) -> None:
        """Handles are flushed, the connection is closed."""
        ...


def check_tcti(tcti: str, *, allow_software: bool) -> None:
    """Return if `tcti` names a TPM that this host may use. Raises FormatError: an empty one could reach any TPM."""
    kind = tcti.partition(":")[0]
    if kind not in ("device", "tabrmd", *SOFTWARE_TCTIS):
        raise FormatError("tcti", "an explicit TCTI, for instance device:/dev/tpmrm0", repr(tcti)[:80])
    if kind in SOFTWARE_TCTIS and not allow_software:
        raise FormatError("tcti", "a hardware TPM, or allow_software_tpm = true", f"the software TPM {kind!r}")
