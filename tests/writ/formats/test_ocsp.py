"""OCSP responses: those of openssl and of the library are read alike, and one that means something else is refused."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from tests.parsers import assert_parser_is_total
from tests.world.authority import Ca, at, generalized, sealed_ocsp
from tests.world.chip import private_key
from tests.world.der import NULL, children, element, prolonged, rebuilt
from writ.formats.errors import FormatError
from writ.formats.ocsp import OcspResponse, kept_ocsp, parse_ocsp
from writ.formats.x509 import parse_certificate

NOW = 1_790_000_000
AUTHORITY = Ca("authority")
RESPONDER = AUTHORITY.responder(x509.OCSPNoCheck())
WHOLE = AUTHORITY.ocsp(0x77, this=NOW, following=NOW + 60, produced=NOW + 5, responder=RESPONDER)
REVOKED = AUTHORITY.ocsp(0x77, "revoked", this=NOW, by_key=True, hashed="sha256")
BASIC, DATA = (1, 0, 1, 0), (1, 0, 1, 0, 0)
SINGLE = (*DATA, 2, 0)
EXTENSION = bytes.fromhex("06032a0304")


def test_response_gives_certificate_status_and_times() -> None:
    found = parse_ocsp(WHOLE)
    mine = parse_certificate(AUTHORITY.certificate())
    assert (found.status, found.this_update, found.next_update, found.produced_at) == ("good", NOW, NOW + 60, NOW + 5)
    assert (found.certificate.hash, found.certificate.serial) == ("sha1", 0x77)
    assert found.certificate.issuer_name == hashlib.sha1(mine.subject, usedforsecurity=False).digest()
    assert (found.responder_name, found.responder_key) == (parse_certificate(RESPONDER).subject, None)
    assert found.certificates == (parse_certificate(RESPONDER),)
    assert found.certificates[0].ocsp_no_check
    assert found.der == WHOLE
    assert kept_ocsp(WHOLE) == found
    other = parse_ocsp(REVOKED)
    assert (other.status, other.next_update, other.certificates, other.certificate.hash) == ("revoked", None, (), "sha256")
    assert (other.responder_name, len(other.responder_key or b"")) == (None, 20)


def agrees(found: OcspResponse, der: bytes) -> None:
    """The library reads the same from the same bytes."""
    library = ocsp.load_der_ocsp_response(der)
    status = library.certificate_status.name.lower()
    following = None if library.next_update_utc is None else int(library.next_update_utc.timestamp())
    assert (found.status, found.certificate.serial, found.next_update) == (status, library.serial_number, following)
    assert (at(found.this_update), at(found.produced_at)) == (library.this_update_utc, library.produced_at_utc)
    named = (found.certificate.issuer_name, found.certificate.issuer_key, found.certificate.hash)
    assert named == (library.issuer_name_hash, library.issuer_key_hash, library.hash_algorithm.name)
    assert (found.responder_key, found.responder_name) == (
        library.responder_key_hash,
        None if library.responder_name is None else library.responder_name.public_bytes(),
    )
    assert (found.signed, found.signature) == (library.tbs_response_bytes, library.signature)
    assert [one.der for one in found.certificates] == [one.public_bytes(Encoding.DER) for one in library.certificates]


@given(
    st.integers(0, 1 << 160), st.sampled_from(["good", "revoked", "unknown"]), st.integers(0, 1 << 32), st.none() | st.integers(0, 1 << 32),
    st.integers(0, 1 << 32), st.booleans(), st.booleans(), st.sampled_from(["sha1", "sha256"]),
)  # fmt: skip
def test_response_of_any_content_is_read_as_the_library_reads_it(
    serial: int,
    status: str,
    this: int,
    following: int | None,
    produced: int,
    delegated: bool,
    by_key: bool,
    hashed: Literal["sha1", "sha256"],
) -> None:
    der = AUTHORITY.ocsp(
        serial, status, this=this, following=following, produced=produced, responder=RESPONDER if delegated else None, by_key=by_key,
        hashed=hashed,
    )  # fmt: skip
    agrees(parse_ocsp(der), der)


def test_response_of_the_library_is_read() -> None:
    issuer, leaf = (x509.load_der_x509_certificate(der) for der in (AUTHORITY.certificate(), AUTHORITY.ek()))
    key = private_key(AUTHORITY.seed)
    for status, revoked in ((ocsp.OCSPCertStatus.GOOD, None), (ocsp.OCSPCertStatus.REVOKED, at(NOW))):
        builder = ocsp.OCSPResponseBuilder().responder_id(ocsp.OCSPResponderEncoding.NAME, issuer)
        builder = builder.add_response(
            leaf, issuer, hashes.SHA256(), status, at(NOW), at(NOW + 60), revoked,
            None if revoked is None else x509.ReasonFlags.key_compromise,
        ).add_extension(x509.OCSPNonce(b"nonce"), critical=False)  # fmt: skip
        der = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        agrees(parse_ocsp(der), der)


@pytest.mark.parametrize("more", [[], ["-resp_key_id"], ["-resp_no_certs"], ["-sha256"]])
@pytest.mark.parametrize("line", ["V", "R", "none"])
def test_response_of_openssl_is_read(tmp_path: Path, line: str, more: list[str]) -> None:
    for name, certificate in (("ca", AUTHORITY.certificate()), ("leaf", AUTHORITY.ek()), ("responder", RESPONDER)):
        (tmp_path / f"{name}.pem").write_bytes(x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM))
    key = private_key("ca/responder").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(key)
    revoked = "260101000000Z,keyCompromise" if line == "R" else ""
    (tmp_path / "index").write_text(f"{line}\t360101000000Z\t{revoked}\t77\tunknown\t/CN=leaf\n" if line != "none" else "")
    hashed, rest = [one for one in more if one == "-sha256"], [one for one in more if one != "-sha256"]
    subprocess.run(["openssl", "ocsp", *hashed, "-issuer", "ca.pem", "-cert", "leaf.pem", "-reqout", "request"], cwd=tmp_path, check=True)
    command = ["openssl", "ocsp", "-index", "index", "-CA", "ca.pem", "-rsigner", "responder.pem", "-rkey", "key.pem", "-ndays", "7"]
    command += ["-reqin", "request", "-respout", "response", *rest]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    der = (tmp_path / "response").read_bytes()
    found = parse_ocsp(der)
    agrees(found, der)
    assert found.status == {"V": "good", "R": "revoked", "none": "unknown"}[line]
    assert found.next_update == found.this_update + 7 * 86_400


@pytest.mark.parametrize("der", [WHOLE, REVOKED])
def test_parser_is_total(der: bytes) -> None:
    assert_parser_is_total(parse_ocsp, der)


def test_refusal_of_a_responder_is_refused() -> None:
    for status in range(1, 7):
        with pytest.raises(FormatError, match=f"00, successful, got 0{status}"):
            parse_ocsp(element(0x30, bytes((0x0A, 1, status))))


def test_response_of_16384_bytes_is_read_and_a_longer_one_refused() -> None:
    def padded(count: int) -> bytes:
        item = element(0x30, EXTENSION + element(0x04, bytes(count)))
        return rebuilt(WHOLE, lambda raw: prolonged(raw, element(0xA1, element(0x30, item))), *DATA)

    most = 15_000 + 16_384 - len(padded(15_000))
    assert parse_ocsp(padded(most)).status == "good"
    with pytest.raises(FormatError, match="at most 16384 bytes, got 16385 bytes"):
        parse_ocsp(padded(most + 1))


@pytest.mark.parametrize(
    "path",
    [(), (1,), (1, 0), (1, 0, 1), BASIC, DATA, (*DATA, 0), SINGLE, (*SINGLE, 0), (*SINGLE, 3), (*BASIC, 3)],
)  # fmt: skip
def test_part_with_more_behind_it_is_refused(path: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="nothing more"):
        parse_ocsp(rebuilt(WHOLE, prolonged, *path))


def extensions(critical: bytes, *, more: bytes = b"", behind: bytes = b"") -> bytes:
    return element(0xA1, element(0x30, element(0x30, EXTENSION + critical + element(0x04, b"x") + more)) + behind)


@pytest.mark.parametrize("path", [DATA, SINGLE])
def test_critical_extension_is_refused_and_another_passed_over(path: tuple[int, ...]) -> None:
    def with_extension(more: bytes) -> bytes:
        return rebuilt(WHOLE, lambda raw: prolonged(raw, more), *path)

    assert parse_ocsp(with_extension(extensions(b""))).status == "good"
    assert parse_ocsp(with_extension(extensions(b"\x01\x01\0"))).status == "good"
    with pytest.raises(FormatError, match=r"no critical extension, got 1\.2\.3\.4"):
        parse_ocsp(with_extension(extensions(b"\x01\x01\xff")))
    for wrong in (extensions(b"", more=NULL), extensions(b"", behind=NULL)):
        with pytest.raises(FormatError, match="nothing more"):
            parse_ocsp(with_extension(wrong))


def change(to: bytes) -> Callable[[bytes], bytes]:
    return lambda _: to


UTC_TIME = element(0x17, b"260101000000Z")


@pytest.mark.parametrize(
    "spoil, path, word",
    [
        pytest.param(change(bytes.fromhex("06092b0601050507300102")), (1, 0, 0), "type: expected 1.3.6.1", id="another type"),
        pytest.param(change(element(0x03, b"\1ab")), (*BASIC, 2), "whole bytes", id="signature of odd bits"),
        pytest.param(change(element(0xA3, b"")), (*DATA, 0), "expected tag a2", id="another kind of responder"),
        pytest.param(change(UTC_TIME), (*DATA, 1), "produced_at: expected a GeneralizedTime", id="producedAt"),
        pytest.param(change(UTC_TIME), (*SINGLE, 2), "this_update: expected a GeneralizedTime", id="thisUpdate"),
        pytest.param(change(element(0xA0, UTC_TIME)), (*SINGLE, 3), "time: expected a GeneralizedTime", id="nextUpdate"),
        pytest.param(lambda raw: prolonged(raw, children(raw)[0]), (*DATA, 2), "one certificate, got more", id="two certificates"),
        pytest.param(change(element(0x30, b"")), (*DATA, 2), "a DER element", id="no certificate"),
        pytest.param(change(b"\x06\x03\x2a\x03\x04"), (*SINGLE, 0, 0, 0), "sha1 or sha256 or sha384, got 1.2.3.4", id="another hash"),
        pytest.param(change(b"\x80\x01\0"), (*SINGLE, 1), "good, revoked or unknown", id="good with content"),
        pytest.param(change(b"\x82\x01\0"), (*SINGLE, 1), "good, revoked or unknown", id="unknown with content"),
        pytest.param(change(b"\x83\0"), (*SINGLE, 1), "good, revoked or unknown", id="another status"),
        pytest.param(change(element(0xA1, UTC_TIME)), (*SINGLE, 1), "time: expected a GeneralizedTime", id="revoked at no time"),
        pytest.param(change(element(0xA1, generalized(NOW) + NULL)), (*SINGLE, 1), "nothing more", id="revoked with more"),
        pytest.param(change(element(0x30, b"rubbish")), (*BASIC, 3, 0, 0), "certificate", id="no certificate of the responder"),
    ],
)  # fmt: skip
def test_response_of_another_shape_is_refused(spoil: Callable[[bytes], bytes], path: tuple[int, ...], word: str) -> None:
    assert rebuilt(WHOLE, lambda raw: raw, *path) == WHOLE
    with pytest.raises(FormatError, match=word):
        parse_ocsp(rebuilt(WHOLE, spoil, *path))


def test_version_is_the_first_or_not_said() -> None:
    def versioned(value: bytes) -> bytes:
        return rebuilt(WHOLE, lambda raw: element(0x30, element(0xA0, value) + b"".join(children(raw))), *DATA)

    assert parse_ocsp(versioned(b"\x02\x01\0")).status == "good"
    for value, word in ((b"\x02\x01\1", "version"), (b"\x02\x02\0\0", "1 to 1 bytes"), (b"\x02\x01\0" + NULL, "nothing more")):
        with pytest.raises(FormatError, match=word):
            parse_ocsp(versioned(value))


def test_reason_of_a_revocation_is_passed_over() -> None:
    revoked = element(0xA1, generalized(NOW) + element(0xA0, b"\x0a\x01\x06"))
    assert parse_ocsp(rebuilt(WHOLE, change(revoked), *SINGLE, 1)).status == "revoked"


def test_more_certificates_than_a_responder_needs_are_refused() -> None:
    def with_certificates(count: int) -> bytes:
        return sealed_ocsp(data, private_key(AUTHORITY.seed), element(0xA0, element(0x30, RESPONDER * count)))

    data = children(children(children(children(WHOLE)[1])[0])[1])[0]
    data = children(data)[0]
    assert len(parse_ocsp(with_certificates(8)).certificates) == 8
    with pytest.raises(FormatError, match="at most 8, got more"):
        parse_ocsp(with_certificates(9))
