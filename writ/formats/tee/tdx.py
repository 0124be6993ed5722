"""Quotes of Intel TDX and SGX: bytes to frozen types, nothing judged.

A quote is a header, the report of a TD or of an enclave, and behind its length the signature data, all little-endian:

    version  header 48   body                                signature data (length u32 before it)
    3        tee 0       enclave report 384                  signature, key, QE report 384, its signature, QE authentication data,
                                                             certification data
    4        tee 0, 81h  enclave report, or TD report 584    signature, key, certification data of type 6, which holds the QE report
    5        the same    type u16, size u32, then one of:    and the rest of the above
                         1 enclave 384, 2 TD 1.0 584, 3 TD 1.5 648, 4 TD 1.5 with the history of a migration 885

    04000200 81000000 00000000 939a7233f79c4ca9940a0db3957f0607 ...     version 4, an ECDSA-256 key, a TD, Intel's quoting enclave

The signature is over header and body. Lengths are exact on each level. A quote comes in a buffer of the guest's kernel, so zeros may
follow it; they and whatever else does are no part of it, and nothing signs them.

Source: Intel SGX ECDSA Quote Library Reference (DCAP 1.22), Appendix A.4 (version 3) and A.3 of the TDX one (versions 4 and 5);
Intel TDX Module Base Architecture Specification 348549, "TD attestation"; Intel SDM volume 3D, section 38.15 (REPORT).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

from writ.formats.der import element_end
from writ.formats.errors import FormatError
from writ.formats.x509 import Certificate, parse_certificate, parse_pem_certificates

MAX_QUOTE: Final = 64 << 10
"""Bytes with padding: kernels set aside 8 or 16 KiB."""
VERSIONS: Final = (3, 4, 5)
ECDSA_P256: Final = 2
"""The type of the attestation key that is read. Others (3: P-384; ML-DSA) have sizes of their own."""
INTEL_QE: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""QE vendor ID of Intel's quoting enclaves."""
MOST_PCK: Final = 16
"""Certificates in certification data; a chain has three."""

_HEADER: Final = Struct("<HHI4s16s20s")
_BODY: Final = Struct("<HI")
_ENCLAVE: Final = Struct("<16s4s28s16s32s32s32s96sHH60s64s")
_ENCLAVE_FIELDS: Final = (0, 1, 3, 4, 6, 8, 9, 11)
"""Those of it that are not reserved, or of key separation and sharing only."""
_TD: Final = Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_TD_15: Final = Struct("<16s48s")
_MIGRATION: Final = Struct("<B32s48s48s8s16s16s12s48s8s")
_SIGNATURE: Final = 64
_KEY: Final = 64
_PCK_CHAIN: Final = 5
_QE_REPORT: Final = 6
_PLATFORM_MANIFEST: Final = 7


class Tee(IntEnum):
    """What was measured, as the header numbers it."""

    SGX = 0x00
    TDX = 0x81


_TEES: Final = frozenset(Tee)


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """A REPORT body of SGX: `raw` are its 384 bytes, `attributes` 16 and `misc_select` 4 of them as they stand."""

    cpu_svn: bytes
    misc_select: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    report_data: bytes
    raw: bytes

    @property
    def debug(self) -> bool:
        """ATTRIBUTES.DEBUG: a debugger may look into the enclave."""
        return bool(self.attributes[0] & 0x02)


@dataclass(frozen=True, slots=True)
class Migration:
    """What a TD report of body type 4 says of the TD's origin: which TD it is, and how and on what it was made before it moved.

    `vmid` is of a partitioned TD; `td_id` 32 bytes, all zero where the host does not report it; the rest as they stand.
    """

    vmid: int
    td_id: bytes
    dev_info: bytes
    init_service_td_hash: bytes
    init_service_td_attributes: bytes
    init_cpu_svn: bytes
    init_tee_tcb_svn: bytes
    init_tee_fmspc: bytes
    current_service_td_hash: bytes
    current_service_td_attributes: bytes


@dataclass(frozen=True, slots=True)
class TdReport:
    """What a TD is: its module (`..._seam`), what it may do, what it began with (`mr_td`) and what it extended (`rtmrs`, four of 48 bytes).

    `td_attributes`, `seam_attributes` and `xfam` are 8 bytes each, little-endian as they stand. `tee_tcb_svn2` (of the module that runs
    now, where it was updated under the TD) and `mr_service_td` are None in a report of TDX 1.0, `migration` in all but body type 4.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None
    migration: Migration | None = None

    @property
    def debug(self) -> bool:
        """Whether any bit of TUD is set: "if any of the bits in this group are set to 1, the TD is untrusted" (TD under debug)."""
        return self.td_attributes[0] != 0


@dataclass(frozen=True, slots=True)
class QuoteBody:
    """What a quote signs: header and body. `body_type` is 0 before version 5; `raw` are the bytes."""

    version: int
    key_type: int
    tee: Tee
    qe_vendor: bytes
    user_data: bytes
    body_type: int
    report: EnclaveReport | TdReport
    raw: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote as its bytes say it. Nothing about it is verified.

    `signature` and `qe_signature` are r and s, `attestation_key` x and y, of 32 bytes each. `certification` is of `certification_type`
    1 to 5 or 7 and vouches for whoever signed the QE report. `end` is where the quote ends in the bytes that came.
    """

    body: QuoteBody
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_signature: bytes
    qe_authentication: bytes
    certification_type: int
    certification: bytes
    end: int


def parse_quote(data: bytes) -> Quote:
    """Read one quote and at most zeros behind it. Raises FormatError, and nothing else."""
    quote = read_quote(data)
    if any(data[quote.end :]):
        raise FormatError("quote", "zeros behind it, or nothing", f"{len(data) - quote.end} other bytes", quote.end)
    return quote


def read_quote(data: bytes) -> Quote:
    """Read the quote that `data` begins with; what lies behind its `end` is not looked at. Raises FormatError, and nothing else."""
    body = read_quote_body(data)
    r = _Reader(data, "quote", len(body.raw))
    auth = _Reader(r.sized("signature data"), "quote.signature data")
    signature, key = auth.take(_SIGNATURE, "signature"), auth.take(_KEY, "key")
    qe = auth
    if body.version > 3:
        kind, inner = auth.certification("certification")
        auth.done()
        if kind != _QE_REPORT:
            raise FormatError("quote.certification", "type 6, the report of the QE", f"type {kind}")
        qe = _Reader(inner, "quote.QE")
    report = _enclave(qe.take(_ENCLAVE.size, "report"))
    qe_signature, authentication = qe.take(_SIGNATURE, "signature"), qe.take(qe.uint(2, "authentication"), "authentication")
    kind, certification = qe.certification("certification")
    qe.done()
    if not (1 <= kind <= _PCK_CHAIN or kind == _PLATFORM_MANIFEST):
        raise FormatError("quote.QE.certification", "type 1 to 5, or 7", f"type {kind}")
    return Quote(body, signature, key, report, qe_signature, authentication, kind, certification, r.at)


def read_quote_body(data: bytes) -> QuoteBody:
    """Read header and body of the quote that `data` begins with, of a quote that is cut as well. Raises FormatError, and nothing else."""
    if len(data) > MAX_QUOTE:
        raise FormatError("quote", f"at most {MAX_QUOTE} bytes", f"{len(data)} bytes")
    r = _Reader(data, "quote")
    version, key_type, number, _, vendor, user_data = _HEADER.unpack(r.take(_HEADER.size, "header"))
    if version not in VERSIONS:
        raise FormatError("quote.version", "3, 4 or 5", str(version), 0)
    if key_type != ECDSA_P256:
        raise FormatError("quote.key_type", "2, an ECDSA key on P-256", str(key_type), 2)
    if number not in _TEES or (version == 3 and number != Tee.SGX):
        raise FormatError("quote.tee_type", "0 (SGX), or from version 4 on 129 (TDX)", str(number), 4)
    tee, body_type = Tee(number), 0
    size = _ENCLAVE.size if tee is Tee.SGX else _TD.size
    if version == 5:
        body_type, size = _BODY.unpack(r.take(_BODY.size, "body"))
        if _SIZES.get(body_type) != (tee, size):
            known = ", ".join(f"{kind} of {wanted} bytes" for kind, (of, wanted) in _SIZES.items() if of is tee)
            raise FormatError("quote.body", f"for {tee.name} type {known}", f"type {body_type} of {size} bytes", r.at)
    raw = r.take(size, "report")
    report = _enclave(raw) if tee is Tee.SGX else _td(raw)
    return QuoteBody(version, key_type, tee, vendor, user_data, body_type, report, data[: r.at])


def pck_chain(quote: Quote) -> tuple[Certificate, ...]:
    """The certificates that a quote carries, as they stand: of type 4 and 5, in PEM, or one DER after the other; else none.

    Raises FormatError.
    """
    if quote.certification_type not in (4, _PCK_CHAIN):
        return ()
    data = quote.certification.rstrip(b"\0")
    if data[:1] != b"\x30":
        return parse_pem_certificates(data, "PCK chain", most=MOST_PCK)
    found: list[Certificate] = []
    while data:
        if len(found) == MOST_PCK:
            raise FormatError("PCK chain", f"at most {MOST_PCK} certificates", "more")
        _, _, end = element_end(data, 0, "PCK chain")
        found.append(parse_certificate(data[:end]))
        data = data[end:]
    return tuple(found)


_SIZES: Final = {
    1: (Tee.SGX, _ENCLAVE.size),
    2: (Tee.TDX, _TD.size),
    3: (Tee.TDX, _TD.size + _TD_15.size),
    4: (Tee.TDX, _TD.size + _TD_15.size + _MIGRATION.size),
}
"""Body type of version 5 -> what it is of, and its bytes."""


def _enclave(raw: bytes) -> EnclaveReport:
    fields = _ENCLAVE.unpack(raw)
    svn, misc, attributes, enclave, signer, product, version, report_data = (fields[at] for at in _ENCLAVE_FIELDS)
    return EnclaveReport(svn, misc, attributes, enclave, signer, product, version, report_data, raw)


def _td(raw: bytes) -> TdReport:
    svn, seam, signer, seam_attributes, attributes, xfam, td, config, owner, owner_config, *rtmrs, report_data = _TD.unpack_from(raw)
    svn2 = service = migration = None
    if len(raw) >= _SIZES[3][1]:
        svn2, service = _TD_15.unpack_from(raw, _TD.size)
    if len(raw) == _SIZES[4][1]:
        migration = Migration(*_MIGRATION.unpack_from(raw, _SIZES[3][1]))
    return TdReport(
        svn, seam, signer, seam_attributes, attributes, xfam, td, config, owner, owner_config, (rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]),
        report_data, svn2, service, migration,
    )  # fmt: skip


class _Reader:
    """Little-endian bytes read from left to right. Every method raises FormatError, and nothing else, on any bytes."""

    def __init__(self, data: bytes, what: str, at: int = 0) -> None:
        self._data = data
        self._what = what
        self.at = at

    def take(self, count: int, field: str) -> bytes:
        left = len(self._data) - self.at
        if count > left:
            raise FormatError(f"{self._what}.{field}", f"{count} bytes", f"{left} bytes", self.at)
        self.at += count
        return self._data[self.at - count : self.at]

    def uint(self, size: int, field: str) -> int:
        return int.from_bytes(self.take(size, field), "little")

    def sized(self, field: str) -> bytes:
        """What lies behind its length in four bytes."""
        return self.take(self.uint(4, field), field)

    def certification(self, field: str) -> tuple[int, bytes]:
        """QE certification data: its type and its bytes."""
        return self.uint(2, field), self.sized(field)

    def done(self) -> None:
        if left := len(self._data) - self.at:
            raise FormatError(self._what, "nothing more", f"{left} bytes", self.at)
