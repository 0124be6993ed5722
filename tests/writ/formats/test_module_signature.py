"""Module signatures: those that openssl makes as `sign-file` does are read and verified, and every other shape is refused."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from tests.parsers import assert_parser_is_total
from tests.world.der import NULL, prolonged, rebuilt
from tests.world.ima_logs import module_signed
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.eventlog.ima import Measured
from writ.formats.ima_signature import judge_signature, keys_of
from writ.formats.module_signature import parse_module_signature

CONTENT = b"\x7fELF, a module\r\n"
MADE = module_signed(CONTENT, "vendor")["modsig"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys ec.pem and rsa.pem, their certificates ec.crt and rsa.crt with a key identifier of their own, and module.ko."""
    place = tmp_path_factory.mktemp("modsig")
    (place / "module.ko").write_bytes(CONTENT)
    for kind, key in (("ec", ec.generate_private_key(ec.SECP384R1())), ("rsa", rsa.generate_private_key(65537, 2048))):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, kind)])
        born = datetime(2026, 1, 1, tzinfo=UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1 << 70, born, born.replace(year=2036))
        builder = builder.add_extension(x509.SubjectKeyIdentifier(f"identifier {kind}".encode()), critical=False)
        (place / f"{kind}.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        (place / f"{kind}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return place


def openssl(place: Path, kind: str, *more: str, verb: str = "cms") -> bytes:
    """What `openssl cms` or `openssl smime` says of module.ko, detached and in DER."""
    command = ["openssl", verb, "-sign", "-binary", "-outform", "DER", "-in", "module.ko", "-out", "signature", "-signer", f"{kind}.crt"]
    subprocess.run([*command, "-inkey", f"{kind}.pem", *more], cwd=place, check=True, capture_output=True, timeout=60)
    return (place / "signature").read_bytes()


def judged(place: Path, kind: str, modsig: bytes, algorithm: str = "sha256", content: bytes = CONTENT) -> str:
    """What such a signature on such a file is worth where the certificate of that kind is the keyring."""
    der = x509.load_pem_x509_certificate((place / f"{kind}.crt").read_bytes()).public_bytes(Encoding.DER)
    whole, digest = Digest.of(content + modsig), Digest.of(content, algorithm)
    measured = Measured("ima-modsig", b"/module", "ima", "sha256", whole.value, b"", b"", modsig, algorithm, digest.value)
    return judge_signature(measured, keys_of((der,)))


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize(
    "verb, more", [("cms", ["-nocerts"]), ("cms", ["-nocerts", "-keyid"]), ("cms", []), ("smime", []), ("smime", ["-nocerts"])]
)
def test_signature_as_sign_file_makes_it_is_verified(place: Path, kind: str, algorithm: str, verb: str, more: list[str]) -> None:
    """scripts/sign-file calls CMS_sign and CMS_add1_signer with the flags of -binary -noattr -nocerts, and -keyid for its -k."""
    made = openssl(place, kind, "-noattr", "-md", algorithm, *more, verb=verb)
    found = parse_module_signature(made)
    assert (found.hash, made.endswith(found.signature)) == (algorithm, True)
    assert (found.signer == f"identifier {kind}".encode()) is ("-keyid" in more)
    assert judged(place, kind, made, algorithm) == "valid"
    assert judged(place, kind, made, algorithm, b"another") == "invalid"
    assert judged(place, {"ec": "rsa", "rsa": "ec"}[kind], made, algorithm) == "unknown-key"


def test_key_of_the_same_name_that_did_not_sign_gives_no_pass(place: Path) -> None:
    made = openssl(place, "rsa", "-noattr", "-nocerts")
    twin = (place / "rsa.crt").read_bytes()
    key = load_pem_private_key((place / "rsa.pem").read_bytes(), None)
    other = x509.load_pem_x509_certificate(twin)
    assert isinstance(key, rsa.RSAPrivateKey)
    builder = x509.CertificateBuilder(
        other.issuer, other.subject, rsa.generate_private_key(65537, 2048).public_key(), other.serial_number,
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    forged = keys_of((builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER),))
    digest = Digest.of(CONTENT)
    measured = Measured("ima-modsig", b"/module", "ima", "sha256", digest.value, b"", b"", made, "sha256", digest.value)
    assert judge_signature(measured, forged) == "invalid"


@pytest.mark.parametrize(
    "more, word",
    [
        (["-nocerts"], "got tag a0"),
        (["-noattr", "-nodetach"], "nothing more"),
        (["-noattr", "-md", "sha1"], "sha256 or sha384 or sha512"),
        (["-noattr", "-keyopt", "rsa_padding_mode:pss"], "NULL or none"),
        (["-noattr", "-signer", "ec.crt", "-inkey", "ec.pem"], "nothing more"),
        (["-noattr", "-econtent_type", "1.2.3.4"], "1.2.840.113549.1.7.1"),
        (["-noattr", "-stream", "-nodetach"], "definite length"),
    ],
)
def test_signature_of_another_shape_is_refused(place: Path, more: list[str], word: str) -> None:
    made = openssl(place, "rsa", *more)
    with pytest.raises(FormatError, match=word):
        parse_module_signature(made)
    assert judged(place, "rsa", made) == "unsupported"


VERSION, SIGNER_VERSION = b"\x02\x01\x01", b"\x02\x01\x01\x30"
SHA256, SHA512 = bytes.fromhex("0609608648016503040201"), bytes.fromhex("0609608648016503040203")
SIGNED, DATA = bytes.fromhex("06092a864886f70d010702"), bytes.fromhex("06092a864886f70d010701")
ECDSA256, ECDSA512 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040304")


def later(change: Callable[[bytes], bytes]) -> bytes:
    """The signature with what follows its content changed: the signer's part."""
    at = MADE.index(DATA)
    return MADE[:at] + change(MADE[at:])


@pytest.mark.parametrize(
    "data, field",
    [
        pytest.param(b"", "info", id="nothing"),
        pytest.param(MADE + b"\0", "nothing more", id="bytes behind it"),
        pytest.param(MADE.replace(SIGNED, DATA), "info.type", id="not signed data"),
        pytest.param(MADE.replace(DATA, SIGNED), "content.type", id="not data"),
        pytest.param(MADE.replace(VERSION, b"\x02\x01\x03", 1), "signer.version", id="other version of data"),
        pytest.param(later(lambda rest: rest.replace(VERSION, b"\x02\x01\x03", 1)), "signer.version", id="other version of signer"),
        pytest.param(MADE.replace(VERSION, b"\x02\x01\x03"), "signer.name", id="version 3 without a key identifier"),
        pytest.param(MADE.replace(VERSION, b"\x02\x01\x02"), "signer.version", id="unknown version"),
        pytest.param(MADE.replace(SHA256, SHA512, 1), "signer.hash", id="other hash of data"),
        pytest.param(later(lambda rest: rest.replace(SHA256, SHA512)), "signer.hash", id="other hash of signer"),
        pytest.param(MADE.replace(SHA256, SHA256[:-1] + b"\x09"), "data.hash", id="unknown hash"),
        pytest.param(MADE.replace(ECDSA256, ECDSA512), "signer.algorithm", id="ECDSA with another hash"),
    ],
)
def test_signature_that_contradicts_itself_is_refused(data: bytes, field: str) -> None:
    assert parse_module_signature(MADE).hash == "sha256"
    assert data != MADE
    with pytest.raises(FormatError, match=field):
        parse_module_signature(data)


@pytest.mark.parametrize(
    "path", [(), (1,), (1, 0), (1, 0, 1), (1, 0, 1, 0), (1, 0, 2), (1, 0, -1), (1, 0, -1, 0), (1, 0, -1, 0, 2), (1, 0, -1, 0, 3)]
)
def test_part_with_more_behind_it_is_refused(path: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="nothing more"):
        parse_module_signature(rebuilt(MADE, lambda raw: prolonged(raw, NULL + NULL), *path))


def test_certificates_and_crls_are_passed_over_in_their_order() -> None:
    found, (data, signers) = parse_module_signature(MADE), ((1, 0, 2), (1, 0, 3))
    for more in (b"\xa0\0", b"\xa1\0", b"\xa0\0\xa1\0"):
        assert parse_module_signature(rebuilt(MADE, lambda raw, more=more: raw + more, *data)) == found  # type: ignore[misc] # a default is no argument
    for more in (b"\xa1\0\xa0\0", b"\xa0\0\xa0\0", b"\xa2\0"):
        with pytest.raises(FormatError, match="signers: expected tag 31"):
            parse_module_signature(rebuilt(MADE, lambda raw, more=more: more + raw, *signers))  # type: ignore[misc] # a default is no argument


@pytest.mark.parametrize("path", [(1, 0, 0), (1, 0, -1, 0, 0)])
def test_version_in_two_bytes_is_refused(path: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match=r"version: expected 1 to 1 bytes"):
        parse_module_signature(rebuilt(MADE, lambda _: b"\x02\x02\0\1", *path))


def test_parser_is_total() -> None:
    assert_parser_is_total(parse_module_signature, MADE)
