"""An imitation of AWS Nitro: its CAs from root to instance, and a hypervisor that signs documents of any content with keys of our own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.world.authority import BORN, Ca, Extensions
from tests.world.nvidia import p384, raw_signature
from writ.formats.cose import sign1_bytes
from writ.formats.digest import Digest

AT: Final = int(BORN.timestamp()) + 600
PROTECTED: Final = b"\xa1\x01\x38\x22"
ROOT: Final = Ca("Test nitro-enclaves")
REGION: Final = Ca("region.nitro-enclaves", ROOT, path_length=2)
ZONE: Final = Ca("zone.nitro-enclaves", REGION, path_length=1)
INSTANCE: Final = Ca("i-1.nitro-enclaves", ZONE, path_length=0)
ANCHORS: Final = frozenset({Digest.of(ROOT.certificate())})
PCRS: Final = {index: bytes((index + 1,)) * 48 if index < 5 else bytes(48) for index in range(16)}
USAGE: Final = x509.KeyUsage(True, True, False, False, False, False, False, False, False)
LEAF: Final[Extensions] = ((x509.BasicConstraints(False, None), True), (USAGE, False))


@dataclass(frozen=True)
class Nitro:
    """One enclave on the instance of `above`."""

    above: Ca = INSTANCE
    key: str = "nitro/enclave"
    extensions: Extensions = LEAF
    life: timedelta = timedelta(hours=3)
    public: ec.EllipticCurvePublicKey | None = None

    def leaf(self) -> bytes:
        """The certificate of its key, DER."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "i-1-enc1.aws")])
        return self.above.sign(name, self.public or p384(self.key).public_key(), self.extensions, born=BORN, life=self.life)

    def bundle(self) -> list[bytes]:
        """The CAs, the root first."""
        found: list[bytes] = []
        ca: Ca | None = self.above
        while ca is not None:
            found.insert(0, ca.certificate())
            ca = ca.above
        return found

    def said(self, **changed: Any) -> dict[str, Any]:
        """What a document says; `...` leaves a field out."""
        fields = {
            "module_id": "i-1-enc1", "digest": "SHA384", "timestamp": AT * 1000, "pcrs": PCRS, "certificate": self.leaf(),
            "cabundle": self.bundle(), "public_key": None, "user_data": b"user", "nonce": b"nonce",
        } | changed  # fmt: skip
        return {name: value for name, value in fields.items() if value is not ...}

    def document(self, **changed: Any) -> bytes:
        """A document that says so, signed."""
        return self.sign(cbor2.dumps(self.said(**changed)))

    def sign(self, payload: bytes, *, protected: bytes = PROTECTED, unprotected: dict[int, bytes] | None = None) -> bytes:
        """A document of this payload."""
        signature = raw_signature(self.key, sign1_bytes(protected, payload))
        return cbor2.dumps([protected, unprotected or {}, payload, signature])
