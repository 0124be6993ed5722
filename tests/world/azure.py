"""Azure confidential VMs of our own: a paravisor that writes HCL reports about SNP or TDX, and a vTPM that quotes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.world.amd import SnpChip, rsa_key
from tests.world.tdx import Platform
from writ.formats.strict import b64url
from writ.formats.tee.hcl import PCRS, HclReport, parse_hcl
from writ.formats.tpm.attest import ST_ATTEST_QUOTE, TPM_GENERATED, Attest, QuoteInfo, encode_attest
from writ.formats.tpm.pcr import PcrSelection, PcrValues

NONCE = b"challenge"
VALUES = tuple(bytes([index]) * 32 for index in range(PCRS))
KINDS = {"VBS": 1, "SNP": 2, "TDX": 4}


def jwk(kid: str, key: rsa.RSAPublicKey) -> dict[str, Any]:
    """A public key as JSON Web Key."""
    numbers = key.public_numbers()
    return {"kid": kid, "kty": "RSA", "e": "AQAB", "n": b64url(numbers.n.to_bytes(256, "big"))}


@dataclass(frozen=True)
class AzureVm:
    """One VM: whose claims these are, and the hardware below it."""

    name: str = "azure"
    chip: SnpChip = field(default_factory=SnpChip)
    host: Platform = field(default_factory=Platform)

    @property
    def ak(self) -> rsa.RSAPrivateKey:
        return rsa_key(f"{self.name} ak", 2048)

    def claims(self, **more: Any) -> bytes:
        """Runtime claims."""
        keys = [jwk("HCLAkPub", self.ak.public_key()), jwk("HCLEkPub", rsa_key(f"{self.name} ek", 2048).public_key())]
        value = {"keys": keys, "vm-configuration": {"secure-boot": True, "vmUniqueId": self.name}, "user-data": "00" * 64} | more
        return json.dumps(value).encode()

    def hcl(self, hardware: bytes, kind: str = "SNP", claims: bytes | None = None, hashed: int = 1) -> bytes:
        """An HCL report over `hardware`."""
        said = self.claims() if claims is None else claims
        head = struct.pack("<4sIIII12s", b"HCLA", 1, 1236 + len(said), 2, 0, bytes(12))
        return head + hardware.ljust(1184, b"\0") + struct.pack("<IIIII", 20 + len(said), 1, KINDS[kind], hashed, len(said)) + said

    def snp(self, **fields: int | bytes) -> HclReport:
        """An HCL report whose claims the chip signed for."""
        bare = parse_hcl(self.hcl(bytes(1184)))
        given: dict[str, int | bytes] = {"report_data": bare.claims_data, "vmpl": 0}
        return parse_hcl(self.hcl(self.chip.report(**(given | fields))))

    def quote(self, nonce: bytes = NONCE, *, bank: str = "sha256", magic: int = TPM_GENERATED, tag: int = ST_ATTEST_QUOTE) -> bytes:
        """A TPMS_ATTEST over all PCRs."""
        selection = PcrSelection(((bank, tuple(range(PCRS))),))
        digest = PcrValues("sha256", tuple(enumerate(VALUES))).digest(PcrSelection((("sha256", tuple(range(PCRS))),)), "sha256")
        body = QuoteInfo(selection, digest) if tag == ST_ATTEST_QUOTE else bytes(8)
        return encode_attest(Attest(magic, tag, b"\0\x0b" + bytes(32), nonce, 1, 2, 3, True, 4, body))

    def sign(self, message: bytes) -> bytes:
        """The AK's bare signature."""
        return self.ak.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def bincode(self) -> bytes:
        """A quote with signature and PCRs, as agents write it."""
        message = self.quote()
        parts = [struct.pack("<Q", len(part)) + part for part in (self.sign(message), message)]
        return b"".join((*parts, struct.pack("<Q", PCRS), *VALUES))


def td_of(vm: AzureVm, data: bytes, **changes: Any) -> tuple[Platform, bytes]:
    """A platform whose TD has `data` as its report data, and the TDREPORT of that TD."""
    host = replace(vm.host, report_data=data, **changes)
    info = host.td_attributes.to_bytes(8, "little") + host.xfam.to_bytes(8, "little") + host.mr_td + bytes(144) + b"".join(host.rtmrs)
    head = b"\x81".ljust(16, b"\0") + b"\7" * 16 + b"\1" * 48 + b"\2" * 48 + data + bytes(32) + b"\3" * 32
    return host, head + bytes(256) + info.ljust(512, b"\0")
