"""RIMs verified: does NVIDIA name these measurements for this driver or VBIOS, at this time?

Source: W3C XML Signature 1.1, section 3.2; TCG Reference Integrity Manifest Information Model 1.01.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from writ.formats.crl import Crl
from writ.formats.digest import Digest, hash_bytes
from writ.formats.errors import FormatError, Refused
from writ.formats.keys import dss_signature
from writ.formats.ocsp import OcspResponse
from writ.formats.reason import Reason
from writ.formats.tee.rim import Rim
from writ.formats.trust import ChainRules
from writ.formats.x509 import Certificate
from writ.formats.x509_key import certificate_key
from writ.verdict.path import PathRules, verify_path
from writ.verdict.revocation import PathReasons, Statement

_DEPTH: Final = 4
_RULES: Final = ChainRules()


@dataclass(frozen=True, slots=True)
class VerifiedRim:
    """Proof that `verify_rim` ran. `notes` say what was not known about revocation, `statements` what was."""

    rim: Rim
    notes: tuple[Reason, ...]
    statements: tuple[Statement, ...]


def verify_rim(
    rim: Rim,
    roots: Sequence[Certificate],
    *,
    at: int,
    claim: str,
    rules: ChainRules = _RULES,
    crls: Sequence[Crl] = (),
    responses: Sequence[OcspResponse] = (),
) -> VerifiedRim:
    """One of `roots` vouches at `at` for whoever signed `rim`, and it is as it was signed. Does not say that it is about any device.

    1. The digest of the document in canonical form, without its signature, is the one that is signed.
    2. The signature over SignedInfo is by the key of the first certificate, ECDSA on P-384 with SHA-384.
    3. That certificate chains to one of `roots` (`verify_path`).

    Raises Refused `signature-invalid` (1, 2), or as `verify_path` (3); `claim` is what the reasons are about.
    """
    document = rim.document
    # 1
    if hash_bytes("sha384", document.content) != document.digest:
        raise Refused(Reason("signature-invalid", claim, "the document that was signed", "another"))
    # 2
    signer = document.certificates[0]
    if not is_p384_signed(document.signed, document.signature, signer):
        raise Refused(Reason("signature-invalid", claim, "a signature by the first certificate of the RIM", "another"))
    # 3
    reasons = PathReasons("certificate-refused", "certificate-expired", "certificate-revoked", f"{claim}.certificate")
    path = verify_path(
        signer,
        (*document.certificates[1:], *roots),
        {Digest.of(root.der) for root in roots},
        at=at,
        rules=PathRules(rules, depth=_DEPTH, reasons=reasons),
        crls=crls,
        responses=responses,
    )
    return VerifiedRim(rim, path.notes, path.statements)


def is_p384_signed(message: bytes, signature: bytes, signer: Certificate) -> bool:
    """Whether r || s of 48 bytes each is the signature of `message` with SHA-384 by the key of `signer`, a point of P-384."""
    try:
        key = certificate_key(signer.spki)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1) or len(signature) != 96:
            return False
        key.verify(dss_signature(signature), message, ec.ECDSA(hashes.SHA384()))
    except (FormatError, InvalidSignature, ValueError):
        return False
    return True
