"""`verifier check nitro`: an AWS Nitro attestation document, or the TLS certificate that carries one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from verifier.check.finding import Finding, Options, read_evidence, read_file
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.tee.nitro import MAX_DOCUMENT, MAX_KEY, PCRS, NitroDocument, document_in_names, parse_document
from writ.formats.x509 import MAX_CERTIFICATE, Certificate, parse_certificate, parse_pem_certificates
from writ.verdict.appraise.nitro import NitroPolicy, appraise_document
from writ.verdict.nitro_roots import NITRO_CERTIFICATES, NITRO_ROOT

_MAX_TEXT: Final = 4 * MAX_DOCUMENT
_MOST_FILES: Final = 256


def check_nitro(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. The document, by itself or in a certificate. 2. Whom to believe. 3. The judge. 4. The certificate around it, where there is one.

    Which registers are good nobody says here: they are shown. Of a certificate around it only dates and key are judged, not who issued it.
    """
    # 1
    around = _certificate(args.file)
    document = parse_document(read_evidence(args.file, _MAX_TEXT) if around is None else document_in_names(around))
    finding.claims |= _claims(document)
    if options.nonce is not None and not 1 <= len(options.nonce) <= MAX_KEY:
        raise FormatError("--nonce", f"1 to {MAX_KEY} bytes", f"{len(options.nonce)} bytes")
    # 2
    authorities, anchors = NITRO_CERTIFICATES, frozenset({NITRO_ROOT})
    if options.trust is not None:
        authorities = _trusted(options.trust)
        anchors = frozenset(Digest.of(one.der) for one in authorities)
    # 3
    policy = NitroPolicy(kinds=frozenset(PCRS), nonce=options.nonce, key=None if around is None else around.spki)
    found = appraise_document(document, authorities, anchors, policy, at=options.at)
    finding.claims["chain"] = ("pinned root: " if options.trust is None else "") + found.chain
    finding.reasons.extend(found.reasons)
    finding.notes.extend(found.notes)
    if options.nonce is None:
        finding.note("nonce-unknown", "nonce", "--nonce, to judge freshness", "none")
    # 4
    if around is not None and not around.not_before <= options.at <= around.not_after:
        expected = f"valid at {options.at}"
        finding.refuse("certificate-expired", "certificate", expected, f"valid from {around.not_before} to {around.not_after} only")


def _claims(document: NitroDocument) -> dict[str, object]:
    return {
        "kind": document.kind,
        "module_id": document.module_id,
        "timestamp": document.timestamp,
        "pcrs": {str(index): value.hex() for index, value in document.pcrs.items()},
        "debug": document.debug,
        "nonce": _hex(document.nonce),
        "user_data": _hex(document.user_data),
        "public_key": _hex(document.public_key),
    }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _certificate(path: Path) -> Certificate | None:
    """The first certificate of the file, None where it begins as no certificate does. Raises FormatError."""
    data = read_file(path, _MAX_TEXT)
    if b"-----BEGIN" in data:
        return parse_pem_certificates(data, path.name)[0]
    return parse_certificate(data) if data[:2] == b"\x30\x82" else None


def _trusted(folder: Path) -> tuple[Certificate, ...]:
    """The CAs of a directory, or of one file. Raises Unavailable or FormatError."""
    if not folder.exists():
        raise Unavailable("--trust", f"expected a directory of certificates, got {folder}")
    files = sorted(one for one in folder.iterdir() if one.is_file()) if folder.is_dir() else [folder]
    if not 1 <= len(files) <= _MOST_FILES:
        raise FormatError("--trust", f"1 to {_MOST_FILES} files", f"{len(files)}")
    found: list[Certificate] = []
    for file in files:
        data = read_file(file, 64 * MAX_CERTIFICATE)
        found += parse_pem_certificates(data, file.name) if b"-----BEGIN" in data else (parse_certificate(data),)
    return tuple(one for one in found if one.is_ca)
