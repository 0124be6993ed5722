"""The lease keys of this host's instances: made at the first token that the policy binds to one, and used as was approved last.

The policy comes with each answer, signed; its `lease_approver` is the key that a lease key is made for. Whoever asks for a lease names an
instance and nothing else: what the TPM signs is made here, from the token that was passed on last.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from attestor.tpm import MadeLeaseKey, Tpm
from writ.formats.cose import parse_sign1
from writ.formats.digest import Digest, Nonce
from writ.formats.errors import Refused
from writ.formats.evidence import InstanceRequest
from writ.formats.keys import PublicKey
from writ.formats.lease import (
    Lease,
    LeaseApproval,
    LeaseKey,
    LeaseKeys,
    encode_lease,
    lease_binding,
    lease_policy,
    parse_lease_approval,
    policy_ref,
    time_binding,
)
from writ.formats.policy_bundle import parse_bundle
from writ.formats.reason import Reason


@dataclass(frozen=True, slots=True)
class _Held:
    """The key of one instance, for which session key and approver it was made, and the token and approval that came last."""

    key: MadeLeaseKey
    session_key: bytes
    approver: PublicKey
    token: Digest | None = None
    approval: LeaseApproval | None = None


class Leases:
    """Thread-safe. A key lives as long as this process: after a restart each instance gets another, with its next token."""

    def __init__(self, tpm: Tpm, host: str, verifier: bytes) -> None:
        """`verifier` is the thumbprint of the pinned decision key."""
        self._tpm, self._host, self._verifier = tpm, host, verifier
        self._approver: PublicKey | None = None
        self._held: dict[bytes, _Held] = {}
        self._lock = threading.Lock()

    def follow(self, approver: PublicKey | None) -> bool:
        """The policy names this approval key, or none; whether that is another than before."""
        with self._lock:
            changed, self._approver = approver != self._approver, approver
            return changed

    @property
    def in_force(self) -> bool:
        """Whether the policy is of hardware mode: no lease outlives a register that moves."""
        with self._lock:
            return self._approver is not None

    def evidence(self, requests: tuple[InstanceRequest, ...], nonce: Nonce) -> LeaseKeys | None:
        """What travels with a quote for `nonce`: the TPM's time and each instance's key, made where there is none. None outside of
        hardware mode. Raises Unavailable."""
        approver = self._approver
        if approver is None or not requests:
            return None
        keys = tuple(self._shown(request, approver) for request in sorted(requests, key=lambda request: request.instance))
        stated = self._tpm.time(time_binding(self._verifier, self._host, nonce.value))
        return LeaseKeys(stated.attest, stated.signature, keys)

    def _shown(self, request: InstanceRequest, approver: PublicKey) -> LeaseKey:
        session_key = request.session_key.thumbprint()
        with self._lock:
            held = self._held.get(request.instance)
        if held is None or (held.session_key, held.approver) != (session_key, approver):
            ref = policy_ref(self._host, request.instance, session_key)
            held = _Held(self._tpm.create_lease_key(lease_policy(approver, ref), ref), session_key, approver)
            with self._lock:
                self._held[request.instance] = held
        key = held.key
        return LeaseKey(request.instance, key.public, key.creation, key.attest, key.signature)

    def passed_on(self, instance: bytes, token: str, approval: bytes | None) -> None:
        """The verifier gave this token, with this approval: leases are for it from now on. Raises FormatError."""
        read = None if approval is None else parse_lease_approval(approval)
        with self._lock:
            held = self._held.get(instance)
            if held is not None:
                digest = Digest.of(token.encode("ascii"))
                self._held[instance] = _Held(held.key, held.session_key, held.approver, digest, read)

    def lease(self, instance: bytes) -> bytes:
        """A lease for the token that was passed on last, encoded.

        Raises Refused where there is no approval, or the TPM refuses; Unavailable.
        """
        with self._lock:
            held = self._held.get(instance)
        if held is None or held.token is None or held.approval is None:
            raise Refused(Reason("lease-key-missing", f"instance.{instance.hex()}.lease", "a key and an approval for it", "none"))
        stated = self._tpm.lease(held.key, held.approval, lease_binding(instance, held.session_key, held.token))
        return encode_lease(Lease(held.key.public, stated.attest, stated.signature))

    def forget(self, instance: bytes) -> None:
        """The instance is over, and its key with it."""
        with self._lock:
            self._held.pop(instance, None)

    def forget_all(self) -> None:
        """The TPM was reset: it loads none of them any more."""
        with self._lock:
            self._held.clear()


def approver_of(policy: bytes) -> PublicKey | None:
    """The approval key that the policy names; None outside of hardware mode. That a signed decision names the policy, the caller knows.

    Raises FormatError.
    """
    return parse_bundle(parse_sign1(policy, what="policy").payload or b"").settings.lease_approver
