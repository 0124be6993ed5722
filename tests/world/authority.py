"""Certificates, CRLs and OCSP responses of any shape, for tests: keys by seed, so that the same words give the same certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from tests.world.chip import Maker, ca_extensions, ek_extensions, private_key
from tests.world.der import NULL, element
from writ.formats.digest import hash_bytes
from writ.formats.x509 import parse_certificate
from writ.formats.x509_key import key_bits

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
BORN = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: int) -> datetime:
    """The moment of so many seconds since the epoch."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


@dataclass(frozen=True)
class Ca:
    """A certificate authority: its name, and the one above it, or none where it signs itself."""

    name: str
    above: Ca | None = None
    path_length: int | None = None
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] | None = None
    born: datetime = BORN
    life: timedelta = timedelta(days=3650)
    key: str = ""
    """The seed of its key, of its name where none is given."""

    @property
    def seed(self) -> str:
        """The seed of its key."""
        return self.key or f"ca/{self.name}"

    def subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])

    def certificate(self) -> bytes:
        """Its own certificate, DER."""
        extensions: Extensions = self.extensions if self.extensions is not None else [
            (x509.BasicConstraints(True, self.path_length), True), *ca_extensions()[1:],
        ]  # fmt: skip
        return (self.above or self).sign(self.subject(), self.seed, extensions, born=self.born, life=self.life)

    def sign(
        self, subject: x509.Name, key: str | ec.EllipticCurvePublicKey, extensions: Extensions, *, serial: int = 0x77,
        born: datetime = BORN, life: timedelta = timedelta(days=3650),
    ) -> bytes:  # fmt: skip
        """A certificate by this CA for `key`, or the key of that seed, DER."""
        public = private_key(key).public_key() if isinstance(key, str) else key
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.subject()).public_key(public)
        builder = builder.serial_number(serial).not_valid_before(born).not_valid_after(born + life)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(private_key(self.seed), hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)

    def ek(self, *, serial: int = 0x77, extensions: Extensions | None = None) -> bytes:
        """An EK certificate by this CA, DER."""
        return self.sign(x509.Name([]), "chip/ek", ek_extensions() if extensions is None else extensions, serial=serial)

    def crl(
        self, *serials: int, this: int, following: int | None = None, key: str | None = None, extensions: Extensions = (),
        reason: x509.ExtensionType | None = None,
    ) -> bytes:  # fmt: skip
        """A CRL in this CA's name, DER, by its key or the one of seed `key`."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.subject()).last_update(at(this))
        builder = builder.next_update(at(this + 86_400 * 30 if following is None else following))
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at(this))
            if reason is not None:
                entry = entry.add_extension(reason, critical=False)
            builder = builder.add_revoked_certificate(entry.build())
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(private_key(key or self.seed), hashes.SHA256()).public_bytes(Encoding.DER)

    def responder(
        self, *extensions: x509.ExtensionType, eku: ObjectIdentifier = ExtendedKeyUsageOID.OCSP_SIGNING, key: str = "ca/responder",
        serial: int = 0x0C, born: datetime = BORN, life: timedelta = timedelta(days=3650),
    ) -> bytes:  # fmt: skip
        """The certificate of an OCSP responder of this CA, DER; `extensions` beside its extended key usage."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "responder")])
        all_ = [(one, False) for one in (x509.ExtendedKeyUsage([eku]), *extensions)]
        return self.sign(subject, key, all_, serial=serial, born=born, life=life)

    def ocsp(
        self, serial: int, status: str = "good", *, this: int, following: int | None = None, produced: int | None = None,
        responder: bytes | None = None, key: str | None = None, by_key: bool = False, hashed: str = "sha1",
    ) -> bytes:  # fmt: skip
        """An OCSP response about the certificate of that number, DER: by this CA or its `responder`, or with the key of seed `key`."""
        signer, mine = parse_certificate(responder or self.certificate()), parse_certificate(self.certificate())
        digests = [element(0x04, hash_bytes(hashed, value)) for value in (mine.subject, key_bits(mine.spki))]
        number = element(0x02, serial.to_bytes(serial.bit_length() // 8 + 1, "big"))
        oids = {"sha1": "06052b0e03021a", "sha256": "0609608648016503040201", "sha384": "0609608648016503040202"}
        algorithm = element(0x30, bytes.fromhex(oids[hashed]) + NULL)
        said = {"good": b"\x80\0", "unknown": b"\x82\0", "revoked": element(0xA1, generalized(this))}[status]
        single = element(0x30, algorithm + b"".join(digests) + number) + said + generalized(this)
        if following is not None:
            single += element(0xA0, generalized(following))
        name = element(0xA2, element(0x04, hash_bytes("sha1", key_bits(signer.spki)))) if by_key else element(0xA1, signer.subject)
        produced_at = generalized(this if produced is None else produced)
        data = element(0x30, name + produced_at + element(0x30, element(0x30, single)))
        certificates = b"" if responder is None else element(0xA0, element(0x30, responder))
        return sealed_ocsp(data, private_key(key or ("ca/responder" if responder else self.seed)), certificates)


def sealed_ocsp(data: bytes, key: ec.EllipticCurvePrivateKey, certificates: bytes = b"") -> bytes:
    """A successful response of this ResponseData, signed by `key`."""
    signature = key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    basic = element(0x30, data + bytes.fromhex("300a06082a8648ce3d040302") + element(0x03, b"\0" + signature) + certificates)
    kind = bytes.fromhex("06092b0601050507300101")
    return element(0x30, b"\x0a\x01\0" + element(0xA0, element(0x30, kind + element(0x04, basic))))


def generalized(seconds: int) -> bytes:
    """A moment in DER."""
    return element(0x18, at(seconds).strftime("%Y%m%d%H%M%SZ").encode())


def crls_of(maker: Maker, *, this: int, following: int | None = None) -> tuple[bytes, bytes]:
    """A CRL of each CA of a manufacturer, on which is nobody."""
    names = (f"{maker.seed} ca", f"{maker.seed}/ca"), (f"{maker.seed} root", f"{maker.seed}/root")
    below, root = (Ca(name, key=key).crl(this=this, following=following) for name, key in names)
    return below, root


def signed_with_sha1(issuer: x509.Name, key: rsa.RSAPrivateKey, subject: x509.Name, subject_key: str, extensions: Extensions) -> bytes:
    """An EK certificate of the TPM 1.2 years, DER: RSA with SHA-1, which the library no longer signs."""
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(private_key(subject_key).public_key())
    builder = builder.serial_number(0x77).not_valid_before(BORN).not_valid_after(BORN + timedelta(days=3650))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    made = builder.sign(key, hashes.SHA256())
    sha256, sha1 = bytes.fromhex("06092a864886f70d01010b"), bytes.fromhex("06092a864886f70d010105")
    old = made.tbs_certificate_bytes
    body = old.replace(sha256, sha1)
    signature = key.sign(body, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 - what is tested is that it is not believed
    return made.public_bytes(Encoding.DER).replace(old, body).replace(sha256, sha1).replace(made.signature, signature)
