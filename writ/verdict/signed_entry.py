"""An entry of the verifier's log, signed: is it a decision, and by a key that the trust file names?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from writ.formats.cose import CONTENT_TYPE as COSE_CONTENT_TYPE
from writ.formats.cose import Sign1, parse_sign1, verify_sign1
from writ.formats.decision import CONTENT_TYPE, Entry, parse_entry
from writ.formats.errors import Refused
from writ.formats.keys import PublicKey
from writ.formats.reason import Reason


def by_thumbprint(keys: Iterable[PublicKey]) -> dict[bytes, PublicKey]:
    """The keys by the name that a signature gives."""
    return {key.thumbprint(): key for key in keys}


def decision_key(sign1: Sign1, keys: Mapping[bytes, PublicKey]) -> PublicKey:
    """The key that the signature names. Does not say that it signed. Raises Refused."""
    key = keys.get(sign1.kid or b"")
    if key is None:
        raise _refused("trust-root-unknown", "decision.kid", f"one of {len(keys)} decision keys", (sign1.kid or b"").hex()[:64])
    return key


def verify_entry(signed: bytes, keys: Mapping[bytes, PublicKey], claim: str) -> Entry:
    """What one of `keys` signed as a decision. Raises Refused or FormatError."""
    sign1 = parse_sign1(signed)
    if not verify_sign1(sign1, decision_key(sign1, keys)) or sign1.payload is None:
        raise _refused("signature-invalid", claim, "a signature by the decision key", "another")
    if (content_type := sign1.headers.get(COSE_CONTENT_TYPE)) != CONTENT_TYPE:
        raise _refused("signature-invalid", f"{claim}.content_type", CONTENT_TYPE, ascii(content_type)[:80])
    return parse_entry(sign1.payload)


def _refused(code: str, claim: str, expected: str, got: str) -> Refused:
    return Refused(Reason(code, claim, expected, got))
