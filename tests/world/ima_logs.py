"""A kernel's IMA in memory: it measures files of every template, keeps both lists, and extends PCR 10 of each bank.

Written from the kernel's description, field by field, and apart from the parser: the ASCII list is printed here, not converted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tests.world.chip import private_key
from writ.formats.digest import SIZES, Digest

BOOT: dict[int, bytes] = {index: hashlib.sha256(bytes((index,))).digest() for index in range(10)}
"""PCRs 0 to 9 of the sha256 bank."""
HASH_NUMBERS = {"sha1": 2, "sha256": 4, "sha384": 5, "sha512": 6}


def field_of(value: bytes) -> bytes:
    return len(value).to_bytes(4, "little") + value


def d_ng(digest: Digest | str, kind: str = "") -> bytes:
    """The field d-ng, or d-ngv2 with a kind; a digest of any name as text."""
    algorithm, _, value = str(digest).partition(":")
    return (f"{kind}:" if kind else "").encode() + algorithm.encode() + b":\0" + bytes.fromhex(value)


@dataclass
class Kernel:
    """One boot. `binary` and `ascii` are its lists, `pcr10` its register by bank."""

    boot: Mapping[int, bytes] = field(default_factory=lambda: BOOT)
    aggregate: bool = True
    binary: bytes = b""
    ascii: bytes = b""
    pcr10: dict[str, bytes] = field(default_factory=lambda: {bank: bytes(size) for bank, size in SIZES.items()})
    padded: bytes = bytes(32)
    """What the sha256 bank would hold under a kernel before 5.8."""
    entries: int = 0
    ends: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.aggregate:
            self.measure("boot_aggregate", Digest.of(b"".join(self.boot[index] for index in range(10))))

    def measure(
        self, name: str, digest: Digest | str, *, template: str = "ima-ng", kind: str = "", violation: bool = False, **more: bytes
    ) -> None:
        """One entry. `kind` "ima" or "verity" for the templates of version 2; `more` are the other fields by name, "_" for "-"."""
        shown_name = name.replace(" ", "_")
        ending = shown_name.encode() + b"\0"
        if template == "ima":
            value = bytes.fromhex(str(digest).partition(":")[2])
            self._add(template, value + ending[:-1].ljust(256, b"\0"), value + field_of(ending[:-1]), [value.hex(), shown_name], violation)
            return
        values = {"d-ng": d_ng(digest), "d-ngv2": d_ng(digest, kind or "ima"), "n-ng": ending, "d-modsig": b""}
        values |= {key.replace("_", "-"): value for key, value in more.items()}
        fields = [(key, values.get(key, b"")) for key in FIELDS.get(template, template).split("|")]
        data = b"".join(field_of(value) for _, value in fields)
        self._add(template, data, field_of(data), [shown(key, value) for key, value in fields], violation)

    def _add(self, template: str, body: bytes, written: bytes, text: list[str], violation: bool) -> None:
        told = bytes(20) if violation else hashlib.sha1(body, usedforsecurity=False).digest()
        for bank, register in self.pcr10.items():
            added = b"\xff" * SIZES[bank] if violation else hashlib.new(bank, body).digest()
            self.pcr10[bank] = hashlib.new(bank, register + added).digest()
        self.padded = hashlib.sha256(self.padded + (b"\xff" * 20 if violation else told).ljust(32, b"\0")).digest()
        self.binary += (10).to_bytes(4, "little") + told + field_of(template.encode()) + written
        self.ascii += " ".join(["10", told.hex(), template, *text]).encode() + b"\n"
        self.entries += 1
        self.ends.append(len(self.binary))


FIELDS = {
    "ima-ng": "d-ng|n-ng", "ima-ngv2": "d-ngv2|n-ng", "ima-sig": "d-ng|n-ng|sig", "ima-sigv2": "d-ngv2|n-ng|sig",
    "ima-modsig": "d-ng|n-ng|sig|d-modsig|modsig", "ima-buf": "d-ng|n-ng|buf",
    "evm-sig": "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
}  # fmt: skip


def shown(key: str, value: bytes) -> str:
    """A field as the kernel prints it."""
    if key in ("n-ng", "xattrnames"):
        return value.rstrip(b"\0").decode()
    if key in ("iuid", "igid", "imode"):
        return str(int.from_bytes(value, "little")) if value else ""
    if key.startswith("d-") and value:
        algorithm, _, digest = value.partition(b":\0")
        return f"{algorithm.decode()}:{digest.hex()}"
    return value.hex()


# --- signatures ---------------------------------------------------------------------------------------------------------


@cache
def rsa_key(name: str, size: int) -> rsa.RSAPrivateKey:
    """The RSA key of that name in this run."""
    assert name
    return rsa.generate_private_key(65537, size)


@cache
def certificate(name: str, kind: str = "ec") -> bytes:
    """A certificate, self-signed, of the key of that name: "ec", "rsa" or "rsa1024"."""
    key = key_of(name, kind)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, begin, end)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def key_of(name: str, kind: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    return private_key(f"ima/{name}") if kind == "ec" else rsa_key(name, 1024 if kind == "rsa1024" else 2048)


def key_id(name: str, kind: str = "ec") -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(key_of(name, kind).public_key()).digest[-4:]


def signed(digest: Digest, name: str, kind: str = "ec", *, version: int = 2, type_: int = 3, claimed: bytes | None = None) -> bytes:
    """The signature of a file as its extended attribute holds it, by the key of that name."""
    number, value = HASH_NUMBERS[digest.algorithm], digest.value
    if version == 3:
        value = hashlib.new(digest.algorithm, bytes((type_, number)) + value).digest()
    kinds: dict[str, hashes.HashAlgorithm] = {
        "sha1": hashes.SHA1(),  # noqa: S303 - what an old signature is over, so that its refusal is seen
        "sha256": hashes.SHA256(), "sha512": hashes.SHA512(),
    }  # fmt: skip
    prehashed = utils.Prehashed(kinds[digest.algorithm])
    key = key_of(name, kind)
    made = key.sign(value, padding.PKCS1v15(), prehashed) if isinstance(key, rsa.RSAPrivateKey) else key.sign(value, ec.ECDSA(prehashed))
    return bytes((type_, version, number)) + (claimed or key_id(name, kind)) + len(made).to_bytes(2, "big") + made


def module_signed(content: bytes, name: str, kind: str = "ec", algorithm: str = "sha256") -> dict[str, bytes]:
    """The fields of `ima-modsig` for a file of that content with a signature appended, by the key of that name."""
    kinds: dict[str, hashes.SHA256 | hashes.SHA512] = {"sha256": hashes.SHA256(), "sha512": hashes.SHA512()}
    builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
    builder = builder.add_signer(x509.load_der_x509_certificate(certificate(name, kind)), key_of(name, kind), kinds[algorithm])
    options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.NoAttributes, pkcs7.PKCS7Options.NoCerts]
    return {"modsig": builder.sign(Encoding.DER, options), "d_modsig": d_ng(Digest.of(content, algorithm))}
