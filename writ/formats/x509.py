"""X.509 certificates as frozen types: the DER as it came, and the fields that verdicts read.

A `Certificate` is parsed, not verified: no signature, date, name or
constraint has been judged. Names and the public key are the DER within the
certificate, so two names are equal when their bytes are.

>>> parse_certificate(b"0")
Traceback (most recent call last):
...
writ.formats.errors.FormatError: certificate: expected one DER certificate, got bytes that are not one

Source: RFC 5280 section 4; TCG EK Credential Profile for TPM Family 2.0, on the subject alternative name.
"""

from __future__ import annotations

import base64
import binascii
import calendar
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509

from writ.formats.errors import FormatError

MAX_CERTIFICATE: Final = 16384
"""Bytes of one certificate; EK certificates have about 1,200."""
MAX_CERTIFICATES: Final = 64

EKU_EK: Final = "2.23.133.8.1"
"""tcg-kp-EKCertificate."""

_TPM_ATTRIBUTES: Final = ("2.23.133.2.1", "2.23.133.2.2", "2.23.133.2.3")
"""tpmManufacturer, tpmModel, tpmVersion, in the DirectoryName of the subject alternative name."""

_Kind = TypeVar("_Kind", bound=x509.ExtensionType)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate as its DER says it. Proves nothing about who issued it.

    `subject`, `issuer` and `spki` are DER. Times are seconds since the epoch,
    both inclusive. `is_ca` is the basic constraint; `path_length` its limit.
    `signs_certificates` is keyCertSign, None without a key usage. `eku` holds
    dotted OIDs in the order given. The TPM attributes are text such as
    "id:494E5443", None where the certificate does not state them.
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
    eku: tuple[str, ...]
    tpm_manufacturer: str | None
    tpm_model: str | None
    tpm_version: str | None
    subject_text: str

    @property
    def is_self_issued(self) -> bool:
        """Whether subject and issuer are the same name; the signature is another question."""
        return self.subject == self.issuer


def parse_certificate(der: bytes) -> Certificate:
    """Read exactly one certificate and no byte behind it. Raises FormatError, and nothing else."""
    if len(der) > MAX_CERTIFICATE:
        raise FormatError("certificate", f"at most {MAX_CERTIFICATE} bytes", f"{len(der)} bytes")
    try:
        loaded = x509.load_der_x509_certificate(der)
        return _fields(der, loaded)
    except Exception:  # noqa: BLE001 - the library raises many families on hostile bytes, and a warning may be an error
        raise FormatError("certificate", "one DER certificate", "bytes that are not one") from None


def parse_stored_certificate(data: bytes) -> Certificate:
    """Read a certificate from a TPM's NV index, where one byte repeated may fill the rest. Raises FormatError.

    Source: TCG EK Credential Profile for TPM Family 2.0, on the NV indices (which may be larger than the certificate).
    """
    _, _, end = _element(data, 0, "certificate")
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
        found.append(parse_certificate(der))
    return tuple(found)


def to_pem(certificate: Certificate) -> str:
    """The certificate in PEM (RFC 7468 section 5), lines of 64."""
    text = base64.b64encode(certificate.der).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def _fields(der: bytes, loaded: x509.Certificate) -> Certificate:
    issuer, subject, spki = _parts(der)
    constraints = _extension(loaded, x509.BasicConstraints)
    usage = _extension(loaded, x509.KeyUsage)
    extended = _extension(loaded, x509.ExtendedKeyUsage)
    manufacturer, model, version = _tpm_attributes(_extension(loaded, x509.SubjectAlternativeName))
    return Certificate(
        der=der,
        subject=subject,
        issuer=issuer,
        serial=loaded.serial_number,
        not_before=_seconds(loaded.not_valid_before_utc),
        not_after=_seconds(loaded.not_valid_after_utc),
        spki=spki,
        is_ca=constraints is not None and constraints.ca,
        path_length=None if constraints is None else constraints.path_length,
        signs_certificates=None if usage is None else usage.key_cert_sign,
        eku=() if extended is None else tuple(oid.dotted_string for oid in extended),
        tpm_manufacturer=manufacturer,
        tpm_model=model,
        tpm_version=version,
        subject_text=loaded.subject.rfc4514_string()[:1024],
    )


def _extension(loaded: x509.Certificate, kind: type[_Kind]) -> _Kind | None:
    try:
        return loaded.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _tpm_attributes(names: x509.SubjectAlternativeName | None) -> tuple[str | None, ...]:
    found: dict[str, str] = {}
    for directory in [] if names is None else names.get_values_for_type(x509.DirectoryName):
        for attribute in directory:
            oid = attribute.oid.dotted_string
            if oid in found and oid in _TPM_ATTRIBUTES:
                raise ValueError("a TPM attribute twice")
            if isinstance(attribute.value, str):
                found[oid] = attribute.value
    return tuple(found.get(oid) for oid in _TPM_ATTRIBUTES)


def _seconds(when: datetime) -> int:
    return calendar.timegm(when.utctimetuple())


# --- DER ---------------------------------------------------------------------------------------------------------------


def _element(der: bytes, at: int, what: str) -> tuple[int, int, int]:
    """(tag, start of content, end) of the element at `at`: single-byte tags, shortest definite lengths (X.690 section 10.1)."""
    if at + 2 > len(der):
        raise FormatError(what, "a DER element", "the end", at)
    tag, length, start = der[at], der[at + 1], at + 2
    if length > 0x80:
        size = length - 0x80
        length = int.from_bytes(der[start : start + size], "big")
        start += size
        if size > 4 or length < 0x80 or length.bit_length() <= 8 * (size - 1):
            raise FormatError(what, "a shortest DER length", "another spelling", at)
    elif length == 0x80:
        raise FormatError(what, "a definite length", "an indefinite one", at)
    if start + length > len(der):
        raise FormatError(what, f"{length} bytes", f"{len(der) - start} bytes", at)
    return tag, start, start + length


def _parts(der: bytes) -> tuple[bytes, bytes, bytes]:
    """Issuer, subject and SubjectPublicKeyInfo as they stand in the TBSCertificate (RFC 5280 section 4.1)."""
    _, at, _ = _element(der, 0, "certificate")
    _, at, end = _element(der, at, "certificate")
    elements: list[bytes] = []
    while at < end and len(elements) < 7:
        tag, _, after = _element(der, at, "certificate")
        if tag != 0xA0:  # [0] version, absent in version 1
            elements.append(der[at:after])
        at = after
    _serial, _algorithm, issuer, _validity, subject, spki = elements[:6]
    return issuer, subject, spki
