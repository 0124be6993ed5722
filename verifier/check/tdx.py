"""`verifier check tdx`: a quote of a TD or an enclave, its platform, and how far that is behind."""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from verifier.check.finding import Finding, Options, read_evidence, read_file, tops_of
from verifier.check.uefi_log import judge_log
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.eventlog.uefi import MAX_LOG_SIZE
from writ.formats.tee.tdx import EnclaveReport, Quote, QuoteBody, TdReport, Tee, read_quote, read_quote_body
from writ.formats.tee.tdx_collateral import MAX_COLLATERAL, Collateral, TcbStatus, parse_collateral
from writ.verdict.appraise.tdx import DEFAULT, REPORT_DATA, AppraisedQuote, TdxPolicy, Used, appraise_quote
from writ.verdict.intel_roots import INTEL_CERTIFICATES, INTEL_SGX_ROOT
from writ.verdict.registers import RTMR_BANK

FOR_EVER: Final = 1 << 40
"""Seconds: how old a document may be within its own dates is a policy's to say."""
_PASSING: Final = frozenset(TcbStatus) - {TcbStatus.REVOKED}
_OF_TD: Final = (
    "tee_tcb_svn", "mr_seam", "mr_signer_seam", "seam_attributes", "td_attributes", "xfam", "mr_td", "mr_config_id", "mr_owner",
    "mr_owner_config", "report_data", "tee_tcb_svn2", "mr_service_td",
)  # fmt: skip


def check_tdx(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. It parses. 2. Signatures, chain and report, and the TCB by the collateral that was given. 3. The log leads to the RTMRs.

    What is not given is not judged, and is noted; so is what passes here and what a policy has to accept by name: a TCB that is not up to
    date, an enclave, a service TD, no SEPT_VE_DISABLE. With a CRL among the collateral, revocation has to be known of the whole chain.
    """
    # 1
    data = read_evidence(args.file)
    body = read_quote_body(data)
    finding.claims |= td_claims(body)
    quote = read_quote(data)
    finding.claims["qe"] = {
        "mr_enclave": quote.qe_report.mr_enclave.hex(), "mr_signer": quote.qe_report.mr_signer.hex(),
        "isv_prod_id": quote.qe_report.isv_prod_id, "isv_svn": quote.qe_report.isv_svn,
    }  # fmt: skip
    if rest := data[quote.end :].strip(b"\0"):
        finding.note(
            "malformed", "quote", "nothing but zeros behind it, which attestation asks for", f"{len(rest)} bytes that nothing signs"
        )
    # 2
    _judge(finding, quote, args, options)
    # 3
    if args.log is not None:
        if not isinstance(body.report, TdReport):
            raise FormatError("--log", "the quote of a TD, which has RTMRs", "an enclave's")
        judge_log(finding, read_file(args.log, MAX_LOG_SIZE), {RTMR_BANK: dict(enumerate(body.report.rtmrs))})


def _judge(finding: Finding, quote: Quote, args: argparse.Namespace, options: Options) -> None:
    collateral, anchors, qes = given_collateral(args, options)
    strict, lenient = policies(args, collateral, qes)
    nonce = None
    if options.nonce is None:
        finding.note("nonce-unknown", "report_data", "--nonce, to judge freshness", "none")
    elif len(options.nonce) > REPORT_DATA:
        raise FormatError("--nonce", f"at most {REPORT_DATA} bytes", f"{len(options.nonce)}")
    else:
        nonce = options.nonce.ljust(REPORT_DATA, b"\0")
    found = appraise_quote(quote, collateral, anchors, at=options.at, policy=lenient, report_data=nonce)
    finding.claims |= verdict_claims(found)
    finding.claims["chain"] = ("pinned root: " if options.trust is None else "") + found.anchor.subject_text
    finding.reasons.extend(found.reasons)
    asked = appraise_quote(quote, collateral, anchors, at=options.at, policy=strict, report_data=nonce).reasons
    finding.notes.extend({*found.notes, *asked} - {*found.reasons})


def policies(args: argparse.Namespace, collateral: Collateral, qes: frozenset[bytes] | None) -> tuple[TdxPolicy, TdxPolicy]:
    """What attestation asks for by default, whose faults are noted here, and what is refused here."""
    accepted = frozenset(map(_status, args.accept or ()))
    strict = TdxPolicy(
        statuses=accepted or DEFAULT.statuses, chain=replace(DEFAULT.chain, crl_required=bool(collateral.crls)), qes=qes
    )  # fmt: skip
    lenient = replace(
        strict, tees=frozenset(Tee), statuses=accepted or _PASSING, collateral_required=False, sept_ve_disable=False, service_tds=None,
        max_age=FOR_EVER, chain=replace(strict.chain, crl_max_age=FOR_EVER),
    )  # fmt: skip
    return strict, lenient


def given_collateral(args: argparse.Namespace, options: Options) -> tuple[Collateral, set[Digest], frozenset[bytes] | None]:
    """All collateral, the anchors, and the quoting enclaves that are believed without an identity: none is pinned under other roots."""
    parts = [part for given in args.collateral for part in (_folder(given) if given.is_dir() else [_part(given)])]
    if options.trust is None:
        return Collateral.of((*parts, Collateral(INTEL_CERTIFICATES))), {INTEL_SGX_ROOT}, DEFAULT.qes
    if not options.trust.is_dir():
        raise Unavailable("--trust", f"expected a directory of certificates, got {options.trust}")
    trusted = Collateral.of(_folder(options.trust))
    return Collateral.of((*parts, trusted)), {Digest.of(one.der) for one in tops_of(trusted.certificates)}, None


def _status(text: str) -> TcbStatus:
    try:
        return TcbStatus(text)
    except ValueError:
        raise FormatError("--accept", f"one of {', '.join(TcbStatus)}", repr(text)[:40]) from None


def _folder(folder: Path) -> list[Collateral]:
    """The files of a directory that are collateral. What is none is passed over, and will be missed if it was meant to be some."""
    found = []
    for path in sorted(folder.iterdir()):
        with suppress(FormatError):
            found.append(_part(path) if path.is_file() else Collateral())
    return found


def _part(path: Path) -> Collateral:
    return parse_collateral(read_file(path, MAX_COLLATERAL), path.name)


def td_claims(body: QuoteBody) -> dict[str, object]:
    """The claims that need nothing but the report; those of a TD are null of an enclave, but for its data."""
    report = body.report
    claims: dict[str, object] = {
        "version": body.version, "tee_type": body.tee.name, "att_key_type": body.key_type, "body_type": body.body_type or None,
        "qe_vendor_id": body.qe_vendor.hex(), "user_data": body.user_data.hex(), "report_data": report.report_data.hex(),
        "debug": report.debug, "tcb_status": None, "advisories": None,
    }  # fmt: skip
    if isinstance(report, EnclaveReport):
        names = dict.fromkeys((*_OF_TD, *(f"rtmr{number}" for number in range(4))))
        return names | claims | {
            "cpu_svn": report.cpu_svn.hex(), "miscselect": report.misc_select.hex(), "attributes": report.attributes.hex(),
            "mr_enclave": report.mr_enclave.hex(), "mr_signer": report.mr_signer.hex(), "isv_prod_id": report.isv_prod_id,
            "isv_svn": report.isv_svn,
        }  # fmt: skip
    values: dict[str, bytes | None] = {name: getattr(report, name) for name in _OF_TD}
    values |= {f"rtmr{number}": value for number, value in enumerate(report.rtmrs)}
    if report.migration is not None:
        claims |= {"td_id": report.migration.td_id.hex(), "vmid": report.migration.vmid}
    return claims | {name: None if value is None else value.hex() for name, value in values.items()}


def verdict_claims(found: AppraisedQuote) -> dict[str, object]:
    """The claims that the judge found."""
    tcb = found.tcb
    return {
        "fmspc": found.platform.fmspc.hex(),
        "tcb_status": None if tcb is None else tcb.status.value,
        "advisories": None if tcb is None else list(tcb.advisories),
        "tcb_date": None if tcb is None else _shown(tcb.date),
        "tcb_evaluation_data_number": found.evaluation,
        "collateral": [_used(one) for one in found.used],
    }


def _used(one: Used) -> dict[str, object]:
    return {
        "kind": one.kind, "digest": str(one.digest), "issued": _shown(one.issued),
        "next_update": None if one.next_update is None else _shown(one.next_update),
    }  # fmt: skip


def _shown(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
