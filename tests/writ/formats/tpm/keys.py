"""Keys made for a test run and their public areas; none is ever stored."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.world.chip import AK_ATTRIBUTES, EK_ATTRIBUTES
from writ.formats.tpm.public import EccParameters, Public, RsaParameters, Scheme, Symmetric

CURVES: dict[str, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """An RSA key, made once a run."""
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(curve: str) -> ec.EllipticCurvePrivateKey:
    """A key on p256, p384 or p521, made once a run."""
    return ec.generate_private_key(CURVES[curve])


def rsa_parameters(key: rsa.RSAPrivateKey, exponent: int = 0) -> RsaParameters:
    """The public part of `key` as a TPM holds it."""
    numbers = key.public_key().public_numbers()
    return RsaParameters(key.key_size, exponent, numbers.n.to_bytes(key.key_size // 8, "big"))


def ecc_parameters(curve: str = "p256") -> EccParameters:
    """The public part of `ec_key(curve)` as a TPM holds it."""
    numbers, size = ec_key(curve).public_key().public_numbers(), (CURVES[curve].key_size + 7) // 8
    return EccParameters(curve, None, numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big"))


def attestation_key(parameters: RsaParameters | EccParameters, scheme: Scheme | None) -> Public:
    """An AK's public area."""
    return Public("sha256", AK_ATTRIBUTES, b"", None, scheme, parameters)


def endorsement_key(parameters: RsaParameters | EccParameters, name_algorithm: str = "sha256", bits: int = 128) -> Public:
    """An EK's public area; its policy is of no account here."""
    return Public(name_algorithm, EK_ATTRIBUTES, b"", Symmetric("aes", bits, "cfb"), None, parameters)
