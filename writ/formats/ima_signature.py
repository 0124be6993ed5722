"""File signatures as the IMA list carries them: the header in security.ima, and who made it.

    03 02 04 a1b2c3d4 0100 <signature>     type, version, hash (enum hash_algo), key id, size; big-endian

Version 2 (type 3) signs the digest of the file; version 3 signs the hash of (type, hash, digest), of type 6 for an
fs-verity digest. A key's id is the last four bytes of the SHA-1 of its public key, or of its certificate's subject key
identifier. RSA is PKCS #1 v1.5, and ECDSA is in DER.

A module signature (`modsig`, PKCS #7 appended to the file) signs the file without it, and names the certificate of its
key, which must itself be of the keyring: no chain is followed. As in the kernel it is asked where there is no signature
of the other kind, or where the keyring does not have its key.

Source: Linux security/integrity/integrity.h (signature_v2_hdr, ima_file_id), digsig_asymmetric.c (asymmetric_verify),
ima/ima_appraise.c (ima_appraise_measurement), include/uapi/linux/hash_info.h (enum hash_algo); ima-evm-utils,
libimaevm.c (calc_keyid_v2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from writ.formats.der import DerReader
from writ.formats.digest import hash_bytes
from writ.formats.errors import FormatError
from writ.formats.eventlog.ima import Measured
from writ.formats.module_signature import parse_module_signature

IMA_XATTR: Final = 3
VERITY_XATTR: Final = 6
HASHES: Final = {4: "sha256", 5: "sha384", 6: "sha512"}
"""enum hash_algo of the hashes that are accepted."""
_HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {"sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}
_MIN_RSA: Final = 2048

Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class FileSignature:
    """A signature as parsed: `hash` is the kernel's number, and nothing says yet who signed."""

    type: int
    version: int
    hash: int
    key_id: bytes
    signature: bytes


def parse_file_signature(data: bytes) -> FileSignature:
    """Read the header and the signature, exactly. Raises FormatError."""
    if len(data) < 9:
        raise FormatError("file signature", "a header of 9 bytes", f"{len(data)} bytes")
    signature = data[9:]
    if int.from_bytes(data[7:9], "big") != len(signature):
        raise FormatError("file signature", f"{int.from_bytes(data[7:9], 'big')} bytes behind the header", f"{len(signature)} bytes")
    if (data[0], data[1]) not in ((IMA_XATTR, 2), (IMA_XATTR, 3), (VERITY_XATTR, 3)):
        raise FormatError("file signature", "type 3 of version 2 or 3, or type 6 of version 3", f"type {data[0]} of version {data[1]}")
    return FileSignature(data[0], data[1], data[2], data[3:7], signature)


def keys_of(certificates: tuple[bytes, ...]) -> dict[bytes, tuple[Key, ...]]:
    """The usable keys of these certificates, RSA of at least 2048 bits and ECC, by each name that a signature may have for them.

    The last four bytes of a key identifier, the whole identifier, or issuer and serial number of the certificate, as they stand in it.
    Raises FormatError for what is no certificate.
    """
    found: dict[bytes, tuple[Key, ...]] = {}
    for der in certificates:
        try:
            certificate = x509.load_der_x509_certificate(der)
            key = certificate.public_key()
            ids = {x509.SubjectKeyIdentifier.from_public_key(key).digest}
            ids |= {e.value.digest for e in certificate.extensions if isinstance(e.value, x509.SubjectKeyIdentifier)}
            names = {*ids, *(id_[-4:] for id_ in ids), _issuer_and_serial(certificate.tbs_certificate_bytes)}
        except Exception:  # noqa: BLE001 - the library raises many families on hostile bytes
            raise FormatError("keyring", "a DER certificate", "bytes that are not one") from None
        if isinstance(key, ec.EllipticCurvePublicKey) or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA):
            for name in names:
                found[name] = (*found.get(name, ()), key)
    return found


def _issuer_and_serial(body: bytes) -> bytes:
    """The content of the IssuerAndSerialNumber that names a certificate. Raises FormatError."""
    f = DerReader(body, "keyring").sequence("certificate")
    f.optional("version", 0xA0)
    serial = f.next("serial")
    f.next("algorithm")
    return f.next("issuer").raw + serial.raw


def judge_signature(measured: Measured, keys: Mapping[bytes, tuple[Key, ...]]) -> str:
    """What the signatures of an entry are worth under `keys`: the one of the file, or where none of them made it the module signature.

    "none"; "valid"; "unknown-key" where none of the keys has its id;
    "unsupported" for a module signature that is of another kind or malformed;
    else "invalid": it does not verify, is malformed, or is over a hash that is
    weak or not the measured one.
    """
    judged = _judge_file(measured, keys) if measured.signature else "none"
    return _judge_module(measured, keys) if measured.modsig and judged in ("none", "unknown-key") else judged


def _judge_file(measured: Measured, keys: Mapping[bytes, tuple[Key, ...]]) -> str:
    try:
        signature = parse_file_signature(measured.signature)
    except FormatError:
        return "invalid"
    candidates = keys.get(signature.key_id, ())
    if not candidates:
        return "unknown-key"
    algorithm = HASHES.get(signature.hash)
    if algorithm is None or algorithm != measured.algorithm or (signature.type == VERITY_XATTR) != (measured.kind == "verity"):
        return "invalid"
    signed = measured.digest
    if signature.version == 3:
        signed = hash_bytes(algorithm, bytes((signature.type, signature.hash)) + measured.digest)
    return "valid" if any(_verifies(key, signature.signature, signed, algorithm) for key in candidates) else "invalid"


def _judge_module(measured: Measured, keys: Mapping[bytes, tuple[Key, ...]]) -> str:
    try:
        module = parse_module_signature(measured.modsig)
    except FormatError:
        return "unsupported"
    candidates = keys.get(module.signer, ())
    if not candidates:
        return "unknown-key"
    if module.hash != measured.modsig_algorithm:
        return "invalid"
    return "valid" if any(_verifies(key, module.signature, measured.modsig_digest, module.hash) for key in candidates) else "invalid"


def _verifies(key: Key, signature: bytes, digest: bytes, algorithm: str) -> bool:
    prehashed = Prehashed(_HASHES[algorithm]())
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, digest, padding.PKCS1v15(), prehashed)
        else:
            key.verify(signature, digest, ec.ECDSA(prehashed))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
