"""Hardware mode in the verdict: no token without a lease key in the TPM that the quote binds, and what is approved with one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest

from tests.signers import new_signer
from tests.world.chip import public_area
from tests.world.scene import DEMO, ISSUER, Scene, codes, permitted, policy, signer, sixteen
from tests.writ.verdict.refusal import refused
from writ.formats.digest import Digest, Nonce, hash_bytes
from writ.formats.eat import parse_token
from writ.formats.evidence import Evidence, parse_evidence
from writ.formats.keys import ES256, PublicKey
from writ.formats.lease import LEASE_KEY_ATTRIBUTES, LEASE_LIFE, LeaseKey, LeaseKeys, lease_policy, policy_ref, time_binding
from writ.formats.tpm.policy import BEGINNING
from writ.formats.tpm.public import RESTRICTED, RH_ENDORSEMENT, USER_WITH_AUTH, Public, Scheme, primary_qualified_name
from writ.verdict.proof import prove

VERIFIER = signer("decision").public.thumbprint()
APPROVER = new_signer(ES256).public


@dataclass
class Host:
    """A scene of hardware mode with one instance, and what its TPM shows of a lease key."""

    scene: Scene
    attributes: int = LEASE_KEY_ATTRIBUTES
    approver: PublicKey = APPROVER
    parent: bytes | None = None
    instance: bytes = sixteen("one")
    verifier: bytes = VERIFIER

    @property
    def ref(self) -> bytes:
        return policy_ref(self.scene.host, self.instance, self.scene.running["one"].request().session_key.thumbprint())

    @property
    def public(self) -> Public:
        area = public_area("lease", self.attributes, scheme=Scheme("ecdsa", "sha256"), symmetric=None)
        return replace(area, auth_policy=lease_policy(self.approver, self.ref))

    def key(self) -> LeaseKey:
        creation, attest, signature = self.scene.chip.create_lease_key(self.public, self.ref, parent=self.parent)
        return LeaseKey(sixteen("one"), self.public.raw, creation, attest, signature)

    def evidence(self, shows: Callable[[Nonce], LeaseKeys], *names: str) -> Evidence:
        self.scene.shows = shows
        try:
            return self.scene.evidence(*names)
        finally:
            self.scene.shows = None

    def shown(self, nonce: Nonce) -> LeaseKeys:
        attest, signature = self.scene.chip.get_time(time_binding(self.verifier, self.scene.host, nonce.value))
        return LeaseKeys(attest, signature, (self.key(),))


@pytest.fixture
def host() -> Host:
    scene = Scene(bundle=policy(replace(DEMO, lease_approver=APPROVER)))
    scene.launch("one")
    return Host(scene)


def test_token_names_the_key_the_moment_and_what_was_approved(host: Host) -> None:
    verdict = host.scene.judge(host.evidence(host.shown, "one"))
    claims, approved = permitted(verdict), verdict.tokens[0].approved
    assert claims.issuer == ISSUER
    assert claims.lease is not None
    assert approved is not None
    chip = host.scene.chip
    assert claims.lease.key == hash_bytes("sha256", host.public.raw)
    assert (claims.lease.reset_count, claims.lease.restart_count, claims.lease.life) == (chip.reset_count, 0, LEASE_LIFE)
    assert claims.lease.approved == approved.moment.policy != BEGINNING
    assert approved.ref == host.ref
    assert approved.moment.clock_before == chip.clock + 1000 * (claims.expires_at - claims.issued_at)


def test_i1_no_token_without_a_lease_key_where_the_policy_is_of_hardware_mode(host: Host) -> None:
    assert codes(host.scene.judge(host.scene.evidence("one"))) == {"lease-key-missing"}


def test_policy_without_hardware_mode_looks_at_no_lease_key(host: Host) -> None:
    host.scene.bundle = policy()
    verdict = host.scene.judge(host.evidence(host.shown, "one"))
    assert permitted(verdict).lease is None
    assert verdict.tokens[0].approved is None


def test_i2_lease_keys_that_the_quote_does_not_cover_are_not_believed(host: Host) -> None:
    evidence = host.evidence(host.shown, "one")
    bare = host.scene.evidence("one")
    assert refused(lambda: host.scene.judge(replace(evidence, lease_keys=None))).code == "extra-data-mismatch"
    assert refused(lambda: host.scene.judge(replace(bare, lease_keys=host.shown(bare.nonce)))).code == "extra-data-mismatch"


def test_i11_a_bad_lease_key_costs_its_own_instance_alone(host: Host) -> None:
    host.scene.launch("two")
    verdict = host.scene.judge(host.evidence(host.shown, "one", "two"))
    said = {token.instance: {reason.code for reason in token.reasons} for token in verdict.tokens}
    assert said == {sixteen("one"): set(), sixteen("two"): {"lease-key-missing"}}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda h: replace(h, attributes=LEASE_KEY_ATTRIBUTES | USER_WITH_AUTH),
        lambda h: replace(h, attributes=LEASE_KEY_ATTRIBUTES & ~RESTRICTED),
        lambda h: replace(h, approver=new_signer(ES256).public),
        lambda h: replace(h, instance=sixteen("two")),
        lambda h: replace(h, parent=primary_qualified_name(0x40000001, h.scene.chip.ek.name())),
        lambda h: replace(h, parent=primary_qualified_name(RH_ENDORSEMENT, h.scene.chip.ak.name())),
        lambda h: replace(h, verifier=bytes(32)),
    ],
    ids=["password", "unrestricted", "another approver", "another instance", "owner hierarchy", "another parent", "another verifier"],
)
def test_i7_lease_key_that_is_not_made_for_this_is_refused(host: Host, spoil: Callable[[Host], Host]) -> None:
    verdict = host.scene.judge(host.evidence(spoil(host).shown, "one"))
    assert codes(verdict) == {"lease-key-refused"}


def test_time_of_an_earlier_nonce_or_run_of_the_tpm_is_refused(host: Host) -> None:
    old = host.shown(Nonce(bytes(32)))
    verdict = host.scene.judge(host.evidence(lambda _: old, "one"))
    assert codes(verdict) == {"lease-key-refused"}

    def before_a_resume(nonce: Nonce) -> LeaseKeys:
        shown = host.shown(nonce)
        host.scene.chip.resume()
        return shown

    assert codes(host.scene.judge(host.evidence(before_a_resume, "one"))) == {"lease-key-refused"}


def test_spoilt_parts_of_a_lease_key_are_refused_and_never_an_error(host: Host) -> None:
    def spoilt(name: str, nonce: Nonce) -> LeaseKeys:
        shown = host.shown(nonce)
        if name.startswith("time"):
            return replace(shown, **{name: getattr(shown, name)[:-1]})
        key = shown.keys[0]
        return replace(shown, keys=(replace(key, **{name: getattr(key, name)[:-1]}),))

    for name in ("time_attest", "time_signature", "public", "creation", "attest", "signature"):
        verdict = host.scene.judge(host.evidence(partial(spoilt, name), "one"))
        assert codes(verdict) == {"lease-key-refused"}, name


def test_i5_the_same_evidence_makes_the_same_claims(host: Host) -> None:
    evidence = host.evidence(host.shown, "one")
    one, two = host.scene.judge(evidence), host.scene.judge(evidence)
    assert one == two
    assert one.entry.outcomes[0].claims is not None
    assert isinstance(one.entry.result, Digest)


def test_action_under_a_token_of_hardware_mode_is_proven_from_quotes_that_bind_lease_keys(host: Host) -> None:
    host.scene.shows = host.shown
    proof = host.scene.proof_bundle()
    assert parse_evidence(proof.evidence).lease_keys is not None
    assert parse_evidence(proof.carrier).lease_keys is not None
    assert parse_token(proof.token).claims.lease is not None
    assert prove(proof, host.scene.trust).chain.attested_at <= host.scene.now
