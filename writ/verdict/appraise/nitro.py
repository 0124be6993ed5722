"""AWS Nitro: did the hypervisor sign this document, for an enclave or instance that is measured, not in debug mode, and answers us?

What is proven: a key that AWS certified for this enclave or instance signed the registers, and beside them what was put into nonce, user
data and public key from within. What is not: that the registers are good ones (the policy names them), that the enclave still runs, or in
whose account it does, unless PCR 3, 4 or 8 are asked for. AWS has validators leave revocation out, since
leaves live for hours; where a CRL is at hand, it is heeded all the same.

Source: AWS nitro-enclaves-nsm-api, attestation_process.md, section 3; Amazon EC2 user guide, "Validate a NitroTPM Attestation Document".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from writ.formats.cose import verify_sign1
from writ.formats.crl import Crl
from writ.formats.der import DerReader
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.tee.nitro import ENCLAVE, NitroDocument
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate, extension_values
from writ.formats.x509_key import certificate_key
from writ.verdict.path import PathRules, verify_path
from writ.verdict.revocation import Statement

SKEW: Final = 60
"""Seconds by which the hypervisor's clock may be ahead of ours."""
_AT_HAND: Final = ChainRules()
_KEY_USAGE: Final = "2.5.29.15"


@dataclass(frozen=True, slots=True)
class NitroPolicy:
    """What is asked of a document.

    `kinds` are those that are taken: the registers of enclaves and of instances do not mean the same. `pcrs` are the values that a register
    may have, which has to be there. `nonce` and `user_data` are as wanted, `key` is a public key (SubjectPublicKeyInfo in DER) that the
    document has to bind, as its public key or its user data; None where nothing is asked for. `max_age` in seconds, None for the validity
    of the certificate. `debug` takes what nobody measured. `revocation` says whether it must be known of each CA.
    """

    kinds: frozenset[str] = frozenset({ENCLAVE})
    pcrs: Mapping[int, frozenset[bytes]] = field(default_factory=dict, hash=False)
    nonce: bytes | None = None
    user_data: bytes | None = None
    key: bytes | None = None
    max_age: int | None = None
    debug: bool = False
    revocation: ChainRules = _AT_HAND


@dataclass(frozen=True, slots=True)
class AppraisedDocument:
    """What `appraise_document` found. `reasons` is empty where the document is accepted; `chain` is the subject of the anchor.

    `notes` say what was not known about revocation, `statements` what was, with dates.
    """

    document: NitroDocument
    chain: str
    statements: tuple[Statement, ...]
    notes: tuple[Reason, ...]
    reasons: tuple[Reason, ...]


def appraise_document(
    document: NitroDocument,
    authorities: Sequence[Certificate],
    anchors: Collection[Digest],
    policy: NitroPolicy,
    *,
    at: int,
    crls: Sequence[Crl] = (),
) -> AppraisedDocument:
    """The Nitro hypervisor signed `document`, under a certificate that leads to one of `anchors` at `at`; and how it fits `policy`.

    Up to step 3 the first fault ends it, from there on every reason is in the result.

    1. The certificate is no CA's and may sign (keyUsage digitalSignature).
    2. It chains over the bundle and `authorities` to an anchor, valid at `at`.
    3. The COSE signature verifies under its key: ES384.
    4. The document was made while its certificate was valid, not after `at`, and within `policy.max_age`.
    5. Its kind is accepted; PCR 0 to 2 are not all zero, as they are in debug mode.
    6. Each register of `policy.pcrs` has a value that is accepted.
    7. Nonce, user data and key are those asked for.

    Raises Refused `certificate-refused` (1), as `verify_path` (2) or `signature-invalid` (3).
    """
    # 1
    leaf = document.certificate
    if leaf.is_ca or not _may_sign(leaf):
        expected = "the certificate of a key for signatures, and of no CA"
        raise Refused(Reason("certificate-refused", "certificate", expected, "a CA" if leaf.is_ca else "a key for something else"))
    # 2
    rules = PathRules(policy.revocation, issues_crls=False)
    path = verify_path(leaf, (*document.bundle, *authorities), anchors, at=at, rules=rules, crls=crls)
    # 3
    if not _is_signed(document):
        raise Refused(Reason("signature-invalid", "signature", "a signature by the key of the certificate", "another"))
    # 4, 5, 6, 7
    reasons = {*_judge_time(document, policy, at), *_judge_registers(document, policy), *_judge_binding(document, policy)}
    return AppraisedDocument(document, path.anchor.subject_text, path.statements, path.notes, tuple(sorted(reasons)))


def _may_sign(leaf: Certificate) -> bool:
    usage = extension_values(leaf).get(_KEY_USAGE)
    return usage is not None and 0 in DerReader(usage, "certificate").flags("key usage")


def _is_signed(document: NitroDocument) -> bool:
    try:
        key = certificate_key(document.certificate.spki)
    except FormatError:
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and verify_sign1(document.sign1, key)


def _judge_time(document: NitroDocument, policy: NitroPolicy, at: int) -> list[Reason]:
    leaf, made = document.certificate, document.timestamp // 1000
    first, last = leaf.not_before, min(leaf.not_after, at + SKEW)
    if policy.max_age is not None:
        first = max(first, at - policy.max_age)
    if first <= made <= last:
        return []
    return [Reason("nitro-time-refused", "timestamp", f"made from {first} to {last}", str(made))]


def _judge_registers(document: NitroDocument, policy: NitroPolicy) -> list[Reason]:
    found = []
    if document.kind not in policy.kinds:
        found.append(Reason("nitro-kind-refused", "kind", ", ".join(sorted(policy.kinds)), document.kind))
    if document.debug and not policy.debug:
        found.append(Reason("nitro-debug", "pcrs", "measurements in PCR 0 to 2", "zeros, or none"))
    for index, accepted in sorted(policy.pcrs.items()):
        value = document.pcrs.get(index)
        if value is None or value not in accepted:
            expected = next(iter(accepted)).hex() if len(accepted) == 1 else f"one of {len(accepted)} accepted"
            found.append(Reason("nitro-pcr-mismatch", f"pcrs[{index}]", expected, "none" if value is None else value.hex()))
    return found


def _judge_binding(document: NitroDocument, policy: NitroPolicy) -> list[Reason]:
    found = []
    for code, claim, expected, got in (
        ("nonce-mismatch", "nonce", policy.nonce, document.nonce),
        ("nitro-user-data", "user_data", policy.user_data, document.user_data),
    ):
        if expected is not None and expected != got:
            found.append(Reason(code, claim, expected.hex()[:200], "none" if got is None else got.hex()[:200]))
    if policy.key is not None and policy.key not in (document.public_key, document.user_data):
        expected_key = f"the key {Digest.of(policy.key)} as public_key or user_data"
        found.append(Reason("nitro-key-unbound", "public_key", expected_key, "another, or none"))
    return found
