"""MakeCredential: a secret that only the TPM with this EK, holding a key of this name, can open.

The verifier's half of credential activation. It is pure: all randomness is
given by the caller in one string of `SEED_SIZE` bytes, used up by one call.
The TPM's half is TPM2_ActivateCredential.

What the answer proves: the TPM that owns the EK also holds the key whose
public area has the name. It proves nothing about the EK itself: its
certificate does.
"""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from writ.formats.digest import SIZES, hash_bytes
from writ.formats.errors import FormatError, Misuse
from writ.formats.tpm.public import Public, Symmetric
from writ.formats.tpm.wire import sized, uint

SEED_SIZE: Final = 128
"""Bytes of randomness for one credential, whatever the EK: two digests of the largest hash, or a scalar with 64 bits to spare."""

_LABEL: Final = b"IDENTITY\0"
_EK_HASHES: Final = ("sha256", "sha384", "sha512")


def make_credential(ek: Public, name: bytes, credential: bytes, *, seed: bytes) -> tuple[bytes, bytes]:
    """The pair (TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET) that TPM2_ActivateCredential opens to `credential`.

    `ek` is a restricted decryption key (RSA, or ECC on P-256, P-384, P-521)
    with AES-CFB; `name` is the TPM name of the key to be activated;
    `credential` has 1 to H bytes, H being the digest size of the EK's name
    algorithm; `seed` is `SEED_SIZE` fresh random bytes, never used again.

    1. Share a secret of H bytes with the EK: OAEP for RSA, one-pass ECDH for ECC.
    2. Encrypt the credential under a key derived from the secret and `name`.
    3. Authenticate ciphertext and `name` under another key derived from it.

    Raises FormatError if `ek` cannot serve, Misuse if `credential` or `seed`
    has a wrong size.

    Source: TPM 2.0 Library Part 1, "Credential Protection"; B.10.4 and C.6.4 (secret sharing).
    """
    if len(seed) != SEED_SIZE:
        raise Misuse(f"make_credential needs {SEED_SIZE} bytes of randomness")
    hash_name, cipher = ek.name_algorithm, _storage_cipher(ek)
    size = SIZES[hash_name]
    if not 1 <= len(credential) <= size:
        raise Misuse(f"a credential has 1 to {size} bytes under this EK")
    # 1
    shared, secret = _share(ek, seed)
    # 2
    key = kdfa(hash_name, shared, b"STORAGE", name, b"", cipher.bits)
    identity = _cfb_encrypt(key, sized(credential, "credential", most=size))
    # 3
    integrity_key = kdfa(hash_name, shared, b"INTEGRITY", b"", b"", 8 * size)
    integrity = hmac.digest(integrity_key, identity + name, hash_name)
    id_object = sized(integrity, "integrityHMAC", most=size) + identity
    return sized(id_object, "TPM2B_ID_OBJECT", most=0xFFFF), sized(secret, "TPM2B_ENCRYPTED_SECRET", most=0xFFFF)


def _storage_cipher(ek: Public) -> Symmetric:
    """The EK's own cipher. Raises FormatError unless `ek` is a restricted decryption key with AES-CFB and no SHA-1."""
    if not (ek.restricted and ek.decrypt) or ek.sign:
        raise FormatError("EK", "a restricted decryption key", f"attributes 0x{ek.attributes:08x}")
    if ek.name_algorithm not in _EK_HASHES:
        raise FormatError("EK", "one of " + ", ".join(_EK_HASHES), ek.name_algorithm)
    cipher = ek.symmetric
    if cipher is None or (cipher.algorithm, cipher.mode) != ("aes", "cfb") or cipher.bits not in (128, 192, 256):
        raise FormatError("EK", "AES in CFB mode with 128, 192 or 256 bits", str(cipher))
    return cipher


def _share(ek: Public, seed: bytes) -> tuple[bytes, bytes]:
    """A secret of the size of the EK's digest, and the bytes from which the EK recovers it."""
    key, size = ek.public_key(), SIZES[ek.name_algorithm]
    if isinstance(key, rsa.RSAPublicKey):
        shared, padding_seed = seed[:size], seed[size : 2 * size]
        return shared, _oaep_encrypt(key, ek.name_algorithm, shared, padding_seed)
    scalar = 1 + int.from_bytes(seed, "big") % (key.curve.group_order - 1)
    ephemeral = ec.derive_private_key(scalar, key.curve)
    length = (key.curve.key_size + 7) // 8
    mine, theirs = ephemeral.public_key().public_numbers(), key.public_numbers()
    x, y = uint(mine.x, length, "x"), uint(mine.y, length, "y")
    z = ephemeral.exchange(ec.ECDH(), key)
    shared = kdfe(ek.name_algorithm, z, _LABEL, x, uint(theirs.x, length, "x"), 8 * size)
    return shared, sized(x, "x", most=length) + sized(y, "y", most=length)


def _oaep_encrypt(key: rsa.RSAPublicKey, hash_name: str, message: bytes, seed: bytes) -> bytes:
    """RSAES-OAEP with the label IDENTITY and a given seed of one digest. Source: RFC 8017 section 7.1.1."""
    length = (key.key_size + 7) // 8
    numbers = key.public_numbers()
    label_hash = hash_bytes(hash_name, _LABEL)
    block = label_hash + bytes(length - len(message) - 2 * len(label_hash) - 2) + b"\1" + message
    masked_block = _xor(block, _mgf1(hash_name, seed, len(block)))
    masked_seed = _xor(seed, _mgf1(hash_name, masked_block, len(seed)))
    encoded = int.from_bytes(b"\0" + masked_seed + masked_block, "big")
    return pow(encoded, numbers.e, numbers.n).to_bytes(length, "big")


def _mgf1(hash_name: str, seed: bytes, length: int) -> bytes:
    """Source: RFC 8017 appendix B.2.1."""
    rounds = -(-length // SIZES[hash_name])
    return b"".join(hash_bytes(hash_name, seed, uint(i, 4, "counter")) for i in range(rounds))[:length]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _cfb_encrypt(key: bytes, data: bytes) -> bytes:
    """AES-CFB with a zero IV; `cryptography` retires the mode. Source: NIST SP 800-38A, 6.3 (s = b).

    Counter mode over a single block gives block XOR E(feedback), which is one step of CFB.
    """
    out, feedback = b"", bytes(16)
    for start in range(0, len(data), 16):
        feedback = Cipher(algorithms.AES(key), modes.CTR(feedback)).encryptor().update(data[start : start + 16])
        out += feedback
    return out


def kdfa(hash_name: str, key: bytes, label: bytes, context_u: bytes, context_v: bytes, bits: int) -> bytes:
    """`bits` (a multiple of 8) derived from `key`; `label` without its terminating zero.

    Source: TPM 2.0 Library Part 1, "KDFa" (NIST SP 800-108 in counter mode).
    """
    rounds = -(-bits // (8 * SIZES[hash_name]))
    tail = label + b"\0" + context_u + context_v + uint(bits, 4, "bits")
    return b"".join(hmac.digest(key, uint(i, 4, "counter") + tail, hash_name) for i in range(1, rounds + 1))[: bits // 8]


def kdfe(hash_name: str, z: bytes, label: bytes, party_u: bytes, party_v: bytes, bits: int) -> bytes:
    """`bits` (a multiple of 8) derived from the shared x-coordinate `z`; `label` with its terminating zero.

    Source: TPM 2.0 Library Part 1, "KDFe for ECDH" (NIST SP 800-56A).
    """
    rounds = -(-bits // (8 * SIZES[hash_name]))
    tail = z + label + party_u + party_v
    return b"".join(hash_bytes(hash_name, uint(i, 4, "counter"), tail) for i in range(1, rounds + 1))[: bits // 8]
