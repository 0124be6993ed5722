"""Private keys for tests: made on the spot, never kept."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from writ.formats.keys import ED25519, ES256, PublicKey


@dataclass(frozen=True)
class MemorySigner:
    """A `writ.formats.keys.Signer` in memory."""

    public: PublicKey
    private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

    def sign(self, message: bytes) -> bytes:
        """The raw 64-byte signature."""
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(message)
        r, s = utils.decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def new_signer(algorithm: str = ED25519) -> MemorySigner:
    """A signer with a new key of `algorithm`."""
    if algorithm == ED25519:
        edwards = ed25519.Ed25519PrivateKey.generate()
        return MemorySigner(PublicKey(ED25519, edwards.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)), edwards)
    curve = ec.generate_private_key(ec.SECP256R1())
    return MemorySigner(PublicKey(ES256, curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)), curve)
