"""Lease keys judged: is the key in the TPM one that we can approve, and what is approved with a token?

With a lease a token is worth something only while the TPM goes on signing for it, and the TPM stops by itself: after any extend of a
register, a reset, or the clock's T, it takes a fresh appraisal. Nothing here vouches for the host's state: the appraisal did, and the
approval lets the TPM hold it to that. Whether a lease keeps a token alive, `token.verify_lease` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from writ.formats.digest import hash_bytes
from writ.formats.errors import FormatError, Refused
from writ.formats.keys import PublicKey
from writ.formats.lease import (
    LEASE_KEY_ATTRIBUTES,
    LEASE_LIFE,
    HostMoment,
    LeaseKey,
    LeaseKeys,
    LeaseTerms,
    lease_policy,
    policy_ref,
    time_binding,
)
from writ.formats.reason import Reason
from writ.formats.tpm.attest import TPM_GENERATED, Attest, parse_attest
from writ.formats.tpm.creation import parse_creation
from writ.formats.tpm.pcr import PcrSelection
from writ.formats.tpm.public import Public, Scheme, parse_public, qualified_name
from writ.formats.tpm.signature import ACCEPTED_HASHES, parse_signature, verify_signature
from writ.formats.tpm.time import TimeInfo, parse_time
from writ.verdict.quote import QUOTED_PCRS, VerifiedQuote

_SCHEME: Final = Scheme("ecdsa", "sha256")


@dataclass(frozen=True, slots=True)
class VerifiedLeaseKey:
    """Proof that `verify_lease_key` ran. `digest` is SHA-256 of the TPMT_PUBLIC, `ref` the policyRef that it was made for."""

    instance: bytes
    digest: bytes
    ref: bytes


@dataclass(frozen=True, slots=True)
class Approvable:
    """What the verifier signs with a token: in this state of the host, the lease key of this instance may be used."""

    instance: bytes
    ref: bytes
    moment: HostMoment


@dataclass(frozen=True, slots=True)
class JudgedLeaseKeys:
    """The TPM's time beside the quote, and each lease key that came or why it is none. `against` stands against all of them."""

    time: TimeInfo | None
    keys: Mapping[bytes, VerifiedLeaseKey | Reason]
    against: Reason | None
    quote: VerifiedQuote

    def approve(self, instance: bytes, life: int) -> tuple[LeaseTerms, Approvable] | Reason:
        """What a token of `life` seconds says of its leases and what is approved with it; or why there is no key to approve."""
        key = self.of(instance)
        if isinstance(key, Reason) or self.time is None:
            return key if isinstance(key, Reason) else Reason("lease-key-missing", "lease_keys.time", "the time of the TPM", "none")
        approved = approvable(key, self.quote, life=life)
        return terms(key, self.time, approved), approved

    def of(self, instance: bytes) -> VerifiedLeaseKey | Reason:
        """The key of the instance, or why there is none that can be approved."""
        if self.against is not None:
            return self.against
        return self.keys.get(instance) or Reason("lease-key-missing", f"instance.{instance.hex()}.lease_key", "a key in the TPM", "none")


def judge_lease_keys(
    came: LeaseKeys | None, quote: VerifiedQuote, *, session_keys: Mapping[bytes, bytes], ak: Public, ak_qualified_name: bytes,
    verifier: bytes, host: str, nonce: bytes, approver: PublicKey,
) -> JudgedLeaseKeys:  # fmt: skip
    """What of the lease keys in the evidence can be approved. `session_keys` are the thumbprints of those that ask, by instance.

    Nothing is raised: the TPM is known to speak, and a bad key costs its own instance alone (I11).
    """
    if came is None:
        return JudgedLeaseKeys(None, {}, Reason("lease-key-missing", "lease_keys", "a key in the TPM for each instance", "none"), quote)
    try:
        time = _time_beside(came, quote, ak=ak, ak_qualified_name=ak_qualified_name, bound=time_binding(verifier, host, nonce))
    except FormatError as error:
        return JudgedLeaseKeys(None, {}, Reason("lease-key-refused", "lease_keys.time", error.expected, error.got), quote)
    except Refused as refused:
        return JudgedLeaseKeys(None, {}, refused.reasons[0], quote)
    judged: dict[bytes, VerifiedLeaseKey | Reason] = {}
    for key in came.keys:
        if key.instance not in session_keys:
            continue  # it asks for nothing
        ref = policy_ref(host, key.instance, session_keys[key.instance])
        try:
            judged[key.instance] = verify_lease_key(key, ref=ref, ak=ak, ak_qualified_name=ak_qualified_name, approver=approver)
        except FormatError as error:
            judged[key.instance] = Reason("lease-key-refused", f"instance.{key.instance.hex()}.lease_key", error.expected, error.got)
        except Refused as refused:
            judged[key.instance] = refused.reasons[0]
    return JudgedLeaseKeys(time, judged, None, quote)


def _time_beside(came: LeaseKeys, quote: VerifiedQuote, *, ak: Public, ak_qualified_name: bytes, bound: bytes) -> TimeInfo:
    """The TPM stated its time for this nonce, before the quote and in the same run of it."""
    time = stated(came.time_attest, came.time_signature, ak, "lease_keys.time", "lease-key-refused")
    attest = parse_attest(came.time_attest)
    same("lease-key-refused", "lease_keys.time.qualified_signer", ak_qualified_name.hex(), attest.qualified_signer.hex())
    same("lease-key-refused", "lease_keys.time.extra_data", bound.hex(), attest.extra_data.hex())
    same("lease-key-refused", "lease_keys.time.resets", run_of(quote), run_of(time))
    if time.clock > quote.clock:
        raise Refused(Reason("lease-key-refused", "lease_keys.time.clock", f"at most {quote.clock}", str(time.clock)))
    return time


def verify_lease_key(key: LeaseKey, *, ref: bytes, ak: Public, ak_qualified_name: bytes, approver: PublicKey) -> VerifiedLeaseKey:
    """The host's TPM holds this key, made it, and lets nobody use it but as `approver` approves for `ref`.

    1. Everything parses, with nothing left over.
    2. The AK certified, for `ref`, that its TPM created the key of this name with this creation data.
    3. It was created where the AK was: below the EK, so that its counters are not obfuscated.
    4. Its attributes are exactly those of a lease key: no password, nothing but the policy.
    5. It signs by ECDSA with SHA-256 on P-256, and is named by SHA-256.
    6. Its authPolicy is PolicyAuthorize of the approval key for `ref`.

    Raises FormatError (1) or Refused (2-6) at the first fault.
    Source: TPM 2.0 Library Part 3, TPM2_CertifyCreation; Part 2, TPMS_CREATION_DATA, TPMS_CREATION_INFO, TPMA_OBJECT.
    """
    claim = f"instance.{key.instance.hex()}.lease_key"
    # 1
    public, attest, creation = parse_public(key.public), parse_attest(key.attest), parse_creation(key.creation)
    # 2
    _signed(attest, key.signature, ak, key.attest, claim, "lease-key-refused")
    info = attest.creation
    if info is None:
        raise Refused(Reason("lease-key-refused", f"{claim}.type", "creation", attest.type))
    same("lease-key-refused", f"{claim}.qualified_signer", ak_qualified_name.hex(), attest.qualified_signer.hex())
    same("lease-key-refused", f"{claim}.extra_data", ref.hex(), attest.extra_data.hex())
    same("lease-key-refused", f"{claim}.name", info.name.hex(), public.name().hex())
    same("lease-key-refused", f"{claim}.creation", info.creation_hash.hex(), hash_bytes("sha256", key.creation).hex())
    # 3
    beside = qualified_name(creation.parent_qualified_name, ak.name())
    same("lease-key-refused", f"{claim}.parent", ak_qualified_name.hex(), beside.hex())
    # 4
    same("lease-key-refused", f"{claim}.attributes", f"{LEASE_KEY_ATTRIBUTES:08x}", f"{public.attributes:08x}")
    # 5
    curve = "no curve" if public.ecc is None else public.ecc.curve
    if public.name_algorithm != "sha256" or public.scheme != _SCHEME or curve != "p256":
        raise Refused(Reason("lease-key-refused", f"{claim}.scheme", "ecdsa with sha256 on p256, named by sha256", curve))
    public.public_key()
    # 6
    same("lease-key-refused", f"{claim}.auth_policy", lease_policy(approver, ref).hex(), public.auth_policy.hex())
    return VerifiedLeaseKey(key.instance, public.name()[2:], ref)


def approvable(key: VerifiedLeaseKey, quote: VerifiedQuote, *, life: int) -> Approvable:
    """What to approve after an affirming appraisal: the quoted registers, this run of the TPM, `life` seconds of its clock from then."""
    bank = quote.pcrs.bank
    digest = quote.pcrs.digest(PcrSelection(((bank, QUOTED_PCRS),)), "sha256")
    moment = HostMoment(bank, digest, quote.reset_count, quote.restart_count, quote.clock + 1000 * life)
    return Approvable(key.instance, key.ref, moment)


def terms(key: VerifiedLeaseKey, time: TimeInfo, approved: Approvable) -> LeaseTerms:
    """What the token says of the leases that keep it alive."""
    return LeaseTerms(key.digest, time.time, time.reset_count, time.restart_count, LEASE_LIFE, approved.moment.policy)


# --- what a TPM signed -----------------------------------------------------------------------------------------------


def stated(attest: bytes, signature: bytes, key: Public, claim: str, code: str) -> TimeInfo:
    """The time in a TPMS_ATTEST that the key signed and a TPM made. Raises FormatError, Refused."""
    parsed = parse_attest(attest)
    _signed(parsed, signature, key, attest, claim, code)
    return parse_time(parsed)


def _signed(attest: Attest, signature: bytes, key: Public, message: bytes, claim: str, code: str) -> None:
    signed = parse_signature(signature)
    if signed.hash not in ACCEPTED_HASHES or not verify_signature(signed, key, message):
        raise Refused(Reason(code, f"{claim}.signature", "a signature by the key", "another"))
    if attest.magic != TPM_GENERATED:
        raise Refused(Reason(code, f"{claim}.magic", f"{TPM_GENERATED:08x}", f"{attest.magic:08x}"))


def run_of(one: VerifiedQuote | TimeInfo | LeaseTerms) -> str:
    """Which run of a TPM it is of, in words."""
    return f"reset {one.reset_count}, restart {one.restart_count}"


def same(code: str, claim: str, expected: str, got: str) -> None:
    """Raises Refused where they differ."""
    if expected != got:
        raise Refused(Reason(code, claim, expected, got))
