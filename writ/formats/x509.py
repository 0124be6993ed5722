"""X.509 certificates as frozen types: the DER as it came, and the fields that verdicts read.

A `Certificate` is parsed, not verified: no signature, date, name or
constraint has been judged. Names and the public key are the DER within the
certificate, so two names are equal when their bytes are. The reading is our
own, since TPM manufacturers issue what general libraries refuse: a SET out of
order, parameters beside an ECDSA algorithm, an EK marked RSAES-OAEP.

>>> parse_certificate(b"0")
Traceback (most recent call last):
...
writ.formats.errors.FormatError: certificate.whole at byte 0: expected a DER element, got the end

Source: RFC 5280 section 4; TCG EK Credential Profile for TPM Family 2.0, on the subject alternative name.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from writ.formats.der import BOOLEAN, OCTET_STRING, SEQUENCE, SET, DerReader, Element, element_end, text_of
from writ.formats.errors import FormatError
from writ.formats.x509_key import SignatureAlgorithm, parse_signature_algorithm

MAX_CERTIFICATE: Final = 16384
"""Bytes of one certificate; EK certificates have about 1,200."""
MAX_CERTIFICATES: Final = 64

EKU_EK: Final = "2.23.133.8.1"
"""tcg-kp-EKCertificate."""
EKU_OCSP: Final = "1.3.6.1.5.5.7.3.9"
"""id-kp-OCSPSigning."""
_OCSP_NO_CHECK: Final = "1.3.6.1.5.5.7.48.1.5"

_TPM_ATTRIBUTES: Final = ("2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3")
"""tpmManufacturer, tpmModel, tpmVersion, in the DirectoryName of the subject alternative name."""

_KNOWN_CRITICAL: Final = frozenset({"2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.32", "2.5.29.37"})
"""Key usage, subject alternative name, basic constraints, certificate policies (of which none is required), extended key usage."""
_SHORT_NAMES: Final = {
    "2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.1": "UID", "0.9.2342.19200300.100.1.25": "DC",
}  # fmt: skip
_MOST_EXTENSIONS: Final = 64

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate as its DER says it. Proves nothing about who issued it.

    `subject`, `issuer` and `spki` are DER. Times are seconds since the epoch,
    both inclusive. `is_ca` is the basic constraint; `path_length` its limit.
    `signs_certificates` is keyCertSign and `signs_crls` is cRLSign, None
    without a key usage. `eku` holds dotted OIDs in the order given, `ocsp_no_check`
    says that no revocation of this OCSP responder need be asked for, `critical`
    are the critical extensions that are none of ours, `crl_addresses` where its
    CRLs are said to lie. The TPM attributes are text such as "id:494E5443",
    None where the certificate does not state them; `names_directory` says
    whether the subject alternative name holds a DirectoryName. `signed` are
    the bytes under `signature`; `algorithm` is None where it is not ours.
    """

    der: bytes
    subject: bytes
    issuer: bytes
    serial: int
    not_before: int
    not_after: int
    spki: bytes
    is_ca: bool
    path_length: int | None
    signs_certificates: bool | None
    signs_crls: bool | None
    eku: tuple[str, ...]
    ocsp_no_check: bool
    tpm_manufacturer: str | None
    tpm_model: str | None
    tpm_version: str | None
    names_directory: bool
    critical: tuple[str, ...]
    crl_addresses: tuple[str, ...]
    subject_text: str
    signed: bytes
    algorithm: SignatureAlgorithm | None
    signature: bytes

    @property
    def is_self_issued(self) -> bool:
        """Whether subject and issuer are the same name; the signature is another question."""
        return self.subject == self.issuer


def parse_certificate(der: bytes) -> Certificate:
    """Read exactly one certificate and no byte behind it. Raises FormatError, and nothing else.

    An attribute certificate (RFC 5755), which is how platform certificates
    come, is named as what it is: its body begins with a version and a holder.
    """
    if len(der) > MAX_CERTIFICATE:
        raise FormatError("certificate", f"at most {MAX_CERTIFICATE} bytes", f"{len(der)} bytes")
    outer = DerReader(der, "certificate")
    whole = outer.sequence("whole")
    outer.done()
    tbs = whole.next("body", SEQUENCE)
    algorithm, signature = whole.next("algorithm", SEQUENCE), whole.bits("signature")
    whole.done()
    return _fields(der, tbs, algorithm, signature)


def parse_stored_certificate(data: bytes) -> Certificate:
    """Read a certificate from a TPM's NV index, where one byte repeated may fill the rest. Raises FormatError.

    A TPM 1.2 puts seven bytes before it: TCG_PCCLIENT_STORED_CERT with its
    size, and the tag of a full certificate.

    Source: TCG EK Credential Profile for TPM Family 2.0, on the NV indices (which may be larger than the certificate);
    TCG PC Client Specific Implementation Specification for Conventional BIOS 1.21, section 7.4.4.
    """
    if data[:3] == b"\x10\x01\x00" and data[5:7] == b"\x10\x02":
        data = data[7 : 5 + int.from_bytes(data[3:5], "big")]
    _, _, end = element_end(data, 0, "certificate")
    if len(set(data[end:])) > 1:
        raise FormatError("certificate", "padding of one repeated byte behind it", "other bytes", end)
    return parse_certificate(data[:end])


def parse_pem_certificates(data: bytes, what: str, *, most: int = MAX_CERTIFICATES) -> tuple[Certificate, ...]:
    """Read 1 to `most` PEM certificates. Text between them is ignored, another kind of PEM block is not. Raises FormatError."""
    if len(data) > most * 2 * MAX_CERTIFICATE:
        raise FormatError(what, f"at most {most * 2 * MAX_CERTIFICATE} bytes", f"{len(data)} bytes")
    blocks = _PEM.findall(data)
    if not 1 <= len(blocks) <= most:
        raise FormatError(what, f"1 to {most} PEM certificates", f"{len(blocks)}")
    if data.count(b"-----BEGIN") != len(blocks) or data.count(b"-----END") != len(blocks):
        raise FormatError(what, "whole PEM certificates and no other PEM block", "another block, or a part of one")
    found = []
    for block in blocks:
        try:
            der = base64.b64decode(b"".join(block.split()), validate=True)
        except binascii.Error:
            raise FormatError(what, "base64 in the PEM block", "text that is not") from None
        found.append(parse_kept_certificate(der))
    return tuple(found)


@lru_cache(maxsize=256)
def parse_kept_certificate(der: bytes) -> Certificate:
    """The `parse_certificate` of one that comes again and again: CAs stand in every chain. Raises FormatError."""
    return parse_certificate(der)


def to_pem(certificate: Certificate) -> str:
    """The certificate in PEM (RFC 7468 section 5), lines of 64."""
    text = base64.b64encode(certificate.der).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def _fields(der: bytes, tbs: Element, algorithm: Element, signature: bytes) -> Certificate:
    """TBSCertificate, RFC 5280 section 4.1."""
    f = DerReader(tbs.content, "certificate")
    version = 1
    if (explicit := f.optional("version", 0xA0)) is not None:
        number = f.inside(explicit, "version")
        version = 1 + number.integer("number", most=1)
        number.done()
    elif _is_attribute_certificate(tbs.content):
        raise FormatError("certificate", "a public key certificate", "an attribute certificate, which certifies no key")
    if version not in (1, 2, 3):
        raise FormatError("certificate.version", "1 to 3", str(version))
    serial = f.integer("serial")
    inner = f.next("algorithm", SEQUENCE)
    if f.inside(inner, "algorithm").oid("oid") != f.inside(algorithm, "algorithm").oid("oid"):
        raise FormatError("certificate.algorithm", "the same within and beside the signature", "two")
    issuer = f.next("issuer", SEQUENCE)
    validity = f.sequence("validity")
    not_before, not_after = validity.time("not_before"), validity.time("not_after")
    validity.done()
    subject, spki = f.next("subject", SEQUENCE), f.next("key", SEQUENCE)
    for unique in (0x81, 0x82):
        f.optional("unique identifier", unique)
    extensions = _extensions(f)
    f.done()
    constraints, usage = _constraints(extensions.get("2.5.29.19")), _usage(extensions.get("2.5.29.15"))
    tpm, directory = _alternative_names(extensions.get("2.5.29.17"))
    _attributes(issuer)
    return Certificate(
        der=der,
        subject=subject.raw,
        issuer=issuer.raw,
        serial=serial,
        not_before=not_before,
        not_after=not_after,
        spki=spki.raw,
        is_ca=constraints[0],
        path_length=constraints[1],
        signs_certificates=None if usage is None else 5 in usage,
        signs_crls=None if usage is None else 6 in usage,
        eku=_extended_usage(extensions.get("2.5.29.37")),
        ocsp_no_check=_OCSP_NO_CHECK in extensions,
        tpm_manufacturer=tpm[0],
        tpm_model=tpm[1],
        tpm_version=tpm[2],
        names_directory=directory,
        critical=tuple(oid for oid, (critical, _) in extensions.items() if critical and oid not in _KNOWN_CRITICAL),
        crl_addresses=_crl_addresses(extensions.get("2.5.29.31")),
        subject_text=_name_text(subject)[:1024],
        signed=tbs.raw,
        algorithm=parse_signature_algorithm(algorithm.raw),
        signature=signature,
    )


def _is_attribute_certificate(body: bytes) -> bool:
    """AttributeCertificateInfo (RFC 5755 section 4.1) begins with version 1 (v2) and a holder; a TBSCertificate never so."""
    f = DerReader(body, "certificate")
    first, second = f.next("first"), f.next("second")
    return first.raw == b"\x02\x01\x01" and second.content[:1] in (b"\xa0", b"\xa1", b"\xa2")


Extension = tuple[bool, DerReader]


def _extensions(f: DerReader) -> dict[str, Extension]:
    found: dict[str, Extension] = {}
    explicit = f.optional("extensions", 0xA3)
    if explicit is None:
        return found
    outer = f.inside(explicit, "extensions")
    items = outer.sequence("list")
    outer.done()
    while items.more:
        item = items.sequence("extension")
        oid = item.oid("oid")
        critical = item.next_tag == BOOLEAN and item.boolean("critical")
        value = item.next("value", OCTET_STRING)
        item.done()
        if oid in found or len(found) >= _MOST_EXTENSIONS:
            raise FormatError("certificate.extensions", f"at most {_MOST_EXTENSIONS}, each once", oid)
        found[oid] = (critical, items.inside(value, oid))
    return found


def extension_values(certificate: Certificate) -> dict[str, bytes]:
    """The content of each extension by its OID, as it stands: for those that only their vendor knows."""
    body = DerReader(certificate.signed, "certificate").sequence("body")
    while body.more and body.next_tag != 0xA3:
        body.next("field")
    return {oid: reader.rest for oid, (_, reader) in _extensions(body).items()}


def _constraints(extension: Extension | None) -> tuple[bool, int | None]:
    if extension is None:
        return False, None
    f = extension[1].sequence("constraints")
    extension[1].done()
    is_ca = f.next_tag == BOOLEAN and f.boolean("ca")
    length = f.integer("path length", most=4) if f.more else None
    f.done()
    return is_ca, length


def _usage(extension: Extension | None) -> frozenset[int] | None:
    if extension is None:
        return None
    flags = extension[1].flags("bits")
    extension[1].done()
    return flags


def _extended_usage(extension: Extension | None) -> tuple[str, ...]:
    if extension is None:
        return ()
    f, found = extension[1].sequence("usages"), []
    while f.more:
        found.append(f.oid("usage"))
    return tuple(found)


def _alternative_names(extension: Extension | None) -> tuple[tuple[str | None, ...], bool]:
    """The TPM attributes in the DirectoryNames of the subject alternative name, and whether there is a DirectoryName."""
    found: dict[str, str] = {}
    directory = False
    names = None if extension is None else extension[1].sequence("names")
    while names is not None and names.more:
        name = names.next("name")
        if name.tag >> 6 != 2:
            raise FormatError("certificate.subjectAltName", "a general name", f"tag {name.tag:02x}")
        if name.tag != 0xA4:
            continue
        directory = True
        inner = names.inside(name, "directory")
        for oid, value in _attributes(inner.next("name", SEQUENCE)):
            if oid in found and oid in _TPM_ATTRIBUTES:
                raise FormatError("certificate.subjectAltName", "each TPM attribute once", oid)
            if (text := text_of(value)) is not None:
                found[oid] = text
        inner.done()
    return tuple(found.get(oid) for oid in _TPM_ATTRIBUTES), directory


def _crl_addresses(extension: Extension | None) -> tuple[str, ...]:
    """The URIs of the CRL distribution points (RFC 5280 section 4.2.1.13), as text that nothing here follows."""
    found: list[str] = []
    points = None if extension is None else extension[1].sequence("points")
    while points is not None and points.more:
        point = points.sequence("point")
        if (name := point.optional("name", 0xA0)) is None or (full := point.inside(name, "name").optional("full", 0xA0)) is None:
            continue
        general = point.inside(full, "full")
        while general.more:
            if (one := general.next("name")).tag == 0x86:
                found.append(one.content.decode("ascii", "replace")[:1024])
    return tuple(found)


def _attributes(name: Element) -> list[tuple[str, Element]]:
    """(type, value) of each attribute of a Name, in its order; those of one RDN after each other."""
    return [attribute for rdn in _rdns(name) for attribute in rdn]


def _rdns(name: Element) -> list[list[tuple[str, Element]]]:
    f, found = DerReader(name.content, "name"), []
    while f.more:
        members, rdn = f.sequence("rdn", SET), []
        while members.more:
            pair = members.sequence("attribute")
            rdn.append((pair.oid("type"), pair.next("value")))
            pair.done()
        found.append(rdn)
    return found


def _name_text(name: Element) -> str:
    """The name as RFC 4514 writes it: the last RDN first."""
    return ",".join("+".join(f"{_SHORT_NAMES.get(oid, oid)}={_value_text(value)}" for oid, value in rdn) for rdn in reversed(_rdns(name)))


def _value_text(value: Element) -> str:
    text = text_of(value)
    if text is None:
        return "#" + value.raw.hex()
    text = re.sub(r'([\\",+;<>])', r"\\\1", text).replace("\0", "\\00")
    if text.startswith(("#", " ")):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") else text
