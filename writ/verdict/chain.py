"""EK certificate chains: does a TPM manufacturer we trust vouch for this key?

The path is validated as every other is (`path.py`); here stand the rules of
EKs: whose roots, with which class of TPM, and what makes a certificate one of
an EK.

Source: TCG EK Credential Profile 2.6, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.crl import Crl, kept_crl
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.ocsp import OcspResponse, kept_ocsp
from writ.formats.proof_bundle import MOST_COLLATERAL, Collateral
from writ.formats.reason import Reason
from writ.formats.trust import Trust
from writ.formats.x509 import EKU_EK, Certificate, parse_certificate
from writ.formats.x509_key import certificate_key, plain_spki
from writ.verdict.path import PathRules, verify_path
from writ.verdict.revocation import PathReasons, is_made, is_signed

MAX_DEPTH: Final = 4
"""CAs between the certificate and the root; manufacturers have at most three."""
_REASONS: Final = PathReasons("ek-certificate-refused", "ek-certificate-refused", "ek-certificate-revoked", "ek_certificate")


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
    2. A path leads from the first over the others and the trust's intermediates to a root (`verify_path`, 1).
    3. No certificate on it, the root apart, is revoked; and where the rules require it, that is known of each (`verify_path`, 2).

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
    # 2, 3
    above = (*(certificate for _, certificate in roots), *others, *extra)
    anchors = {Digest.of(certificate.der) for _, certificate in roots}
    rules = PathRules(trust.rules, depth=MAX_DEPTH, reasons=_REASONS)
    path = verify_path(leaf, above, anchors, at=now, rules=rules, crls=crls, responses=responses)
    root = next(root for root, certificate in roots if certificate.der == path.anchor.der)
    return VerifiedChain(path.certificates, root.name, root.tpm_class, path.weak_signature, path.notes)


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


def _refused(expected: str, got: str) -> Refused:
    return Refused(Reason("ek-certificate-refused", "ek_certificate", expected, got))
