"""Certificates: the DER kept, the fields read, FormatError for anything else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from tests.parsers import assert_parser_is_total
from writ.formats.errors import FormatError
from writ.formats.keys import parse_spki
from writ.formats.x509 import (
    EKU_EK,
    MAX_CERTIFICATE,
    parse_certificate,
    parse_pem_certificates,
    parse_stored_certificate,
    to_pem,
)

_FROM, _UNTIL = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2056, 1, 1, tzinfo=UTC)
_TPM_ATTRIBUTES = [("2.23.133.2.1", "id:00001014"), ("2.23.133.2.2", "swtpm"), ("2.23.133.2.3", "id:20191023")]


def _certificate(
    *extensions: x509.ExtensionType, subject: str = "leaf", issuer: str = "issuer"
) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(0x1234)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER), key


def _tpm_names(*attributes: tuple[str, str]) -> x509.SubjectAlternativeName:
    names = [x509.NameAttribute(x509.ObjectIdentifier(oid), value) for oid, value in attributes]
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(names))])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


_EK_EXTENSIONS = (
    _tpm_names(*_TPM_ATTRIBUTES),
    x509.ExtendedKeyUsage([x509.ObjectIdentifier(EKU_EK)]),
    _key_usage(signs_certificates=False),
)


def test_ek_certificate_gives_its_tpm_attributes() -> None:
    der, key = _certificate(*_EK_EXTENSIONS)
    found = parse_certificate(der)
    assert (found.tpm_manufacturer, found.tpm_model, found.tpm_version) == ("id:00001014", "swtpm", "id:20191023")
    assert (found.eku, found.is_ca, found.signs_certificates) == ((EKU_EK,), False, False)
    assert (found.serial, found.der, found.subject_text) == (0x1234, der, "CN=leaf")
    assert found.not_before == int(_FROM.timestamp())
    assert found.not_after == int(_UNTIL.timestamp())
    assert found.spki == key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert parse_spki(found.spki).algorithm == "ES256"
    assert found.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")]).public_bytes()
    assert found.issuer == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")]).public_bytes()
    assert not found.is_self_issued


def test_ca_certificate_says_what_it_may_sign() -> None:
    der, _ = _certificate(x509.BasicConstraints(ca=True, path_length=1), _key_usage(signs_certificates=True), subject="root", issuer="root")
    found = parse_certificate(der)
    assert (found.is_ca, found.path_length, found.signs_certificates, found.is_self_issued) == (True, 1, True, True)
    assert (found.eku, found.tpm_manufacturer, found.tpm_model, found.tpm_version) == ((), None, None, None)


def test_bare_certificate_states_nothing() -> None:
    found = parse_certificate(_certificate()[0])
    assert (found.is_ca, found.path_length, found.signs_certificates, found.eku) == (False, None, None, ())


def test_tpm_attribute_twice_is_refused() -> None:
    der, _ = _certificate(_tpm_names(*_TPM_ATTRIBUTES, ("2.23.133.2.1", "id:FFFFFFFF")))
    with pytest.raises(FormatError):
        parse_certificate(der)
    other, _ = _certificate(_tpm_names(*_TPM_ATTRIBUTES, ("2.5.4.3", "a"), ("2.5.4.3", "b")))
    assert parse_certificate(other).tpm_model == "swtpm"


def test_name_that_is_no_text_is_no_tpm_attribute() -> None:
    bits = x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\x01", _type=_ASN1Type.BitString)
    der, _ = _certificate(x509.SubjectAlternativeName([x509.DirectoryName(x509.Name([bits]))]))
    assert parse_certificate(der).tpm_model is None


def test_extension_that_cannot_be_read_is_refused() -> None:
    der, _ = _certificate(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x03\x02\x01\x00"))
    with pytest.raises(FormatError):
        parse_certificate(der)


def test_certificate_readers_are_total() -> None:
    der, _ = _certificate(*_EK_EXTENSIONS)
    assert_parser_is_total(parse_certificate, der)
    assert_parser_is_total(parse_stored_certificate, der, open_ended=True)
    pem = to_pem(parse_certificate(der)).encode()
    assert_parser_is_total(lambda data: parse_pem_certificates(data, "chain"), pem, flips=600, open_ended=True)


@pytest.mark.parametrize("padding", [b"", b"\x00" * 300, b"\xff" * 300, b"\x11", b"\x00"])
def test_padding_of_an_nv_index_is_left_out(padding: bytes) -> None:
    der, _ = _certificate()
    assert parse_stored_certificate(der + padding).der == der


@pytest.mark.parametrize("padding", [b"\x00\x01", b"\x00" * 30 + b"\xff", b"0\x00"])
def test_more_than_padding_behind_a_certificate_is_refused(padding: bytes) -> None:
    der, _ = _certificate()
    with pytest.raises(FormatError, match="padding"):
        parse_stored_certificate(der + padding)
    with pytest.raises(FormatError):
        parse_certificate(der + padding)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"0",
        b"0\x80\x00\x00",
        b"0\x81\x01\x00",
        b"0\x82\x00\x01\x00",
        b"0\x85\x00\x00\x00\x00\x01\x00",
        b"0\x82\xff\xff",
        b"0\x03\x02\x01\x00",
    ],
)
def test_der_of_another_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_stored_certificate(data)


def test_too_long_a_certificate_is_refused() -> None:
    with pytest.raises(FormatError, match=f"at most {MAX_CERTIFICATE} bytes"):
        parse_certificate(bytes(MAX_CERTIFICATE + 1))


def test_pem_chain_comes_back_in_its_order() -> None:
    first, second = parse_certificate(_certificate(subject="first")[0]), parse_certificate(_certificate(subject="second")[0])
    text = f"# a comment\n{to_pem(first)}between\n{to_pem(second)}"
    assert parse_pem_certificates(text.encode(), "chain") == (first, second)
    assert parse_pem_certificates(text.replace("\n", "\r\n").encode(), "chain") == (first, second)
    assert len(parse_pem_certificates(text.encode(), "chain", most=2)) == 2
    with pytest.raises(FormatError, match="1 to 1 PEM certificates, got 2"):
        parse_pem_certificates(text.encode(), "chain", most=1)


def test_pem_is_what_the_library_writes() -> None:
    der, _ = _certificate()
    assert to_pem(parse_certificate(der)).encode() == x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _: b"", id="nothing"),
        pytest.param(lambda _: b"no certificate", id="no block"),
        pytest.param(lambda pem: pem + pem[: len(pem) // 2], id="a block and a half"),
        pytest.param(lambda pem: pem + b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", id="a private key beside it"),
        pytest.param(lambda pem: pem.replace(b"\nMII", b"\nM=I", 1), id="padding within"),
        pytest.param(lambda pem: pem.replace(b"-----END", b"AA\n-----END"), id="text behind the padding, or bytes behind the DER"),
        pytest.param(lambda pem: pem * 70, id="too many"),
        pytest.param(lambda pem: pem + b" " * (1 << 22), id="too long"),
    ],
)
def test_pem_of_another_shape_is_refused(spoil: object) -> None:
    assert callable(spoil)
    pem = to_pem(parse_certificate(_certificate()[0])).encode()
    with pytest.raises(FormatError):
        parse_pem_certificates(spoil(pem), "chain")


@pytest.mark.parametrize(
    "file, manufacturer, model, version",
    [
        ("gce/uca_tpm_rsa_enc_cert.pem", "id:474F4F47", "vTPM", "id:20160511"),
        ("hirs/nuc-1_tpmcert.pem", "id:53544D20", "ST33ZP24PVSP", "id:0D0C"),
        ("hirs/nuc-1_ek_cert_7_byte_header_removed.cer", "id:53544D20", "ST33ZP24PVSP", "id:0D0C"),
        ("keylime/st_sha256_with_rsa.der", "id:53544D20", "ST33HTPHAHB4", "id:00490004"),
    ],
)
def test_real_ek_certificate_is_read(vectors: Path, file: str, manufacturer: str, model: str, version: str) -> None:
    data = (vectors / "ek-certs" / file).read_bytes()
    found = parse_pem_certificates(data, file)[0] if data.startswith(b"-----") else parse_stored_certificate(data)
    assert (found.tpm_manufacturer, found.tpm_model, found.tpm_version) == (manufacturer, model, version)
    assert EKU_EK in found.eku
    assert not found.is_ca


@pytest.mark.parametrize("file", ["hirs/stMicroCaCerts_gstpmroot.crt", "amd-ftpm/amd_ek_response.der"])
def test_real_manufacturer_root_is_read(vectors: Path, file: str) -> None:
    data = (vectors / "ek-certs" / file).read_bytes()
    found = parse_pem_certificates(data, file)[0] if data.startswith(b"-----") else parse_certificate(data)
    assert found.is_ca
    assert found.is_self_issued
    assert found.tpm_manufacturer is None


@pytest.mark.parametrize("file", ["platform-certs/Intel_nuc1.cer", "platform-certs/Intel_pc1.cer"])
def test_attribute_certificate_is_no_certificate(vectors: Path, file: str) -> None:
    with pytest.raises(FormatError):
        parse_certificate((vectors / "ek-certs" / file).read_bytes())
