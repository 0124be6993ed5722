"""EK certificate chains: does a TPM manufacturer we trust vouch for this key?

Path validation is ours (RFC 5280 section 6, without policies and name
constraints: a chain that has the latter as critical is refused). General
libraries refuse what manufacturers issue: SHA-1 in chains of the TPM 1.2
years, EK keys marked RSAES-OAEP, names whose SET is out of order, a critical
subject alternative name with an empty subject. Nothing is believed more for
being odd: what the reader cannot read, no chain leads over.

Source: RFC 5280 section 6; TCG EK Credential Profile 2.6, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.crl import Crl, kept_crl
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.ocsp import OcspResponse, kept_ocsp
from writ.formats.proof_bundle import MOST_COLLATERAL, Collateral
from writ.formats.reason import Reason
from writ.formats.trust import ChainRules, Trust
from writ.formats.x509 import EKU_EK, Certificate, parse_certificate
from writ.formats.x509_key import certificate_key, plain_spki
from writ.verdict.revocation import is_made, is_signed, judge_revocation

MAX_DEPTH: Final = 4
"""CAs between the certificate and the root; manufacturers have at most three."""
MAX_CHECKS: Final = 64
"""Signatures verified for one chain, whatever the certificates that came claim about each other."""


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """Proof that `verify_chain` ran. `path` leads from the certificate to the root.

    `weak_signature` says that a link holds by SHA-1 only. `notes` say what was
    not known about revocation; they are empty where a fresh CRL of each issuer
    was at hand, or a fresh OCSP response.
    """

    path: tuple[Certificate, ...]
    root: str
    tpm_class: str
    weak_signature: bool
    notes: tuple[Reason, ...]

    @property
    def leaf(self) -> Certificate:
        """The certificate that was asked about."""
        return self.path[0]


@dataclass(frozen=True, slots=True)
class VerifiedEk:
    """Proof that `verify_ek_chain` ran: the EK's SubjectPublicKeyInfo in DER, and the root it led to with its class.

    `weak_signature` and `notes` as in `VerifiedChain`.
    """

    spki: bytes
    root: str
    tpm_class: str
    weak_signature: bool = False
    notes: tuple[Reason, ...] = ()


def verify_ek_chain(certificates: Sequence[bytes], trust: Trust, *, now: int) -> VerifiedEk:
    """The first of `certificates` (DER) is an EK certificate that chains to a root in `trust`, valid and not revoked at `now`.

    Proves that the manufacturer issued it; not that the TPM holds the key
    (activation), nor that the TPM is one of ours (admission).

    1. A chain (`verify_chain`).
    2. The certificate is one of an EK: by its extended key usage, with a DirectoryName, and no CA.

    Raises Refused `ek-certificate-refused`, `ek-certificate-revoked` or `revocation-unknown`.
    """
    # 1
    chain = verify_chain(certificates, trust, now=now)
    # 2
    leaf = chain.leaf
    if EKU_EK not in leaf.eku or not leaf.names_directory or leaf.is_ca:
        raise _refused("an EK certificate, by its extended key usage and DirectoryName", f"certificate {Digest.of(leaf.der)}")
    try:
        spki = plain_spki(certificate_key(leaf.spki))
    except FormatError as error:
        raise _refused(error.expected, error.got) from None
    return VerifiedEk(spki, chain.root, chain.tpm_class, chain.weak_signature, chain.notes)


def verify_chain(certificates: Sequence[bytes], trust: Trust, *, now: int) -> VerifiedChain:
    """The first of `certificates` (DER) chains to a root in `trust`, valid and not revoked at `now`. Says nothing about its use.

    1. Every certificate, CRL and OCSP response parses, and there is a root.
    2. A path leads from the first over the others and the trust's intermediates to a root. On it each signature verifies, names
       chain, all are valid at `now`, every issuer is a CA that may sign certificates, within its path length, and no critical
       extension is one that is not understood. SHA-1 holds only under `rules.sha1`.
    3. No certificate on it, the root apart, is revoked; and where the rules require it, that is known of each (`judge_revocation`).

    Raises Refused `ek-certificate-refused` (1, 2), `ek-certificate-revoked` or `revocation-unknown` (3).
    """
    # 1
    try:
        leaf, *others = [parse_certificate(der) for der in certificates]
        extra = [parse_certificate(der) for der in trust.intermediates]
        roots = [(root, parse_certificate(root.certificate)) for root in trust.roots]
        crls, responses = [kept_crl(der) for der in trust.crls], [kept_ocsp(der) for der in trust.ocsp]
    except (FormatError, ValueError):
        raise _refused("a chain of certificates", "bytes that are not, or none") from None
    if not roots:
        raise _refused("a root in the trust file", "none")
    # 2
    anchors = {certificate.der for _, certificate in roots}
    issuers: dict[bytes, list[Certificate]] = {}
    for certificate in (*(c for _, c in roots), *others, *extra):
        known = issuers.setdefault(certificate.subject, [])
        if certificate not in known:
            known.append(certificate)
    search = _Search(issuers, anchors, trust.rules, now)
    path = search.path((leaf,))
    if path is None:
        got = f"certificate {Digest.of(leaf.der)}: {search.fault}"
        raise _refused(f"a path to one of {len(roots)} roots, valid at {now}", got)
    # 3
    notes = judge_revocation(path, crls, responses, trust.rules, now=now)
    root = next(root for root, certificate in roots if certificate.der == path[-1].der)
    weak = any(certificate.algorithm is not None and certificate.algorithm.hash == "sha1" for certificate in path[:-1])
    return VerifiedChain(path, root.name, root.tpm_class, weak, notes)


def collateral_of(certificates: Sequence[bytes], trust: Trust, *, now: int) -> Collateral:
    """What `trust` holds of use for this chain beside its root: the intermediates on it that did not come with it, and what was issued
    about it by the name of an issuer on it.

    Raises Refused as `verify_chain`.
    """
    path = verify_chain(certificates, trust, now=now).path
    issuers, serials = {one.issuer for one in path[:-1]}, {one.serial for one in path[:-1]}
    came = {der for der in trust.intermediates if der not in certificates}
    crls = [crl for crl in map(kept_crl, trust.crls) if crl.issuer in issuers]
    responses = [one for one in map(kept_ocsp, trust.ocsp) if one.certificate.serial in serials]
    return Collateral(
        tuple(sorted(one.der for one in path[1:-1] if one.der in came))[:MOST_COLLATERAL],
        tuple(sorted(one.der for one in crls if is_made(one, path[1:], crls, now=now)))[:MOST_COLLATERAL],
        tuple(sorted(one.der for one in responses if is_made(one, path[1:], crls, now=now)))[:MOST_COLLATERAL],
    )


def judge_collateral(certificates: Sequence[bytes], held: Collateral, trust: Trust, *, now: int) -> None:
    """Each part of `held` is as a CA made it that stands in `trust`, came with the chain, or is held beside it.

    Says nothing of whether it is believed, or says enough: `verify_chain` does, of what `held` and `trust` have together.
    Raises Refused `collateral-refused`.
    """
    try:
        beside = [parse_certificate(der) for der in held.intermediates]
        known = [parse_certificate(der) for der in (*(root.certificate for root in trust.roots), *trust.intermediates, *certificates)]
        crls, responses = [kept_crl(der) for der in held.crls], [kept_ocsp(der) for der in held.ocsp]
        theirs = [kept_crl(der) for der in trust.crls]
    except (FormatError, ValueError):
        raise Refused(Reason("collateral-refused", "collateral", "certificates, CRLs and OCSP responses", "bytes that are not")) from None
    issuers = [one for one in (*known, *beside) if one.is_ca]
    for one in beside:
        above = (issuer for issuer in issuers if issuer.subject == one.issuer and issuer.der != one.der)
        if one not in known and not any(one.algorithm and is_signed(one.signed, one.signature, one.algorithm, issuer) for issuer in above):
            raise _altered(one.der)
    statements: list[Crl | OcspResponse] = [*crls, *responses]
    for statement in statements:
        if not is_made(statement, issuers, (*crls, *theirs), now=now):
            raise _altered(statement.der)


def _altered(der: bytes) -> Refused:
    return Refused(Reason("collateral-refused", "collateral", "what a CA that is known has signed", str(Digest.of(der))))


class _Search:
    """One search for a path, depth first, bounded in depth and in signatures. `fault` is what stopped the longest attempt."""

    def __init__(self, issuers: Mapping[bytes, Sequence[Certificate]], anchors: set[bytes], rules: ChainRules, now: int) -> None:
        self._issuers = issuers
        self._anchors = anchors
        self._rules = rules
        self._now = now
        self._checks = MAX_CHECKS
        self._length = 0
        self.fault = "no certificate of its issuer"

    def path(self, below: tuple[Certificate, ...]) -> tuple[Certificate, ...] | None:
        """`below`, from the leaf up, continued to an anchor; None where no way leads there."""
        last = below[-1]
        if fault := self._fault_of(last):
            self._stopped(below, fault)
            return None
        if len(below) > 1 and last.der in self._anchors:
            return below
        if len(below) > 1 + MAX_DEPTH:
            self._stopped(below, f"more than {MAX_DEPTH} CAs on the way")
            return None
        for issuer in self._issuers.get(last.issuer, ()):
            if issuer in below:
                continue
            if fault := self._fault_between(issuer, below):
                self._stopped(below, fault)
            elif found := self.path((*below, issuer)):
                return found
        self._stopped(below, "no certificate of its issuer")
        return None

    def _fault_of(self, one: Certificate) -> str | None:
        if not one.not_before <= self._now <= one.not_after:
            return f"valid from {one.not_before} to {one.not_after} only"
        if one.critical:
            return f"critical extension {one.critical[0]}"
        return None

    def _fault_between(self, issuer: Certificate, below: tuple[Certificate, ...]) -> str | None:
        """Why `issuer` cannot stand above the last of `below`."""
        subject = below[-1]
        if not issuer.is_ca or not issuer.signs_certificates:
            return "an issuer that is no CA, or may not sign certificates"
        between = sum(not certificate.is_self_issued for certificate in below[1:])
        if issuer.path_length is not None and between > issuer.path_length:
            return f"more CAs below an issuer than its path length {issuer.path_length}"
        algorithm = subject.algorithm
        if algorithm is None:
            return "a signature algorithm that is not verified"
        if algorithm.hash == "sha1" and not self._rules.sha1:
            return "a signature with SHA-1"
        if self._checks == 0:
            return f"more than {MAX_CHECKS} signatures to verify"
        self._checks -= 1
        return None if is_signed(subject.signed, subject.signature, algorithm, issuer) else "a signature that its issuer did not make"

    def _stopped(self, below: tuple[Certificate, ...], fault: str) -> None:
        if len(below) > self._length:
            self._length, self.fault = len(below), fault


def _refused(expected: str, got: str) -> Refused:
    return Refused(Reason("ek-certificate-refused", "ek_certificate", expected, got))
