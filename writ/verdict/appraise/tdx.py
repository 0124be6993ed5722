"""Intel TDX: is this quote of a TD, on a platform of Intel's, and how far are its parts behind? The same of SGX enclaves.

A quoting enclave (QE) signs the quote with a key of its own. Its own report, signed by the platform's PCK, vouches for that key; a chain
up to Intel's root vouches for the PCK. Who the QE is and what each part's version is worth, Intel says in documents, signed and dated.

What it does not prove: that the measurements are good ones (compare `rtmrs`, `mr_td` with reference values; `judge_boot` replays a CCEL
against the RTMRs), that the platform is one of ours, or where it stands. MRCONFIGID, MROWNER and MROWNERCONFIG are the host's word.

Source: Intel SGX and TDX ECDSA Quote Library Reference, Appendix A; Intel's Quote Verification Library, specification 4.1.2.4;
Intel TDX Module 1.5 ABI Specification 348551, ATTRIBUTES and XFAM.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.keys import ES256, PublicKey
from writ.formats.reason import Reason
from writ.formats.tee.pck import PckExtension, parse_pck
from writ.formats.tee.tdx import INTEL_QE, EnclaveReport, Quote, TdReport, Tee, pck_chain
from writ.formats.tee.tdx_collateral import Collateral, EnclaveIdentity, Level, TcbInfo, TcbStatus
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate
from writ.formats.x509_key import key_bits
from writ.verdict.path import PathRules, VerifiedPath, verify_path
from writ.verdict.revocation import PathReasons
from writ.verdict.tcb import Tcb, evaluate_tcb, module_of, qe_level

INTEL_QES: Final = frozenset(
    map(
        bytes.fromhex,
        (
            "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff",
            "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5",
        ),
    )
)
"""MRSIGNER of Intel's QE and TD QE: what an identity says, for where none is given."""
PCK_NAME: Final = "CN=Intel SGX PCK Certificate"
TCB_SIGNER_NAME: Final = "CN=Intel SGX TCB Signing"
REPORT_DATA: Final = 64
"""Bytes of what a TD or an enclave puts into its report."""
DAY: Final = 86_400
CRLS_REQUIRED: Final = ChainRules(crl_required=True, crl_max_age=400 * DAY)
"""Intel replaces the CRL of its root once a year, those of the PCK CAs once a month."""

SEPT_VE_DISABLE: Final = 1 << 28
MIGRATABLE: Final = 1 << 29
_ATTRIBUTES: Final = 0xFF | 1 << 16 | 1 << 27 | SEPT_VE_DISABLE | MIGRATABLE | 1 << 30 | 1 << 31 | 1 << 62 | 1 << 63
"""Known bits: TUD, which is judged by itself; ICSSD, LASS, SEPT_VE_DISABLE, MIGRATABLE, PKS, KL; TPA, PERFMON."""
_XFAM: Final = 0x000E_DBE7
"""Bits of XCR0 and IA32_XSS that a TDX module can give a TD: x87 to AVX-512, PT, PKRU, CET, UINTR, LBR, AMX, APX."""
_XFAM_FIXED: Final = 0x3
"""x87 and SSE, which every TD has."""

Document = TypeVar("Document", TcbInfo, EnclaveIdentity)

_PATHS: Final = {
    name: PathReasons("certificate-refused", "certificate-expired", "certificate-revoked", f"tdx.{name}.certificate")
    for name in ("pck", "tcb_info", "qe_identity")
}


@dataclass(frozen=True, slots=True)
class TdxPolicy:
    """What is demanded of a TD. The defaults are the strict ones.

    `statuses` are those of the merged TCB that pass, Revoked never does; `advisories` are refused whatever the status. `least_evaluation`
    is the least tcbEvaluationDataNumber. TCB info and identity are fresh until their nextUpdate and for at most `max_age` seconds, CRLs
    as `chain` says; without `collateral_required`, what is absent is not judged, and what is there is. `service_tds` are the SERVTD_HASHes
    that may be bound beside none, None for any; a TD that may be migrated needs one. `qes` are the MRSIGNERs of quoting enclaves that are
    believed without an identity, None for any.
    """

    tees: frozenset[Tee] = frozenset({Tee.TDX})
    statuses: frozenset[TcbStatus] = frozenset({TcbStatus.UP_TO_DATE})
    advisories: frozenset[str] = frozenset()
    least_evaluation: int = 0
    collateral_required: bool = True
    max_age: int = 31 * DAY
    chain: ChainRules = CRLS_REQUIRED
    sept_ve_disable: bool = True
    service_tds: frozenset[bytes] | None = frozenset()
    qes: frozenset[bytes] | None = INTEL_QES


DEFAULT: Final = TdxPolicy()


@dataclass(frozen=True, slots=True, order=True)
class Used:
    """A part of the collateral that was believed: what it is, its digest, and its dates in seconds since the epoch."""

    kind: str
    digest: Digest
    issued: int
    next_update: int | None


@dataclass(frozen=True, slots=True)
class AppraisedQuote:
    """What `appraise_quote` found. `reasons`, sorted, are why it does not pass; none: it does.

    `tcb` is None where collateral is absent, not believed or of another platform. `used` is what of it was believed, with its dates;
    `notes` say what was not known about revocation.
    """

    quote: Quote
    platform: PckExtension
    anchor: Certificate
    tcb: Tcb | None
    evaluation: int | None
    used: tuple[Used, ...]
    reasons: tuple[Reason, ...]
    notes: tuple[Reason, ...]


def appraise_quote(
    quote: Quote,
    collateral: Collateral,
    anchors: Collection[Digest],
    *,
    at: int,
    policy: TdxPolicy = DEFAULT,
    report_data: bytes | None = None,
) -> AppraisedQuote:
    """Judge `quote` at `at` by `collateral`, which may hold more than is of use, under roots of which `anchors` are the SHA-256.

    1. The quote is of Intel's QE: its vendor ID (QVL 4.1.2.3).
    2. The PCK certificate leads to an anchor, all valid and none revoked at `at` (QVL 4.1.1, 4.1.2.4.4 to 4.1.2.4.7); that this is known
       of each is asked with the reasons that are collected.
    3. The PCK signed the report of the QE (4.1.2.4.12).
    4. That report binds the attestation key: its data begin with SHA-256 of key and QE authentication data, then zeros (4.1.2.4.13).
    5. The key signed header and body (4.1.2.4.16).
    6. The report's data are `report_data`, where that is given: 64 bytes.
    7. The TD is what the policy asks: no debugger, no reserved bit, its service TDs (TDX module ABI); an enclave is no debug enclave.
    8. The identity: signed, dated, and that of this QE (4.1.2.4.14, 4.1.2.4.15). Without one the QE is one of `policy.qes`.
    9. TCB info: signed, dated, of this platform and this kind of TEE (4.1.2.4.9, 4.1.2.4.10). It names the TDX module (4.1.2.4.11).
    10. The merged status of platform, module and QE, and its advisories, are ones that the policy lets pass (4.1.2.4.17).

    Up to 5 the first fault ends it, since nothing of a quote is known before; from 6 on every reason is collected.
    Raises Refused `tdx-qe-refused` (1), `certificate-refused`, `certificate-expired` or `certificate-revoked` (2), `signature-invalid`
    (3, 5) or `tdx-key-unbound` (4), and FormatError where the quote's chain is none.
    """
    # 1
    if quote.body.qe_vendor != INTEL_QE:
        raise Refused(Reason("tdx-qe-refused", "tdx.qe_vendor", INTEL_QE.hex(), quote.body.qe_vendor.hex()))
    # 2, 3
    path, platform = _pck(quote, collateral, anchors, at, policy)
    # 4
    bound = hashlib.sha256(quote.attestation_key + quote.qe_authentication).digest() + bytes(32)
    if quote.qe_report.report_data != bound:
        raise Refused(Reason("tdx-key-unbound", "tdx.qe_report_data", bound.hex(), quote.qe_report.report_data.hex()))
    # 5
    if not _is_signed(b"\x04" + quote.attestation_key, quote.signature, quote.body.raw):
        raise Refused(Reason("signature-invalid", "tdx.signature", "a signature by the attestation key", "another"))
    judge = _Judge(quote, collateral, anchors, at, policy)
    judge.use_path(path)
    # 6
    if report_data is not None and quote.body.report.report_data != report_data:
        judge.refuse("nonce-mismatch", "report_data", report_data.hex(), quote.body.report.report_data.hex())
    # 7
    judge.report()
    # 8
    identity, level = judge.qe()
    # 9
    info = judge.tcb_info(platform)
    # 10
    tcb = judge.tcb(info, identity, level, platform)
    numbers = [one.evaluation_number for one in (identity, info) if one is not None]
    return AppraisedQuote(
        quote, platform, path.anchor, tcb, min(numbers, default=None), tuple(sorted(judge.used)), tuple(sorted(judge.reasons)),
        tuple(sorted(judge.notes)),
    )  # fmt: skip


def _pck(
    quote: Quote, collateral: Collateral, anchors: Collection[Digest], at: int, policy: TdxPolicy
) -> tuple[VerifiedPath, PckExtension]:
    """The path of the PCK that signed the QE's report, and its extensions.

    The chain may stand in any order, or beside the quote. One in the quote that has a root leads there by itself: were it mended from
    elsewhere, a root that was altered would pass unseen.
    """
    chain = pck_chain(quote)
    others = chain if any(one.is_self_issued for one in chain) else (*chain, *collateral.certificates)
    candidates = [one for one in chain or others if PCK_NAME in one.subject_text and not one.is_ca]
    if not candidates:
        got = f"none, in certification data of type {quote.certification_type} or beside it"
        raise Refused(Reason("certificate-refused", "tdx.pck.certificate", "a PCK certificate", got))
    signer = next((one for one in candidates if _is_signed_by(one, quote.qe_signature, quote.qe_report.raw)), None)
    path = verify_path(signer or candidates[0], others, anchors, at=at, rules=_rules("pck", policy), crls=collateral.crls)
    if signer is None:
        raise Refused(Reason("signature-invalid", "tdx.qe_signature", "a signature by the PCK", "another"))
    return path, parse_pck(signer)


def _rules(kind: str, policy: TdxPolicy) -> PathRules:
    """Between a PCK and the root stands one CA, between the TCB signer and the root none.

    What is not known of revocation is collected, and `use_path` says what it comes to.
    """
    depth = 1 if kind == "pck" else 0
    return PathRules(ChainRules(crl_max_age=policy.chain.crl_max_age, sha1=policy.chain.sha1), depth=depth, reasons=_PATHS[kind])


def _is_signed_by(certificate: Certificate, signature: bytes, message: bytes) -> bool:
    try:
        return _is_signed(key_bits(certificate.spki), signature, message)
    except FormatError:
        return False


def _is_signed(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the P-256 point `key` (65 bytes) signed `message`: r and s of 32 bytes each, ECDSA with SHA-256. No point: no."""
    try:
        return PublicKey(ES256, key).verify(signature, message)
    except FormatError:
        return False


class _Judge:
    """One quote whose signatures hold; collects every reason against it, and what of the collateral was believed."""

    def __init__(self, quote: Quote, collateral: Collateral, anchors: Collection[Digest], at: int, policy: TdxPolicy) -> None:
        self._quote = quote
        self._collateral = collateral
        self._anchors = anchors
        self._at = at
        self._policy = policy
        self.reasons: set[Reason] = set()
        self.notes: set[Reason] = set()
        self.used: set[Used] = set()

    def refuse(self, code: str, claim: str, expected: str, got: str) -> None:
        """One more reason why not."""
        self.reasons.add(Reason(code, f"tdx.{claim}", expected[:200], got[:200]))

    def use_path(self, path: VerifiedPath) -> None:
        """Keep what is known of the revocation of `path`; what is not is a reason against it where it has to be, else a note."""
        (self.reasons if self._policy.chain.crl_required else self.notes).update(path.notes)
        self.used.update(Used("crl", one.digest, one.this_update, one.next_update) for one in path.statements)

    # --- 7

    def report(self) -> None:
        """What the report says of what runs there."""
        tee, report, policy = self._quote.body.tee, self._quote.body.report, self._policy
        if tee not in policy.tees:
            self.refuse("tdx-tee-refused", "tee_type", " or ".join(sorted(one.name for one in policy.tees)), tee.name)
        if report.debug:
            self.refuse("tdx-debug", "debug", "neither DEBUG nor profiling", "one of them")
        if isinstance(report, EnclaveReport):
            return
        attributes, xfam = int.from_bytes(report.td_attributes, "little"), int.from_bytes(report.xfam, "little")
        if attributes & ~_ATTRIBUTES:
            self.refuse("tdx-attributes-refused", "td_attributes", "no reserved bit", report.td_attributes.hex())
        if policy.sept_ve_disable and not attributes & SEPT_VE_DISABLE:
            self.refuse("tdx-attributes-refused", "td_attributes", "SEPT_VE_DISABLE", report.td_attributes.hex())
        if xfam & ~_XFAM or xfam & _XFAM_FIXED != _XFAM_FIXED:
            self.refuse("tdx-attributes-refused", "xfam", "x87, SSE and no reserved bit", report.xfam.hex())
        service = report.mr_service_td or bytes(48)
        bound = any(service) or attributes & MIGRATABLE
        if bound and policy.service_tds is not None and service not in policy.service_tds:
            known = ", ".join(sorted(one.hex() for one in policy.service_tds)) or "none"
            self.refuse("tdx-service-td-refused", "mr_service_td", known, service.hex())

    # --- 8

    def qe(self) -> tuple[EnclaveIdentity | None, Level | None]:
        """The identity that is believed, and the level of this QE by it."""
        name = "TD_QE" if self._quote.body.tee is Tee.TDX else "QE"
        given = [one for one in self._collateral.identities if one.id == name]
        others = sorted({one.id for one in self._collateral.identities} - {name, "QVE"})
        if others and not given:
            self.refuse("tdx-collateral-mismatch", "qe_identity", f"an identity of {name}", ", ".join(others))
            return None, None
        identity = self._believed("qe_identity", given)
        report, policy = self._quote.qe_report, self._policy
        if identity is None:
            if policy.qes is not None and report.mr_signer not in policy.qes:
                self.refuse("tdx-qe-refused", "qe_mr_signer", " or ".join(sorted(one.hex() for one in policy.qes)), report.mr_signer.hex())
            if report.debug:
                self.refuse("tdx-qe-refused", "qe_attributes", "no debug enclave", report.attributes.hex())
            return None, None
        for claim, expected, got in (
            ("qe_misc_select", identity.misc_select, _masked(report.misc_select, identity.misc_select_mask)),
            ("qe_attributes", identity.attributes, _masked(report.attributes, identity.attributes_mask)),
            ("qe_mr_signer", identity.mr_signer, report.mr_signer),
            ("qe_isv_prod_id", identity.isv_prod_id.to_bytes(2, "big"), report.isv_prod_id.to_bytes(2, "big")),
        ):
            if expected != got:
                self.refuse("tdx-qe-refused", claim, expected.hex(), got.hex())
        try:
            return identity, qe_level(identity, report.isv_svn)
        except Refused as refused:
            self.reasons.update(refused.reasons)
            return identity, None

    # --- 9

    def tcb_info(self, platform: PckExtension) -> TcbInfo | None:
        """The TCB info of this platform that is believed; and the TDX module is one that it names, or without it, one of Intel's."""
        kind = self._quote.body.tee.name
        wanted = (kind, platform.fmspc, platform.pce_id)
        given = [one for one in self._collateral.tcb_infos if (one.id, one.fmspc, one.pce_id) == wanted]
        info = None
        if self._collateral.tcb_infos and not given:
            others = sorted({_model(one.id, one.fmspc, one.pce_id) for one in self._collateral.tcb_infos})
            self.refuse("tdx-collateral-mismatch", "tcb_info", _model(*wanted), "; ".join(others))
        else:
            info = self._believed("tcb_info", given)
        report = self._quote.body.report
        if isinstance(report, TdReport):
            self._module(report, info)
        return info

    def _module(self, report: TdReport, info: TcbInfo | None) -> None:
        signer, attributes, mask = bytes(48), bytes(8), b"\xff" * 8
        if info is not None:
            try:
                module = module_of(info, report.tee_tcb_svn[1])
            except Refused as refused:
                self.reasons.update(refused.reasons)
                return
            signer, attributes, mask = module.mr_signer, module.attributes, module.mask
        if report.mr_signer_seam != signer:
            self.refuse("tdx-module-refused", "mr_signer_seam", signer.hex(), report.mr_signer_seam.hex())
        if any(report.seam_attributes) or _masked(report.seam_attributes, mask) != attributes:
            self.refuse("tdx-module-refused", "seam_attributes", f"{attributes.hex()}, none set", report.seam_attributes.hex())

    # --- 10

    def tcb(self, info: TcbInfo | None, identity: EnclaveIdentity | None, level: Level | None, platform: PckExtension) -> Tcb | None:
        """The merged TCB; None where a part of what it follows from is not known."""
        for kind, document in (("qe_identity", identity), ("tcb_info", info)):
            if document is not None and document.evaluation_number < self._policy.least_evaluation:
                least = f"at least {self._policy.least_evaluation}"
                self.refuse("tdx-evaluation-old", f"{kind}.evaluation_number", least, str(document.evaluation_number))
        if info is None or (level is None and (identity is not None or self._collateral.identities)):
            return None
        report = self._quote.body.report
        launched, running = (report.tee_tcb_svn, report.tee_tcb_svn2) if isinstance(report, TdReport) else (None, None)
        try:
            tcb = evaluate_tcb(info, platform, level, launched, running)
        except Refused as refused:
            self.reasons.update(refused.reasons)
            return None
        if tcb.status not in self._policy.statuses - {TcbStatus.REVOKED}:
            expected = " or ".join(status for status in TcbStatus if status in self._policy.statuses - {TcbStatus.REVOKED}) or "none"
            self.refuse("tdx-tcb-refused", "tcb_status", expected, f"{tcb.status}: {', '.join(tcb.advisories) or 'no advisory'}")
        for advisory in tcb.advisories:
            if advisory in self._policy.advisories:
                self.refuse("tdx-advisory-refused", "advisories", "a platform without it", advisory)
        return tcb

    # --- collateral

    def _believed(self, kind: str, given: Sequence[Document]) -> Document | None:
        """The newest of `given`, if Intel's TCB signer signed it and is believed at the time. One out of its dates is told, and used."""
        if not given:
            if self._policy.collateral_required:
                self.refuse("tdx-collateral-missing", kind, "one of this platform", "none")
            return None
        one = max(given, key=lambda document: (document.issue_date <= self._at, document.issue_date, document.evaluation_number))
        certificates = self._collateral.certificates
        signers = [each for each in certificates if TCB_SIGNER_NAME in each.subject_text and not each.is_ca]
        signed = [each for each in signers if _is_signed_by(each, one.signature, one.signed)]
        if not signed:
            got = f"another, of {len(signers)} certificates of a TCB signer"
            self.refuse("tdx-collateral-refused", f"{kind}.signature", "a signature by Intel's TCB signer", got)
            return None
        rules, faults = _rules(kind, self._policy), set[Reason]()
        for signer in signed:
            try:
                path = verify_path(signer, certificates, self._anchors, at=self._at, rules=rules, crls=self._collateral.crls)
                break
            except Refused as refused:
                faults.update(refused.reasons)
        else:
            self.reasons.update(faults)
            return None
        self.use_path(path)
        self._dates(kind, one)
        self.used.add(Used(kind, Digest.of(one.signed), one.issue_date, one.next_update))
        return one

    def _dates(self, kind: str, one: TcbInfo | EnclaveIdentity) -> None:
        if one.issue_date > self._at:
            self.refuse("tdx-collateral-early", f"{kind}.issue_date", f"at most {self._at}", str(one.issue_date))
        last = min(one.next_update, one.issue_date + self._policy.max_age)
        if self._at > last:
            self.refuse("tdx-collateral-expired", f"{kind}.next_update", f"at least {self._at}", str(last))


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(one & other for one, other in zip(value, mask, strict=True))


def _model(name: str, fmspc: bytes, pce_id: bytes) -> str:
    return f"{name} {fmspc.hex()}, PCE {pce_id.hex()}"
