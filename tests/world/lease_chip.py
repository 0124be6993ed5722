"""A lease key without a TPM: what a TPM would sign with it, in real bytes, at any time that a test says."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.world.chip import private_key, public_area, sign_ecdsa
from writ.formats.digest import Digest, hash_bytes
from writ.formats.lease import LEASE_KEY_ATTRIBUTES, LEASE_LIFE, Lease, LeaseTerms, encode_lease, lease_binding
from writ.formats.tpm.attest import TPM_GENERATED, Attest, encode_attest
from writ.formats.tpm.public import Public, Scheme
from writ.formats.tpm.signature import Signature, encode_signature
from writ.formats.tpm.time import ST_ATTEST_TIME
from writ.formats.tpm.wire import uint


@dataclass
class LeaseChip:
    """One lease key. `time` and `clock` in milliseconds; `refuses` as a TPM does whose state is another."""

    seed: str = "lease"
    time: int = 5_000
    clock: int = 90_000
    reset_count: int = 7
    restart_count: int = 0
    refuses: bool = False

    @property
    def public(self) -> Public:
        """Its public area."""
        area = public_area(self.seed, LEASE_KEY_ATTRIBUTES, scheme=Scheme("ecdsa", "sha256"), symmetric=None)
        return replace(area, auth_policy=bytes(32))

    def terms(self) -> LeaseTerms:
        """What a token says that is issued now."""
        return LeaseTerms(hash_bytes("sha256", self.public.raw), self.time, self.reset_count, self.restart_count, LEASE_LIFE, bytes(32))

    def advance(self, seconds: int) -> None:
        """Both of its clocks move on."""
        self.time += 1000 * seconds
        self.clock += 1000 * seconds

    def lease(self, instance: bytes, session_key: bytes, token: Digest, *, magic: int = TPM_GENERATED, kind: int = ST_ATTEST_TIME) -> bytes:
        """A lease made now, encoded."""
        info = uint(self.time, 8, "time") + uint(self.clock, 8, "clock") + uint(self.reset_count, 4, "resets")
        body = info + uint(self.restart_count, 4, "restarts") + b"\1" + bytes(8)
        bound = lease_binding(instance, session_key, token)
        attest = encode_attest(Attest(magic, kind, b"", bound, self.clock, self.reset_count, self.restart_count, True, 0, body))
        r, s = sign_ecdsa(private_key(self.seed), attest)
        return encode_lease(Lease(self.public.raw, attest, encode_signature(Signature("ecdsa", "sha256", r=r, s=s))))
