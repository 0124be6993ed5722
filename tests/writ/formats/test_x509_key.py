"""Signature algorithms of certificates: the ones we verify, by name; any other is none, and what is no DER is refused."""

from __future__ import annotations

import pytest

from tests.parsers import assert_parser_is_total
from writ.formats.errors import FormatError
from writ.formats.x509_key import parse_signature_algorithm

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
