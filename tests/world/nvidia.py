"""GPUs, NVSwitches and their vendor: certificate chains, reports and RIMs with keys of our own, right in all and wrong where asked.

Documents are written in their canonical form, so that what a test signs is what stands in the file, and no code of ours made it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tests.world.authority import BORN, Ca
from tests.world.der import element
from writ.formats.x509 import Certificate, parse_certificate, to_pem

NONCE = bytes(range(32))
ROOT = Ca("Test Device Identity CA")
IDENTITY = Ca("TEST GH100 Identity", ROOT)
PROVISIONER = Ca("TEST GH100 Provisioner ICA 1", IDENTITY)
RIM_ROOT = Ca("Test CoRIM signing Root CA")
RIM_CA = Ca("TEST Reference Value CA", RIM_ROOT)
RIM_L3 = Ca("TEST Reference Value L3", RIM_CA)
SHA384_OID = bytes.fromhex("0609608648016503040202")
USAGE = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
DRIVER, VBIOS = "550.90.07", "96.00.9F.00.01"
FIRMWARE = hashlib.sha384(b"firmware").digest()
BLOCKS = {index: hashlib.sha384(b"block %d" % index).digest() for index in range(1, 65)}


@cache
def p384(seed: str) -> ec.EllipticCurvePrivateKey:
    """The P-384 key of a seed."""
    return ec.derive_private_key(int.from_bytes(hashlib.sha384(seed.encode()).digest()[:47], "big") + 1, ec.SECP384R1())


def raw_signature(seed: str, message: bytes) -> bytes:
    """r || s over `message` with SHA-384."""
    r, s = utils.decode_dss_signature(p384(seed).sign(message, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def certificates(*cas: Ca) -> tuple[Certificate, ...]:
    return tuple(parse_certificate(ca.certificate()) for ca in cas)


def up(ca: Ca | None) -> Iterator[bytes]:
    """The certificates from `ca` to its root."""
    while ca is not None:
        yield ca.certificate()
        ca = ca.above


DEVICE_ROOTS = certificates(ROOT)
RIM_ROOTS = certificates(RIM_ROOT)


# --- devices --------------------------------------------------------------------------------------------------------------


def fwid(digest: bytes) -> bytes:
    return element(0x30, SHA384_OID + element(0x04, digest))


def composite(digest: bytes) -> x509.UnrecognizedExtension:
    """CompositeDeviceID as Hopper has it; the key within is no part of what is judged."""
    key = element(0x30, element(0x30, bytes.fromhex("06072a8648ce3d020106052b81040022")) + element(0x03, b"\0\4" + bytes(96)))
    return x509.UnrecognizedExtension(ObjectIdentifier("2.23.133.5.4.1"), element(0x30, b"\x02\x01\x01" + key + fwid(digest)))


def tcb_info(*digests: bytes, flags: int = 0x80000001, oid: str = "2.23.133.5.4.1.1") -> x509.UnrecognizedExtension:
    """DiceTcbInfo as Blackwell has it."""
    body = element(0x80, b"NVIDIA") + element(0x81, b"GB100 A01 GSP") + element(0x83, b"\1") + element(0x84, b"\0")
    body += element(0xA6, b"".join(map(fwid, digests))) + element(0x87, b"\0" + flags.to_bytes(4, "big"))
    return x509.UnrecognizedExtension(ObjectIdentifier(oid), element(0x30, body))


def tlv(fields: Iterable[tuple[int, bytes]]) -> bytes:
    """Opaque data in the form without a header."""
    return b"".join(number.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value for number, value in fields)


def headed(fields: Iterable[tuple[int, int, bytes]], major: int = 2) -> bytes:
    """Opaque data in the form with a header, and a type for each value."""
    body = b"".join(b"".join(part.to_bytes(2, "little") for part in (number, kind, len(value))) + value for number, kind, value in fields)
    return b"NVDAOD\0\0" + bytes((major, 0, 0, 0)) + body


def gpu_fields(**changed: bytes | None) -> dict[int, bytes]:
    """What the opaque data of a GPU says; `f36=…` changes the field of that number, None leaves it out."""
    fields: dict[int, bytes] = {
        6: bytes.fromhex("009f009601000000"), 14: bytes.fromhex("b1030000"), 15: b"882\0\0\0\0\0\0", 17: b"1010\0", 18: b"0200\0",
        3: DRIVER.encode() + b"\0", 12: bytes(256), 11: b"\xaa", 20: FIRMWARE, 21: b"\x55", 34: b"\1\0", 36: b"\0\0",
    }  # fmt: skip
    for name, value in changed.items():
        fields.pop(int(name[1:]), None)
        if value is not None:
            fields[int(name[1:])] = value
    return fields


SWITCH_FIELDS = {6: b"96.10.55.00.01", 22: bytes(8), 12: bytes(104), 26: bytes(128), 25: b"\1\0"}


def record(blocks: Mapping[int, bytes], kind: int = 1) -> bytes:
    """A measurement record of digests."""
    inner = [(index, bytes((kind,)) + len(value).to_bytes(2, "little") + value) for index, value in blocks.items()]
    return b"".join(bytes((index, 1)) + len(value).to_bytes(2, "little") + value for index, value in inner)


@dataclass(frozen=True)
class Device:
    """One device: its number, and what its certificates say. `above` certifies it."""

    number: int = 1
    model: str = "GH100 A01 GSP"
    arch: str = "HOPPER"
    above: Ca = PROVISIONER
    extension: x509.UnrecognizedExtension | None = field(default_factory=lambda: composite(FIRMWARE))
    leaf_extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ((USAGE, True),)
    leaf_key: ec.EllipticCurvePublicKey | None = None
    born: datetime = BORN
    life: timedelta = timedelta(days=3650)

    @property
    def seed(self) -> str:
        return f"nvidia/{self.model}/{self.number}"

    @property
    def brom(self) -> Ca:
        """The CA that is the device's identity."""
        return Ca(f"{self.model} BROM", self.above, key=f"{self.seed}/brom", born=self.born, life=self.life)

    def leaf(self) -> bytes:
        """The certificate of the attestation key."""
        extensions = self.leaf_extensions if self.extension is None else (*self.leaf_extensions, (self.extension, False))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self.model} FMC LF")])
        return self.brom.sign(subject, self.leaf_key or p384(self.seed).public_key(), extensions, serial=0x1000 + self.number)

    def chain(self) -> tuple[bytes, ...]:
        """From the attestation key to the root."""
        return self.leaf(), *up(self.brom)

    def report(
        self, nonce: bytes = NONCE, *, blocks: Mapping[int, bytes] = BLOCKS, opaque: bytes | None = None, signer: str = "",
    ) -> bytes:  # fmt: skip
        """A report, signed."""
        said = tlv(gpu_fields().items()) if opaque is None else opaque
        records = record(blocks)
        signed = (
            b"\x11\xe0\x01\xff" + nonce + b"\0" + b"\x11\x60\0\0" + bytes((len(blocks),)) + len(records).to_bytes(3, "little") + records
        )
        signed += hashlib.sha256(b"responder" + nonce).digest() + len(said).to_bytes(2, "little") + said
        return signed + raw_signature(signer or self.seed, signed)

    def entry(
        self, asked: bytes = NONCE, *, report: bytes | None = None, chain: Sequence[bytes] | None = None, **stated: Any
    ) -> dict[str, Any]:
        """The device as the SDK writes it into a file; a member of None is left out."""
        made = {
            "arch": self.arch,
            "nonce": asked.hex(),
            "evidence": base64.b64encode(self.report(asked) if report is None else report).decode(),
            "certificate": base64.b64encode(pem(self.chain() if chain is None else chain)).decode(),
            **stated,
        }
        return {name: value for name, value in made.items() if value is not None}


def pem(chain: Sequence[bytes]) -> bytes:
    return "".join(to_pem(parse_certificate(der)) for der in chain).encode()


def evidence(*entries: dict[str, Any]) -> bytes:
    """A file of these devices."""
    return json.dumps(list(entries)).encode()


BLACKWELL = Device(model="GB100 A01 GSP", arch="BLACKWELL", extension=tcb_info(FIRMWARE, bytes(48)))
SWITCH = Device(model="LS_10 A01 FSP", arch="LS10")
SWITCH_BLOCKS = {index: BLOCKS[index] for index in range(1, 32)}


# --- RIMs -----------------------------------------------------------------------------------------------------------------

_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_DS = "http://www.w3.org/2000/09/xmldsig#"
_HASH = "http://www.w3.org/2001/04/xmlenc#sha384"
_SVN = "https://docs.nvidia.com/attestation/specs/latest/opaque-data.html"
C14N = "http://www.w3.org/2006/12/xml-c14n11"
ENVELOPED = _DS + "enveloped-signature"
ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"


@dataclass(frozen=True)
class RimMaker:
    """A RIM: what it names, and who signs it."""

    version: str = DRIVER
    product: str = "GH100"
    active: Mapping[int, Sequence[bytes]] = field(default_factory=lambda: {index: [BLOCKS[index + 1]] for index in range(7, 42)})
    inactive: Sequence[int] = (0, 63)
    floors: Mapping[int, int] = field(default_factory=dict)
    signer: str = "rim signer"
    above: Ca = RIM_L3
    extra: str = ""
    born: datetime = BORN
    life: timedelta = timedelta(days=730)

    def certificate(self) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "HCC RIM L4 Signer")])
        return self.above.sign(subject, p384(self.signer).public_key(), [(USAGE, True)], born=self.born, life=self.life)

    def chain(self) -> tuple[bytes, ...]:
        return self.certificate(), *up(self.above)

    def body(self) -> str:
        """The document without its signature, but for the end tag, in canonical form."""
        lines = [
            f'<ns0:Resource active="False" alternatives="1" index="{index}" name="Measurement_{index}" size="48" type="Measurement" '
            f'ns2:Hash0="{bytes(48).hex()}"></ns0:Resource>'
            for index in self.inactive
        ]
        for index, values in self.active.items():
            hashed = " ".join(f'ns2:Hash{number}="{value.hex()}"' for number, value in enumerate(values))
            lines.append(
                f'<ns0:Resource active="True" alternatives="{len(values)}" index="{index}" name="Measurement_{index}" size="48" '
                f'type="Measurement" {hashed}></ns0:Resource>'
            )
        lines += [
            f'<ns0:Resource xmlns:ns3="{_SVN}" active="True" index="{0x1000 + number}" name="svn_{number}" type="Measurement" '
            f'ns3:minSvn="{least}"></ns0:Resource>'
            for number, least in self.floors.items()
        ]
        return (
            f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}" xmlns:ns2="{_HASH}" name="{self.product}" tagId="tag" version="1.0">\n'
            f'<ns0:Meta colloquialVersion="{self.version}" product="{self.product}"></ns0:Meta>\n'
            f"<ns0:Payload>{''.join(lines)}</ns0:Payload>{self.extra}\n"
        )

    def signed_info(self) -> str:
        """SignedInfo as it stands in the document."""
        digest = base64.b64encode(hashlib.sha384((self.body() + "</SoftwareIdentity>").encode()).digest()).decode()
        return (
            f'<ds:SignedInfo><ds:CanonicalizationMethod Algorithm="{C14N}"></ds:CanonicalizationMethod>'
            f'<ds:SignatureMethod Algorithm="{ECDSA_SHA384}"></ds:SignatureMethod><ds:Reference URI=""><ds:Transforms>'
            f'<ds:Transform Algorithm="{ENVELOPED}"></ds:Transform><ds:Transform Algorithm="{C14N}"></ds:Transform></ds:Transforms>'
            f'<ds:DigestMethod Algorithm="{SHA384}"></ds:DigestMethod><ds:DigestValue>{digest}</ds:DigestValue></ds:Reference>'
            "</ds:SignedInfo>"
        )

    def signature(self) -> str:
        """The Signature element. What is signed is SignedInfo with every namespace that is in scope."""
        info = self.signed_info()
        scope = f' xmlns="{_SWID}" xmlns:ds="{_DS}" xmlns:ns0="{_SWID}" xmlns:ns2="{_HASH}"'
        value = raw_signature(self.signer, info.replace("<ds:SignedInfo", f"<ds:SignedInfo{scope}", 1).encode())
        chain = "".join(f"<ds:X509Certificate>{base64.encodebytes(der).decode()}</ds:X509Certificate>" for der in self.chain())
        return (
            f'<ds:Signature xmlns:ds="{_DS}">{info}<ds:SignatureValue>{base64.b64encode(value).decode()}</ds:SignatureValue>'
            f"<ds:KeyInfo><ds:X509Data>{chain}</ds:X509Data></ds:KeyInfo></ds:Signature>"
        )

    def document(self) -> bytes:
        return (self.body() + self.signature() + "</SoftwareIdentity>").encode()


DRIVER_RIM = RimMaker()
VBIOS_RIM = RimMaker(VBIOS, active={index: [bytes(48), BLOCKS[index + 1]] for index in range(1, 7)})
BLACKWELL_RIMS = replace(DRIVER_RIM, product="GB100"), replace(VBIOS_RIM, product="GB100")
SWITCH_RIM = replace(VBIOS_RIM, version="96.10.55.00.01", product="LS10")
