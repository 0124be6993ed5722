"""Collateral of Intel's provisioning service: TCB info, identities of the quoting enclave, certificates and CRLs. Nothing is verified.

It comes as the service gives it, one file a request, or as one JSON object of which each value is one of these:

    /tcb                {"tcbInfo":{"id":"TDX","version":3,...,"tcbLevels":[...]},"signature":"027ef6ca..."}
    /qe/identity        {"enclaveIdentity":{"id":"TD_QE","version":2,...},"signature":"d6d70984..."}
    /pckcrl, /rootcacrl a CRL in DER, in PEM, or hexadecimal
    /tcbevaluationdatanumbers    is of no use here, and read as nothing
    issuer chains       certificates in PEM, also percent-encoded as the HTTP headers have them
    one object          {"pck_crl_issuer_chain":"-----BEGIN ...","root_ca_crl":"3082...","pck_crl":"3082...","tcb_info":"{...}",
                         "tcb_info_signature":"027e...","qe_identity":"{...}","qe_identity_signature":"d6d7..."}

A signature of TCB info or of an identity is over the bytes of the inner object as they stand, so these are kept. Keys that are not known
are passed over: the service adds some within a version, and what is said by those that are known stays as it is.

Source: Intel SGX and TDX Provisioning Certification Service API, version 4 (TCB info versions 2 and 3, enclave identity version 2);
sgx_ql_qve_collateral_t of the SGX ECDSA Quote Library Reference.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from writ.formats.crl import Crl, parse_crl
from writ.formats.errors import FormatError
from writ.formats.json_members import json_members
from writ.formats.strict import Fields, decode_json
from writ.formats.x509 import MAX_CERTIFICATE, Certificate, parse_certificate, parse_pem_certificates

MAX_COLLATERAL: Final = 8 << 20
"""Bytes of one file; the CRL of a PCK CA is the largest part, and a hexadecimal digit is a byte."""
MOST_LEVELS: Final = 256
MOST_MODULES: Final = 64
MOST_ADVISORIES: Final = 256
MOST_PARTS: Final = 64
"""Of each kind, of one set of collateral."""
COMPONENTS: Final = 16
MAX_SVN: Final = 0xFFFF

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z", re.ASCII)
_ADVISORY: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z", re.ASCII)
_MODULE: Final = re.compile(r"TDX_([0-9A-F]{2})\Z", re.ASCII | re.IGNORECASE)
_PERCENT: Final = re.compile(r"%([0-9A-Fa-f]{2})", re.ASCII)
_HEX: Final = re.compile(rb"[0-9A-Fa-f\s]+\Z", re.ASCII)
_DOCUMENTS: Final = ("tcbInfo", "enclaveIdentity")
_CHAINS: Final = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_certificate_chain")
_CRLS: Final = ("root_ca_crl", "pck_crl")
_SIGNED: Final = ("tcb_info", "qe_identity")


class TcbStatus(StrEnum):
    """What Intel says of a TCB level, in its own words; the last two follow from a comparison and stand in no document."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"


_STATUSES: Final = {status.value: status for status in tuple(TcbStatus)[:7]}
_OF_PARTS: Final = {status.value: status for status in (TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED)}
"""Of a TDX module or a quoting enclave: there is no rule that merges others with the platform's."""


@dataclass(frozen=True, slots=True)
class Level:
    """A TCB level of a TDX module or a QE: from this ISVSVN on it has `status`. `date` is in seconds since the epoch."""

    isv_svn: int
    date: int
    status: TcbStatus
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlatformLevel:
    """A TCB level of a platform: the least SVN of each of the 16 components and of the PCE. `tdx` is empty in TCB info of SGX."""

    sgx: tuple[int, ...]
    pce_svn: int
    tdx: tuple[int, ...]
    date: int
    status: TcbStatus
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TdxModule:
    """Who signs a TDX module (48 bytes) and its attributes under a mask (8 bytes each).

    `major` is None of the module that TCB info names beside those by version, and `levels` are empty then.
    """

    major: int | None
    mr_signer: bytes
    attributes: bytes
    mask: bytes
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """TCB info of one platform model (`fmspc`, 6 bytes; `pce_id`, 2), levels in the order given. `id` is SGX or TDX, SGX of version 2.

    `signed` is what `signature` (r and s) is over. Dates are seconds since the epoch.
    """

    id: str
    version: int
    issue_date: int
    next_update: int
    fmspc: bytes
    pce_id: bytes
    evaluation_number: int
    module: TdxModule | None
    modules: tuple[TdxModule, ...]
    levels: tuple[PlatformLevel, ...]
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class EnclaveIdentity:
    """Which enclave a QE is: `id` is QE, TD_QE or QVE; MISCSELECT (4 bytes) and ATTRIBUTES (16) under their masks, as in a report."""

    id: str
    version: int
    issue_date: int
    next_update: int
    evaluation_number: int
    misc_select: bytes
    misc_select_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[Level, ...]
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Collateral:
    """All that was given, in no order that means anything: the verdict takes what fits a quote, and believes what leads to its root."""

    certificates: tuple[Certificate, ...] = ()
    crls: tuple[Crl, ...] = ()
    tcb_infos: tuple[TcbInfo, ...] = ()
    identities: tuple[EnclaveIdentity, ...] = ()

    @classmethod
    def of(cls, parts: Iterable[Collateral]) -> Collateral:
        """All parts in one. Raises FormatError where they are too many."""
        given = tuple(parts)
        whole = cls(
            tuple(dict.fromkeys(one for part in given for one in part.certificates)),
            tuple(dict.fromkeys(one for part in given for one in part.crls)),
            tuple(dict.fromkeys(one for part in given for one in part.tcb_infos)),
            tuple(dict.fromkeys(one for part in given for one in part.identities)),
        )
        if max(map(len, (whole.certificates, whole.crls, whole.tcb_infos, whole.identities))) > MOST_PARTS:
            raise FormatError("collateral", f"at most {MOST_PARTS} of a kind", "more")
        return whole


# --- files --------------------------------------------------------------------------------------------------------------


def parse_collateral(data: bytes, what: str = "collateral") -> Collateral:
    """Read one file, of any of the kinds above, told by what it holds. Raises FormatError, and nothing else."""
    if len(data) > MAX_COLLATERAL:
        raise FormatError(what, f"at most {MAX_COLLATERAL} bytes", f"{len(data)} bytes")
    head = data.lstrip()[:64]
    if head[:1] == b"{":
        return _object(json_members(data, what, max_size=MAX_COLLATERAL), what)
    if b"-----BEGIN X509 CRL" in data or head[:1] == b"\x30" or (_HEX.match(data) and head[:2] == b"30"):
        return _der(_bytes(data, what))
    return Collateral(certificates=_certificates(data.decode("latin-1"), what))


def _object(members: dict[str, bytes], what: str) -> Collateral:
    for name in _DOCUMENTS:
        if name in members:
            return _document(name, members[name], _hex(_text(members, "signature", what), 64, f"{what}.signature"), what)
    if "tcbEvaluationDataNumbers" in members:
        return Collateral()
    if not members.keys() & {*_CHAINS, *_CRLS, *_SIGNED}:
        raise FormatError(what, "TCB info, an enclave identity, or a set of collateral", "another object")
    chains = {name: text for name in _CHAINS if name in members and (text := _text(members, name, what)).strip("\0 \r\n")}
    parts = [Collateral(certificates=_certificates(text, f"{what}.{name}")) for name, text in chains.items()]
    for name in _CRLS:
        if name in members:
            raw = _octets(members[name], f"{what}.{name}")
            parts.append(Collateral(crls=(parse_crl(_bytes(raw, f"{what}.{name}")),)))
    for name, document in zip(_SIGNED, _DOCUMENTS, strict=True):
        if name in members:
            inner, place = _text(members, name, what).rstrip("\0").encode("utf-8"), f"{what}.{name}"
            if document in (outer := json_members(inner, place)):
                parts.append(_object(outer, place))
                continue
            signature = f"{name}_signature"
            if signature not in members:
                raise FormatError(what, f"key {signature!r}", "none")
            raw = _octets(members[signature], f"{what}.{signature}")
            signed_by = raw if len(raw) == 64 else _hex(raw.decode("latin-1"), 64, f"{what}.{signature}")
            parts.append(_document(document, inner, signed_by, place))
    return Collateral.of(parts)


def _document(name: str, signed: bytes, signature: bytes, what: str) -> Collateral:
    if name == "tcbInfo":
        return Collateral(tcb_infos=(parse_tcb_info(signed, signature, what),))
    return Collateral(identities=(parse_identity(signed, signature, what),))


def _der(der: bytes) -> Collateral:
    """A certificate or a CRL: what is one does not read as the other."""
    if len(der) <= MAX_CERTIFICATE:
        try:
            return Collateral(certificates=(parse_certificate(der),))
        except FormatError:
            pass
    return Collateral(crls=(parse_crl(der),))


def _certificates(text: str, what: str) -> tuple[Certificate, ...]:
    if "-----BEGIN%20" in text:
        text = _PERCENT.sub(lambda match: chr(int(match[1], 16)), text)
    return parse_pem_certificates(text.encode("latin-1", "replace"), what)


def _bytes(data: bytes, what: str) -> bytes:
    """DER or PEM as it is, hexadecimal as the bytes it says."""
    if not data or not _HEX.match(data):
        return data
    try:
        return binascii.a2b_hex(b"".join(data.split()))
    except binascii.Error:
        raise FormatError(what, "an even number of hexadecimal digits", "an odd one") from None


def _octets(value: bytes, what: str) -> bytes:
    """A JSON value that stands for bytes: text, or an array of numbers as some libraries write it."""
    decoded = decode_json(value, what, max_size=MAX_COLLATERAL)
    if isinstance(decoded, str):
        return decoded.encode("latin-1", "replace").rstrip(b"\0")
    if isinstance(decoded, list) and all(type(one) is int and 0 <= one <= 255 for one in decoded):
        return bytes(decoded)
    raise FormatError(what, "hexadecimal text, PEM, or an array of bytes", type(decoded).__name__)


def _text(members: dict[str, bytes], key: str, what: str) -> str:
    if key not in members:
        raise FormatError(what, f"key {key!r}", "none")
    value = decode_json(members[key], f"{what}.{key}", max_size=MAX_COLLATERAL)
    if not isinstance(value, str):
        raise FormatError(f"{what}.{key}", "text", type(value).__name__)
    return value


# --- documents ----------------------------------------------------------------------------------------------------------


def parse_tcb_info(signed: bytes, signature: bytes, what: str = "TCB info") -> TcbInfo:
    """Read the value of `tcbInfo`, of version 2 or 3. Raises FormatError, and nothing else."""
    f = Fields(decode_json(signed, what), what)
    version = f.uint("version", most=1000)
    if version not in (2, 3):
        raise FormatError(f"{what}.version", "2 or 3", str(version))
    name = f.text("id", most=8) if version == 3 else "SGX"
    if name not in ("SGX", "TDX"):
        raise FormatError(f"{what}.id", "SGX or TDX", repr(name))
    if kind := f.uint("tcbType"):
        raise FormatError(f"{what}.tcbType", "0: levels are compared component by component", str(kind))
    tdx = name == "TDX"
    levels = tuple(_platform_level(one, version, tdx, f"{what}.tcbLevels") for one in f.items("tcbLevels", most=MOST_LEVELS))
    if not levels:
        raise FormatError(f"{what}.tcbLevels", "at least one", "none")
    modules: tuple[TdxModule, ...] = ()
    if tdx and f.has("tdxModuleIdentities"):
        place = f"{what}.tdxModuleIdentities"
        modules = tuple(_module(one, place, named=True) for one in f.items("tdxModuleIdentities", most=MOST_MODULES))
        if len({module.major for module in modules}) != len(modules):
            raise FormatError(place, "each version once", "one twice")
    fmspc, pce_id, number = _hex_of(f, "fmspc", 6, what), _hex_of(f, "pceId", 2, what), f.uint("tcbEvaluationDataNumber")
    module = _module(f.any("tdxModule"), f"{what}.tdxModule", named=False) if tdx else None
    issued, replaced = _date(f, "issueDate", what), _date(f, "nextUpdate", what)
    return TcbInfo(name, version, issued, replaced, fmspc, pce_id, number, module, modules, levels, signed, signature)


def parse_identity(signed: bytes, signature: bytes, what: str = "enclave identity") -> EnclaveIdentity:
    """Read the value of `enclaveIdentity`, of version 2. Raises FormatError, and nothing else."""
    f = Fields(decode_json(signed, what), what)
    version, name = f.uint("version", most=1000), f.text("id", most=8)
    if version != 2 or name not in ("QE", "TD_QE", "QVE"):
        raise FormatError(what, "version 2 of QE, TD_QE or QVE", f"version {version} of {name!r}")
    levels = tuple(_level(one, f"{what}.tcbLevels") for one in f.items("tcbLevels", most=MOST_LEVELS))
    if not levels:
        raise FormatError(f"{what}.tcbLevels", "at least one", "none")
    return EnclaveIdentity(
        name, version, _date(f, "issueDate", what), _date(f, "nextUpdate", what), f.uint("tcbEvaluationDataNumber"),
        _hex_of(f, "miscselect", 4, what), _hex_of(f, "miscselectMask", 4, what), _hex_of(f, "attributes", 16, what),
        _hex_of(f, "attributesMask", 16, what), _hex_of(f, "mrsigner", 32, what), f.uint("isvprodid", most=MAX_SVN), levels,
        signed, signature,
    )  # fmt: skip


def _platform_level(value: object, version: int, tdx: bool, what: str) -> PlatformLevel:
    f = Fields(value, what)
    tcb = f.fields("tcb")
    if version == 2:
        sgx = tuple(tcb.uint(f"sgxtcbcomp{number:02}svn", most=MAX_SVN) for number in range(1, COMPONENTS + 1))
    else:
        sgx = _components(tcb, "sgxtcbcomponents", what)
    return PlatformLevel(
        sgx, tcb.uint("pcesvn", most=MAX_SVN), _components(tcb, "tdxtcbcomponents", what) if tdx else (), _date(f, "tcbDate", what),
        _status(f, _STATUSES, what), _advisories(f, what),
    )  # fmt: skip


def _components(tcb: Fields, key: str, what: str) -> tuple[int, ...]:
    items = tcb.items(key, most=COMPONENTS)
    if len(items) != COMPONENTS:
        raise FormatError(f"{what}.{key}", f"{COMPONENTS} components", str(len(items)))
    return tuple(Fields(one, f"{what}.{key}").uint("svn", most=MAX_SVN) for one in items)


def _module(value: object, what: str, *, named: bool) -> TdxModule:
    f = Fields(value, what)
    major, levels = None, tuple[Level, ...]()
    if named:
        name = f.text("id", most=64)
        if (match := _MODULE.match(name)) is None:
            raise FormatError(f"{what}.id", "TDX_ and two hexadecimal digits", repr(name))
        major = int(match[1], 16)
        levels = tuple(_level(one, f"{what}.tcbLevels") for one in f.items("tcbLevels", most=MOST_LEVELS))
    return TdxModule(
        major, _hex_of(f, "mrsigner", 48, what), _hex_of(f, "attributes", 8, what), _hex_of(f, "attributesMask", 8, what), levels
    )


def _level(value: object, what: str) -> Level:
    f = Fields(value, what)
    svn = f.fields("tcb").uint("isvsvn", most=MAX_SVN)
    return Level(svn, _date(f, "tcbDate", what), _status(f, _OF_PARTS, what), _advisories(f, what))


def _status(f: Fields, statuses: dict[str, TcbStatus], what: str) -> TcbStatus:
    text = f.text("tcbStatus", most=64)
    if text not in statuses:
        raise FormatError(f"{what}.tcbStatus", f"one of {', '.join(statuses)}", repr(text))
    return statuses[text]


def _advisories(f: Fields, what: str) -> tuple[str, ...]:
    given: list[Any] = f.items("advisoryIDs", most=MOST_ADVISORIES) if f.has("advisoryIDs") else []
    for one in given:
        if not isinstance(one, str) or not _ADVISORY.match(one):
            raise FormatError(f"{what}.advisoryIDs", "names of advisories", repr(one)[:80])
    return tuple(given)


def _date(f: Fields, key: str, what: str) -> int:
    text = f.text(key, most=32)
    if not _DATE.match(text):
        raise FormatError(f"{what}.{key}", "a time as 2026-01-02T03:04:05Z", repr(text))
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except ValueError:
        raise FormatError(f"{what}.{key}", "a time that exists", repr(text)) from None


def _hex_of(f: Fields, key: str, size: int, what: str) -> bytes:
    return _hex(f.text(key, most=2 * size), size, f"{what}.{key}")


def _hex(text: str, size: int, what: str) -> bytes:
    try:
        value = binascii.a2b_hex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise FormatError(what, f"{size} bytes in hexadecimal", f"{len(text)} characters")
    return value
