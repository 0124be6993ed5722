"""`verifier check ek-cert`: an EK certificate, and whom it chains to."""

from __future__ import annotations

import argparse
from pathlib import Path

from verifier.check.finding import Finding, Options, read_file
from writ.formats.digest import hash_bytes
from writ.formats.errors import FormatError, Unavailable
from writ.formats.trust import ManufacturerRoot, Trust
from writ.formats.x509 import Certificate, parse_certificate, parse_pem_certificates, parse_stored_certificate
from writ.verdict.chain import verify_ek_chain


def check_ek_cert(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. It parses. 2. It chains to a root of --trust, or is judged to its own top."""
    # 1
    chain = _certificates(read_file(args.file), args.file.name)
    leaf = chain[0]
    finding.claims |= {
        "manufacturer": leaf.tpm_manufacturer, "model": leaf.tpm_model, "version": leaf.tpm_version, "key": _spki_name(leaf),
    }  # fmt: skip
    # 2
    given = _trust_certificates(options.trust)
    roots = [c for c in given if c.is_self_issued and c.is_ca]
    others = [c.der for c in (*chain[1:], *given)]
    if options.trust is None:
        top = chain[-1]
        finding.claims["chain"] = f"to its own top only: {top.subject_text or top.serial}; --trust DIR judges it"
        if not top.is_ca:
            if not leaf.not_before <= options.at <= leaf.not_after:
                dates = f"{leaf.not_before} to {leaf.not_after}"
                finding.refuse("ek-certificate-refused", "ek_certificate.validity", f"valid at {options.at}", dates)
            finding.note("ek-certificate-refused", "ek_certificate.chain", "--trust DIR, or a chain up to a CA", "one certificate")
            return
        roots = [top]
    trust = Trust(
        "check", "check", tuple(sorted({ManufacturerRoot(c.subject_text[:255] or str(c.serial), "discrete", c.der) for c in roots})), (), ()
    )
    verified = verify_ek_chain((leaf.der, *others), trust, now=options.at)
    if options.trust is not None:
        finding.claims["chain"] = verified.root


def _certificates(data: bytes, what: str) -> tuple[Certificate, ...]:
    if b"-----BEGIN" in data:
        return parse_pem_certificates(data, what)
    try:
        return (parse_certificate(data),)
    except FormatError:
        return (parse_stored_certificate(data),)


def _trust_certificates(folder: Path | None) -> tuple[Certificate, ...]:
    if folder is None:
        return ()
    if not folder.is_dir():
        raise Unavailable("--trust", f"expected a directory of certificates, got {folder}")
    found: list[Certificate] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".pem", ".crt", ".cer", ".der"):
            found += _certificates(read_file(path), path.name)
    return tuple(found)


def _spki_name(certificate: Certificate) -> str:
    return f"sha256:{hash_bytes('sha256', certificate.spki).hex()}"
