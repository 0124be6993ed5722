"""OCSP responses as frozen types: the DER as it came, and what one says of one certificate.

    OCSPResponse { successful, { id-pkix-ocsp-basic, BasicOCSPResponse { ResponseData { responder, producedAt,
        { { certID, good, thisUpdate, nextUpdate? } } }, signature, certificates? } } }

An `OcspResponse` is parsed, not verified. It is about exactly one certificate,
as a response to one question is: so the later one of a certificate takes the
place of the earlier one, whole. A critical extension is refused, since it says
that the response means something else.

>>> parse_ocsp(b"0")
Traceback (most recent call last):
...
writ.formats.errors.FormatError: OCSP response.whole at byte 0: expected a DER element, got the end

Source: RFC 6960 section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from writ.formats.der import BOOLEAN, GENERALIZED_TIME, OCTET_STRING, SEQUENCE, DerReader, Element
from writ.formats.errors import FormatError
from writ.formats.x509 import Certificate, parse_certificate
from writ.formats.x509_key import SignatureAlgorithm, parse_signature_algorithm

MAX_OCSP: Final = 16384
"""Bytes of one response; with the certificate of its responder one has about 2,000."""
MOST_RESPONDERS: Final = 8
"""Certificates within one response."""
CERT_ID_HASHES: Final = {"1.3.14.3.2.26": "sha1", "2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384"}
"""What a CertID may name the issuer with. It names and proves nothing, so that SHA-1, the usual one, is as good. NVIDIA has SHA-384."""

_BASIC: Final = "1.3.6.1.5.5.7.48.1.1"
_ENUMERATED: Final = 0x0A
_GOOD, _REVOKED, _UNKNOWN = 0x80, 0xA1, 0x82


@dataclass(frozen=True, slots=True)
class CertId:
    """Which certificate is meant: `hash` of its issuer's name (DER) and of its issuer's key, and its serial number."""

    hash: str
    issuer_name: bytes
    issuer_key: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class OcspResponse:
    """A successful basic response as its DER says it.

    `status` is "good", "revoked" or "unknown". Times are seconds since the epoch; `next_update` is None where the responder promises
    none. The responder is known by its name (DER) or by the SHA-1 of its key, the other is None; `certificates` came along.
    """

    der: bytes
    certificate: CertId
    status: str
    produced_at: int
    this_update: int
    next_update: int | None
    responder_name: bytes | None
    responder_key: bytes | None
    certificates: tuple[Certificate, ...]
    signed: bytes
    algorithm: SignatureAlgorithm | None
    signature: bytes


def parse_ocsp(der: bytes) -> OcspResponse:
    """Read exactly one response about one certificate, in DER. Raises FormatError, and nothing else."""
    if len(der) > MAX_OCSP:
        raise FormatError("OCSP response", f"at most {MAX_OCSP} bytes", f"{len(der)} bytes")
    outer = DerReader(der, "OCSP response")
    whole = outer.sequence("whole")
    outer.done()
    if (status := whole.next("status", _ENUMERATED).content) != b"\0":
        raise whole.error("status", "00, successful", status[:4].hex() or "nothing")
    content = _explicit(whole, "bytes", 0xA0)
    whole.done()
    if (kind := content.oid("type")) != _BASIC:
        raise content.error("type", _BASIC, kind)
    basic = content.inside(content.next("response", OCTET_STRING), "response")
    content.done()
    f = basic.sequence("basic")
    basic.done()
    data, algorithm, signature = f.next("data", SEQUENCE), f.next("algorithm", SEQUENCE), f.bits("signature")
    certificates = _certificates(_explicit(f, "certificates", 0xA0)) if f.more else ()
    f.done()
    return _response(der, data, certificates, parse_signature_algorithm(algorithm.raw), signature)


@lru_cache(maxsize=2048)
def kept_ocsp(der: bytes) -> OcspResponse:
    """The `parse_ocsp` of a response that is kept and read again and again: an enrolment reads all that are held. Raises FormatError."""
    return parse_ocsp(der)


def _response(
    der: bytes, data: Element, certificates: tuple[Certificate, ...], algorithm: SignatureAlgorithm | None, signature: bytes
) -> OcspResponse:
    """ResponseData, RFC 6960 section 4.2.1."""
    f = DerReader(data.content, "OCSP response")
    if f.next_tag == 0xA0:
        version = f.sequence("version", 0xA0)
        if version.integer("number", most=1) != 0:
            raise f.error("version", "1", "another")
        version.done()
    by_name = f.next_tag == 0xA1
    responder = f.sequence("responder", 0xA1 if by_name else 0xA2)
    name = responder.next("responder", SEQUENCE if by_name else OCTET_STRING)
    responder.done()
    produced_at = _time(f, "produced_at")
    answers = f.sequence("responses")
    one = answers.sequence("response")
    if answers.more:
        raise f.error("responses", "one certificate", "more")
    _no_critical(f)
    f.done()
    certificate, status = _cert_id(one.sequence("certificate")), _status(one)
    this_update = _time(one, "this_update")
    next_update = None
    if one.next_tag == 0xA0:
        following = one.sequence("next_update", 0xA0)
        next_update = _time(following, "time")
        following.done()
    _no_critical(one)
    one.done()
    return OcspResponse(
        der, certificate, status, produced_at, this_update, next_update, name.raw if by_name else None,
        None if by_name else name.content, certificates, data.raw, algorithm, signature,
    )  # fmt: skip


def _cert_id(f: DerReader) -> CertId:
    algorithm = f.sequence("hash")
    if (oid := algorithm.oid("oid")) not in CERT_ID_HASHES:
        raise f.error("hash", " or ".join(CERT_ID_HASHES.values()), oid)
    name, key = f.next("name", OCTET_STRING).content, f.next("key", OCTET_STRING).content
    found = CertId(CERT_ID_HASHES[oid], name, key, f.integer("serial"))
    f.done()
    return found


def _status(f: DerReader) -> str:
    status = f.next("status")
    if status.tag == _REVOKED:
        revoked = f.inside(status, "revoked")
        _time(revoked, "time")
        revoked.optional("reason", 0xA0)
        revoked.done()
        return "revoked"
    if status.tag not in (_GOOD, _UNKNOWN) or status.content:
        raise f.error("status", "good, revoked or unknown", status.raw[:4].hex())
    return "good" if status.tag == _GOOD else "unknown"


def _certificates(f: DerReader) -> tuple[Certificate, ...]:
    found: list[Certificate] = []
    while f.more:
        if len(found) == MOST_RESPONDERS:
            raise f.error("certificate", f"at most {MOST_RESPONDERS}", "more")
        found.append(parse_certificate(f.next("certificate", SEQUENCE).raw))
    return tuple(found)


def _no_critical(f: DerReader) -> None:
    """Pass over the extensions that come next, if any do; none is critical."""
    if f.next_tag != 0xA1:
        return
    items = _explicit(f, "extensions", 0xA1)
    while items.more:
        item = items.sequence("extension")
        oid = item.oid("oid")
        if item.next_tag == BOOLEAN and item.boolean("critical"):
            raise item.error("oid", "no critical extension", oid)
        item.next("value", OCTET_STRING)
        item.done()


def _explicit(f: DerReader, field: str, tag: int) -> DerReader:
    """A reader of the SEQUENCE that `tag` holds, alone."""
    outer = f.sequence(field, tag)
    inner = outer.sequence("sequence")
    outer.done()
    return inner


def _time(f: DerReader, field: str) -> int:
    if f.next_tag != GENERALIZED_TIME:
        raise f.error(field, "a GeneralizedTime", "something else")
    return f.time(field)
