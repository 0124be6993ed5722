"""`verifier check ek-cert`: a certificate of a TPM's key, and whom it chains to."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from verifier.check.finding import Finding, Options, read_file, tops_of
from verifier.manufacturers import OCSP_FILES, pinned_roots
from writ.formats.crl import parse_crl
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.ocsp import parse_ocsp
from writ.formats.trust import ChainRules, ManufacturerRoot, Trust
from writ.formats.x509 import EKU_EK, Certificate, parse_pem_certificates, parse_stored_certificate
from writ.formats.x509_key import certificate_key, plain_spki, signed_by
from writ.verdict.chain import verify_chain

CERTIFICATE_FILES: Final = (".pem", ".crt", ".cer", ".der")
CRL_FILES: Final = (".crl",)
_RULES: Final = ChainRules(sha1=True)
"""A chain of the TPM 1.2 years is read, and `weak_signature` says so; enrolment refuses it unless the trust file permits it."""


@dataclass(frozen=True, slots=True)
class Given:
    """What --trust holds: the CAs at the top of it, all its certificates, its CRLs and OCSP responses."""

    roots: tuple[Certificate, ...]
    certificates: tuple[Certificate, ...]
    crls: tuple[bytes, ...] = ()
    ocsp: tuple[bytes, ...] = ()


def check_ek_cert(finding: Finding, args: argparse.Namespace, options: Options) -> None:
    """1. It parses. 2. It chains to a root of --trust, to a pinned root, or else is judged to its own top. 3. Its use."""
    # 1
    chain = read_certificates(read_file(args.file), args.file.name)
    leaf = chain[0]
    finding.claims |= {
        "manufacturer": leaf.tpm_manufacturer, "model": leaf.tpm_model, "version": leaf.tpm_version, "key": _key_name(leaf),
        "ca": leaf.is_ca,
    }  # fmt: skip
    # 2
    if options.trust is not None:
        given = read_trust(options.trust)
        if leaf in given.roots:
            _alone(finding, leaf, options.at, f"a root of --trust itself: {_name(leaf)}")
        else:
            _judge(finding, leaf, replace(given, certificates=(*chain[1:], *given.certificates)), options.at, "")
    elif pinned := tuple(one for one in chain if Digest.of(one.der) in _PINNED):
        if leaf in pinned:
            _alone(finding, leaf, options.at, f"a pinned root itself: {_name(leaf)}")
        else:
            _judge(finding, leaf, Given(pinned, chain[1:]), options.at, "pinned root: ")
    elif tops := tuple(one for one in chain[1:] if one.is_ca and one.is_self_issued) or tuple(one for one in chain[-1:] if one is not leaf):
        _judge(finding, leaf, Given(tops, chain[1:]), options.at, "to its own top only, which nothing vouches for: ")
    else:
        _alone(finding, leaf, options.at, f"to its own top only, which nothing vouches for: {_name(leaf)}")
        if not leaf.is_self_issued:
            finding.note("ek-certificate-refused", "ek_certificate.chain", "--trust DIR, or a chain up to a root", "one certificate")
    # 3
    if EKU_EK not in leaf.eku or not leaf.names_directory:
        got = "a CA" if leaf.is_ca else f"usage {', '.join(leaf.eku) or 'none'}"
        finding.note("ek-certificate-refused", "ek_certificate.usage", f"{EKU_EK} and a DirectoryName, which enrolment asks for", got)


_PINNED: Final = {root.fingerprint: root for root in pinned_roots()}


def _judge(finding: Finding, leaf: Certificate, given: Given, at: int, how: str) -> None:
    anchors = {ManufacturerRoot(_name(root)[:255], _class(root), root.der) for root in given.roots}
    trust = Trust("check", "check", tuple(sorted(anchors)), (), (), given.crls, _RULES, given.ocsp)
    verified = verify_chain((leaf.der, *(other.der for other in given.certificates)), trust, now=at)
    finding.claims |= {"chain": how + verified.root, "weak_signature": verified.weak_signature}
    finding.notes.extend(verified.notes)


def _alone(finding: Finding, one: Certificate, at: int, how: str) -> None:
    """A certificate with nothing above it: its dates, and the signature of one that signs itself."""
    finding.claims |= {"chain": how, "weak_signature": one.algorithm is not None and one.algorithm.hash == "sha1"}
    if not one.not_before <= at <= one.not_after:
        finding.refuse("ek-certificate-refused", "ek_certificate.validity", f"valid at {at}", f"{one.not_before} to {one.not_after}")
    if one.is_self_issued and not (one.algorithm and signed_by(one.signed, one.signature, one.algorithm, certificate_key(one.spki))):
        finding.refuse("ek-certificate-refused", "ek_certificate.signature", "its own signature", "another")


def read_certificates(data: bytes, what: str) -> tuple[Certificate, ...]:
    """PEM certificates, or one in DER, also as a TPM's NV index holds it. Raises FormatError."""
    if b"-----BEGIN" in data:
        return parse_pem_certificates(data, what)
    return (parse_stored_certificate(data),)


def read_trust(folder: Path) -> Given:
    """All that the directory holds, which is what is trusted: a CA is a root if its issuer is itself, or not there."""
    if not folder.is_dir():
        raise Unavailable("--trust", f"expected a directory of certificates, got {folder}")
    found: list[Certificate] = []
    crls: list[bytes] = []
    ocsp: list[bytes] = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in CERTIFICATE_FILES:
            found += read_certificates(read_file(path), path.name)
        elif path.suffix.lower() in CRL_FILES:
            crls.append(parse_crl(read_file(path)).der)
        elif path.suffix.lower() in OCSP_FILES:
            ocsp.append(parse_ocsp(read_file(path)).der)
    return Given(tops_of(found), tuple(found), tuple(crls), tuple(ocsp))


def _class(root: Certificate) -> str:
    known = _PINNED.get(Digest.of(root.der))
    return "discrete" if known is None else known.tpm_class


def _name(certificate: Certificate) -> str:
    return certificate.subject_text or f"serial {certificate.serial}"


def _key_name(certificate: Certificate) -> str:
    """SHA-256 of the key as an operator lists it; of the bytes as they came where the key is none we can use."""
    try:
        return str(Digest.of(plain_spki(certificate_key(certificate.spki))))
    except FormatError:
        return str(Digest.of(certificate.spki))
