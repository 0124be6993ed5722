from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from tests.writ.formats.tpm.damage import assert_total, bit_flips, reads_exactly_or_refuses
from tests.writ.formats.tpm.keys import CURVES, attestation_key, ec_key, ecc_parameters, rsa_key, rsa_parameters
from tests.writ.formats.tpm.strategies import signatures
from writ.formats.errors import FormatError
from writ.formats.tpm.public import Public, RsaParameters, Scheme
from writ.formats.tpm.signature import Signature, encode_signature, parse_signature, verify_signature, verify_with_key

HASHES: dict[str, hashes.HashAlgorithm] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
MESSAGE = b"\xffTCG what a TPM said"
RSA_KEY = attestation_key(rsa_parameters(rsa_key(2048)), None)
ECC_KEY = attestation_key(ecc_parameters(), None)


def sign_rsa(algorithm: str, hash_name: str = "sha256", salt: int | None = None) -> Signature:
    h = HASHES[hash_name]
    pad = padding.PKCS1v15() if algorithm == "rsassa" else padding.PSS(padding.MGF1(h), h.digest_size if salt is None else salt)
    return Signature(algorithm, hash_name, value=rsa_key(2048).sign(MESSAGE, pad, h))


def sign_ecdsa(hash_name: str = "sha256", curve: str = "p256") -> Signature:
    r, s = decode_dss_signature(ec_key(curve).sign(MESSAGE, ec.ECDSA(HASHES[hash_name])))
    size = (CURVES[curve].key_size + 7) // 8
    return Signature("ecdsa", hash_name, r=r.to_bytes(size, "big"), s=s.to_bytes(size, "big"))


@given(signatures())
def test_signature_is_read_as_it_was_written(signature: Signature) -> None:
    assert parse_signature(encode_signature(signature)) == signature


@pytest.mark.parametrize("algorithm, number", [("rsassa", 0x0014), ("rsapss", 0x0016), ("ecdsa", 0x0018)])
@pytest.mark.parametrize("hash_name, hash_number", [("sha1", 0x0004), ("sha256", 0x000B), ("sha384", 0x000C), ("sha512", 0x000D)])
def test_algorithms_have_the_numbers_of_the_registry(algorithm: str, number: int, hash_name: str, hash_number: int) -> None:
    parts = {"r": b"\1", "s": b"\1"} if algorithm == "ecdsa" else {"value": b"\1"}
    data = encode_signature(Signature(algorithm, hash_name, **parts))
    assert data.startswith(number.to_bytes(2, "big") + hash_number.to_bytes(2, "big"))


@given(st.binary(max_size=150))
def test_any_bytes_are_a_signature_or_a_format_error(data: bytes) -> None:
    for head in (b"", b"\x00\x14\x00\x0b", b"\x00\x18\x00\x0b"):
        reads_exactly_or_refuses(parse_signature, encode_signature, head + data)


@pytest.mark.parametrize("specimen", [sign_rsa("rsassa"), sign_rsa("rsapss"), sign_ecdsa()], ids=lambda s: s.algorithm)
def test_damaged_signature_is_refused(specimen: Signature) -> None:
    assert_total(parse_signature, encode_signature, encode_signature(specimen))


@pytest.mark.parametrize("hash_name", HASHES)
@pytest.mark.parametrize("algorithm", ["rsassa", "rsapss"])
def test_genuine_rsa_signature_verifies_and_no_other_message_does(algorithm: str, hash_name: str) -> None:
    signature = sign_rsa(algorithm, hash_name)
    assert verify_signature(signature, RSA_KEY, MESSAGE)
    assert not verify_signature(signature, RSA_KEY, MESSAGE + b"\0")


@pytest.mark.parametrize("hash_name", HASHES)
@pytest.mark.parametrize("curve", CURVES)
def test_genuine_ecdsa_signature_verifies_and_no_other_message_does(curve: str, hash_name: str) -> None:
    public = attestation_key(ecc_parameters(curve), None)
    signature = sign_ecdsa(hash_name, curve)
    assert verify_signature(signature, public, MESSAGE)
    assert not verify_signature(signature, public, MESSAGE[:-1])


@pytest.mark.parametrize("salt, expected", [(32, True), (256 - 32 - 2, True), (0, False), (20, False), (31, False), (48, False)])
def test_pss_salt_is_as_long_as_the_hash_or_as_long_as_fits(salt: int, expected: bool) -> None:
    assert verify_signature(sign_rsa("rsapss", salt=salt), RSA_KEY, MESSAGE) is expected


@pytest.mark.parametrize("signature, public", [(sign_rsa("rsassa"), RSA_KEY), (sign_ecdsa(), ECC_KEY)], ids=["rsassa", "ecdsa"])
def test_signature_with_any_bit_flipped_never_verifies(signature: Signature, public: Public) -> None:
    read = 0
    for data in bit_flips(encode_signature(signature)):
        try:
            flipped = parse_signature(data)
        except FormatError:
            continue
        read += 1
        assert not verify_signature(flipped, public, MESSAGE)
    assert read > 500


def test_signature_of_another_key_does_not_verify() -> None:
    stranger = attestation_key(rsa_parameters(rsa_key(3072)), None)
    assert not verify_signature(sign_rsa("rsassa"), stranger, MESSAGE)
    assert not verify_signature(sign_ecdsa(curve="p384"), ECC_KEY, MESSAGE)


def test_signature_of_the_other_kind_of_key_does_not_verify() -> None:
    assert not verify_signature(sign_ecdsa(), RSA_KEY, MESSAGE)
    assert not verify_signature(sign_rsa("rsassa"), ECC_KEY, MESSAGE)


def test_signature_relabelled_does_not_verify() -> None:
    assert not verify_signature(replace(sign_rsa("rsassa"), algorithm="rsapss"), RSA_KEY, MESSAGE)
    assert not verify_signature(replace(sign_rsa("rsapss"), algorithm="rsassa"), RSA_KEY, MESSAGE)
    assert not verify_signature(replace(sign_ecdsa(), hash="sha384"), ECC_KEY, MESSAGE)


@pytest.mark.parametrize(
    "scheme, expected",
    [
        (Scheme("rsassa", "sha256"), True),
        (Scheme("rsassa", "sha384"), False),
        (Scheme("rsapss", "sha256"), False),
        (Scheme("oaep", "sha256"), False),
        (None, True),
    ],
)
def test_scheme_fixed_in_the_key_is_the_only_one_that_verifies(scheme: Scheme | None, expected: bool) -> None:
    public = replace(RSA_KEY, scheme=scheme)
    assert verify_signature(sign_rsa("rsassa"), public, MESSAGE) is expected


def test_sha1_signature_is_read_and_never_verifies() -> None:
    signature = Signature("rsassa", "sha1", value=rsa_key(2048).sign(MESSAGE, padding.PKCS1v15(), hashes.SHA1()))  # noqa: S303 # what is refused
    assert parse_signature(encode_signature(signature)) == signature
    assert not verify_signature(signature, RSA_KEY, MESSAGE)
    assert not verify_signature(signature, replace(RSA_KEY, scheme=Scheme("rsassa", "sha1")), MESSAGE)


@pytest.mark.parametrize("value", [b"\0" + sign_rsa("rsassa").value, sign_rsa("rsassa").value[:-1], b"\1", b"\xff" * 256, bytes(256)])
def test_rsa_signature_of_another_length_or_range_does_not_verify(value: bytes) -> None:
    assert not verify_signature(Signature("rsassa", "sha256", value=value), RSA_KEY, MESSAGE)
    assert not verify_signature(Signature("rsapss", "sha256", value=value), RSA_KEY, MESSAGE)


ORDER = ec.SECP256R1().group_order


@pytest.mark.parametrize("part", ["r", "s"])
@pytest.mark.parametrize("value", [0, ORDER, ORDER + 1, (1 << 256) - 1])
def test_ecdsa_part_out_of_range_does_not_verify(part: str, value: int) -> None:
    signature, wrong = sign_ecdsa(), value.to_bytes(32, "big")
    changed = replace(signature, r=wrong) if part == "r" else replace(signature, s=wrong)
    assert not verify_signature(changed, ECC_KEY, MESSAGE)


def test_ecdsa_part_longer_than_the_field_does_not_verify() -> None:
    signature = sign_ecdsa()
    assert not verify_signature(replace(signature, r=b"\0" + signature.r), ECC_KEY, MESSAGE)
    assert not verify_signature(replace(signature, s=b"\0" + signature.s), ECC_KEY, MESSAGE)


def test_ecdsa_part_without_its_leading_zeros_verifies() -> None:
    signature = next(one for one in iter(sign_ecdsa, None) if one.r[0] == 0)
    assert verify_signature(replace(signature, r=signature.r.lstrip(b"\0")), ECC_KEY, MESSAGE)


def test_key_that_is_none_is_a_format_error() -> None:
    with pytest.raises(FormatError):
        verify_signature(sign_rsa("rsassa"), replace(RSA_KEY, parameters=RsaParameters(2048, 0, b"\1")), MESSAGE)


def test_small_rsa_key_and_foreign_curve_do_not_verify() -> None:
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505 # what is refused
    value = small.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA256())
    assert not verify_with_key(Signature("rsassa", "sha256", value=value), small.public_key(), MESSAGE)
    foreign = ec.generate_private_key(ec.SECP256K1())
    r, s = decode_dss_signature(foreign.sign(MESSAGE, ec.ECDSA(hashes.SHA256())))
    signature = Signature("ecdsa", "sha256", r=r.to_bytes(32, "big"), s=s.to_bytes(32, "big"))
    assert not verify_with_key(signature, foreign.public_key(), MESSAGE)


@pytest.mark.parametrize(
    "fields",
    [
        {"algorithm": "hmac", "value": b"\1"},
        {"algorithm": "rsassa"},
        {"algorithm": "rsassa", "value": b"\1", "r": b"\1"},
        {"algorithm": "ecdsa", "r": b"\1"},
        {"algorithm": "ecdsa", "s": b"\1"},
        {"algorithm": "ecdsa", "r": b"\1", "s": b"\1", "value": b"\1"},
    ],
)
def test_signature_with_parts_missing_or_foreign_cannot_be_made(fields: dict[str, str | bytes]) -> None:
    with pytest.raises(FormatError):
        Signature(hash="sha256", **fields)  # type: ignore[arg-type] # each field has its own type


def test_signature_with_a_part_that_does_not_fit_is_not_written() -> None:
    for signature in (
        Signature("rsassa", "sha256", value=bytes(513)),
        Signature("rsassa", "md5", value=b"\1"),
        Signature("ecdsa", "sha256", r=bytes(67), s=b"\1"),
    ):
        with pytest.raises(FormatError):
            encode_signature(signature)
