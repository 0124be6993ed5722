"""CRLs: the DER kept, the fields read, and what speaks for less than all certificates of its issuer refused."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.parsers import assert_parser_is_total
from tests.world.authority import Ca, at
from tests.world.chip import private_key
from writ.formats.crl import ALL, MAX_CRL, Scope, parse_crl
from writ.formats.errors import FormatError
from writ.formats.x509 import parse_certificate

NOW = 1_790_000_000
AUTHORITY = Ca("authority")
WHOLE = AUTHORITY.crl(5, 0x7FFF, this=NOW, following=NOW + 60, reason=x509.CRLReason(x509.ReasonFlags.key_compromise))


def pem(der: bytes, kind: str = "X509 CRL") -> bytes:
    return f"-----BEGIN {kind}-----\n{base64.encodebytes(der).decode()}-----END {kind}-----\n".encode()


def test_crl_gives_issuer_times_and_serials() -> None:
    found = parse_crl(WHOLE)
    assert found.issuer == parse_certificate(AUTHORITY.certificate()).subject
    assert (found.this_update, found.next_update, found.revoked) == (NOW, NOW + 60, frozenset({5, 0x7FFF}))
    assert found.der == WHOLE
    assert found.algorithm is not None
    assert (found.algorithm.name, found.algorithm.hash) == ("ecdsa", "sha256")
    library = x509.load_der_x509_crl(WHOLE)
    assert (found.signed, found.signature) == (library.tbs_certlist_bytes, library.signature)


def test_empty_crl_and_pem_are_read() -> None:
    assert parse_crl(AUTHORITY.crl(this=NOW)).revoked == frozenset()
    assert parse_crl(pem(WHOLE)) == parse_crl(WHOLE)


def test_parser_is_total() -> None:
    assert_parser_is_total(parse_crl, WHOLE)


@pytest.mark.parametrize(
    "data", [b"", pem(WHOLE, "CERTIFICATE"), pem(WHOLE) + pem(WHOLE), pem(WHOLE)[:-30], b"0" * (2 * MAX_CRL + 1), AUTHORITY.certificate()]
)
def test_something_else_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_crl(data)


def point(**given: object) -> x509.IssuingDistributionPoint:
    """A distribution point that says nothing but what is given."""
    plain = {
        "full_name": None, "relative_name": None, "only_contains_user_certs": False, "only_some_reasons": None, "indirect_crl": False,
        "only_contains_attribute_certs": False, "only_contains_ca_certs": False,
    }  # fmt: skip
    return x509.IssuingDistributionPoint(**(plain | given))  # type: ignore[arg-type]


PLACES = [x509.UniformResourceIdentifier(f"http://crl.example/{name}.crl") for name in ("b", "a")]
REASONS = frozenset({x509.ReasonFlags.key_compromise})


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize(
    "extension",
    [
        pytest.param(x509.DeltaCRLIndicator(1), id="delta"),
        pytest.param(point(full_name=PLACES, indirect_crl=True), id="indirect"),
        pytest.param(point(full_name=PLACES, only_some_reasons=REASONS), id="some reasons"),
        pytest.param(point(only_contains_attribute_certs=True), id="attribute certificates"),
        pytest.param(point(full_name=[x509.RFC822Name("a@b.example")]), id="no address"),
        pytest.param(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.28"), b"\x30\x06\x81\x01\xff\x82\x01\xff"), id="nobody"),
    ],
)  # fmt: skip
def test_crl_that_says_less_than_it_seems_to_is_refused(extension: x509.ExtensionType, critical: bool) -> None:
    with pytest.raises(FormatError, match="list of all certificates of its issuer"):
        parse_crl(AUTHORITY.crl(this=NOW, extensions=((extension, critical),)))
    assert parse_crl(numbered(7)).revoked == frozenset()


def test_issuer_of_an_entry_is_refused_and_a_relative_name_as_well() -> None:
    issuer = x509.CertificateIssuer([x509.DirectoryName(AUTHORITY.subject())])
    made = x509.CertificateRevocationListBuilder().issuer_name(AUTHORITY.subject()).last_update(at(NOW)).next_update(at(NOW + 60))
    entry = x509.RevokedCertificateBuilder().serial_number(5).revocation_date(at(NOW)).add_extension(issuer, critical=True).build()
    der = made.add_revoked_certificate(entry).sign(private_key(AUTHORITY.seed), hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(FormatError, match="list of all certificates"):
        parse_crl(der)
    relative = point(relative_name=x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "part")]))
    with pytest.raises(FormatError, match="CRL"):
        parse_crl(AUTHORITY.crl(this=NOW, extensions=((relative, True),)))


@pytest.mark.parametrize(
    "extension, scope",
    [
        (point(full_name=PLACES), Scope(("http://crl.example/a.crl", "http://crl.example/b.crl"))),
        (point(full_name=PLACES[:1], only_contains_user_certs=True), Scope(("http://crl.example/b.crl",), "users")),
        (point(only_contains_ca_certs=True), Scope((), "cas")),
    ],
)
def test_part_of_a_list_says_which(extension: x509.ExtensionType, scope: Scope) -> None:
    whole = AUTHORITY.crl(5, this=NOW, extensions=((extension, True), (x509.CRLNumber(7), False)))
    found = parse_crl(whole)
    assert (found.scope, found.number, found.revoked) == (scope, 7, frozenset({5}))
    assert parse_crl(WHOLE).scope == ALL
    assert_parser_is_total(parse_crl, whole, flips=1000)


def numbered(*numbers: int) -> bytes:
    return AUTHORITY.crl(this=NOW, extensions=tuple((x509.CRLNumber(number), False) for number in numbers))


@pytest.mark.parametrize("number", [0, 7, (1 << 160) - 1])
def test_number_of_a_crl_is_read(number: int) -> None:
    assert parse_crl(numbered(number)).number == number
    assert parse_crl(WHOLE).number is None


NUMBER, OTHER = (x509.ObjectIdentifier(oid) for oid in ("2.5.29.20", "2.5.29.99"))


def valued(value: bytes, *, twice: bool = False) -> bytes:
    """A CRL whose number is `value`, in DER; the signature over one with two of them does not hold, which is not asked here."""
    more = ((x509.UnrecognizedExtension(OTHER, value), False),) if twice else ()
    made = AUTHORITY.crl(this=NOW, extensions=((x509.UnrecognizedExtension(NUMBER, value), False), *more))
    return made.replace(b"\x55\x1d\x63", b"\x55\x1d\x14")


def test_number_that_is_none_is_refused() -> None:
    assert parse_crl(valued(b"\x02\x01\x07")).number == 7
    for value in (b"\x02\x01\xff", b"\x02\x16" + b"\1" * 22, b"\x02\x01\x07\0", b"\x04\x01\x07", b""):
        with pytest.raises(FormatError, match="CRL"):
            parse_crl(valued(value))
    with pytest.raises(FormatError, match=r"CRL.number: .*got 7, 7"):
        parse_crl(valued(b"\x02\x01\x07", twice=True))
