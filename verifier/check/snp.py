"""`verifier check snp`: an AMD SEV-SNP report, and the certificates of the key that signed it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from verifier.check.finding import Finding, Options, read_file, tops_of
from writ.formats.crl import MAX_CRL, Crl, parse_crl
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.tee.snp import SnpReport, parse_report, split_report
from writ.formats.tee.vek import CERTIFICATES, Vek, parse_certificate_table, parse_vek
from writ.formats.x509 import MAX_CERTIFICATE, Certificate, parse_certificate, parse_pem_certificates
from writ.verdict.amd_roots import ROOTS, amd_authorities
from writ.verdict.appraise.snp import REPORT_DATA_SIZE, AppraisedReport, SnpPolicy, appraise_report, order_veks

CERTIFICATE_FILES: Final = (".pem", ".crt", ".cer", ".der", ".crl")
"""How files are named that must hold a certificate or a CRL; what else lies in the directory may, and is passed over where it does not."""
MOST_FILES: Final = 256
_MOST_VEKS: Final = 8
_POLICY: Final = SnpPolicy(migration=True, vmpls=frozenset(range(4)))
"""Debugging is refused, and a report that the host asked for; migration and the level are said, since nobody says here what is wanted."""


Judged = TypeVar("Judged")


@dataclass(slots=True)
class SnpFiles:
    """Certificates and CRLs as files hold them."""

    certificates: list[Certificate] = field(default_factory=list)
    crls: list[Crl] = field(default_factory=list)


def check_snp(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. The report. 2. Certificates beside and behind it. 3. Whom to believe. 4. The judge, of the certificate that fits best."""
    # 1
    data, table = split_report(read_file(args.file))
    report = parse_report(data)
    finding.claims |= snp_claims(report)
    # 2
    given = SnpFiles()
    if table:
        _take_table(given, table)
    if args.certs is not None:
        take(given, args.certs, "--certs")
    trusted = SnpFiles()
    # 3
    anchors = take_trust(trusted, options)
    # 4
    authorities = (*given.certificates, *trusted.certificates, *amd_authorities())
    veks = order_veks(report, veks_of(given.certificates))
    judged = _judge(finding, report, veks, authorities, anchors, options, given.crls + trusted.crls)
    if judged is None:
        return
    how = "pinned root: " if options.trust is None else ""
    finding.claims |= {"product": judged.product, "chain": how + judged.chain}
    finding.reasons.extend(judged.reasons)
    finding.notes.extend(judged.notes)
    if report.policy.migration:
        finding.note("snp-migration", "policy.migrate_ma", "no migration agent, which attestation asks for", "one allowed")
    if options.nonce is None:
        finding.note("nonce-unknown", "report_data", "--nonce, to judge freshness", "none")


def _judge(
    finding: Finding,
    report: SnpReport,
    veks: Sequence[Vek],
    authorities: Sequence[Certificate],
    anchors: frozenset[Digest],
    options: Options,
    crls: Sequence[Crl],
) -> AppraisedReport | None:
    """The verdict under the first of `veks` that signed it; where none did, why not under the likeliest."""
    if options.nonce is not None and not 1 <= len(options.nonce) <= REPORT_DATA_SIZE:
        raise FormatError("--nonce", f"1 to {REPORT_DATA_SIZE} bytes", f"{len(options.nonce)} bytes")
    found = first_judged(
        veks,
        lambda vek: appraise_report(report, vek, authorities, anchors, _POLICY, at=options.at, report_data=options.nonce, crls=crls),
    )
    if found is not None:
        return found
    code = "snp-unsigned" if report.signing_key == "none" or report.mask_chip_key else "snp-key-missing"
    finding.refuse(code, "signing_key", f"the certificate of the {report.signing_key} that signed it", "none")
    return None


def take_trust(trusted: SnpFiles, options: Options) -> frozenset[Digest]:
    """The anchors: AMD's, or the CAs at the top of `--trust`, whose files are put into `trusted`. Raises Unavailable or FormatError."""
    if options.trust is None:
        return frozenset(ROOTS)
    take(trusted, options.trust, "--trust")
    anchors = frozenset(Digest.of(one.der) for one in tops_of(trusted.certificates))
    if not anchors:
        raise FormatError("--trust", "a directory with the certificate of a CA", "none")
    return anchors


def first_judged(veks: Sequence[Vek], judge: Callable[[Vek], Judged]) -> Judged | None:
    """What `judge` says under the first of `veks` that it does not refuse, the first refusal where there is none, None without any."""
    first: Refused | None = None
    for vek in veks[:_MOST_VEKS]:
        try:
            return judge(vek)
        except Refused as refused:
            first = first or refused
    if first is not None:
        raise first
    return None


def snp_claims(report: SnpReport) -> dict[str, object]:
    """The claims that need nothing but the report."""
    return {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": f"{report.policy.raw:#x}",
        "debug": report.policy.debug,
        "vmpl": report.vmpl,
        "platform_info": f"{report.platform_info:#x}",
        "signing_key": report.signing_key,
        "report_data": report.report_data.hex(),
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "chip_id": report.chip_id.hex(),
        "reported_tcb": report.reported_tcb.hex(),
        "current_tcb": report.current_tcb.hex(),
        "committed_tcb": report.committed_tcb.hex(),
        "launch_tcb": report.launch_tcb.hex(),
        "firmware": str(report.current_firmware),
        "cpuid_family_model_stepping": None if report.cpu is None else bytes(report.cpu).hex(),
    }


def veks_of(certificates: Sequence[Certificate]) -> list[Vek]:
    """Those of `certificates` that are VEKs'. One that cannot be read is an error only where there is no other."""
    found: list[Vek] = []
    fault: FormatError | None = None
    for certificate in certificates:
        try:
            vek = parse_vek(certificate)
        except FormatError as error:
            fault = fault or error
            continue
        if vek is not None and vek not in found:
            found.append(vek)
    if fault is not None and not found:
        raise fault
    return found


def take(given: SnpFiles, path: Path, option: str) -> None:
    """The certificates and CRLs of a directory, or of one file. Raises Unavailable or FormatError."""
    if not path.is_dir() and not path.is_file():
        raise Unavailable(option, f"expected a directory of certificates, got {path}")
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    if len(files) > MOST_FILES:
        raise FormatError(option, f"at most {MOST_FILES} files", f"{len(files)}")
    for file in files:
        named = file.suffix.lower() in CERTIFICATE_FILES or file == path
        if not named and file.stat().st_size > 2 * MAX_CRL:
            continue
        try:
            take_file(given, read_file(file, 2 * MAX_CRL), file.name)
        except FormatError:
            if named:
                raise


def take_file(given: SnpFiles, data: bytes, name: str) -> None:
    """PEM or DER certificates, a CRL, or a host's certificate table, which alone has a zero in its first entry. Raises FormatError."""
    if data[:1] != b"\x30" and b"\0" in data[:24]:
        _take_table(given, data)
    elif b"-----BEGIN X509 CRL" in data:
        given.crls.append(parse_crl(data))
    elif b"-----BEGIN" in data:
        given.certificates += parse_pem_certificates(data, name)
    elif len(data) > MAX_CERTIFICATE:
        given.crls.append(parse_crl(data))
    else:
        try:
            given.certificates.append(parse_certificate(data))
        except FormatError as error:
            try:
                given.crls.append(parse_crl(data))
            except FormatError:
                raise error from None


def _take_table(given: SnpFiles, table: bytes) -> None:
    """The certificates of a host's table: those of AMD's entries."""
    for whose, data in parse_certificate_table(table):
        if whose in CERTIFICATES:
            given.certificates += parse_pem_certificates(data, whose) if b"-----BEGIN" in data else (parse_certificate(data),)
