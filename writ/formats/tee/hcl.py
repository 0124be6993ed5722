"""The HCL report of an Azure confidential VM: which vTPM key the paravisor (HCL, OpenHCL) vouches for, and the hardware report about it.

    0x000 "HCLA"         0x00c request type      0x020 hardware report:        0x4c0 size of what follows, itself included
    0x004 version        0x010 status                  SNP report (1184), or   0x4c4 version        0x4cc type of hash
    0x008 report size    0x014 reserved (12)           TDREPORT (1024)         0x4c8 report type    0x4d0 size of the runtime claims
                                                       and zeros               0x4d4 the runtime claims: JSON

All numbers are little-endian. The NV index 0x01400001 is larger than the report: the rest of it is zeros. Runtime claims hold the AK and
the EK of the vTPM as JSON Web Keys (`HCLAkPub`, `HCLEkPub`), how the VM is configured, and 64 bytes of the user's (`user-data`); the guest
hands them to its hardware by their hash, which stands in the report data with zeros behind it.

Source: Microsoft, "Azure confidential VMs guest attestation design", guest attestation report and runtime claims; OpenHCL,
`igvm_attest` (IgvmAttestReportType, IgvmAttestHashType); RFC 7517 and 7518 section 6.3; Intel TDX Module 1.5 ABI, TDREPORT_STRUCT.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_json, parse_b64url

MAGIC: Final = b"HCLA"
MAX_REPORT: Final = 64 << 10
"""Bytes with padding."""
VERSIONS: Final = (1, 2)
REPORT_TYPES: Final = {1: "VBS", 2: "SNP", 4: "TDX"}
HASHES: Final = {1: "sha256", 2: "sha384", 3: "sha512"}
SNP_SIZE: Final = 1184
TD_SIZE: Final = 1024
REPORT_DATA: Final = 64
AK: Final = "HCLAkPub"
EK: Final = "HCLEkPub"
PCRS: Final = 24

_HEADER: Final = Struct("<4sIIII12s")
_DATA: Final = Struct("<IIIII")
_HARDWARE: Final = _HEADER.size
_AFTER: Final = _HARDWARE + SNP_SIZE
_CLAIMS: Final = _AFTER + _DATA.size
_MAX_KEYS: Final = 16
_MIN_BITS, _MAX_BITS = 2048, 4096
_TD: Final = Struct("<4s12s16s48s48s64s32s32s239s17s8s8s48s48s48s48s48s48s48s48s48s64s")
_SIZE_FIELD: Final = 8
_PCR: Final = 32


@dataclass(frozen=True, slots=True)
class HclReport:
    """An HCL report as parsed; whose word it is, the hardware report says. `hardware` are the bytes of that report without padding.

    `report_type` is SNP, TDX or VBS (a report of the hypervisor's, with no hardware behind it). `claims` are the bytes that are hashed
    (`claims_data`); what they mean, `parse_claims` says.
    """

    version: int
    request_type: int
    report_type: str
    hash: str
    hardware: bytes
    claims: bytes

    @property
    def claims_data(self) -> bytes:
        """What the report data of the hardware must be: the hash of the runtime claims, and zeros up to 64 bytes."""
        return hashlib.new(self.hash, self.claims).digest().ljust(REPORT_DATA, b"\0")


@dataclass(frozen=True, slots=True)
class RuntimeClaims:
    """What the paravisor says: the vTPM's keys, the VM's configuration as it stands, and the user's data as text. `ek` may be absent."""

    ak: rsa.RSAPublicKey
    ek: rsa.RSAPublicKey | None
    vm_configuration: dict[str, Any]
    user_data: str | None


@dataclass(frozen=True, slots=True)
class LocalTdReport:
    """A TDREPORT: its MAC can be verified on its own machine only, so that a quote has to say the same. Fields as in `tdx.TdReport`."""

    report_data: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class VtpmQuote:
    """A quote as the guest's agents hand it on: TPMS_ATTEST, its signature and the whole SHA-256 bank (None: absent)."""

    message: bytes
    signature: bytes
    pcrs: tuple[bytes, ...] | None

    def __post_init__(self) -> None:
        if self.pcrs is not None and (len(self.pcrs) != PCRS or any(len(one) != _PCR for one in self.pcrs)):
            raise FormatError("vTPM quote.pcrs", f"{PCRS} values of 32 bytes", f"{len(self.pcrs)}, or of another size")


def parse_hcl(data: bytes) -> HclReport:
    """Read one HCL report and at most zeros behind it. Raises FormatError, and nothing else."""
    if not _CLAIMS <= len(data) <= MAX_REPORT:
        raise FormatError("HCL report", f"{_CLAIMS} to {MAX_REPORT} bytes", f"{len(data)} bytes")
    magic, version, size, request, status, reserved = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise FormatError("HCL report.signature", MAGIC.decode(), magic.hex(), 0)
    if version not in VERSIONS:
        raise FormatError("HCL report.version", "1 or 2", str(version), 4)
    if status or any(reserved):
        raise FormatError("HCL report.status", "zero, and zeros behind it", f"{status:#x}", 0x10)
    data_size, data_version, kind, hashed, claims_size = _DATA.unpack_from(data, _AFTER)
    report_type, hash_name = REPORT_TYPES.get(kind), HASHES.get(hashed)
    if data_version not in VERSIONS:
        raise FormatError("HCL report.data.version", "1 or 2", str(data_version), _AFTER + 4)
    if report_type is None:
        raise FormatError("HCL report.report_type", "1 (VBS), 2 (SNP) or 4 (TDX)", str(kind), _AFTER + 8)
    if hash_name is None:
        raise FormatError("HCL report.hash_type", "1, 2 or 3 (SHA-256, SHA-384, SHA-512)", str(hashed), _AFTER + 12)
    end = _CLAIMS + claims_size
    if end > len(data):
        raise FormatError("HCL report.claims", f"{claims_size} bytes", f"{len(data) - _CLAIMS}", _CLAIMS)
    if data_size != _DATA.size + claims_size or size != _AFTER + data_size:
        raise FormatError("HCL report.size", f"{end} and {end - _AFTER}, with the claims in it", f"{size} and {data_size}", 8)
    hardware_size = TD_SIZE if report_type == "TDX" else SNP_SIZE
    if any(data[end:]) or any(data[_HARDWARE + hardware_size : _AFTER]):
        raise FormatError("HCL report", "zeros behind the report and the hardware's", "others", end)
    hardware = data[_HARDWARE : _HARDWARE + hardware_size]
    return HclReport(version, request, report_type, hash_name, hardware, data[_CLAIMS:end])


def parse_claims(claims: bytes) -> RuntimeClaims:
    """Read runtime claims; members that nobody knows here pass. Raises FormatError, and nothing else."""
    value = decode_json(claims, "runtime claims", max_size=MAX_REPORT)
    if not isinstance(value, dict):
        raise FormatError("runtime claims", "a JSON object", type(value).__name__)
    keys, configuration, user_data = value.get("keys"), value.get("vm-configuration", {}), value.get("user-data")
    if not isinstance(keys, list) or len(keys) > _MAX_KEYS or not all(isinstance(one, dict) for one in keys):
        raise FormatError("runtime claims.keys", f"at most {_MAX_KEYS} JSON Web Keys", type(keys).__name__)
    if not isinstance(configuration, dict) or not isinstance(user_data, str | None):
        raise FormatError("runtime claims", "vm-configuration an object, user-data a text", "others")
    ak = _key(keys, AK)
    if ak is None:
        raise FormatError("runtime claims.keys", f"a key {AK}", "none")
    return RuntimeClaims(ak, _key(keys, EK), configuration, user_data)


def _key(keys: list[dict[str, Any]], kid: str) -> rsa.RSAPublicKey | None:
    found = [one for one in keys if one.get("kid") == kid]
    if not found:
        return None
    what = f"runtime claims.{kid}"
    if len(found) > 1:
        raise FormatError(what, "one", f"{len(found)}")
    f = Fields(found[0], what)
    if f.text("kty", most=8) != "RSA":
        raise FormatError(f"{what}.kty", "RSA", "another")
    numbers = [int.from_bytes(parse_b64url(f.text(name), f"{what}.{name}"), "big") for name in ("n", "e")]
    if not _MIN_BITS <= numbers[0].bit_length() <= _MAX_BITS or numbers[1].bit_length() > 32:
        raise FormatError(what, f"{_MIN_BITS} to {_MAX_BITS} bits, and an exponent of at most 32", f"{numbers[0].bit_length()} bits")
    try:
        return rsa.RSAPublicNumbers(numbers[1], numbers[0]).public_key()
    except ValueError:
        raise FormatError(what, "an RSA key", "numbers that are none") from None


def parse_local_td_report(raw: bytes) -> LocalTdReport:
    """Read exactly one TDREPORT of a TD. Raises FormatError, and nothing else."""
    if len(raw) != TD_SIZE:
        raise FormatError("TDREPORT", f"{TD_SIZE} bytes", f"{len(raw)} bytes")
    f = _TD.unpack(raw)
    if f[0][0] != 0x81:
        raise FormatError("TDREPORT.type", "0x81, of a TD", f"{f[0][0]:#x}", 0)
    return LocalTdReport(f[5], f[10], f[11], f[12], f[13], f[14], f[15], f[16:20])


def parse_vtpm_quote(data: bytes) -> VtpmQuote:
    """Read exactly one quote in bincode: signature and message behind their sizes, then 24, and as many values of 32 bytes.

    Raises FormatError, and nothing else.

    Source: azure-cvm-tooling, az-cvm-vtpm, `vtpm::Quote`; bincode 1, fixed-width integers, little-endian.
    """
    signature, at = _sized(data, 0)
    message, at = _sized(data, at)
    number, at = _number(data, at), at + _SIZE_FIELD
    if number != PCRS:
        raise FormatError("vTPM quote.pcrs", str(PCRS), str(number), at)
    end = at + PCRS * _PCR
    if len(data) != end:
        raise FormatError("vTPM quote", f"{end} bytes", f"{len(data)} bytes", at)
    return VtpmQuote(message, signature, tuple(data[one : one + _PCR] for one in range(at, end, _PCR)))


def _number(data: bytes, at: int) -> int:
    if at + _SIZE_FIELD > len(data):
        raise FormatError("vTPM quote", "a size of 8 bytes", "the end", at)
    return int.from_bytes(data[at : at + _SIZE_FIELD], "little")


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    size, start = _number(data, at), at + _SIZE_FIELD
    if size > len(data) - start:
        raise FormatError("vTPM quote", f"{size} bytes", f"{len(data) - start}", start)
    return data[start : start + size], start + size
