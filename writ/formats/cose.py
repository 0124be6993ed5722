"""COSE_Sign1: parsed strictly, signed and verified over exactly the bytes that were read.

    18([ h'a10132', {}, h'<payload>', h'<64 bytes>' ])      alg -19 (Ed25519); -9 is ESP256

Ours has one spelling, carries `alg` in the protected header only, and nothing
unknown. Foreign messages (CoRIM of others, vendor documents) keep their bytes
verbatim and may use the older numbers -7, -8 and the P-384 ones -35, -51.
`crit` (label 2) is refused everywhere: we understand no critical extension.

>>> sign1_bytes(b"\\xa1\\x01\\x32", b"hi").hex()
'846a5369676e61747572653143a1013240426869'
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from writ.formats.errors import FormatError, Misuse
from writ.formats.keys import ED25519, ES256, PublicKey, dss_signature
from writ.formats.strict import MAX_SIZE, decode_cbor, encode_cbor

ALG: Final = 1
CRIT: Final = 2
CONTENT_TYPE: Final = 3
KID: Final = 4
CWT_CLAIMS: Final = 15
"""RFC 9597."""
TYP: Final = 16
"""RFC 9596."""

SIGN1_TAG: Final = 18
ES384: Final = "ES384"

NUMBERS: Final = {ED25519: -19, ES256: -9}
"""What we write (RFC 9864)."""
_OURS: Final = {-19: ED25519, -9: ES256}
_FOREIGN: Final = {**_OURS, -8: ED25519, -7: ES256, -35: ES384, -51: ES384}
_SIGNATURE_SIZE: Final = {ED25519: 64, ES256: 64, ES384: 96}
_KNOWN: Final = frozenset({ALG, CONTENT_TYPE, KID, CWT_CLAIMS, TYP})


@dataclass(frozen=True, slots=True)
class Sign1:
    """A COSE_Sign1 as parsed. Says nothing yet about who signed it.

    `protected` is the header as it was signed, `headers` what it says.
    `payload` is None where it is detached. `unprotected` is not signed.
    """

    protected: bytes
    headers: Mapping[int, Any] = field(hash=False)
    payload: bytes | None
    signature: bytes
    unprotected: Mapping[int, Any] = field(hash=False)

    @property
    def algorithm(self) -> str:
        """Ed25519, ES256, or ES384 in a foreign message."""
        return _FOREIGN[self.headers[ALG]]

    @property
    def kid(self) -> bytes | None:
        """`kid` of the protected header, where it has one."""
        return self.headers.get(KID)


def parse_sign1(
    data: bytes,
    *,
    tagged: bool = True,
    foreign: bool = False,
    known_labels: Collection[int] = (),
    what: str = "COSE_Sign1",
    max_size: int = MAX_SIZE,
) -> Sign1:
    """Read a COSE_Sign1, tagged 18 or, with `tagged=False`, bare.

    1. One CBOR item, deterministic unless `foreign`; exactly four members.
    2. The protected header holds alg, and of the other labels only content
       type, kid, typ, CWT claims and `known_labels`; never crit.
    3. The unprotected header of ours holds `known_labels` only; a foreign one
       anything but alg, crit and what the protected header already says.
    4. alg is one of ours (or a foreign one) and the signature has its size.

    Raises FormatError. Source: RFC 9052 sections 3.1, 4.2; RFC 9864.
    """
    value = decode_cbor(
        data,
        what,
        max_size=max_size,
        tags=frozenset({SIGN1_TAG}),
        one_spelling=not foreign,
    )
    if tagged:
        if not isinstance(value, cbor2.CBORTag) or value.tag != SIGN1_TAG:
            raise FormatError(what, "tag 18", type(value).__name__)
        value = value.value
    if not isinstance(value, list) or len(value) != 4:
        raise FormatError(what, "an array of four", type(value).__name__)
    protected, unprotected, payload, signature = value
    if not isinstance(protected, bytes) or not isinstance(unprotected, Mapping):
        raise FormatError(what, "a protected header in bytes and an unprotected map", "other types")
    if not (payload is None or isinstance(payload, bytes)) or not isinstance(signature, bytes):
        raise FormatError(what, "a payload in bytes or null and a signature in bytes", "other types")
    headers = _protected(protected, what, foreign, _KNOWN | frozenset(known_labels))
    _unprotected(unprotected, headers, what, foreign, frozenset(known_labels))
    size = _SIGNATURE_SIZE[_FOREIGN[headers[ALG]]]
    if len(signature) != size:
        raise FormatError(f"{what} signature", f"{size} bytes", f"{len(signature)} bytes")
    return Sign1(
        protected,
        MappingProxyType(headers),
        payload,
        signature,
        MappingProxyType(unprotected),
    )


def _protected(protected: bytes, what: str, foreign: bool, known: frozenset[int]) -> dict[int, Any]:
    where = f"{what} protected header"
    headers = decode_cbor(protected, where, one_spelling=not foreign)
    if not isinstance(headers, dict):
        raise FormatError(where, "a map", type(headers).__name__)
    if CRIT in headers:
        raise FormatError(where, "no critical extension", "crit")
    unknown = [label for label in headers if label not in known]
    if unknown:
        raise FormatError(where, "known labels only", ", ".join(repr(label)[:40] for label in unknown))
    accepted = _FOREIGN if foreign else _OURS
    alg = headers.get(ALG)
    if isinstance(alg, bool) or not isinstance(alg, int) or alg not in accepted:
        raise FormatError(
            f"{where}, alg",
            " or ".join(str(number) for number in accepted),
            repr(alg)[:40],
        )
    kinds: tuple[tuple[int, Any, str], ...] = (
        (KID, bytes, "bytes"),
        (CONTENT_TYPE, (str, int), "text or a number"),
        (TYP, (str, int), "text or a number"),
        (CWT_CLAIMS, dict, "a map"),
    )
    for label, kind, name in kinds:
        if label in headers and (not isinstance(headers[label], kind) or isinstance(headers[label], bool)):
            raise FormatError(f"{where}, {label}", name, type(headers[label]).__name__)
    return headers


def _unprotected(
    unprotected: Mapping[Any, Any],
    headers: dict[int, Any],
    what: str,
    foreign: bool,
    known: frozenset[int],
) -> None:
    for label in unprotected:
        if label in (ALG, CRIT) or label in headers or not (foreign or label in known):
            raise FormatError(f"{what} unprotected header", "no such label", repr(label)[:40])


def sign1_bytes(protected: bytes, payload: bytes, *, external_aad: bytes = b"") -> bytes:
    """What a COSE_Sign1 signature covers: Sig_structure, context "Signature1" (RFC 9052 section 4.4)."""
    return encode_cbor(["Signature1", protected, external_aad, payload])


def encode_sign1(
    payload: bytes,
    *,
    algorithm: str,
    kid: bytes | None,
    sign: Callable[[bytes], bytes],
    content_type: str | int | None = None,
    typ: str | int | None = None,
    detached: bool = False,
    headers: Mapping[int, Any] | None = None,
    unprotected: Mapping[int, Any] | None = None,
    external_aad: bytes = b"",
) -> bytes:
    """The tagged COSE_Sign1 over `payload`; `sign` returns the raw signature.

    `headers` are further protected labels, for instance CWT claims (15). With
    `detached` the payload is signed and left out. Raises Misuse.
    """
    if algorithm not in NUMBERS:
        raise Misuse(f"no COSE algorithm {algorithm!r}")
    said: dict[int, Any] = {ALG: NUMBERS[algorithm]}
    said |= {label: value for label, value in ((KID, kid), (CONTENT_TYPE, content_type), (TYP, typ)) if value is not None}
    for label, value in (headers or {}).items():
        if label in said or label == CRIT:
            raise Misuse(f"header {label} is not the caller's to set twice")
        said[label] = value
    protected = encode_cbor(said)
    signature = sign(sign1_bytes(protected, payload, external_aad=external_aad))
    return encode_cbor(
        cbor2.CBORTag(
            SIGN1_TAG,
            [
                protected,
                dict(unprotected or {}),
                None if detached else payload,
                signature,
            ],
        )
    )


def verify_sign1(
    sign1: Sign1,
    key: PublicKey | ec.EllipticCurvePublicKey,
    *,
    external_aad: bytes = b"",
    detached_payload: bytes | None = None,
) -> bool:
    """Whether `key` signed `sign1`, under the algorithm that both name.

    The payload is the one inside or, where it is detached, `detached_payload`;
    none or two of them is False. A P-384 key of `cryptography` serves the
    foreign ES384 only. Does not say whether `key` is to be believed.

    Source: RFC 9052 section 4.4; RFC 9053 section 2.1.
    """
    if (sign1.payload is None) == (detached_payload is None):
        return False
    payload = sign1.payload if sign1.payload is not None else detached_payload
    message = sign1_bytes(sign1.protected, payload or b"", external_aad=external_aad)
    if isinstance(key, PublicKey):
        return key.algorithm == sign1.algorithm and key.verify(sign1.signature, message)
    if sign1.algorithm != ES384 or not isinstance(key.curve, ec.SECP384R1):
        return False
    try:
        key.verify(dss_signature(sign1.signature), message, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        return False
    return True
