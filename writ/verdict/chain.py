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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from writ.formats.crl import Crl, kept_crl
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.trust import ChainRules, Trust
from writ.formats.x509 import EKU_EK, Certificate, parse_certificate
from writ.formats.x509_key import SignatureAlgorithm, certificate_key, plain_spki, signed_by

MAX_DEPTH: Final = 4
"""CAs between the certificate and the root; manufacturers have at most three."""
MAX_CHECKS: Final = 64
"""Signatures verified for one chain, whatever the certificates that came claim about each other."""


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """Proof that `verify_chain` ran. `path` leads from the certificate to the root.

    `weak_signature` says that a link holds by SHA-1 only. `notes` say what was
    not known about revocation; they are empty where a fresh CRL of each issuer
    was at hand.
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

    1. Every certificate and CRL parses, and there is a root.
    2. A path leads from the first over the others and the trust's intermediates to a root. On it each signature verifies, names
       chain, all are valid at `now`, every issuer is a CA that may sign certificates, within its path length, and no critical
       extension is one that is not understood. SHA-1 holds only under `rules.sha1`.
    3. No certificate on it, the root apart, is on a CRL of its issuer; and where the rules require it, each has a fresh one.

    Raises Refused `ek-certificate-refused` (1, 2), `ek-certificate-revoked` or `revocation-unknown` (3).
    """
    # 1
    try:
        leaf, *others = [parse_certificate(der) for der in certificates]
        extra = [parse_certificate(der) for der in trust.intermediates]
        roots = [(root, parse_certificate(root.certificate)) for root in trust.roots]
        crls = [kept_crl(der) for der in trust.crls]
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
    notes = _revocation(path, crls, trust.rules, now)
    root = next(root for root, certificate in roots if certificate.der == path[-1].der)
    weak = any(certificate.algorithm is not None and certificate.algorithm.hash == "sha1" for certificate in path[:-1])
    return VerifiedChain(path, root.name, root.tpm_class, weak, notes)


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
        return None if _is_signed(subject.signed, subject.signature, algorithm, issuer) else "a signature that its issuer did not make"

    def _stopped(self, below: tuple[Certificate, ...], fault: str) -> None:
        if len(below) > self._length:
            self._length, self.fault = len(below), fault


def _is_signed(message: bytes, signature: bytes, algorithm: SignatureAlgorithm, issuer: Certificate) -> bool:
    try:
        return signed_by(message, signature, algorithm, certificate_key(issuer.spki))
    except FormatError:
        return False


def _revocation(path: tuple[Certificate, ...], crls: Sequence[Crl], rules: ChainRules, now: int) -> tuple[Reason, ...]:
    """No certificate of `path` is revoked. Returns what is not known about it, unless the rules require to know: then Refused."""
    unknown: list[Reason] = []
    for subject, issuer in pairwise(path):
        newest = newest_crl(crls, issuer, rules, now=now)
        name = f"certificate {Digest.of(subject.der)}"
        if newest is not None and subject.serial in newest.revoked:
            raise Refused(Reason("ek-certificate-revoked", "ek_certificate", f"a certificate not on the CRL of {newest.this_update}", name))
        if fault := _want(newest, rules, now):
            unknown.append(
                Reason("revocation-unknown", "ek_certificate.crl", f"a CRL of its issuer, fresh at {now}", f"{fault} for {name}")
            )
    if unknown and rules.crl_required:
        raise Refused(*unknown)
    return tuple(sorted(unknown))


def newest_crl(crls: Sequence[Crl], issuer: Certificate, rules: ChainRules, *, now: int) -> Crl | None:
    """The newest of `crls` that `issuer` signed and that is not of the future; it may be stale.

    The issuer may sign CRLs by its key usage; SHA-1 holds only under `rules.sha1`.
    """
    best: Crl | None = None
    for crl in crls:
        if crl.issuer != issuer.subject or crl.this_update > now or (best is not None and crl.this_update <= best.this_update):
            continue
        if crl.algorithm is not None and crl.algorithm.hash == "sha1" and not rules.sha1:
            continue
        if _made(crl, issuer):
            best = crl
    return best


def latest_crls(crls: Iterable[Crl], issuers: Sequence[Certificate]) -> tuple[Crl, ...]:
    """Of `crls` the last of each issuer: of one name and one key. One that none of `issuers` signed stays."""
    latest: dict[tuple[bytes, bytes], Crl] = {}
    for crl in crls:
        key = crl.issuer, _signer(crl, issuers) or crl.der
        if key not in latest or is_later(crl, latest[key]):
            latest[key] = crl
    return tuple(latest.values())


def judge_crl(crl: Crl, held: Iterable[Crl], issuers: Sequence[Certificate], *, now: int) -> Reason | None:
    """Why `crl` does not take the place of those of its issuer among `held`: it is no later, or of the future.

    None where it does, and where it is that one. Does not say that any of `issuers` signed it. One of the future would be passed over
    until its time comes, and would keep today's out.
    """
    signer = _signer(crl, issuers)
    others = [one for one in held if one.der != crl.der and one.issuer == crl.issuer and _signer(one, issuers) == signer]
    for other in others:
        if not is_later(crl, other):
            return Reason("crl-rollback", "crl", f"a later one than {_shown(other)}", _shown(crl))
    if crl.this_update > now:
        return Reason("crl-early", "crl.this_update", f"at most {now}", str(crl.this_update))
    return None


def is_later(crl: Crl, other: Crl) -> bool:
    """Whether `crl` came after `other` of the same issuer: by their numbers where both have one, and they differ; else by thisUpdate."""
    if crl.number is not None and other.number is not None and crl.number != other.number:
        return crl.number > other.number
    return crl.this_update > other.this_update


def _signer(crl: Crl, issuers: Iterable[Certificate]) -> bytes | None:
    """The key, as SubjectPublicKeyInfo, of the one of `issuers` that signed `crl`."""
    return next((issuer.spki for issuer in issuers if _made(crl, issuer)), None)


def _made(crl: Crl, issuer: Certificate) -> bool:
    """Whether `issuer`, which may by its key usage, signed `crl`, with whatever hash."""
    if crl.issuer != issuer.subject or crl.algorithm is None or issuer.signs_crls is False:
        return False
    return _is_signed(crl.signed, crl.signature, crl.algorithm, issuer)


def _shown(crl: Crl) -> str:
    return f"number {'none' if crl.number is None else crl.number} of {crl.this_update}"


def _want(crl: Crl | None, rules: ChainRules, now: int) -> str | None:
    """Why `crl` does not say what is revoked at `now`."""
    if crl is None:
        return "none"
    if crl.next_update is not None and now > crl.next_update:
        return f"one to be replaced by {crl.next_update}"
    if now - crl.this_update > rules.crl_max_age:
        return f"one of {crl.this_update}, older than {rules.crl_max_age} s,"
    return None


def _refused(expected: str, got: str) -> Refused:
    return Refused(Reason("ek-certificate-refused", "ek_certificate", expected, got))
