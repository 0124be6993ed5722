"""Signature algorithms and keys of certificates: the ones we verify, by name; any other is none, and what is no DER is refused."""

from __future__ import annotations

import pytest

from tests.parsers import assert_parser_is_total
from writ.formats.errors import FormatError
from writ.formats.x509_key import certificate_key, parse_signature_algorithm

RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
PSS_SHA256 = bytes.fromhex(
    "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
)


@pytest.mark.parametrize(
    "der, kind, digest", [(RSA_SHA256, "rsa", "sha256"), (ECDSA_SHA384, "ecdsa", "sha384"), (PSS_SHA256, "pss", "sha256")]
)
def test_algorithm_is_named(der: bytes, kind: str, digest: str) -> None:
    found = parse_signature_algorithm(der)
    assert found is not None
    assert (found.name, found.hash) == (kind, digest)


def test_algorithm_that_is_not_ours_to_verify_is_none() -> None:
    assert parse_signature_algorithm(bytes.fromhex("300506032b6570")) is None


@pytest.mark.parametrize("der", [RSA_SHA256, ECDSA_SHA384, PSS_SHA256])
def test_reader_of_algorithms_is_total(der: bytes) -> None:
    assert_parser_is_total(parse_signature_algorithm, der, flips=200)
    with pytest.raises(FormatError):
        parse_signature_algorithm(der + b"\0")


def rsa_spki(modulus: bytes, exponent: bytes) -> bytes:
    """A SubjectPublicKeyInfo of rsaEncryption from the contents of its two integers."""

    def tlv(tag: int, content: bytes) -> bytes:
        return (
            bytes((tag, 0x82)) + len(content).to_bytes(2, "big") + content if len(content) > 127 else bytes((tag, len(content))) + content
        )

    numbers = tlv(0x30, tlv(0x02, modulus) + tlv(0x02, exponent))
    return tlv(0x30, bytes.fromhex("300d06092a864886f70d0101010500") + tlv(0x03, b"\0" + numbers))


ODD_2048 = b"\0\xc1" + bytes(254) + b"\1"


def test_rsa_key_of_2048_bits_is_read() -> None:
    assert certificate_key(rsa_spki(ODD_2048, b"\1\0\1")).key_size == 2048


@pytest.mark.parametrize(
    "modulus, exponent",
    [(ODD_2048, b"\xfd"), (ODD_2048, b"\xff\0\1"), (ODD_2048[1:], b"\1\0\1"), (ODD_2048, b"\0"), (ODD_2048, b"\2"), (ODD_2048[2:], b"\3")],
    ids=["negative exponent", "long negative exponent", "negative modulus", "exponent 0", "even exponent", "2032 bits"],
)
def test_rsa_key_of_impossible_numbers_is_a_format_error(modulus: bytes, exponent: bytes) -> None:
    with pytest.raises(FormatError):
        certificate_key(rsa_spki(modulus, exponent))
