"""Evidence of NVIDIA GPUs and NVSwitches: SPDM reports with their certificate chains, alone or several in one file.

    report    request and response of SPDM 1.1 (`spdm.py`), ECDSA P-384 with SHA-384: r[48] s[48]
    opaque    (type[2] size[2] value)*, or "NVDAOD" profile[2] major minor reserved[2] (type[2] value type[2] size[2] value)*
    file      [{"arch": "HOPPER", "nonce": hex, "evidence": base64 of the report, "certificate": base64 of PEM, …}, …]

Files come from the vendor's SDK (a list), from what its services and others send (`evidence_list`, `device_evidence_list`), and as a CMW
collection of devices. Bytes are in base64 or hexadecimal there. What a file says beside report and chain is the host's word, which is
compared and never believed. Parsed, not verified.

>>> parse_opaque(bytes.fromhex("0300070035353000303030"))
Opaque(version=0, fields={3: OpaqueField(value=b'550\\x00000', kind=0)})

Source: NVIDIA attestation-sdk (spdm_opaque_data_parser.cpp, gpu_opaque_data_parser.hpp, gpu and switch evidence.cpp); DMTF DSP0274 1.1.1;
RFC 9999 section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.byte_text import bytes_of_text
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_json
from writ.formats.tee.spdm import NONCE_SIZE, LittleEndianReader, Measurements, parse_measurements
from writ.formats.x509 import Certificate, parse_pem_certificates

SIGNATURE_SIZE: Final = 96
MOST_DEVICES: Final = 64
MAX_FILE: Final = 4 << 20
"""Bytes of one file: 64 devices have about 800 KB."""

_MAGIC: Final = b"NVDAOD"
_NEWEST_OPAQUE: Final = 2
_LISTS: Final = ("evidence_list", "device_evidence_list", "evidences")
_CMW_TYPE: Final = "__cmwc_t"
_STATED: Final = ("arch", "driver_version", "vbios_version", "cc_mode")
CC_MODES: Final = ("on", "off", "devtools", "ppcie")
"""What a host may say of the mode that its driver runs the device in."""


class Field:
    """Types of opaque data. GPU and NVSwitch share the numbers, and not always the spelling of the values."""

    DRIVER_VERSION: Final = 3
    VBIOS_VERSION: Final = 6
    NVDEC0_STATUS: Final = 11
    CHIP_SKU: Final = 15
    PROJECT: Final = 17
    PROJECT_SKU: Final = 18
    FWID: Final = 20
    PROTECTED_PCIE: Final = 21
    OPAQUE_VERSION: Final = 34
    FEATURE: Final = 36


@dataclass(frozen=True, slots=True)
class OpaqueField:
    """One value; `kind` is its value type, 0 in the form that has none."""

    value: bytes
    kind: int


@dataclass(frozen=True, slots=True)
class Opaque:
    """Opaque data: the version of its layout (0 where it states none), and its fields by type, each once."""

    version: int
    fields: Mapping[int, OpaqueField]

    def value(self, field: int) -> bytes | None:
        """The value of `field`, None where there is none."""
        found = self.fields.get(field)
        return None if found is None else found.value

    def text(self, field: int) -> str | None:
        """The value of `field` as text, without the NULs that fill it. Raises FormatError."""
        value = self.value(field)
        if value is None:
            return None
        text = value.rstrip(b"\0").decode("ascii", "replace")
        if not 1 <= len(text) <= 64 or not text.isascii() or not text.isprintable():
            raise FormatError(f"opaque data.{field}", "1 to 64 printable characters, then NULs", value[:32].hex() or "nothing")
        return text

    def number(self, field: int) -> int | None:
        """The value of `field` as a little-endian number of 1 to 8 bytes. Raises FormatError."""
        value = self.value(field)
        if value is not None and not 1 <= len(value) <= 8:
            raise FormatError(f"opaque data.{field}", "1 to 8 bytes", f"{len(value)} bytes")
        return None if value is None else int.from_bytes(value, "little")


@dataclass(frozen=True, slots=True)
class Report:
    """One report: what was measured, and what the device says beside it."""

    measurements: Measurements
    opaque: Opaque


@dataclass(frozen=True, slots=True)
class DeviceEvidence:
    """One device of a file. `chain` is in the order that it came in; the other members are the host's word, None where it gave none."""

    report: Report
    chain: tuple[Certificate, ...]
    arch: str | None = None
    nonce: bytes | None = None
    driver: str | None = None
    vbios: str | None = None
    cc_mode: str | None = None


# --- reports --------------------------------------------------------------------------------------------------------------


def parse_report(data: bytes) -> Report:
    """Read exactly one report. Raises FormatError, and nothing else."""
    measurements = parse_measurements(data, signature_size=SIGNATURE_SIZE)
    return Report(measurements, parse_opaque(measurements.opaque))


def parse_opaque(data: bytes) -> Opaque:
    """Read opaque data to its end, of a layout up to version 2. Raises FormatError, and nothing else."""
    reader = LittleEndianReader(data, "opaque data")
    headed = data[: len(_MAGIC)] == _MAGIC
    version = 0
    if headed:
        reader.take(len(_MAGIC))
        if profile := reader.number(2):
            raise reader.error("profile 0", str(profile))
        version = reader.number(1)
        reader.take(3)
    fields: dict[int, OpaqueField] = {}
    while reader.more:
        field, kind = reader.number(2), reader.number(2) if headed else 0
        if field in fields:
            raise reader.error("each type once", f"type {field} twice")
        fields[field] = OpaqueField(reader.take(reader.number(2)), kind)
    opaque = Opaque(version, fields)
    if not headed:
        opaque = Opaque(opaque.number(Field.OPAQUE_VERSION) or 0, fields)
    if opaque.version > _NEWEST_OPAQUE:
        raise FormatError("opaque data", f"version 0 to {_NEWEST_OPAQUE}", f"version {opaque.version}")
    return opaque


def gpu_vbios(opaque: Opaque) -> str | None:
    """The VBIOS version of a GPU, as "96.00.5E.00.01": a number of four bytes, and one byte beside it. Raises FormatError."""
    value = opaque.value(Field.VBIOS_VERSION)
    if value is None:
        return None
    if len(value) != 8 or any(value[5:]):
        raise FormatError("opaque data.VBIOS version", "four bytes, one byte and three zeros", value[:16].hex() or "nothing")
    return ".".join(f"{byte:02X}" for byte in (*reversed(value[:4]), value[4]))


# --- files ----------------------------------------------------------------------------------------------------------------


def parse_evidence(data: bytes) -> tuple[DeviceEvidence, ...]:
    """Read a file of 1 to 64 devices, in their order. Raises FormatError, and nothing else."""
    value = decode_json(data, "evidence", max_size=MAX_FILE)
    devices, nonce = _devices(value)
    if not 1 <= len(devices) <= MOST_DEVICES:
        raise FormatError("evidence", f"1 to {MOST_DEVICES} devices", str(len(devices)))
    return tuple(_device(device, f"devices[{index}]", nonce) for index, device in enumerate(devices))


def _devices(value: Any) -> tuple[list[Any], Any]:
    """The devices in whatever wrapping, and the nonce that stands beside them."""
    if isinstance(value, list):
        return value, None
    if not isinstance(value, dict):
        raise FormatError("evidence", "a list of devices, or an object with one", type(value).__name__)
    if isinstance(value.get(_CMW_TYPE), str):
        members = {label: member for label, member in value.items() if isinstance(member, dict)}
        return [_unwrapped(member, label) for label, member in members.items()], _record(value.get("nonce"), "nonce")
    for name in _LISTS:
        if isinstance(found := value.get(name), list):
            arch = value.get("arch")
            return [{"arch": arch, **one} if arch is not None and isinstance(one, dict) else one for one in found], value.get("nonce")
    return [value], None


def _unwrapped(item: Mapping[str, Any], label: str) -> dict[str, Any]:
    """An evidence item of a CMW collection, with its records as their bytes in hexadecimal."""
    return {name: _record(record, f"{label}.{name}") for name, record in item.items() if name != _CMW_TYPE}


def _record(record: Any, what: str) -> str | None:
    """The bytes of a CMW record in hexadecimal. Base64url, and base64 again where what it holds is text."""
    if record is None:
        return None
    if not isinstance(record, list) or not 2 <= len(record) <= 3 or not all(isinstance(part, str) for part in record[:2]):
        raise FormatError(f"evidence.{what}", "a record of type and value", type(record).__name__)
    return bytes_of_text(record[1], what).hex()


def _device(value: Any, what: str, nonce: Any) -> DeviceEvidence:
    if not isinstance(value, dict):
        raise FormatError(what, "an object", type(value).__name__)
    report = parse_report(bytes_of_text(_string(value, "evidence", what), f"{what}.evidence"))
    chain = parse_pem_certificates(_pem(_string(value, "certificate", what), f"{what}.certificate"), f"{what}.certificate")
    stated = {name: None if value.get(name) is None else Fields(value, what).text(name, most=64) for name in _STATED}
    if stated["cc_mode"] not in (None, *CC_MODES):
        raise FormatError(f"{what}.cc_mode", ", ".join(CC_MODES), repr(stated["cc_mode"])[:40])
    asked = value.get("nonce", nonce)
    found = None if asked is None else bytes_of_text(_string({"nonce": asked}, "nonce", what), f"{what}.nonce")
    if found is not None and len(found) != NONCE_SIZE:
        raise FormatError(f"{what}.nonce", f"{NONCE_SIZE} bytes", f"{len(found)} bytes")
    return DeviceEvidence(report, chain, stated["arch"], found, stated["driver_version"], stated["vbios_version"], stated["cc_mode"])


def _string(value: Mapping[str, Any], name: str, what: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not found:
        raise FormatError(f"{what}.{name}", "text", type(found).__name__)
    return found


def _pem(text: str, what: str) -> bytes:
    """PEM as it is, or in base64 or hexadecimal, or in base64 twice, as a CMW has it."""
    for _ in range(2):
        if "-----BEGIN" in text:
            break
        text = bytes_of_text(text, what).decode("ascii", "replace")
    return text.encode("ascii", "replace")


def parse_report_file(data: bytes) -> bytes:
    """The bytes of a report that stands alone in a file: as they are, or in hexadecimal or base64. Raises FormatError."""
    if data[:2] == b"\x11\xe0":
        return data
    try:
        return bytes_of_text(data.decode("ascii"), "report")
    except UnicodeDecodeError:
        raise FormatError("report", "an SPDM report, or its hexadecimal or base64", data[:8].hex()) from None
