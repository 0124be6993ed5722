"""Leases: what a key in the TPM says for a session key, for seconds, and what lets it say so.

    lease key   a restricted signing key of one instance in the host's TPM, made below the EK and certified by the AK
    approval    the verifier's signature over the state of the host in which the lease key may be used, until when
    lease       TPM2_GetTime by the lease key: the TPM's own time, with `lease_binding` as its extraData

The lease key's authPolicy is PolicyAuthorize of the verifier's approval key with `policy_ref`, and there is no password that avoids it. So
the TPM itself refuses a lease as soon as a register, its reset count or its clock is not what the verifier approved last. It signs no
outside bytes, so a lease states when it was made, and none can be made for later.

What is parsed here is not yet believed: `verdict.lease_key` and `verdict.token` do that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.keys import ES256, PublicKey, parse_cose_key
from writ.formats.strict import Fields, b64url, decode_cbor, encode_cbor, parse_b64url
from writ.formats.tpm.pcr import PcrSelection
from writ.formats.tpm.policy import (
    BEGINNING,
    CLOCK,
    EQUAL,
    RESET_COUNT,
    RESTART_COUNT,
    UNSIGNED_LESS,
    policy_authorize,
    policy_counter_timer,
    policy_pcr,
)
from writ.formats.tpm.public import (
    ADMIN_WITH_POLICY,
    FIXED_PARENT,
    FIXED_TPM,
    NO_DA,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    EccParameters,
    Public,
    Scheme,
)

LEASE_LIFE: Final = 10
"""Seconds; it is renewed after half of them."""
MOST_KEYS: Final = 256
QUOTED_PCRS: Final = tuple(range(16))
"""What an approval is about: the registers that a quote covers."""

LEASE_HEADER: Final = "Writ-Lease"
"""Where a lease goes, in base64url, beside the token and the proof of a request."""

LEASE_TAG: Final = "writ/lease/v1"
LEASE_KEY_TAG: Final = "writ/lease-key/v1"
TIME_TAG: Final = "writ/time/v1"

LEASE_KEY_ATTRIBUTES: Final = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | ADMIN_WITH_POLICY | NO_DA | RESTRICTED | SIGN
"""No userWithAuth, so that the empty password does not avoid the policy; adminWithPolicy, so that nothing else is done with the key.

Restricted: it signs only what the TPM itself says. noDA: it has no password to guess, and a lockout must not stop leases."""

_MAX_LEASE: Final = 4096
_MAX_LEASE_KEYS: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class LeaseKey:
    """A lease key as a host shows it: TPMT_PUBLIC, TPMS_CREATION_DATA, and the AK's TPM2_CertifyCreation over both."""

    instance: bytes
    public: bytes
    creation: bytes
    attest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class LeaseKeys:
    """The lease keys of a host's instances, and the AK's TPM2_GetTime in answer to the same nonce as the quote. Sorted by instance."""

    time_attest: bytes
    time_signature: bytes
    keys: tuple[LeaseKey, ...]

    def __post_init__(self) -> None:
        instances = [key.instance for key in self.keys]
        if instances != sorted(set(instances)):
            raise FormatError("lease keys", "one for each instance, in order", f"{len(instances)}")


@dataclass(frozen=True, slots=True)
class HostMoment:
    """The state of a host in which a lease key may be used: exactly these registers and counters, and a clock below `clock_before` (ms)."""

    bank: str
    pcr_digest: bytes
    reset_count: int
    restart_count: int
    clock_before: int

    @property
    def selection(self) -> PcrSelection:
        """The registers that `pcr_digest` is over."""
        return PcrSelection(((self.bank, QUOTED_PCRS),))

    @property
    def policy(self) -> bytes:
        """The digest of a session in which a TPM found it all so. Raises FormatError where a number does not fit."""
        digest = policy_pcr(BEGINNING, self.selection, self.pcr_digest)
        digest = policy_counter_timer(digest, RESET_COUNT, self.reset_count, EQUAL)
        digest = policy_counter_timer(digest, RESTART_COUNT, self.restart_count, EQUAL)
        return policy_counter_timer(digest, CLOCK, self.clock_before, UNSIGNED_LESS)


@dataclass(frozen=True, slots=True)
class LeaseApproval:
    """`key` is said to have approved `moment` for the lease key of `instance`. The TPM is the one to check it.

    `policy_ref` is what the lease key was made for; `signature` is r || s over `to_authorize(moment.policy, policy_ref)`.
    """

    instance: bytes
    policy_ref: bytes
    moment: HostMoment
    key: PublicKey
    signature: bytes


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """What a token says of its leases: by which key, counted from which time of the TPM, in which run of it, and how long each lives.

    `key` is SHA-256 of the TPMT_PUBLIC; `time` in milliseconds, at or before the token's `iat`; `life` in seconds; `approved` is the digest
    of the policy that was approved with the token.
    """

    key: bytes
    time: int
    reset_count: int
    restart_count: int
    life: int
    approved: bytes

    def to_json(self) -> dict[str, object]:
        """The claim."""
        return {
            "key": b64url(self.key),
            "time": self.time,
            "reset": self.reset_count,
            "restart": self.restart_count,
            "life": self.life,
            "approved": b64url(self.approved),
        }

    @classmethod
    def read(cls, f: Fields) -> LeaseTerms:
        """The claim as it stands. Raises FormatError."""
        terms = cls(
            key=_sha256(f, "key"),
            time=f.uint("time", most=(1 << 53) - 1),
            reset_count=f.uint("reset", most=(1 << 32) - 1),
            restart_count=f.uint("restart", most=(1 << 32) - 1),
            life=f.uint("life", most=300),
            approved=_sha256(f, "approved"),
        )
        f.done()
        return terms


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it arrived: TPMT_PUBLIC of the lease key, a TPMS_ATTEST and a TPMT_SIGNATURE."""

    public: bytes
    attest: bytes
    signature: bytes


# --- what is bound, and to what --------------------------------------------------------------------------------------


def policy_ref(host: str, instance: bytes, session_key: bytes) -> bytes:
    """For what a lease key is made: 32 bytes that name the instance and the thumbprint of its session key. Also the AK's words on it."""
    return Digest.of(encode_cbor([LEASE_KEY_TAG, host, instance, session_key])).value


def time_binding(verifier: bytes, host: str, nonce: bytes) -> bytes:
    """The 32 bytes of `extraData` for the AK's TPM2_GetTime beside a quote. `verifier` is the thumbprint of the decision key."""
    return Digest.of(encode_cbor([TIME_TAG, verifier, host, nonce])).value


def lease_binding(instance: bytes, session_key: bytes, token: Digest) -> bytes:
    """The 32 bytes of `extraData` for a lease: it is for this session key, under this token."""
    return Digest.of(encode_cbor([LEASE_TAG, instance, session_key, token.value])).value


def approval_public(key: PublicKey) -> Public:
    """The approval key as a TPM loads it from outside; its name is in every lease key's authPolicy. Raises FormatError for another kind.

    Source: TPM 2.0 Library Part 3, TPM2_LoadExternal: fixedTPM, fixedParent and restricted are clear.
    """
    if key.algorithm != ES256:
        raise FormatError("approval key", ES256, key.algorithm)
    return Public("sha256", SIGN, b"", None, Scheme("ecdsa", "sha256"), EccParameters("p256", None, key.raw[1:33], key.raw[33:]))


def lease_policy(approval_key: PublicKey, ref: bytes) -> bytes:
    """The authPolicy of a lease key that was made for `ref`, under the verifier's approval key."""
    return policy_authorize(approval_public(approval_key).name(), ref)


# --- bytes -----------------------------------------------------------------------------------------------------------


def encode_lease_keys(found: LeaseKeys) -> bytes:
    """The member `lease-keys` of the evidence."""
    keys = [[key.instance, key.public, key.creation, key.attest, key.signature] for key in found.keys]
    return encode_cbor({"v": 1, "time": found.time_attest, "time_signature": found.time_signature, "keys": keys})


def parse_lease_keys(data: bytes) -> LeaseKeys:
    """Read the member. Raises FormatError."""
    f = Fields(decode_cbor(data, "lease keys", max_size=_MAX_LEASE_KEYS), "lease keys")
    f.version(1)
    attest, signature = f.raw("time", most=4096), f.raw("time_signature", most=2048)
    keys = tuple(_lease_key(item) for item in f.items("keys", most=MOST_KEYS))
    f.done()
    return LeaseKeys(attest, signature, keys)


def _lease_key(value: object) -> LeaseKey:
    if not isinstance(value, list) or len(value) != 5:
        raise FormatError("lease keys", "arrays of five", type(value).__name__)
    f = Fields(dict(enumerate(value)), "lease keys")
    return LeaseKey(f.raw(0, size=16), f.raw(1, most=4096), f.raw(2, most=4096), f.raw(3, most=4096), f.raw(4, most=2048))


def encode_lease_approval(approval: LeaseApproval) -> bytes:
    """The one spelling of an approval."""
    moment = approval.moment
    return encode_cbor(
        {
            "v": 1,
            "instance": approval.instance,
            "ref": approval.policy_ref,
            "bank": moment.bank,
            "pcr_digest": moment.pcr_digest,
            "reset": moment.reset_count,
            "restart": moment.restart_count,
            "clock": moment.clock_before,
            "key": approval.key.to_cose_key(),
            "signature": approval.signature,
        }
    )


def parse_lease_approval(data: bytes) -> LeaseApproval:
    """Read an approval. Raises FormatError."""
    f = Fields(decode_cbor(data, "approval", max_size=_MAX_LEASE), "approval")
    f.version(1)
    moment = HostMoment(
        bank=f.text("bank", most=16),
        pcr_digest=f.raw("pcr_digest", size=32),
        reset_count=f.uint("reset", most=(1 << 32) - 1),
        restart_count=f.uint("restart", most=(1 << 32) - 1),
        clock_before=f.uint("clock", most=(1 << 64) - 1),
    )
    _ = moment.selection  # of a bank that there is
    approval = LeaseApproval(
        f.raw("instance", size=16), f.raw("ref", size=32), moment, parse_cose_key(f.any("key")), f.raw("signature", size=64)
    )
    f.done()
    return approval


def encode_lease(lease: Lease) -> bytes:
    """The one spelling of a lease."""
    return encode_cbor({"v": 1, "public": lease.public, "attest": lease.attest, "signature": lease.signature})


def parse_lease(data: bytes) -> Lease:
    """Read a lease. Raises FormatError."""
    f = Fields(decode_cbor(data, "lease", max_size=_MAX_LEASE), "lease")
    f.version(1)
    lease = Lease(f.raw("public", most=1024), f.raw("attest", most=1024), f.raw("signature", most=1024))
    f.done()
    return lease


def _sha256(f: Fields, key: str) -> bytes:
    value = parse_b64url(f.text(key, most=43), f"lease.{key}")
    if len(value) != 32:
        raise FormatError(f"lease.{key}", "base64url of 32 bytes", f"{len(value)} bytes")
    return value
