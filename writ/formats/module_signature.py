"""Module signatures (modsig): the PKCS #7 that is appended to a file, as the IMA list carries it without the file.

    ContentInfo { signedData, SignedData { version, { SHA-256 }, { data, nothing }, certificates?,
        { SignerInfo { version, signer, SHA-256, rsaEncryption, signature } } } }

What is signed is the file up to the signature: `d-modsig` in the list is its
hash. One signer, no signed attributes (the kernel refuses them here: their
hash, and not the file's, would be signed), no content within. Certificates that
came along vouch for nothing and are passed over.

>>> parse_module_signature(b"0")
Traceback (most recent call last):
...
writ.formats.errors.FormatError: module signature.info at byte 0: expected a DER element, got the end

Source: RFC 2315 section 9 and RFC 5652 section 5; Linux crypto/asymmetric_keys/pkcs7_parser.c and pkcs7_verify.c
(VERIFYING_MODULE_SIGNATURE), security/integrity/ima/ima_modsig.c, scripts/sign-file.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.der import OCTET_STRING, SEQUENCE, SET, DerReader
from writ.formats.x509_key import HASH_OIDS

_SIGNED_DATA: Final = "1.2.840.113549.1.7.2"
_DATA: Final = "1.2.840.113549.1.7.1"
_RSA: Final = "1.2.840.113549.1.1.1"
_SIGNATURES: Final = {
    "sha256": (_RSA, "1.2.840.10045.4.3.2"), "sha384": (_RSA, "1.2.840.10045.4.3.3"), "sha512": (_RSA, "1.2.840.10045.4.3.4"),
}  # fmt: skip
"""Of each accepted hash: RSA (PKCS #1 v1.5), and ECDSA with that hash."""
_NAMES: Final = {1: SEQUENCE, 3: 0x80}
"""By version the tag of what names the signer: IssuerAndSerialNumber, or SubjectKeyIdentifier."""
_NULL: Final = b"\x05\0"


@dataclass(frozen=True, slots=True)
class ModuleSignature:
    """A module signature as parsed. Nothing says yet who signed it.

    `signer` is how it names the certificate of its key: issuer and serial number as they stand in it, both DER, or the subject key
    identifier. `hash` is of what it signs.
    """

    signer: bytes
    hash: str
    signature: bytes


def parse_module_signature(data: bytes) -> ModuleSignature:
    """Read exactly one signature in DER, by one signer. Raises FormatError, and nothing else."""
    outer = DerReader(data, "module signature")
    info = outer.sequence("info")
    outer.done()
    _type(info, _SIGNED_DATA)
    explicit = info.sequence("content", 0xA0)
    info.done()
    f = explicit.sequence("data")
    explicit.done()
    version = f.integer("version", most=1)
    hashes = f.sequence("hashes", SET)
    hashed = _hash(hashes)
    hashes.done()
    content = f.sequence("content")
    _type(content, _DATA)
    content.done()
    for passed_over in (0xA0, 0xA1):  # certificates and CRLs
        f.optional("certificates", passed_over)
    signers = f.sequence("signers", SET)
    f.done()
    signer = signers.sequence("signer")
    signers.done()
    return _signer(signer, version, hashed)


def _signer(f: DerReader, version: int, hashed: str) -> ModuleSignature:
    """SignerInfo, RFC 5652 section 5.3."""
    if version not in _NAMES or f.integer("version", most=1) != version:
        raise f.error("version", "1 or 3, the same of data and signer", "others")
    name = f.next("name", _NAMES[version])
    if _hash(f) != hashed:
        raise f.error("hash", hashed, "another")
    if (oid := _algorithm(f)) not in _SIGNATURES[hashed]:
        raise f.error("algorithm", f"RSA, or ECDSA with {hashed}, without signed attributes", oid)
    signature = f.next("signature", OCTET_STRING).content
    f.done()
    return ModuleSignature(name.content, hashed, signature)


def _type(f: DerReader, expected: str) -> None:
    if (oid := f.oid("type")) != expected:
        raise f.error("type", expected, oid)


def _hash(f: DerReader) -> str:
    if (oid := _algorithm(f)) not in HASH_OIDS:
        raise f.error("hash", " or ".join(HASH_OIDS.values()), oid)
    return HASH_OIDS[oid]


def _algorithm(f: DerReader) -> str:
    """The OID of an AlgorithmIdentifier whose parameters are NULL or absent."""
    inner = f.sequence("algorithm")
    oid = inner.oid("oid")
    if inner.more and inner.next("parameters").raw != _NULL:
        raise inner.error("parameters", "NULL or none", "others")
    inner.done()
    return oid
