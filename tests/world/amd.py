"""An imitation of AMD: its CAs for a product line, chips and clouds with certified keys, and the firmware that signs reports.

Everything is as the specifications have it, RSA-PSS with SHA-384 among it, but with keys of our own, of 2048 bits where AMD has 4096
unless a measurement wants them as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tests.world.der import element
from writ.formats.crl import Crl, parse_crl
from writ.formats.digest import Digest
from writ.formats.tee.snp import REPORT_SIZE, SIGNED_SIZE, Tcb
from writ.formats.tee.vek import Vek, parse_vek
from writ.formats.x509 import Certificate, parse_certificate

BORN: Final = datetime(2026, 1, 1, tzinfo=UTC)
NOW: Final = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
LIFE: Final = timedelta(days=365)
TCB: Final = Tcb(0, 4, 0, 27, 222)
TURIN_TCB: Final = Tcb(1, 4, 2, 5, 72)
POLICY: Final = 0x30000
OID: Final = "1.3.6.1.4.1.3704.1."
LEVELS: Final = {"Milan": "12456738", "Genoa": "12456738", "Turin": "91235678"}

Extensions = Mapping[str, bytes]


@cache
def rsa_key(_seed: str, bits: int) -> rsa.RSAPrivateKey:
    """The RSA key of a name, for this run."""
    return rsa.generate_private_key(65537, bits)


@cache
def p384_key(_seed: str) -> ec.EllipticCurvePrivateKey:
    """The P-384 key of a name, for this run."""
    return ec.generate_private_key(ec.SECP384R1())


def raw_tcb(tcb: Tcb, line: str) -> bytes:
    """A TCB_VERSION in the layout of a line."""
    if line == "Turin":
        return bytes((tcb.fmc, tcb.boot_loader, tcb.tee, tcb.snp, *tcb.reserved[1:], tcb.microcode))
    return bytes((tcb.boot_loader, tcb.tee, *tcb.reserved, tcb.snp, tcb.microcode))


def number(value: int) -> bytes:
    """A DER INTEGER."""
    return element(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Imitation"), x509.NameAttribute(NameOID.COMMON_NAME, common)])


_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


@dataclass(frozen=True)
class Amd:
    """AMD's CAs of one product line. `seed` makes another AMD of the same names."""

    line: str = "Milan"
    seed: str = "amd"
    bits: int = 2048

    def key(self, kind: str) -> rsa.RSAPrivateKey:
        """The key of "ARK", "SEV" or "SEV-VLEK"."""
        return rsa_key(f"{self.seed}/{kind}/{self.line}", self.bits)

    def ark(self) -> Certificate:
        """The root, which signs itself."""
        return self.ca("ARK", "ARK", path_length=None)

    def ask(self, *, born: datetime = BORN, life: timedelta = LIFE) -> Certificate:
        """Who certifies VCEKs."""
        return self.ca("SEV", "ARK", born=born, life=life)

    def asvk(self) -> Certificate:
        """Who certifies VLEKs."""
        return self.ca("SEV-VLEK", "ARK")

    def ca(
        self, kind: str, above: str, *, path_length: int | None = 0, born: datetime = BORN, life: timedelta = LIFE
    ) -> Certificate:  # fmt: skip
        """A CA certified by the one `above`."""
        return _ca(self, kind, above, path_length, born, life)

    def authorities(self) -> tuple[Certificate, ...]:
        """The CAs below the root, and it."""
        return self.ask(), self.asvk(), self.ark()

    def anchors(self) -> frozenset[Digest]:
        """The root by its fingerprint."""
        return frozenset({Digest.of(self.ark().der)})

    def crl(self, *serials: int, this: int = NOW - 3600, following: int | None = None, by: str = "ARK") -> Crl:
        """A CRL of the root."""
        when = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at) for at in (this, following or this + 86_400 * 30)]
        builder = x509.CertificateRevocationListBuilder().issuer_name(_name(f"{by}-{self.line}")).last_update(when[0]).next_update(when[1])
        for serial in serials:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when[0]).build()
            )  # fmt: skip
        made = builder.sign(self.key(by), hashes.SHA384(), rsa_padding=_PSS)
        return parse_crl(made.public_bytes(Encoding.DER))

    def extensions(self, tcb: Tcb, *, product: str, hwid: bytes | None = None, csp: str | None = None, legacy: bool = False) -> Extensions:
        """What a VEK's certificate says, by the end of the OID: each value as DER."""
        found = {"1": number(0), "2": element(0x16, product.encode())}
        found |= {f"3.{level}": number(value) for level, value in zip(LEVELS[self.line], raw_tcb(tcb, self.line), strict=True)}
        if hwid is not None:
            found["4"] = hwid if legacy else element(0x04, hwid)
        if csp is not None:
            found["5"] = element(0x16, csp.encode())
        return found

    def vek(
        self, key: str, extensions: Extensions, *, kind: str = "VCEK", issuer: str | None = None, born: datetime = BORN,
        life: timedelta = LIFE, public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None = None, ca: bool = False,
    ) -> Certificate:  # fmt: skip
        """A certificate of the key of a seed, or of the one that is given, with these extensions."""
        above = issuer or ("SEV" if kind == "VCEK" else "SEV-VLEK")
        builder = x509.CertificateBuilder().subject_name(_name(f"SEV-{kind}")).issuer_name(_name(f"{above}-{self.line}"))
        builder = (
            builder.public_key(public or p384_key(key).public_key()).serial_number(1).not_valid_before(born).not_valid_after(born + life)
        )
        for end, value in extensions.items():
            builder = builder.add_extension(x509.UnrecognizedExtension(ObjectIdentifier(OID + end), value), False)
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        made = builder.sign(self.key(above), hashes.SHA384(), rsa_padding=_PSS)
        return parse_certificate(made.public_bytes(Encoding.DER))


@cache
def _ca(amd: Amd, kind: str, above: str, path_length: int | None, born: datetime, life: timedelta) -> Certificate:
    """Kept, since RSA-PSS signs otherwise each time, and the root is known by its fingerprint."""
    builder = x509.CertificateBuilder().subject_name(_name(f"{kind}-{amd.line}")).issuer_name(_name(f"{above}-{amd.line}"))
    builder = builder.public_key(amd.key(kind).public_key()).serial_number(0x10000 + len(kind))
    builder = builder.not_valid_before(born).not_valid_after(born + life)
    builder = builder.add_extension(x509.BasicConstraints(True, path_length), True)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    made = builder.add_extension(usage, True).sign(amd.key(above), hashes.SHA384(), rsa_padding=_PSS)
    return parse_certificate(made.public_bytes(Encoding.DER))


@dataclass(frozen=True)
class SnpChip:
    """A processor of a line at a TCB: its VCEK, or the VLEK that it was lent, and reports by its firmware."""

    amd: Amd = field(default_factory=Amd)
    name: str = "chip"
    tcb: Tcb = TCB
    cloud: str | None = None
    """Where given, the key is a VLEK of it."""

    @property
    def hwid(self) -> bytes:
        """What the chip is called: 64 bytes, or 8 on Turin."""
        return Digest.of(self.name.encode(), "sha512").value[: 8 if self.amd.line == "Turin" else 64]

    @property
    def chip_id(self) -> bytes:
        """What its reports call it."""
        return self.hwid.ljust(64, b"\0")

    @property
    def kind(self) -> str:
        """VCEK or VLEK."""
        return "VCEK" if self.cloud is None else "VLEK"

    @property
    def seed(self) -> str:
        """The seed of its key, which is another for each TCB."""
        return f"{self.amd.seed}/{self.cloud or self.name}/{self.amd.line}/{self.tcb}"

    def certificate(self, **given: object) -> Certificate:
        """The certificate of its key, as `Amd.vek` makes it."""
        product = self.amd.line if self.cloud else f"{self.amd.line}-B0"
        said = self.amd.extensions(self.tcb, product=product, hwid=None if self.cloud else self.hwid, csp=self.cloud)
        return self.amd.vek(self.seed, said, kind=self.kind, **given)  # type: ignore[arg-type]

    def vek(self) -> Vek:
        """The certificate as it is read."""
        found = parse_vek(self.certificate())
        assert found is not None
        return found

    def body(self, *, version: int = 5, policy: int = POLICY, **fields: int | bytes) -> bytes:
        """The part of a report under the signature. `fields` are by name, or "at_1f8" for bytes at an offset."""
        tcb = raw_tcb(self.tcb, self.amd.line)
        cpu = {"Milan": b"\x19\x01\x01", "Genoa": b"\x19\x11\x01", "Turin": b"\x1a\x02\x01"}[self.amd.line]
        said: dict[str, int | bytes] = {
            "version": version, "policy": policy, "signature_algo": 1, "key_information": 0 if self.cloud is None else 4,
            "current_tcb": tcb, "reported_tcb": tcb, "committed_tcb": tcb, "launch_tcb": tcb, "chip_id": self.chip_id,
            "measurement": b"\x11" * 48, "report_data": b"\x22" * 64, "report_id": b"\x33" * 32, "report_id_ma": b"\xff" * 32,
            "current_firmware": b"\x23\x37\x01", "committed_firmware": b"\x23\x37\x01", "platform_info": 0x25,
        }  # fmt: skip
        if version >= 3:
            said["cpu"] = cpu
        made = bytearray(SIGNED_SIZE)
        for name, value in (said | fields).items():
            at, size = OFFSETS[name] if name in OFFSETS else (int(name.removeprefix("at_"), 16), len(value))  # type: ignore[arg-type]
            made[at : at + size] = value.to_bytes(size, "little") if isinstance(value, int) else value.ljust(size, b"\0")
        return bytes(made)

    def sign(self, body: bytes) -> bytes:
        """A whole report of this body, under its key."""
        r, s = decode_dss_signature(p384_key(self.seed).sign(body, ec.ECDSA(hashes.SHA384())))
        return (body + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(REPORT_SIZE, b"\0")

    def report(self, **fields: int | bytes) -> bytes:
        """A signed report, as `body` makes it."""
        return self.sign(self.body(**fields))  # type: ignore[arg-type]


OFFSETS: Final = {
    "version": (0x00, 4), "guest_svn": (0x04, 4), "policy": (0x08, 8), "family_id": (0x10, 16), "image_id": (0x20, 16),
    "vmpl": (0x30, 4), "signature_algo": (0x34, 4), "current_tcb": (0x38, 8), "platform_info": (0x40, 8), "key_information": (0x48, 4),
    "report_data": (0x50, 64), "measurement": (0x90, 48), "host_data": (0xC0, 32), "id_key_digest": (0xE0, 48),
    "author_key_digest": (0x110, 48), "report_id": (0x140, 32), "report_id_ma": (0x160, 32), "reported_tcb": (0x180, 8),
    "cpu": (0x188, 3), "chip_id": (0x1A0, 64), "committed_tcb": (0x1E0, 8), "current_firmware": (0x1E8, 3),
    "committed_firmware": (0x1EC, 3), "launch_tcb": (0x1F0, 8), "launch_mitigations": (0x1F8, 8), "current_mitigations": (0x200, 8),
}  # fmt: skip
"""Offset and size of each field (56860 revision 1.58, ATTESTATION_REPORT), written down apart from the parser."""


def certificate_table(entries: Mapping[str, bytes], *, padding_to: int = 4096) -> bytes:
    """A host's certificate table: GUID -> certificate."""
    at, head, body = 24 * (len(entries) + 1), b"", b""
    for guid, data in entries.items():
        head += bytes.fromhex(guid.replace("-", "")) + (at + len(body)).to_bytes(4, "little") + len(data).to_bytes(4, "little")
        body += data
    whole = head + bytes(24) + body
    return whole.ljust(-(-len(whole) // padding_to) * padding_to, b"\0")
