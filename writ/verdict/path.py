"""X.509 paths: does a certificate lead to an anchor that is pinned, valid and not revoked at a stated time?

Path validation is ours (RFC 5280 section 6, without policies and name
constraints: a chain that has the latter as critical is refused). General
libraries refuse what manufacturers issue: SHA-1 in chains of the TPM 1.2
years, EK keys marked RSAES-OAEP, names whose SET is out of order, a critical
subject alternative name with an empty subject, RSA-PSS as AMD spells its
parameters, and a VCEK's serial number 0. Nothing is believed more for being
odd: what the reader cannot read, no path leads over.

An anchor is known by its fingerprint alone, and may be a root or a CA below
one. It stands on the path as any other certificate does, its dates and
constraints among them; its own signature proves nothing and is not looked at.

Source: RFC 5280 section 6.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.crl import Crl
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.ocsp import OcspResponse
from writ.formats.reason import Reason
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate
from writ.verdict.revocation import CERTIFICATES, PathReasons, Statement, is_signed, judge_revocation

MAX_CHECKS: Final = 64
"""Signatures verified for one path, whatever the certificates that came claim about each other."""

_AT_HAND: Final = ChainRules()
"""Revocation is judged by what is at hand, and nothing is required."""


@dataclass(frozen=True, slots=True)
class PathRules:
    """Under which rules a path is believed.

    `chain`: whether revocation must be known of each certificate, how old what says so may be, and what SHA-1 is worth. `issues_crls`
    says whether whoever issued the leaf publishes CRLs at all; where not, nothing need be known of the leaf, and of the CAs as ever.
    `depth` is the most CAs between the leaf and the anchor, `reasons` what a refusal is called.
    """

    chain: ChainRules = _AT_HAND
    issues_crls: bool = True
    depth: int = 6
    reasons: PathReasons = CERTIFICATES


_RULES: Final = PathRules()


@dataclass(frozen=True, slots=True)
class VerifiedPath:
    """Proof that `verify_path` ran. `certificates` lead from the leaf to the anchor.

    `weak_signature` says that a link holds by SHA-1 only. `notes` say what was not known about revocation, `statements` what was, and of
    which date: the CRLs and OCSP responses that were fresh.
    """

    certificates: tuple[Certificate, ...]
    weak_signature: bool
    notes: tuple[Reason, ...]
    statements: tuple[Statement, ...]

    @property
    def leaf(self) -> Certificate:
        """The certificate that was asked about."""
        return self.certificates[0]

    @property
    def anchor(self) -> Certificate:
        """The certificate that is pinned."""
        return self.certificates[-1]


def verify_path(
    leaf: Certificate,
    others: Sequence[Certificate],
    anchors: Collection[Digest],
    *,
    at: int,
    rules: PathRules = _RULES,
    crls: Sequence[Crl] = (),
    responses: Sequence[OcspResponse] = (),
) -> VerifiedPath:
    """`leaf` chains over `others` to one whose SHA-256 is in `anchors`, valid and not revoked at `at`. Says nothing about its use.

    `others` may come in any order, twice, or be of no use. An anchor is one of them: what nobody gave, no path ends at.

    1. A path leads from the leaf to an anchor. On it each signature verifies, names chain, all are valid at `at`, every issuer is a CA
       that may sign certificates, within its path length, and no critical extension is one that is not understood. SHA-1 holds only
       under `rules.chain.sha1`.
    2. No certificate on it, the anchor apart, is revoked; and where the rules require it, that is known of each (`judge_revocation`).

    Raises Refused `certificate-expired` or `certificate-refused` (1), `certificate-revoked` or `revocation-unknown` (2), or as
    `rules.reasons` has it.
    """
    # 1
    issuers: dict[bytes, list[Certificate]] = {}
    for certificate in others:
        known = issuers.setdefault(certificate.subject, [])
        if certificate not in known:
            known.append(certificate)
    search = _Search(issuers, anchors, rules, at)
    path = search.path((leaf,))
    if path is None:
        claim = rules.reasons.claim
        expected = f"a path to one of {len(anchors)} roots, valid at {at}"
        raise Refused(Reason(search.code, claim, expected, f"certificate {Digest.of(leaf.der)}: {search.fault}"))
    # 2
    known_of = judge_revocation(path, crls, responses, rules.chain, now=at, issues_crls=rules.issues_crls, reasons=rules.reasons)
    weak = any(certificate.algorithm is not None and certificate.algorithm.hash == "sha1" for certificate in path[:-1])
    return VerifiedPath(path, weak, known_of.unknown, known_of.statements)


class _Search:
    """One search for a path, depth first, bounded in depth and in signatures. `fault` is what stopped the longest attempt."""

    def __init__(self, issuers: Mapping[bytes, Sequence[Certificate]], anchors: Collection[Digest], rules: PathRules, at: int) -> None:
        self._issuers = issuers
        self._anchors = anchors
        self._rules = rules
        self._at = at
        self._checks = MAX_CHECKS
        self._length = 0
        self.fault = "no certificate of its issuer"
        self.code = rules.reasons.refused

    def path(self, below: tuple[Certificate, ...]) -> tuple[Certificate, ...] | None:
        """`below`, from the leaf up, continued to an anchor; None where no way leads there."""
        last = below[-1]
        if not last.not_before <= self._at <= last.not_after:
            self._stopped(below, f"valid from {last.not_before} to {last.not_after} only", self._rules.reasons.expired)
            return None
        if last.critical:
            self._stopped(below, f"critical extension {last.critical[0]}")
            return None
        if len(below) > 1 and Digest.of(last.der) in self._anchors:
            return below
        if len(below) > 1 + self._rules.depth:
            self._stopped(below, f"more than {self._rules.depth} CAs on the way")
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
        if algorithm.hash == "sha1" and not self._rules.chain.sha1:
            return "a signature with SHA-1"
        if self._checks == 0:
            return f"more than {MAX_CHECKS} signatures to verify"
        self._checks -= 1
        return None if is_signed(subject.signed, subject.signature, algorithm, issuer) else "a signature that its issuer did not make"

    def _stopped(self, below: tuple[Certificate, ...], fault: str, code: str = "") -> None:
        if len(below) > self._length:
            self._length, self.fault, self.code = len(below), fault, code or self._rules.reasons.refused
