from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st

from tests.world.chip import EK_ATTRIBUTES
from tests.writ.formats.tpm.keys import CURVES, ec_key, ecc_parameters, endorsement_key, rsa_key, rsa_parameters
from writ.formats.digest import SIZES
from writ.formats.errors import FormatError, Misuse
from writ.formats.tpm.credential import SEED_SIZE, kdfa, kdfe, make_credential
from writ.formats.tpm.public import RESTRICTED, SIGN, Public, Symmetric

NAME = b"\x00\x0b" + hashlib.sha256(b"an AK").digest()
SEED = hashlib.shake_256(b"given randomness").digest(SEED_SIZE)
EKS = ("rsa2048", "rsa3072", "p256", "p384", "p521")


def ek_of(name: str) -> Public:
    """A new one once a run, and only where it is asked for: an RSA key takes long."""
    match name:
        case "rsa3072":
            return endorsement_key(rsa_parameters(rsa_key(3072)), "sha384", 256)
        case "p384" | "p521":
            return endorsement_key(ecc_parameters(name), "sha384" if name == "p384" else "sha512", 256)
        case "p256":
            return endorsement_key(ecc_parameters(name))
        case _:
            return endorsement_key(rsa_parameters(rsa_key(2048)))


@pytest.fixture
def ek(request: pytest.FixtureRequest) -> Public:
    return ek_of(request.param)


class WrongCredential(Exception):
    """The TPM would answer TPM_RC_INTEGRITY."""


def activate(ek: Public, name: bytes, blob: bytes, secret: bytes) -> bytes:
    """TPM2_ActivateCredential, written apart from `make_credential`, from the library's own OAEP, ECDH and CFB."""
    hash_name, size = ek.name_algorithm, SIZES[ek.name_algorithm]
    h: hashes.HashAlgorithm = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}[hash_name]
    assert int.from_bytes(secret[:2], "big") == len(secret) - 2
    assert int.from_bytes(blob[:2], "big") == len(blob) - 2
    if ek.rsa is not None:
        shared = rsa_key(ek.rsa.bits).decrypt(secret[2:], padding.OAEP(padding.MGF1(h), h, b"IDENTITY\0"))
    else:
        assert ek.ecc is not None
        length = (CURVES[ek.ecc.curve].key_size + 7) // 8
        x, y = secret[4 : 4 + length], secret[6 + length :]
        point = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), CURVES[ek.ecc.curve]).public_key()
        z = ec_key(ek.ecc.curve).exchange(ec.ECDH(), point)
        shared = hashlib.new(hash_name, b"\0\0\0\1" + z + b"IDENTITY\0" + x + ek.ecc.x).digest()
    integrity, identity = blob[4 : 4 + size], blob[4 + size :]
    assert ek.symmetric is not None
    tail = (8 * size).to_bytes(4, "big")
    integrity_key = hmac.digest(shared, b"\0\0\0\1INTEGRITY\0" + tail, hash_name)
    if hmac.digest(integrity_key, identity + name, hash_name) != integrity:
        raise WrongCredential
    bits = ek.symmetric.bits
    key = hmac.digest(shared, b"\0\0\0\1STORAGE\0" + name + bits.to_bytes(4, "big"), hash_name)[: bits // 8]
    plain = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor().update(identity)
    assert int.from_bytes(plain[:2], "big") == len(plain) - 2
    return plain[2:]


@pytest.mark.parametrize("name", EKS)
@given(data=st.data())
def test_credential_opens_to_what_was_put_in(name: str, data: st.DataObject) -> None:
    ek = ek_of(name)
    credential = data.draw(st.binary(min_size=1, max_size=SIZES[ek.name_algorithm]))
    seed = data.draw(st.binary(min_size=SEED_SIZE, max_size=SEED_SIZE))
    assert activate(ek, NAME, *make_credential(ek, NAME, credential, seed=seed)) == credential


@pytest.mark.parametrize("ek", EKS, indirect=True)
def test_credential_for_another_name_does_not_open(ek: Public) -> None:
    blob, secret = make_credential(ek, NAME, b"secret", seed=SEED)
    with pytest.raises(WrongCredential):
        activate(ek, NAME[:-1] + bytes([NAME[-1] ^ 1]), blob, secret)


@pytest.mark.parametrize("ek", EKS, indirect=True)
def test_same_randomness_gives_the_same_bytes_and_other_randomness_others(ek: Public) -> None:
    first = make_credential(ek, NAME, b"secret", seed=SEED)
    other = make_credential(ek, NAME, b"secret", seed=SEED[::-1])
    assert make_credential(ek, NAME, b"secret", seed=SEED) == first
    assert (first[0] == other[0], first[1] == other[1]) == (False, False)
    assert b"secret" not in first[0] + first[1]


def test_every_byte_of_the_seed_matters_to_an_ecc_ek() -> None:
    results = {
        make_credential(ek_of("p384"), NAME, b"secret", seed=SEED[:at] + bytes([SEED[at] ^ 1]) + SEED[at + 1 :])[1]
        for at in range(SEED_SIZE)
    }
    assert len(results) == SEED_SIZE


@pytest.mark.parametrize("curve", CURVES)
def test_seed_of_zeros_is_the_scalar_one_and_of_one_less_than_the_order_the_same(curve: str) -> None:
    generator = ec.derive_private_key(1, CURVES[curve]).public_key().public_numbers()
    size = (CURVES[curve].key_size + 7) // 8
    for scalar in (0, CURVES[curve].group_order - 1):
        secret = make_credential(ek_of(curve), NAME, b"secret", seed=scalar.to_bytes(SEED_SIZE, "big"))[1]
        assert secret[4 : 4 + size] == generator.x.to_bytes(size, "big")
        assert secret[-size:] == generator.y.to_bytes(size, "big")


@pytest.mark.parametrize("seed", [bytes(SEED_SIZE), b"\xff" * SEED_SIZE])
def test_extreme_seeds_still_give_a_point(seed: bytes) -> None:
    for ek in map(ek_of, EKS):
        assert activate(ek, NAME, *make_credential(ek, NAME, b"secret", seed=seed)) == b"secret"


@pytest.mark.parametrize("seed", [b"", bytes(32), bytes(SEED_SIZE - 1), bytes(SEED_SIZE + 1)])
def test_seed_of_another_size_is_misuse(seed: bytes) -> None:
    with pytest.raises(Misuse, match="128 bytes of randomness"):
        make_credential(ek_of("p256"), NAME, b"secret", seed=seed)


@pytest.mark.parametrize("credential", [b"", bytes(33)])
def test_credential_that_does_not_fit_is_misuse(credential: bytes) -> None:
    with pytest.raises(Misuse, match="1 to 32 bytes"):
        make_credential(ek_of("p256"), NAME, credential, seed=SEED)


@pytest.mark.parametrize(
    "ek",
    [
        replace(ek_of("p256"), attributes=EK_ATTRIBUTES & ~RESTRICTED),
        replace(ek_of("p256"), attributes=RESTRICTED | SIGN),
        replace(ek_of("p256"), attributes=EK_ATTRIBUTES | SIGN),
        replace(ek_of("p256"), name_algorithm="sha1"),
        replace(ek_of("p256"), symmetric=None),
        replace(ek_of("p256"), symmetric=Symmetric("aes", 128, "cbc")),
        replace(ek_of("p256"), symmetric=Symmetric("sm4", 128, "cfb")),
        replace(ek_of("p256"), symmetric=Symmetric("aes", 64, "cfb")),
        replace(ek_of("p256"), parameters=replace(ecc_parameters("p256"), y=bytes(32))),
    ],
    ids=["unrestricted", "signing", "signs too", "sha1", "no cipher", "cbc", "sm4", "64 bits", "no point"],
)
def test_key_that_is_no_ek_is_refused(ek: Public) -> None:
    with pytest.raises(FormatError):
        make_credential(ek, NAME, b"secret", seed=SEED)


def test_key_derivation_over_several_rounds_counts_them() -> None:
    expected = b"".join(hmac.digest(b"k", i.to_bytes(4, "big") + b"L\0uv\0\0\3\0", "sha256") for i in (1, 2, 3))
    assert kdfa("sha256", b"k", b"L", b"u", b"v", 768) == expected
    assert kdfa("sha256", b"k", b"L", b"u", b"v", 768) != kdfa("sha256", b"k", b"L", b"u", b"v", 760) + expected[-1:]
    rounds = b"".join(hashlib.sha256(i.to_bytes(4, "big") + b"zL\0uv").digest() for i in (1, 2))
    assert kdfe("sha256", b"z", b"L\0", b"u", b"v", 384) == rounds[:48]
