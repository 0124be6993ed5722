from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from itertools import count

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from hypothesis import given
from hypothesis import strategies as st

from tests.world.chip import AK_ATTRIBUTES
from tests.writ.formats.tpm.damage import assert_total, reads_exactly_or_refuses
from tests.writ.formats.tpm.keys import attestation_key, ec_key, ecc_parameters, endorsement_key, rsa_key, rsa_parameters
from tests.writ.formats.tpm.strategies import publics
from writ.formats.errors import FormatError
from writ.formats.tpm import public as module
from writ.formats.tpm.public import (
    RH_ENDORSEMENT,
    EccParameters,
    Public,
    RsaParameters,
    Scheme,
    Symmetric,
    encode_public,
    encode_tpm2b_public,
    parse_any_public,
    parse_public,
    parse_tpm2b_public,
    primary_qualified_name,
    qualified_name,
)

ECC_AK = attestation_key(ecc_parameters(), Scheme("ecdsa", "sha256"))
RSA_AK = attestation_key(rsa_parameters(rsa_key(2048)), Scheme("rsassa", "sha256"))
ECC_EK = endorsement_key(ecc_parameters("p384"), "sha384", 256)
SPECIMENS = [ECC_AK, RSA_AK, ECC_EK, replace(RSA_AK, scheme=Scheme("rsaes", None))]


@given(publics())
def test_public_is_read_as_it_was_written(public: Public) -> None:
    assert parse_public(encode_public(public)) == public
    assert parse_tpm2b_public(encode_tpm2b_public(public)) == public
    assert parse_any_public(encode_public(public)) == public
    assert parse_any_public(encode_tpm2b_public(public)) == public


@given(st.binary(max_size=200))
def test_any_bytes_are_a_public_area_or_a_format_error(data: bytes) -> None:
    for head in (b"", b"\x00\x01\x00\x0b", b"\x00\x23\x00\x0b"):
        reads_exactly_or_refuses(parse_public, encode_public, head + data)
        reads_exactly_or_refuses(parse_tpm2b_public, encode_tpm2b_public, head + data)
        with suppress(FormatError):
            assert (head + data) in (encode_public(parse_any_public(head + data)), encode_tpm2b_public(parse_any_public(head + data)))


@pytest.mark.parametrize("specimen", SPECIMENS, ids=["ecc-ak", "rsa-ak", "ecc-ek", "rsaes"])
def test_damaged_public_is_refused(specimen: Public) -> None:
    assert_total(parse_public, encode_public, encode_public(specimen))
    assert_total(parse_tpm2b_public, encode_tpm2b_public, encode_tpm2b_public(specimen))


@pytest.mark.parametrize("public", [ECC_AK, RSA_AK], ids=["ecc", "rsa"])
def test_key_of_cryptography_is_the_key_of_the_area(public: Public) -> None:
    key = ec_key("p256") if public.type == "ecc" else rsa_key(2048)
    assert public.public_key().public_numbers() == key.public_key().public_numbers()
    assert (public.rsa is None, public.ecc is None) == (public.type == "ecc", public.type == "rsa")


def test_name_covers_every_byte_of_the_area() -> None:
    assert ECC_AK.name() == b"\x00\x0b" + hashlib.sha256(ECC_AK.raw).digest()
    assert replace(ECC_AK, attributes=ECC_AK.attributes ^ module.NO_DA).name() != ECC_AK.name()
    assert ECC_EK.name() == b"\x00\x0c" + hashlib.sha384(ECC_EK.raw).digest()


def test_qualified_name_chains_from_the_hierarchy_to_the_key() -> None:
    parent = primary_qualified_name(RH_ENDORSEMENT, ECC_EK.name())
    assert parent == b"\x00\x0c" + hashlib.sha384(b"\x40\x00\x00\x0b" + ECC_EK.name()).digest()
    assert qualified_name(parent, ECC_AK.name()) == b"\x00\x0b" + hashlib.sha256(parent + ECC_AK.name()).digest()


@pytest.mark.parametrize("name", [b"", b"\x00", b"\x00\x0b" + bytes(31), b"\x00\x10" + bytes(32), b"\x00\x0c" + bytes(32)])
def test_qualified_name_of_no_name_is_refused(name: bytes) -> None:
    with pytest.raises(FormatError):
        qualified_name(b"", name)


@pytest.mark.parametrize("bit", range(32))
def test_reserved_attribute_bit_is_refused_and_a_known_one_kept(bit: int) -> None:
    area = ECC_AK.raw[:4] + (1 << bit).to_bytes(4, "big") + ECC_AK.raw[8:]
    if bit in (0, 3, 12, 13, 14, 15, *range(20, 32)):
        with pytest.raises(FormatError, match="reserved bits zero"):
            parse_public(area)
    else:
        assert parse_public(area).attributes == 1 << bit


@pytest.mark.parametrize(
    "attribute, bit",
    [
        ("fixed_tpm", 1),
        ("st_clear", 2),
        ("fixed_parent", 4),
        ("sensitive_data_origin", 5),
        ("user_with_auth", 6),
        ("admin_with_policy", 7),
        ("no_da", 10),
        ("encrypted_duplication", 11),
        ("restricted", 16),
        ("decrypt", 17),
        ("sign", 18),
    ],
)
def test_attribute_is_its_own_bit(attribute: str, bit: int) -> None:
    assert getattr(replace(ECC_AK, attributes=1 << bit), attribute) is True
    assert getattr(replace(ECC_AK, attributes=module.KNOWN_ATTRIBUTES & ~(1 << bit)), attribute) is False


def test_signing_key_has_the_attributes_of_an_ak() -> None:
    assert ECC_AK.attributes == AK_ATTRIBUTES
    assert (ECC_AK.restricted, ECC_AK.sign, ECC_AK.decrypt) == (True, True, False)


@pytest.mark.parametrize("tag", [0, 0x0008, 0x0025, 0x000B])
def test_other_kinds_of_object_are_refused(tag: int) -> None:
    with pytest.raises(FormatError, match="one of rsa, ecc"):
        parse_public(tag.to_bytes(2, "big") + ECC_AK.raw[2:])


def rsa_area(bits: int, exponent: int, modulus: bytes) -> Public:
    return replace(RSA_AK, parameters=RsaParameters(bits, exponent, modulus))


MODULUS = rsa_parameters(rsa_key(2048)).modulus


@pytest.mark.parametrize(
    "public",
    [
        rsa_area(2048, 0, b""),
        rsa_area(2048, 0, MODULUS[1:]),
        rsa_area(2048, 0, b"\0" + MODULUS),
        rsa_area(2048, 0, b"\0" + MODULUS[1:]),
        rsa_area(2056, 0, MODULUS),
        rsa_area(1024, 0, MODULUS[:127] + b"\1"),
        rsa_area(4104, 0, MODULUS * 2 + b"\1"),
        rsa_area(2048, 0, MODULUS[:-1] + b"\0"),
        rsa_area(2048, 1, MODULUS),
        rsa_area(2048, 4, MODULUS),
    ],
    ids=[
        "no modulus", "short", "long", "leading zero", "other size", "too small", "too large", "even modulus", "exponent 1", "exponent 4",
    ],
)  # fmt: skip
def test_bad_rsa_key_is_refused(public: Public) -> None:
    with pytest.raises(FormatError, match="RSA"):
        public.public_key()


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_rsa_key_of_2048_to_4096_bits_is_accepted(bits: int) -> None:
    key = rsa_area(bits, 0, MODULUS[:-1] + b"\xff" * (bits // 8 - 255)).public_key()
    assert (key.key_size, key.public_numbers().e) == (bits, 65537)  # type: ignore[union-attr] # RSA here


def test_area_has_the_layout_of_part_2() -> None:
    """Field by field from the tables of Part 2, as an RSA EK and an ECC AK have it."""
    policy = bytes(range(32))
    ek = replace(RSA_AK, scheme=None, symmetric=Symmetric("aes", 128, "cfb"), auth_policy=policy, attributes=0x000300B2)
    head, tail = bytes.fromhex("0001 000b 000300b2 0020"), bytes.fromhex("0006 0080 0043 0010 0800 00000000 0100")
    assert encode_public(ek) == head + policy + tail + MODULUS
    point = ecc_parameters()
    head = bytes.fromhex("0023 000b 00050072 0000 0010 0018 000b 0003 0010")
    assert ECC_AK.raw == head + b"\x00\x20" + point.x + b"\x00\x20" + point.y


@pytest.mark.parametrize(
    "name, hash_name, number",
    [("rsassa", "sha256", "0014000b"), ("rsaes", None, "0015"), ("rsapss", "sha384", "0016000c"), ("oaep", "sha1", "00170004")],
)
def test_rsa_scheme_has_its_number(name: str, hash_name: str | None, number: str) -> None:
    assert encode_public(replace(RSA_AK, scheme=Scheme(name, hash_name))).hex()[20:].startswith("0010" + number + "0800")


@pytest.mark.parametrize("curve, number", [("p256", "0003"), ("p384", "0004"), ("p521", "0005")])
@pytest.mark.parametrize(
    "kdf, kdf_number", [("mgf1", "0007"), ("kdf1_sp800_56a", "0020"), ("kdf2", "0021"), ("kdf1_sp800_108", "0022")]
)  # fmt: skip
def test_ecc_curve_and_derivation_have_their_numbers(curve: str, number: str, kdf: str, kdf_number: str) -> None:
    area = replace(ECC_AK, scheme=Scheme("ecdh", "sha512"), parameters=EccParameters(curve, Scheme(kdf, "sha256"), b"\1", b"\2"))
    assert encode_public(area).hex()[20:] == "0010" + "0019000d" + number + kdf_number + "000b" + "000101" + "000102"


@pytest.mark.parametrize("algorithm, number", [("aes", "0006"), ("sm4", "0013"), ("camellia", "0026")])
@pytest.mark.parametrize("mode, mode_number", [("ctr", "0040"), ("ofb", "0041"), ("cbc", "0042"), ("cfb", "0043"), ("ecb", "0044")])
def test_cipher_has_its_number(algorithm: str, number: str, mode: str, mode_number: str) -> None:
    area = replace(ECC_AK, symmetric=Symmetric(algorithm, 256, mode))
    assert encode_public(area).hex()[20:].startswith(number + "0100" + mode_number)


def test_largest_fields_fit() -> None:
    for parameters in (EccParameters("p521", None, bytes(66), bytes(66)), RsaParameters(4096, 0xFFFFFFFF, bytes(512))):
        area = replace(ECC_AK, name_algorithm="sha512", auth_policy=bytes(64), scheme=None, parameters=parameters)
        assert parse_public(encode_public(area)) == area


def test_stated_exponent_is_used() -> None:
    key = rsa_area(2048, 3, MODULUS).public_key()
    assert isinstance(key, RSAPublicKey)
    assert key.public_numbers() == RSAPublicNumbers(3, int.from_bytes(MODULUS, "big"))


def ecc_area(curve: str, x: bytes, y: bytes) -> Public:
    return replace(ECC_AK, parameters=EccParameters(curve, None, x, y))


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_point_off_the_curve_is_refused(curve: str) -> None:
    point = ecc_parameters(curve)
    assert isinstance(ecc_area(curve, point.x, point.y).public_key(), ec.EllipticCurvePublicKey)
    for x, y in [
        (point.x, point.x),
        (b"", b""),
        (bytes(len(point.x)), bytes(len(point.x))),
        (b"\xff" * len(point.x), point.y),
        (b"\0" + point.x, point.y),
        (point.x, b"\0" + point.y),
    ]:
        with pytest.raises(FormatError, match="ECC point"):
            ecc_area(curve, x, y).public_key()


def test_stripped_leading_zeros_of_a_coordinate_name_the_same_point() -> None:
    points = (ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_numbers() for scalar in count(1))
    numbers = next(point for point in points if point.x < 1 << 248)
    x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
    assert x[0] == 0
    assert ecc_area("p256", x[1:], y).public_key().public_numbers() == ecc_area("p256", x, y).public_key().public_numbers()


@pytest.mark.parametrize(
    "change",
    [
        {"name_algorithm": "md5"},
        {"attributes": 1 << 31},
        {"auth_policy": bytes(20)},
    ],
    ids=["name algorithm", "reserved bit", "policy of another size"],
)
def test_area_without_a_spelling_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        replace(ECC_AK, **change)  # type: ignore[arg-type] # one field at a time, each of its own type


@pytest.mark.parametrize("name, hash_name", [("rsaes", "sha256"), ("rsassa", None)])
def test_scheme_with_a_hash_too_many_or_too_few_cannot_be_made(name: str, hash_name: str | None) -> None:
    with pytest.raises(FormatError):
        Scheme(name, hash_name)


@pytest.mark.parametrize(
    "public",
    [
        replace(ECC_AK, scheme=Scheme("rsassa", "sha256")),
        replace(RSA_AK, scheme=Scheme("ecdsa", "sha256")),
        replace(RSA_AK, scheme=Scheme("rsassa", "md5")),
        replace(RSA_AK, symmetric=Symmetric("des", 56, "cfb")),
        replace(RSA_AK, symmetric=Symmetric("aes", 1 << 16, "cfb")),
        rsa_area(2048, 1 << 32, MODULUS),
        rsa_area(2048, 0, bytes(513)),
        ecc_area("p192", b"", b""),
        ecc_area("p256", bytes(67), b""),
    ],
)
def test_field_that_does_not_fit_is_not_written(public: Public) -> None:
    with pytest.raises(FormatError):
        encode_public(public)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\0", b"\x00\x02\x00\x01", encode_tpm2b_public(ECC_AK)[:-1], encode_tpm2b_public(ECC_AK) + b"\0"]
)
def test_sized_form_of_another_size_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_any_public(data)
