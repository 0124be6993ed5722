"""Revocation: what CRLs and OCSP responses that were imported say of a chain, and when they say enough.

Nothing is fetched. Of a certificate either may speak: revoked is who one of
them calls revoked, fresh or stale; and what is not revoked is known where one
of them is fresh. A CRL is believed under the CA that made it, an OCSP response
under the CA itself or a responder that the CA certified for that.

Source: RFC 5280 section 6.3; RFC 6960 sections 3.2, 4.2.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

from writ.formats.crl import Crl, Scope
from writ.formats.digest import Digest, hash_bytes
from writ.formats.errors import FormatError, Refused
from writ.formats.ocsp import CERT_ID_HASHES, CertId, OcspResponse
from writ.formats.reason import Reason
from writ.formats.trust import ChainRules
from writ.formats.x509 import EKU_OCSP, MAX_CERTIFICATE, Certificate
from writ.formats.x509_key import SignatureAlgorithm, certificate_key, key_bits, signed_by


@dataclass(frozen=True, slots=True)
class PathReasons:
    """What a refusal of a path is called: its codes, and the claim that it is about."""

    refused: str
    expired: str
    revoked: str
    claim: str


CERTIFICATES: Final = PathReasons("certificate-refused", "certificate-expired", "certificate-revoked", "certificate")


@dataclass(frozen=True, slots=True)
class Statement:
    """A CRL or OCSP response that said of a certificate that it is not revoked: its digest, and its dates in seconds since the epoch."""

    digest: Digest
    this_update: int
    next_update: int | None


@dataclass(frozen=True, slots=True)
class Revocation:
    """What is known about the revocation of a path that nobody revoked: what is not known, and what said what is."""

    unknown: tuple[Reason, ...]
    statements: tuple[Statement, ...]


def judge_revocation(
    path: tuple[Certificate, ...],
    crls: Sequence[Crl],
    responses: Sequence[OcspResponse],
    rules: ChainRules,
    *,
    now: int,
    issues_crls: bool = True,
    reasons: PathReasons = CERTIFICATES,
) -> Revocation:
    """No certificate of `path`, from the leaf up, the last apart, is revoked. Returns what is known about it, and what is not.

    1. The newest CRL of its issuer that speaks of it does not list it.
    2. The newest OCSP response about it does not call it revoked.
    3. One of the two is fresh: it is known. Under `rules.crl_required` it must be. Of the leaf nothing need be known where its issuer
       publishes no CRLs (`issues_crls`).

    Raises Refused `certificate-revoked`, or as `reasons` has it, (1, 2) or `revocation-unknown` (3).
    """
    unknown: list[Reason] = []
    statements: list[Statement] = []
    for subject, issuer in pairwise(path):
        name = f"certificate {Digest.of(subject.der)}"
        # 1
        crl = newest_crl([one for one in crls if speaks_of(one, subject)], issuer, rules, now=now)
        if crl is not None and subject.serial in crl.revoked:
            raise Refused(Reason(reasons.revoked, reasons.claim, f"a certificate not on the CRL of {crl.this_update}", name))
        # 2
        about = [one for one in responses if one.certificate.serial == subject.serial and _names(one.certificate, issuer)]
        newest = newest_response(about, issuer, crl, rules, now=now)
        if newest is not None and newest[0].status == "revoked":
            said = f"a certificate not revoked by the OCSP response of {newest[0].this_update}"
            raise Refused(Reason(reasons.revoked, reasons.claim, said, name))
        # 3
        listed = None if crl is None else Statement(Digest.of(crl.der), crl.this_update, crl.next_update)
        answered = None if newest is None else Statement(Digest.of(newest[0].der), newest[0].this_update, newest[1])
        faults = [_want(one, rules, now) for one in (listed, answered)]
        fresh = [one for one, fault in zip((listed, answered), faults, strict=True) if one is not None and fault is None]
        statements += fresh
        if not fresh and (issues_crls or subject is not path[0]):
            wanted = f"a CRL of its issuer or an OCSP response, fresh at {now}"
            unknown.append(Reason("revocation-unknown", f"{reasons.claim}.crl", wanted, f"{faults[0]} and {faults[1]} for {name}"))
    if unknown and rules.crl_required:
        raise Refused(*unknown)
    return Revocation(tuple(sorted(unknown)), tuple(sorted(set(statements), key=lambda one: str(one.digest))))


def _want(said: Statement | Crl | None, rules: ChainRules, now: int) -> str | None:
    """Why what was issued and is to be replaced at its dates does not say what is revoked at `now`."""
    if said is None:
        return "none"
    if said.next_update is not None and now > said.next_update:
        return f"one to be replaced by {said.next_update}"
    if now - said.this_update > rules.crl_max_age:
        return f"one of {said.this_update}, older than {rules.crl_max_age} s,"
    return None


# --- CRLs -----------------------------------------------------------------------------------------------------------------


def newest_crl(crls: Sequence[Crl], issuer: Certificate, rules: ChainRules, *, now: int) -> Crl | None:
    """The newest of `crls` that `issuer` signed and that is not of the future; it may be stale.

    The issuer may sign CRLs by its key usage; SHA-1 holds only under `rules.sha1`.
    """
    best: Crl | None = None
    for crl in crls:
        if crl.this_update > now or (best is not None and crl.this_update <= best.this_update):
            continue
        if crl.algorithm is not None and crl.algorithm.hash == "sha1" and not rules.sha1:
            continue
        if _made(crl, issuer):
            best = crl
    return best


def speaks_of(crl: Crl, certificate: Certificate) -> bool:
    """Whether `certificate`, if `crl` is of its issuer, is one of those of which it speaks (RFC 5280 section 6.3.3 (b) (2))."""
    points, only = crl.scope.points, crl.scope.only
    named = not points or any(address in points for address in certificate.crl_addresses)
    return named and (not only or (only == "cas") is certificate.is_ca)


def latest_crls(crls: Iterable[Crl], issuers: Sequence[Certificate]) -> tuple[Crl, ...]:
    """Of `crls` the last of each issuer, of one name and one key, and of each part of its list. One that none of `issuers` signed stays."""
    latest: dict[tuple[bytes, Scope, bytes], Crl] = {}
    for crl in crls:
        key = crl.issuer, crl.scope, _signer(crl, issuers) or crl.der
        if key not in latest or is_later(crl, latest[key]):
            latest[key] = crl
    return tuple(latest.values())


def judge_crl(crl: Crl, held: Iterable[Crl], issuers: Sequence[Certificate], *, now: int) -> Reason | None:
    """Why `crl` does not take the place of those of its issuer and scope among `held`: it is no later, or of the future.

    None where it does, and where it is that one. Does not say that any of `issuers` signed it. One of the future would be passed over
    until its time comes, and would keep today's out.
    """
    signer = _signer(crl, issuers)
    alike = [one for one in held if one.der != crl.der and (one.issuer, one.scope) == (crl.issuer, crl.scope)]
    others = [one for one in alike if _signer(one, issuers) == signer]
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
    return is_signed(crl.signed, crl.signature, crl.algorithm, issuer)


def _shown(crl: Crl) -> str:
    return f"number {'none' if crl.number is None else crl.number} of {crl.this_update}"


def is_made(one: Crl | OcspResponse, issuers: Sequence[Certificate], crls: Sequence[Crl], *, now: int) -> bool:
    """Whether one of `issuers` made this CRL, or this OCSP response is believed under one of them, whose `crls` judge its responder.

    By any hash, and of any age: it says that nobody altered it, not that it says enough.
    """
    if isinstance(one, Crl):
        return any(_made(one, issuer) for issuer in issuers)
    rules = ChainRules(sha1=True, crl_max_age=now)
    speaking = (issuer for issuer in issuers if _names(one.certificate, issuer))
    return any(_believed(one, issuer, newest_crl(crls, issuer, rules, now=now), rules, now) is not None for issuer in speaking)


# --- OCSP responses -------------------------------------------------------------------------------------------------------


def newest_response(
    responses: Iterable[OcspResponse], issuer: Certificate, crl: Crl | None, rules: ChainRules, *, now: int
) -> tuple[OcspResponse, int] | None:
    """The newest of `responses`, all about one certificate of `issuer`, that is believed and not of the future; and until when it holds.

    That is no longer than its signer's certificate lasts. It may be stale. One that does not know the certificate says nothing. `crl` is
    the newest CRL of `issuer`, by which a responder is judged.
    """
    heard = [one for one in responses if one.status != "unknown" and max(one.this_update, one.produced_at) <= now]
    for one in sorted(heard, key=_moment, reverse=True):
        if (signer := _believed(one, issuer, crl, rules, now)) is not None:
            return one, signer.not_after if one.next_update is None else min(one.next_update, signer.not_after)
    return None


def latest_responses(responses: Iterable[OcspResponse], issuers: Iterable[Certificate]) -> tuple[OcspResponse, ...]:
    """Of `responses` the last about each certificate of `issuers`. One about a certificate of nobody that is known stays."""
    known = _by_hash(issuers)
    latest: dict[tuple[object, ...], OcspResponse] = {}
    for one in responses:
        key = _about(one, known)
        if key not in latest or _moment(one) > _moment(latest[key]):
            latest[key] = one
    return tuple(latest.values())


def judge_response(
    response: OcspResponse,
    held: Iterable[OcspResponse],
    crls: Sequence[Crl],
    issuers: Sequence[Certificate],
    rules: ChainRules,
    *,
    now: int,
) -> Reason | None:
    """Why `response` does not take the place of those about the same certificate among `held`; None where it does, and where it is one.

    1. It speaks for one of `issuers`, which made it, or certified its responder for that (judged by `crls`).
    2. It knows the certificate: one that does not would take the place of one that does.
    3. It is later than those.
    4. It is not of the future, until when it would be passed over.
    """
    # 1
    known = _by_hash(issuers)
    at = max(now, response.this_update, response.produced_at)
    speaking = [one for one in issuers if _names(response.certificate, one)]
    if not any(_believed(response, one, newest_crl(crls, one, rules, now=now), rules, at) for one in speaking):
        expected = "a response by a CA that is believed, or by its responder (no-check, or not on a fresh CRL)"
        return Reason("trust-root-unknown", "ocsp", expected, "another")
    # 2
    if response.status == "unknown":
        return Reason("revocation-unknown", "ocsp.status", "good or revoked", response.status)
    # 3
    about = _about(response, known)
    for other in held:
        if other.der != response.der and _about(other, known) == about and _moment(other) >= _moment(response):
            return Reason("crl-rollback", "ocsp", f"a later one than that of {other.this_update}", f"one of {response.this_update}")
    # 4
    return Reason("crl-early", "ocsp.this_update", f"at most {now}", str(at)) if at > now else None


def _moment(response: OcspResponse) -> tuple[int, int, str]:
    """Which of two about one certificate is the later one; of the same moment it is the one that says "revoked"."""
    return response.this_update, response.produced_at, response.status


def _believed(response: OcspResponse, issuer: Certificate, crl: Crl | None, rules: ChainRules, now: int) -> Certificate | None:
    """Who signed `response`: `issuer`, or a responder that it certified; None where it was another, or one that is not to be believed.

    1. The responder that is named: `issuer`, or one whose certificate came along, which it signed for OCSP and which was valid then.
    2. The signature verifies; SHA-1 holds only under `rules.sha1`.
    3. A responder is not on the CRL of `issuer`; its "good" asks for a fresh one, unless its certificate says that none is needed.
    """
    for signer in (issuer, *response.certificates):
        # 1
        named = response.responder_name == signer.subject or response.responder_key == hash_bytes("sha1", _key(signer.spki))
        if not named or (signer is not issuer and not _is_responder(signer, issuer, rules, at=response.produced_at)):
            continue
        # 2
        if not _holds(response.signed, response.signature, response.algorithm, signer, rules):
            continue
        # 3
        if signer is issuer:
            return signer
        listed = crl is not None and signer.serial in crl.revoked
        fresh = crl is not None and speaks_of(crl, signer) and _want(crl, rules, now) is None
        if not listed and (fresh or signer.ocsp_no_check or response.status == "revoked"):
            return signer
    return None


def _is_responder(one: Certificate, issuer: Certificate, rules: ChainRules, *, at: int) -> bool:
    """Whether `issuer` certified `one` as an OCSP responder at `at` (RFC 6960 section 4.2.2.2)."""
    if one.issuer != issuer.subject or EKU_OCSP not in one.eku or one.critical or not one.not_before <= at <= one.not_after:
        return False
    return _holds(one.signed, one.signature, one.algorithm, issuer, rules)


def _holds(message: bytes, signature: bytes, algorithm: SignatureAlgorithm | None, signer: Certificate, rules: ChainRules) -> bool:
    if algorithm is None or (algorithm.hash == "sha1" and not rules.sha1):
        return False
    return is_signed(message, signature, algorithm, signer)


def _by_hash(issuers: Iterable[Certificate]) -> Mapping[tuple[str, bytes, bytes], Certificate]:
    """Each of `issuers` under what a CertID calls it; of several with one name and key the first."""
    found: dict[tuple[str, bytes, bytes], Certificate] = {}
    for issuer in issuers:
        for hashed in CERT_ID_HASHES.values():
            found.setdefault(_hashes(hashed, issuer.subject, issuer.spki), issuer)
    return found


def _about(response: OcspResponse, known: Mapping[tuple[str, bytes, bytes], Certificate]) -> tuple[object, ...]:
    """The certificate that `response` is about: name and key of its issuer, and its number; where that is nobody known, the response."""
    one = response.certificate
    issuer = known.get((one.hash, one.issuer_name, one.issuer_key))
    return (response.der,) if issuer is None else (issuer.subject, issuer.spki, one.serial)


def _names(one: CertId, issuer: Certificate) -> bool:
    """Whether `one` is the id of a certificate of `issuer`."""
    return (one.hash, one.issuer_name, one.issuer_key) == _hashes(one.hash, issuer.subject, issuer.spki)


@lru_cache(maxsize=8192)
def _hashes(hashed: str, subject: bytes, spki: bytes) -> tuple[str, bytes, bytes]:
    """What a CertID calls an issuer; kept, since each response of many is held against each issuer of many."""
    return hashed, hash_bytes(hashed, subject), hash_bytes(hashed, _key(spki))


def _key(spki: bytes) -> bytes:
    """What the hash of a key is taken of; of one that cannot be read nothing, and nothing is signed by it."""
    try:
        return key_bits(spki)
    except FormatError:
        return b""


def is_signed(message: bytes, signature: bytes, algorithm: SignatureAlgorithm, issuer: Certificate) -> bool:
    """Whether the key of `issuer` signed `message`, with whatever hash.

    What was found out about a certificate is kept for a while, by all that it depends on: the CAs above evidence are few, and their
    signatures are most of what a path costs.
    """
    verify = _kept if len(message) <= MAX_CERTIFICATE else _is_signed
    return verify(message, signature, algorithm, issuer.spki)


def _is_signed(message: bytes, signature: bytes, algorithm: SignatureAlgorithm, spki: bytes) -> bool:
    try:
        return signed_by(message, signature, algorithm, certificate_key(spki))
    except FormatError:
        return False


_kept: Final = lru_cache(maxsize=256)(_is_signed)
