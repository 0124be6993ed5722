"""Keys and signatures of certificates and CRLs, as DER states them.

Manufacturers certify EKs under names that general libraries refuse (the key
of an EK may be marked RSAES-OAEP), and sign old chains with SHA-1. Both are
read here; what they are worth is for the verdict to say.

Source: RFC 3279, RFC 4055, RFC 5480, RFC 8017.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from writ.formats.der import DerReader
from writ.formats.errors import FormatError

_RSA: Final = "1.2.840.113549.1.1.1"
_OAEP: Final = "1.2.840.113549.1.1.7"
_PSS: Final = "1.2.840.113549.1.1.10"
_EC: Final = "1.2.840.10045.2.1"
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "1.2.840.10045.3.1.7": ec.SECP256R1, "1.3.132.0.34": ec.SECP384R1, "1.3.132.0.35": ec.SECP521R1,
}  # fmt: skip
_SIGNATURES: Final = {
    "1.2.840.113549.1.1.5": ("rsa", "sha1"), "1.2.840.113549.1.1.11": ("rsa", "sha256"), "1.2.840.113549.1.1.12": ("rsa", "sha384"),
    "1.2.840.113549.1.1.13": ("rsa", "sha512"), "1.2.840.10045.4.1": ("ecdsa", "sha1"), "1.2.840.10045.4.3.2": ("ecdsa", "sha256"),
    "1.2.840.10045.4.3.3": ("ecdsa", "sha384"), "1.2.840.10045.4.3.4": ("ecdsa", "sha512"),
}  # fmt: skip
HASH_OIDS: Final = {"2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}
_MGF1: Final = "1.2.840.113549.1.1.8"
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512(),  # noqa: S303 - old manufacturer chains; the verdict refuses it unless told otherwise
}  # fmt: skip
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

CertificateKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """How something was signed: rsa (PKCS #1 v1.5), pss or ecdsa, with its hash; `salt` in bytes for pss."""

    name: str
    hash: str
    salt: int = 0


def parse_signature_algorithm(der: bytes) -> SignatureAlgorithm | None:
    """What an AlgorithmIdentifier says, None for an algorithm that is not ours to verify. Raises FormatError where it is no DER."""
    reader = DerReader(der, "signature algorithm")
    inner = reader.sequence("algorithm")
    reader.done()
    oid = inner.oid("oid")
    if oid == _PSS:
        return _pss(inner.sequence("parameters"))
    known = _SIGNATURES.get(oid)
    return None if known is None else SignatureAlgorithm(*known)


def _pss(parameters: DerReader) -> SignatureAlgorithm | None:
    """One hash for message and mask, as RFC 4055 section 3.1 recommends; the defaults mean SHA-1 and are not ours."""
    given = {tag: parameters.optional("part", tag) for tag in (0xA0, 0xA1, 0xA2)}
    if any(part is None for part in given.values()):
        return None
    parts = [parameters.inside(part, "part") for part in given.values() if part is not None]
    hashed = HASH_OIDS.get(parts[0].sequence("hash").oid("oid"))
    mask = parts[1].sequence("mask")
    masked = mask.oid("oid") == _MGF1 and HASH_OIDS.get(mask.sequence("hash").oid("oid"))
    salt = parts[2].integer("salt")
    return SignatureAlgorithm("pss", hashed, salt) if hashed and hashed == masked and 0 <= salt <= 64 else None


@lru_cache(maxsize=128)
def certificate_key(spki: bytes) -> CertificateKey:
    """The key of a SubjectPublicKeyInfo: RSA of 2048 to 8192 bits, under whatever name, or a point of P-256, P-384 or P-521.

    Those of CAs are asked for again and again, and the last ones are kept. Raises FormatError.
    """
    reader = DerReader(spki, "public key")
    info = reader.sequence("info")
    reader.done()
    algorithm = info.sequence("algorithm")
    oid, bits = algorithm.oid("oid"), info.bits("key")
    info.done()
    try:
        if oid in (_RSA, _OAEP, _PSS):
            numbers = DerReader(bits, "RSA key").sequence("numbers")
            modulus, exponent = numbers.integer("modulus", most=1 + MAX_RSA_BITS // 8), numbers.integer("exponent", most=9)
            numbers.done()
            if modulus < 0 or exponent < 0:
                raise FormatError("RSA key", "positive numbers", "a negative one")
            if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
                raise FormatError("RSA key", f"{MIN_RSA_BITS} to {MAX_RSA_BITS} bits", f"{modulus.bit_length()} bits")
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        curve = _CURVES.get(algorithm.oid("curve")) if oid == _EC else None
        if curve is None:
            raise FormatError("public key", "RSA, or ECC on P-256, P-384 or P-521", oid)
        return ec.EllipticCurvePublicKey.from_encoded_point(curve(), bits)
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError("public key", "a key of its algorithm", "numbers that are none") from None


def key_bits(spki: bytes) -> bytes:
    """The key within a SubjectPublicKeyInfo, which is what the hash of a key is taken of (RFC 6960 section 4.1.1). Raises FormatError."""
    info = DerReader(spki, "public key").sequence("info")
    info.sequence("algorithm")
    return info.bits("key")


def plain_spki(key: CertificateKey) -> bytes:
    """The key as SubjectPublicKeyInfo in the one spelling by which an EK is named: rsaEncryption, or a named curve."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signed_by(message: bytes, signature: bytes, algorithm: SignatureAlgorithm, key: CertificateKey) -> bool:
    """Whether `key` signed `message`. SHA-1 is verified as well: the caller asks `algorithm.hash` what it is worth."""
    chosen = _HASHES[algorithm.hash]
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if algorithm.name == "ecdsa":
                return False
            scheme = padding.PSS(padding.MGF1(chosen), algorithm.salt) if algorithm.name == "pss" else padding.PKCS1v15()
            key.verify(signature, message, scheme, chosen)
        elif algorithm.name == "ecdsa":
            key.verify(signature, message, ec.ECDSA(chosen))
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
