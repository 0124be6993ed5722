"""TPMT_SIGNATURE: a signature as a TPM returns it, and whether a key made it.

RSASSA, RSAPSS and ECDSA. SHA-1 signatures are read, since real files hold
them, and never verify.

>>> parse_signature(bytes.fromhex("0018000b0001050001ff"))
Signature(algorithm='ecdsa', hash='sha256', value=b'', r=b'\\x05', s=b'\\xff')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from writ.formats.errors import FormatError
from writ.formats.tpm.public import CURVES, MAX_ECC_BYTES, MAX_RSA_BITS, MAX_RSA_BYTES, MIN_RSA_BITS, Public
from writ.formats.tpm.wire import Reader, hash_id, sized, uint

_ALGORITHMS: Final = {0x0014: "rsassa", 0x0016: "rsapss", 0x0018: "ecdsa"}
_IDS: Final = {name: number for number, name in _ALGORITHMS.items()}
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
ACCEPTED_HASHES: Final = tuple(_HASHES)
"""Hashes under which a signature can verify."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A TPMT_SIGNATURE as parsed; says nothing about whose it is.

    `value` for rsassa and rsapss, `r` and `s` (big-endian) for ecdsa; the
    others are empty. Raises FormatError for an unknown algorithm, or parts
    that are missing or not the algorithm's.
    """

    algorithm: str
    hash: str
    value: bytes = b""
    r: bytes = b""
    s: bytes = b""

    def __post_init__(self) -> None:
        if self.algorithm not in _IDS:
            raise FormatError("TPMT_SIGNATURE.sigAlg", "one of " + ", ".join(_IDS), repr(self.algorithm)[:40])
        present = bool(self.value), bool(self.r), bool(self.s)
        if present != ((False, True, True) if self.algorithm == "ecdsa" else (True, False, False)):
            raise FormatError("TPMT_SIGNATURE", f"the parts of an {self.algorithm} signature", "an empty or a foreign part")


def parse_signature(data: bytes) -> Signature:
    """Read exactly one TPMT_SIGNATURE. Raises FormatError.

    Source: TPM 2.0 Library Part 2, TPMT_SIGNATURE, TPMS_SIGNATURE_RSA, TPMS_SIGNATURE_ECC.
    """
    reader = Reader(data, "TPMT_SIGNATURE")
    algorithm = reader.one_of(_ALGORITHMS, "sigAlg")
    hash_name = reader.hash_algorithm("hash")
    if algorithm == "ecdsa":
        r, s = reader.sized("signatureR", most=MAX_ECC_BYTES), reader.sized("signatureS", most=MAX_ECC_BYTES)
        signature = Signature(algorithm, hash_name, r=r, s=s)
    else:
        signature = Signature(algorithm, hash_name, value=reader.sized("sig", most=MAX_RSA_BYTES))
    reader.done()
    return signature


def encode_signature(signature: Signature) -> bytes:
    """The TPMT_SIGNATURE of `signature`. Raises FormatError where a field does not fit."""
    head = uint(_IDS[signature.algorithm], 2, "sigAlg") + hash_id(signature.hash, "hash")
    if signature.algorithm == "ecdsa":
        return head + sized(signature.r, "signatureR", most=MAX_ECC_BYTES) + sized(signature.s, "signatureS", most=MAX_ECC_BYTES)
    return head + sized(signature.value, "sig", most=MAX_RSA_BYTES)


def verify_signature(signature: Signature, public: Public, message: bytes) -> bool:
    """Whether the key of `public` signed `message` (which is hashed here).

    False for any other key, message, algorithm or hash. Does not ask whether
    the key may sign, lives in a TPM, or is anyone's: the judge does. Raises
    FormatError only if `public` itself is not a key (`Public.public_key`).

    1. Where the key fixes a signing scheme, the signature must be of it.
    2. The signature must verify under the key (`verify_with_key`).
    """
    # 1
    if public.scheme is not None and (public.scheme.name, public.scheme.hash) != (signature.algorithm, signature.hash):
        return False
    # 2
    return verify_with_key(signature, public.public_key(), message)


def verify_with_key(signature: Signature, key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, message: bytes) -> bool:
    """Whether `key` signed `message`, for a key that comes without its public area (PEM, certificate).

    1. The hash must be SHA-256, SHA-384 or SHA-512.
    2. The key must be RSA of 2048 to 4096 bits, or on P-256, P-384 or P-521,
       and the algorithm one of its kind.
    3. An RSA signature is exactly as long as the modulus. r and s may have
       leading zeros, as TPMs pad, up to the size of the curve's order, and lie
       in 1 to order-1.
    4. An RSAPSS salt has the length of the hash, or the greatest that fits:
       TPMs do the one or the other.

    Source: TPM 2.0 Library Part 1, B.6 (RSASSA), B.7 (RSAPSS), C.4 (ECDSA).
    """
    # 1
    algorithm = _HASHES.get(signature.hash)
    if algorithm is None:
        return False
    # 2, 3, 4
    if isinstance(key, rsa.RSAPublicKey):
        return _verify_rsa(signature, algorithm, key, message)
    return _verify_ecdsa(signature, algorithm, key, message)


def _verify_rsa(signature: Signature, algorithm: hashes.HashAlgorithm, key: rsa.RSAPublicKey, message: bytes) -> bool:
    if signature.algorithm == "ecdsa" or not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return False
    if len(signature.value) != (key.key_size + 7) // 8:
        return False
    paddings: tuple[padding.AsymmetricPadding, ...] = (padding.PKCS1v15(),)
    if signature.algorithm == "rsapss":
        # PSS.MAX_LENGTH would accept a salt of any length when verifying, so the length is given as a number
        mgf, size = padding.MGF1(algorithm), algorithm.digest_size
        paddings = tuple(padding.PSS(mgf, salt) for salt in (size, (key.key_size + 6) // 8 - size - 2))
    for one in paddings:
        try:
            key.verify(signature.value, message, one, algorithm)
        except InvalidSignature:
            continue
        return True
    return False


def _verify_ecdsa(signature: Signature, algorithm: hashes.HashAlgorithm, key: ec.EllipticCurvePublicKey, message: bytes) -> bool:
    if signature.algorithm != "ecdsa" or not isinstance(key.curve, tuple(CURVES.values())):
        return False
    if max(len(signature.r), len(signature.s)) > (key.curve.key_size + 7) // 8:
        return False
    r, s = int.from_bytes(signature.r, "big"), int.from_bytes(signature.s, "big")
    if not (0 < r < key.curve.group_order and 0 < s < key.curve.group_order):
        return False
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True
