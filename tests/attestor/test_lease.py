"""Hardware mode on a software TPM: the TPM refuses a lease by itself, and a lease is worth nothing anywhere else or any later.

The verifier's half is the pure code, with an approval key of the test; the attestor's half is its TPM. Where it says that the TPM refuses,
the error is a response code of the TPM to commands that an attacker with root would send as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2_EO, TPM2_RH, TPM2_SE, TPM2_ST, TSS2_Exception  # type: ignore[import-untyped]  # no types
from tpm2_pytss.types import (  # type: ignore[import-untyped]
    TPM2B_DATA,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST_VALUES,
    TPML_PCR_SELECTION,
    TPMT_HA,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMT_TK_VERIFIED,
    TPMU_HA,
)

from attestor.esapi import EsapiTpm
from attestor.tpm import MadeLeaseKey
from swtpm import SoftTpm
from tests.conftest import SoftTpmFactory
from tests.writ.verdict.refusal import refused
from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims
from writ.formats.keys import ES256
from writ.formats.lease import (
    Lease,
    LeaseApproval,
    LeaseKey,
    LeaseKeys,
    LeaseTerms,
    approval_public,
    encode_lease,
    encode_lease_approval,
    encode_lease_keys,
    lease_binding,
    lease_policy,
    parse_lease,
    parse_lease_approval,
    parse_lease_keys,
    policy_ref,
    time_binding,
)
from writ.formats.spiffe import AgentId
from writ.formats.tpm.pcr import PcrSelection
from writ.formats.tpm.policy import (
    BEGINNING,
    CLOCK,
    EQUAL,
    RESET_COUNT,
    UNSIGNED_LESS,
    policy_authorize,
    policy_counter_timer,
    policy_pcr,
    to_authorize,
)
from writ.formats.tpm.public import RH_ENDORSEMENT, parse_public, primary_qualified_name, qualified_name
from writ.service.signers import MemorySigner
from writ.verdict.lease_key import VerifiedLeaseKey, approvable, judge_lease_keys, terms
from writ.verdict.quote import verify_quote
from writ.verdict.token import VerifiedToken, verify_lease

HOST, NONCE, VERIFIER = "alpha", b"n" * 32, b"v" * 32
INSTANCE, OTHER = b"i" * 16, b"o" * 16
NOW = 1_800_000_000
LIFE = 60
ALL = tuple(range(16))


@dataclass
class Bench:
    """One host with its TPM, and a verifier that approves whatever it is shown."""

    tpm: EsapiTpm
    approver: MemorySigner
    session: MemorySigner
    session_key: bytes

    def key(self, instance: bytes = INSTANCE) -> MadeLeaseKey:
        ref = policy_ref(HOST, instance, self.session_key)
        return self.tpm.create_lease_key(lease_policy(self.approver.public, ref), ref)

    def judged(self, made: MadeLeaseKey, *, life: int = LIFE, instance: bytes = INSTANCE) -> tuple[LeaseTerms, LeaseApproval]:
        """What the verifier says after an attestation: the terms in the token, and the approval."""
        stated = self.tpm.time(time_binding(VERIFIER, HOST, NONCE))
        quoted = self.tpm.quote(b"bound", "sha256")
        ak, below = parse_public(self.tpm.ak_public()), self.ak_qualified_name()
        quote = verify_quote(
            quoted.attest, quoted.signature, quoted.pcrs, ak=ak, qualified_name=below, extra_data=b"bound", bank="sha256"
        )  # fmt: skip
        shown = LeaseKey(instance, made.public, made.creation, made.attest, made.signature)
        came = parse_lease_keys(encode_lease_keys(LeaseKeys(stated.attest, stated.signature, (shown,))))
        judged = judge_lease_keys(
            came, quote, session_keys={instance: self.session_key}, ak=ak, ak_qualified_name=below, verifier=VERIFIER, host=HOST,
            nonce=NONCE, approver=self.approver.public,
        )  # fmt: skip
        found = judged.of(instance)
        assert isinstance(found, VerifiedLeaseKey), found
        assert judged.time is not None
        what = approvable(found, quote, life=life)
        signature = self.approver.sign(to_authorize(what.moment.policy, what.ref))
        approval = LeaseApproval(instance, what.ref, what.moment, self.approver.public, signature)
        assert parse_lease_approval(encode_lease_approval(approval)) == approval
        return terms(found, judged.time, what), approval

    def ak_qualified_name(self) -> bytes:
        ek = parse_public(self.tpm.endorsement().public)
        return qualified_name(primary_qualified_name(RH_ENDORSEMENT, ek.name()), parse_public(self.tpm.ak_public()).name())

    def token(self, said: LeaseTerms, *, issued_at: int = NOW, instance: bytes = INSTANCE, name: str = "one") -> VerifiedToken:
        claims = TokenClaims(
            issuer="https://verifier.example", agent=AgentId("example.org", "default", "reporter"), audience="tools", issued_at=issued_at,
            expires_at=issued_at + LIFE, token_id="t" * 22, key=self.session_key, host=HOST, instance=instance, policy=Digest.of(b"p"),
            result=Digest.of(b"r"), grants=(), lineage=(), tpm_class="software", runtime="runtime-only", exceptions=(), status_index=0,
            status_uri="https://verifier.example/v1/status/0", lease=said,
        )  # fmt: skip
        return VerifiedToken(claims, Digest.of(name.encode()), issued_at)

    def lease(self, made: MadeLeaseKey, approval: LeaseApproval, token: VerifiedToken) -> Lease:
        bound = lease_binding(token.claims.instance, token.claims.key, token.digest)
        stated = self.tpm.lease(made, approval, bound)
        lease = Lease(made.public, stated.attest, stated.signature)
        assert parse_lease(encode_lease(lease)) == lease
        return lease


@pytest.fixture
def bench(soft_tpm: SoftTpm, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """With EK and AK of the default kinds, unless a test names others."""
    ek, ak = getattr(request, "param", (None, "p256"))
    tpm = EsapiTpm(soft_tpm.tcti, tmp_path / "ak.cbor", allow_software=True, ek=ek, ak=ak)
    tpm.create_ak()
    session = MemorySigner.generate()
    yield Bench(tpm, MemorySigner.generate(ES256), session, session.public.thumbprint())
    tpm.close()


def drift(tpm: EsapiTpm) -> None:
    """What the attestor does when one byte of a measured file is another."""
    tpm.extend(13, (Digest.of(b"drift"), Digest.of(b"drift", "sha384")))


# --- the pure digests ------------------------------------------------------------------------------------------------


def test_policy_digests_are_those_of_the_tpm_s_own_trial_sessions(soft_tpm: SoftTpm) -> None:
    approver = MemorySigner.generate(ES256)
    name, selection = approval_public(approver.public).name(), PcrSelection((("sha256", ALL),))
    with ESAPI(soft_tpm.tcti) as esapi:
        session = esapi.start_auth_session(
            ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.TRIAL, TPMT_SYM_DEF.parse("null"), TPM2_ALG.SHA256
        )  # fmt: skip
        ours = BEGINNING
        assert bytes(esapi.policy_get_digest(session)) == ours
        esapi.policy_pcr(session, b"d" * 32, TPML_PCR_SELECTION.parse("sha256:" + ",".join(map(str, ALL))))
        ours = policy_pcr(ours, selection, b"d" * 32)
        assert bytes(esapi.policy_get_digest(session)) == ours
        for (offset, size), number, theirs, how in (
            (RESET_COUNT, 7, TPM2_EO.EQ, EQUAL),
            (CLOCK, 1 << 40, TPM2_EO.UNSIGNED_LT, UNSIGNED_LESS),
        ):
            esapi.policy_counter_timer(session, number.to_bytes(size, "big"), theirs, offset)
            ours = policy_counter_timer(ours, (offset, size), number, how)
            assert bytes(esapi.policy_get_digest(session)) == ours
        esapi.policy_authorize(session, ours, name, TPMT_TK_VERIFIED(tag=TPM2_ST.VERIFIED, hierarchy=TPM2_RH.OWNER), b"r" * 32)
        assert bytes(esapi.policy_get_digest(session)) == policy_authorize(name, b"r" * 32)
        esapi.flush_context(session)


# --- a lease, and what ends it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bench", [(None, "p256"), ("p384", "rsa2048")], indirect=True, ids=["default", "p384 EK, RSA AK"])
def test_a_lease_keeps_the_token_alive_for_its_life_and_no_longer(bench: Bench) -> None:
    made = bench.key()
    said, approval = bench.judged(made)
    token = bench.token(said)
    lease = bench.lease(made, approval, token)
    verified = verify_lease(lease, token, now=NOW)
    assert verified is not None
    assert NOW + said.life <= verified.alive_until < NOW + said.life + 5
    assert refused(lambda: verify_lease(lease, token, now=verified.alive_until)).code == "lease-expired"
    assert refused(lambda: verify_lease(None, token, now=NOW)).code == "lease-missing"


def test_after_one_byte_of_drift_the_tpm_refuses(bench: Bench) -> None:
    made = bench.key()
    said, approval = bench.judged(made)
    token = bench.token(said)
    bench.lease(made, approval, token)
    drift(bench.tpm)
    assert refused(lambda: bench.lease(made, approval, token)).code == "lease-refused"


def test_a_fresh_approval_lets_the_same_key_sign_again(bench: Bench) -> None:
    """A launch of a neighbour moves the register too: the next attestation brings an approval for everyone on the host."""
    made = bench.key()
    said, approval = bench.judged(made)
    drift(bench.tpm)
    said, approval = bench.judged(made)
    token = bench.token(said)
    assert verify_lease(bench.lease(made, approval, token), token, now=NOW) is not None


def test_after_t_the_tpm_refuses_by_its_own_clock(bench: Bench) -> None:
    made = bench.key()
    said, approval = bench.judged(made, life=1)
    token = bench.token(said)
    bench.lease(made, approval, token)
    until = time.monotonic() + 5
    while bench.tpm.clock().clock < approval.moment.clock_before and time.monotonic() < until:
        time.sleep(0.05)
    assert refused(lambda: bench.lease(made, approval, token)).code == "lease-refused"


def test_after_a_reset_approval_and_lease_are_worth_nothing(bench: Bench, soft_tpm: SoftTpm) -> None:
    made = bench.key()
    said, approval = bench.judged(made)
    token = bench.token(said)
    kept = kept_key(soft_tpm, bench.approver, approval.policy_ref)
    assert tried(soft_tpm, kept, approval) == 0
    soft_tpm.reset()
    assert refused(lambda: bench.lease(made, approval, token)).code == "lease-refused"
    assert tried(soft_tpm, kept, approval) & 0xFFF == 0x126  # TPM_RC_POLICY: the counter is another
    # the same key under a fresh approval of this run does not keep the former token alive
    again = bench.key()
    now, fresh = bench.judged(again)
    later = bench.lease(again, fresh, bench.token(now))
    assert refused(lambda: verify_lease(later, bench.token(replace(now, reset_count=said.reset_count)), now=NOW)).code == "lease-mismatch"


def test_key_and_approval_are_worth_nothing_on_another_tpm(bench: Bench, soft_tpm_factory: SoftTpmFactory, tmp_path: Path) -> None:
    """Another TPM loads no key of this one. In the very state that was approved it uses one of its own: no token names that."""
    made = bench.key()
    said, approval = bench.judged(made)
    token = bench.token(said)
    there = EsapiTpm(soft_tpm_factory("other").tcti, tmp_path / "other.cbor", allow_software=True)
    try:
        there.create_ak()
        assert refused(lambda: there.lease(made, approval, bytes(32))).code == "lease-refused"
        theirs = there.create_lease_key(lease_policy(bench.approver.public, approval.policy_ref), approval.policy_ref)
        stated = there.lease(theirs, approval, lease_binding(INSTANCE, bench.session_key, token.digest))
        for public in (theirs.public, made.public):
            lease = Lease(public, stated.attest, stated.signature)
            assert refused(partial(verify_lease, lease, token, now=NOW)).code == "lease-invalid"
        drift(there)
        assert refused(lambda: there.lease(theirs, approval, bytes(32))).code == "lease-refused"
    finally:
        there.close()


def test_an_approval_for_another_instance_or_by_another_key_is_refused_by_the_tpm(bench: Bench) -> None:
    made = bench.key()
    _, approval = bench.judged(made)
    stranger = MemorySigner.generate(ES256)
    ref = policy_ref(HOST, OTHER, bench.session_key)
    message = to_authorize(approval.moment.policy, ref)
    forged = (
        replace(approval, policy_ref=ref),
        replace(approval, policy_ref=ref, signature=bench.approver.sign(message)),
        replace(approval, key=stranger.public, signature=stranger.sign(to_authorize(approval.moment.policy, approval.policy_ref))),
        replace(approval, signature=stranger.sign(to_authorize(approval.moment.policy, approval.policy_ref))),
        replace(approval, moment=replace(approval.moment, clock_before=approval.moment.clock_before + 1)),
    )
    for one in forged:
        assert refused(partial(bench.tpm.lease, made, one, bytes(32))).code == "lease-refused"


def test_a_lease_of_another_key_instance_session_or_token_is_refused(bench: Bench) -> None:
    made, other = bench.key(), bench.key(OTHER)
    said, approval = bench.judged(made)
    other_said, other_approval = bench.judged(other, instance=OTHER)
    token = bench.token(said)
    lease = bench.lease(made, approval, token)
    assert refused(lambda: verify_lease(bench.lease(other, other_approval, token), token, now=NOW)).code == "lease-invalid"
    assert refused(lambda: verify_lease(lease, bench.token(other_said, instance=OTHER), now=NOW)).code == "lease-invalid"
    elsewhere = replace(token, claims=replace(token.claims, instance=OTHER))
    assert refused(lambda: verify_lease(lease, elsewhere, now=NOW)).code == "lease-mismatch"
    stolen = replace(token, claims=replace(token.claims, key=MemorySigner.generate().public.thumbprint()))
    assert refused(lambda: verify_lease(lease, stolen, now=NOW)).code == "lease-mismatch"
    assert refused(lambda: verify_lease(lease, bench.token(said, name="two"), now=NOW)).code == "lease-mismatch"
    flipped = replace(lease, attest=lease.attest[:-1] + bytes([lease.attest[-1] ^ 1]))
    assert refused(lambda: verify_lease(flipped, token, now=NOW)).code == "lease-invalid"


def test_no_lease_is_made_for_later(bench: Bench, soft_tpm: SoftTpm) -> None:
    """Root moves the TPM's clock forward, as its owner may: the time in a lease does not move, and the approval is over the sooner."""
    made = bench.key()
    said, approval = bench.judged(made)
    token = bench.token(said)
    with ESAPI(soft_tpm.tcti) as esapi:
        esapi.clock_set(approval.moment.clock_before - 5_000)
    verified = verify_lease(bench.lease(made, approval, token), token, now=NOW)
    assert verified is not None
    assert verified.alive_until < NOW + said.life + 5
    with ESAPI(soft_tpm.tcti) as esapi:
        esapi.clock_set(approval.moment.clock_before)
    assert refused(lambda: bench.lease(made, approval, token)).code == "lease-refused"


def test_session_that_was_prepared_before_the_drift_signs_nothing_after_it(bench: Bench, soft_tpm: SoftTpm) -> None:
    """The TPM counts every change of a register since a session looked. Its clock it compares when the session asks: what is prepared
    before T signs once after it, for a token that is dead then."""
    _, approval = bench.judged(bench.key())
    kept = kept_key(soft_tpm, bench.approver, approval.policy_ref)

    def one_byte(esapi: ESAPI) -> None:
        esapi.pcr_extend(ESYS_TR.PCR13, TPML_DIGEST_VALUES([TPMT_HA(hashAlg=TPM2_ALG.SHA256, digest=TPMU_HA(sha256=bytes(32)))]))

    assert tried(soft_tpm, kept, approval, lambda esapi: esapi.clock_set(approval.moment.clock_before)) == 0
    assert tried(soft_tpm, kept, approval) & 0xFFF == 0x126
    _, approval = bench.judged(bench.key())
    assert tried(soft_tpm, kept, approval) == 0
    assert tried(soft_tpm, kept, approval, one_byte) & 0xFFF == 0x128  # TPM_RC_PCR_CHANGED


def test_the_empty_password_avoids_no_policy_and_outside_bytes_are_not_signed(bench: Bench, soft_tpm: SoftTpm) -> None:
    made = bench.key()
    scheme = TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL)
    with ESAPI(soft_tpm.tcti) as esapi:
        key = esapi.context_load(made.context)
        attempts: tuple[Any, ...] = (
            lambda: esapi.get_time(key, TPM2B_DATA(bytes(32)), scheme, ESYS_TR.ENDORSEMENT),
            lambda: esapi.sign(key, bytes(32), scheme),
            lambda: esapi.quote(key, TPML_PCR_SELECTION.parse("sha256:0"), TPM2B_DATA(bytes(32)), scheme),
            lambda: esapi.object_change_auth(key, key, b"mine"),
        )
        for attempt in attempts:
            with pytest.raises(TSS2_Exception):
                attempt()
        esapi.flush_context(key)


def test_a_key_with_a_password_is_not_approved(bench: Bench, soft_tpm: SoftTpm) -> None:
    """What a host would make to get around the policy: userWithAuth, no restriction, no policy, another's approver, another instance's."""
    ref = policy_ref(HOST, INSTANCE, bench.session_key)
    policy = lease_policy(bench.approver.public, ref)
    good = "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|noda|restricted|sign"
    for attributes, own_policy, own_ref in (
        (good + "|userwithauth", policy, ref),
        (good.replace("|restricted", ""), policy, ref),
        (good.replace("|adminwithpolicy", ""), policy, ref),
        (good, lease_policy(MemorySigner.generate(ES256).public, ref), ref),
        (good, lease_policy(bench.approver.public, policy_ref(HOST, OTHER, bench.session_key)), ref),
        (good, policy, policy_ref(HOST, OTHER, bench.session_key)),
    ):
        bench.tpm.close()
        bench.tpm = Otherwise(bench.tpm, soft_tpm, attributes)
        made = bench.tpm.create_lease_key(own_policy, own_ref)
        with pytest.raises(AssertionError, match="lease-key-refused"):
            bench.judged(made)


# --- an attacker's own commands --------------------------------------------------------------------------------------


class Otherwise(EsapiTpm):
    """The attestor's TPM, with lease keys of other attributes."""

    def __init__(self, like: EsapiTpm, soft: SoftTpm, attributes: str) -> None:
        super().__init__(soft.tcti, like._ak_file, allow_software=True)  # noqa: SLF001 - the host's own AK
        self.lease_key_attributes = attributes


@dataclass
class Kept:
    """A lease key whose wrapped private part an attacker kept, below the storage primary, so that it outlives a reset."""

    private: Any
    public: Any


def kept_key(soft: SoftTpm, approver: MemorySigner, ref: bytes) -> Kept:
    template = TPM2B_PUBLIC.parse(
        "ecc:ecdsa-sha256:null", "fixedtpm|fixedparent|sensitivedataorigin|adminwithpolicy|noda|restricted|sign"
    )  # fmt: skip
    template.publicArea.authPolicy = lease_policy(approver.public, ref)
    with ESAPI(soft.tcti) as esapi:
        primary = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), "ecc")[0]
        private, public, *_ = esapi.create(primary, TPM2B_SENSITIVE_CREATE(), template)
        esapi.flush_context(primary)
    return Kept(private, public)


class Between:
    """A connection to a TPM on which something happens when the policy is through, and before the signature."""

    def __init__(self, esapi: ESAPI, happens: Callable[[ESAPI], object]) -> None:
        self._esapi, self._happens = esapi, happens

    def __getattr__(self, name: str) -> Any:
        if name == "get_time":
            self._happens(self._esapi)
        return getattr(self._esapi, name)


def tried(soft: SoftTpm, kept: Kept, approval: LeaseApproval, happens: Callable[[ESAPI], object] = lambda _: None) -> int:
    """The TPM's response code to the attestor's own commands for a lease with that key; 0 where it signs."""
    bare = EsapiTpm(soft.tcti, Path("none"), allow_software=True)
    with ESAPI(soft.tcti) as esapi:
        primary = esapi.create_primary(TPM2B_SENSITIVE_CREATE(), "ecc")[0]
        key = esapi.load(primary, kept.private, kept.public)
        esapi.flush_context(primary)
        bare._esapi = Between(esapi, happens)  # noqa: SLF001 - the same commands, over the attacker's connection
        made = MadeLeaseKey(b"", b"", b"", b"", esapi.context_save(key))
        esapi.flush_context(key)
        try:
            bare._lease_once(made, approval, bytes(32))  # noqa: SLF001
        except TSS2_Exception as error:
            return int(error.rc)
        return 0
