"""Public keys of exactly two kinds, Ed25519 and ES256 (ECDSA on P-256 with SHA-256), as JWK, COSE_Key and SPKI.

A `PublicKey` is a point that lies on its curve and not in a small subgroup.
It says nothing about who holds the private half. It is named by the RFC 7638
thumbprint of its JWK:

>>> key = parse_jwk({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
>>> key_id(key)
'kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k'
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from writ.formats.errors import FormatError
from writ.formats.strict import Fields, b64url, encode_json, parse_b64url

ED25519: Final = "Ed25519"
ES256: Final = "ES256"
ALGORITHMS: Final = (ED25519, ES256)
"""JOSE names, RFC 9864 and RFC 7518."""

_SPKI_PREFIX: Final = {
    ED25519: bytes.fromhex("302a300506032b6570032100"),
    ES256: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
}
"""All of the DER before the point; both are fixed (RFC 8410 section 4, RFC 5480 section 2)."""
_RAW_SIZE: Final = {ED25519: 32, ES256: 65}

_P25519: Final = 2**255 - 19
_D25519: Final = -121665 * pow(121666, -1, _P25519) % _P25519
_Y8: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    "little",
)
_SMALL_ORDER_Y: Final = frozenset({0, 1, _P25519 - 1, _Y8, _P25519 - _Y8})
"""The y of the eight points whose order divides 8. Under such a key one signature fits many messages; as an R it is nobody's."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A point on the curve of `algorithm`. Does not say whose key it is.

    `raw` is 32 bytes for Ed25519 (RFC 8032 section 5.1.2), 65 for ES256
    (uncompressed, SEC 1 section 2.3.3). Constructing one raises FormatError
    for an algorithm, size or point that is not allowed.
    """

    algorithm: str
    raw: bytes

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise FormatError(
                "public key",
                f"one of {', '.join(ALGORITHMS)}",
                repr(self.algorithm)[:80],
            )
        if len(self.raw) != _RAW_SIZE[self.algorithm]:
            raise FormatError(
                "public key",
                f"{_RAW_SIZE[self.algorithm]} bytes for {self.algorithm}",
                f"{len(self.raw)} bytes",
            )
        if not (_is_ed25519_point(self.raw) if self.algorithm == ED25519 else _is_p256_point(self.raw)):
            raise FormatError(
                "public key",
                f"a point of large order on the curve of {self.algorithm}",
                "bytes that are not one",
            )

    def thumbprint(self) -> bytes:
        """SHA-256 over the required members of the JWK (RFC 7638 section 3), 32 bytes."""
        return hashlib.sha256(encode_json(self.to_jwk())).digest()

    def to_jwk(self) -> dict[str, str]:
        """The required members and no other (RFC 7517; RFC 8037 section 2 for Ed25519)."""
        if self.algorithm == ED25519:
            return {"kty": "OKP", "crv": "Ed25519", "x": b64url(self.raw)}
        return {
            "kty": "EC",
            "crv": "P-256",
            "x": b64url(self.raw[1:33]),
            "y": b64url(self.raw[33:]),
        }

    def to_cose_key(self) -> dict[int, Any]:
        """The required parameters and no other (RFC 9053 sections 7.1, 7.2)."""
        if self.algorithm == ED25519:
            return {1: 1, -1: 6, -2: self.raw}
        return {1: 2, -1: 1, -2: self.raw[1:33], -3: self.raw[33:]}

    def to_spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return _SPKI_PREFIX[self.algorithm] + self.raw

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` (64 bytes: R || S, or r || s big-endian) over `message` is by this key.

        An R of small order, which no honest signer makes, is refused, as WebCrypto refuses it: a browser and a server agree.

        Source: RFC 8032 section 5.1.7; RFC 7518 section 3.4.
        """
        if len(signature) != 64:
            return False
        try:
            if self.algorithm == ED25519:
                if _y_of(signature[:32]) % _P25519 in _SMALL_ORDER_Y:
                    return False
                _ed25519(self.raw).verify(signature, message)
            else:
                _p256(self.raw).verify(dss_signature(signature), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


class Signer(Protocol):
    """Holds a private key somewhere: a file, a TPM, an HSM. `sign` returns what `PublicKey.verify` takes."""

    @property
    def public(self) -> PublicKey:
        """The public half."""

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`, raw."""


def key_id(key: PublicKey) -> str:
    """The name of `key` everywhere: base64url of its thumbprint, 43 characters."""
    return b64url(key.thumbprint())


def parse_jwk(value: object) -> PublicKey:
    """Read the public JWK in `value` (decoded JSON).

    Beside the required members only `kid` (any short text), `use` ("sig") and
    `alg` (the one algorithm of the key) may stand; a private member is
    refused by name. Raises FormatError. Source: RFC 7517 section 4.
    """
    f = Fields(value, "JWK")
    if f.has("d"):
        raise FormatError("JWK", "a public key", "the private member 'd'")
    kty, crv = f.text("kty", most=8), f.text("crv", most=16)
    if (kty, crv) == ("OKP", "Ed25519"):
        key = PublicKey(ED25519, _coordinate(f.text("x", most=64)))
    elif (kty, crv) == ("EC", "P-256"):
        key = PublicKey(
            ES256,
            b"\x04" + _coordinate(f.text("x", most=64)) + _coordinate(f.text("y", most=64)),
        )
    else:
        raise FormatError("JWK", "OKP Ed25519 or EC P-256", f"{kty} {crv}")
    if f.has("kid"):
        f.text("kid", most=256, least=1)
    if f.has("use") and (use := f.text("use", most=16)) != "sig":
        raise FormatError("JWK.use", "sig", repr(use))
    if f.has("alg") and (alg := f.text("alg", most=16)) != key.algorithm:
        raise FormatError("JWK.alg", key.algorithm, repr(alg))
    f.done()
    return key


def _coordinate(text: str) -> bytes:
    value = parse_b64url(text, "JWK coordinate")
    if len(value) != 32:
        raise FormatError("JWK coordinate", "32 bytes", f"{len(value)} bytes")
    return value


def parse_cose_key(value: object) -> PublicKey:
    """Read the public COSE_Key in `value` (decoded CBOR); only kid 2 and a fitting alg 3 may stand beside what is required.

    Raises FormatError. Source: RFC 9052 section 7; RFC 9053 section 7; RFC 9864.
    """
    f = Fields(value, "COSE_Key")
    if f.has(-4):
        raise FormatError("COSE_Key", "a public key", "the private parameter -4")
    kind = (f.uint(1), f.uint(-1))
    if kind == (1, 6):
        key, alg = PublicKey(ED25519, f.raw(-2, size=32)), -19
    elif kind == (2, 1):
        key, alg = (
            PublicKey(ES256, b"\x04" + f.raw(-2, size=32) + f.raw(-3, size=32)),
            -9,
        )
    else:
        raise FormatError(
            "COSE_Key",
            "kty 1 crv 6 (Ed25519) or kty 2 crv 1 (P-256)",
            f"kty {kind[0]} crv {kind[1]}",
        )
    if f.has(2):
        f.raw(2, most=256)
    if f.has(3) and (got := f.any(3)) != alg:
        raise FormatError("COSE_Key.3", f"alg {alg}", repr(got)[:80])
    f.done()
    return key


def parse_spki(der: bytes) -> PublicKey:
    """Read a SubjectPublicKeyInfo; only the two fixed spellings that `to_spki` writes. Raises FormatError."""
    for algorithm, prefix in _SPKI_PREFIX.items():
        if der.startswith(prefix):
            return PublicKey(algorithm, der[len(prefix) :])
    raise FormatError(
        "SubjectPublicKeyInfo",
        "an Ed25519 or uncompressed P-256 key",
        f"{len(der)} other bytes",
    )


def dss_signature(raw: bytes) -> bytes:
    """The DER form (ECDSA-Sig-Value, RFC 3279 section 2.2.3) of r || s."""
    half = len(raw) // 2
    return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


@lru_cache(maxsize=4096)
def _is_ed25519_point(raw: bytes) -> bool:
    """Canonical, on the curve -x² + y² = 1 + d x² y², of large order (RFC 8032 section 5.1.3, which libraries skip on load)."""
    y = _y_of(raw)
    if y >= _P25519 or y in _SMALL_ORDER_Y:
        return False
    x2 = (y * y - 1) * pow(_D25519 * y * y + 1, -1, _P25519) % _P25519
    return pow(x2, (_P25519 - 1) // 2, _P25519) == 1


def _y_of(point: bytes) -> int:
    """The y of an encoded point, without the sign of its x (RFC 8032 section 5.1.2)."""
    return int.from_bytes(point, "little") & ~(1 << 255)


@lru_cache(maxsize=4096)
def _is_p256_point(raw: bytes) -> bool:
    try:
        _p256(raw)
    except ValueError:
        return False
    return raw[0] == 4


@lru_cache(maxsize=4096)
def _ed25519(raw: bytes) -> ed25519.Ed25519PublicKey:
    return ed25519.Ed25519PublicKey.from_public_bytes(raw)


@lru_cache(maxsize=4096)
def _p256(raw: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
