"""Exchange decided: delegation narrows, a parent's end ends it, a lease is wanted where the token takes one, and no claim is widened."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from tests.world.lease_chip import LeaseChip
from tests.world.scene import (
    ENGINE_ID,
    GOVERNED,
    GRANTS,
    ISSUER,
    NOW,
    POLICIES,
    Scene,
    measurement,
    permitted,
    policy,
    sign_token,
    signer,
    sixteen,
)
from tests.writ.verdict.refusal import refused
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims
from writ.formats.errors import FormatError
from writ.formats.eventlog.runtime import DriftEvent
from writ.formats.exchange import EXCHANGE, ExchangeRequest, NonceAnswer
from writ.formats.exchange_token import MAX_LIFE, encode_exchange_claims, parse_exchange_claims
from writ.formats.exemption import Exemption
from writ.formats.grants import grant_set
from writ.formats.jose import encode_dpop_payload, sign_dpop
from writ.formats.keys import key_id
from writ.formats.measurement import Measurement
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.strict import b64url
from writ.verdict.reference import measured_values, reference_set
from writ.verdict.schema import cedar_schema
from writ.verdict.token_exchange import ExchangeVerdict, Exchanging, decide_exchange

VAULT, URI = "https://vault.example.org", f"{ISSUER}/v1/hosts/host-1/exchange"
PERMIT = f'@id("vault") permit (principal, action == Writ::Action::"token.exchange", resource == Writ::Audience::"{VAULT}");'
NOT_FOR = '@id("not-for-it") forbid (principal == Writ::Agent::"{}", action == Writ::Action::"token.exchange", resource);'
GRANTED = grant_set([*GRANTS, ("token.exchange", VAULT)])
KEY = signer("token").public
REPORTER = "spiffe://example.org/billing/agent/reporter"


def bundle(more: str = "") -> PolicyBundle:
    return policy(policies=POLICIES + PERMIT + more, schema=cedar_schema())


@dataclass
class Asking:
    """A scene whose agents may have a token for the vault as far as the reference values are of any such grants."""

    scene: Scene

    def token(self, name: str, **changed: object) -> tuple[str, TokenClaims]:
        claims = replace(permitted(self.scene.attest(name)), **changed)  # type: ignore[arg-type]
        return sign_token(claims, kid=key_id(KEY)), claims

    def request(self, name: str, token: str, lease: bytes | None = None) -> bytes:
        payload = encode_dpop_payload(
            jti="a" * 24, htm="POST", htu=URI, iat=self.scene.now, ath=b64url(Digest.of(token.encode()).value), act="token.exchange",
            res=VAULT, arg=b64url(Digest.of(b"").value),
        )  # fmt: skip
        return EXCHANGE.encode(ExchangeRequest(VAULT, token, sign_dpop(payload, self.scene.running[name].key), lease))

    def decide(self, request: bytes, *, now: int | None = None) -> ExchangeVerdict:
        scene = self.scene
        return decide_exchange(
            request, record=scene.record, state=scene.state, references=reference_set(scene.references, scene.exemptions),
            bundle=scene.bundle, keys=(KEY,),
            exchanging=Exchanging(ISSUER, URI, scene.now if now is None else now, "an-exchange-token-id"), engine=ENGINE_ID.digest,
        )  # fmt: skip


def approved(agent: str, what: Measurement) -> Corim:
    return Corim(f"{agent}-1", "billing", f"spiffe://example.org/billing/agent/{agent}", tuple(sorted(measured_values(what).items())))


@pytest.fixture
def asking() -> Asking:
    what = {agent: measurement(agent, grants=GRANTED) for agent in ("reporter", "scribe")}
    scene = Scene(bundle=bundle(), references=(GOVERNED, *(approved(agent, one) for agent, one in what.items())))
    scene.launch("one", what=what["reporter"], grants=GRANTED)
    scene.launch("two", agent="scribe", what=what["scribe"], grants=GRANTED, parent="one")
    return Asking(scene)


def test_claims_are_those_of_the_token_and_live_no_longer(asking: Asking) -> None:
    token, claims = asking.token("one")
    given = asking.decide(asking.request("one", token)).claims
    assert given is not None
    assert (given.agent, given.host, given.instance, given.tpm_class, given.runtime) == (
        claims.agent, claims.host, claims.instance, claims.tpm_class, claims.runtime,
    )  # fmt: skip
    assert (given.issued_at, given.expires_at, given.audience) == (NOW, claims.expires_at, VAULT)
    assert given.expires_at - given.issued_at <= MAX_LIFE


def test_a_child_gets_one_only_where_its_parents_would_and_live(asking: Asking) -> None:
    asking.token("one")
    token, _ = asking.token("two")
    request = asking.request("two", token)
    assert asking.decide(request).claims is not None
    scene = asking.scene
    scene.event(DriftEvent(sixteen("one"), "prompts", "a.txt", Digest.of(b"x"), None))
    scene.attest()
    codes = {reason.code for reason in asking.decide(request).entry.reasons}
    assert "parent-refused" in codes


def test_policy_is_asked_for_each_parent(asking: Asking) -> None:
    asking.scene.bundle = bundle(NOT_FOR.format(REPORTER))
    asking.token("one")
    token, _ = asking.token("two")
    (reason,) = asking.decide(asking.request("two", token)).entry.reasons
    assert (reason.code, reason.expected) == ("policy-refused", f"a permit for {REPORTER}")


def test_what_was_let_pass_is_said_as_the_execution_token_says_it(asking: Asking) -> None:
    token, claims = asking.token("one")
    for exceptions in (claims.exceptions, (), ("attestor-not-rooted", "component-mismatch/0011223344556677")):
        token, _ = asking.token("one", exceptions=exceptions)
        given = asking.decide(asking.request("one", token)).claims
        assert given is not None
        assert parse_exchange_claims(encode_exchange_claims(given)).exceptions == exceptions


def test_i6_host_is_appraised_again_once_something_that_it_is_judged_by_ran_out(asking: Asking) -> None:
    """Another version stands, so that the host may be accepted again: which one it is, its next attestation says."""
    scene = asking.scene
    scene.references = (replace(GOVERNED, id="until-then", valid_until=NOW + 10), *scene.references)
    token, _ = asking.token("one")
    request = asking.request("one", token)
    assert asking.decide(request, now=NOW + 10).claims is not None
    (reason,) = asking.decide(request, now=NOW + 11).entry.reasons
    assert (reason.code, reason.expected) == ("host-unappraised", "since governance ran out")
    scene.now += 11
    token, _ = asking.token("one")
    assert asking.decide(asking.request("one", token)).claims is not None


@pytest.mark.parametrize("host, codes", [("host-1", ["host-unappraised"]), ("host-2", [])])
def test_i6_host_is_appraised_again_once_an_exemption_of_its_own_is_over(asking: Asking, host: str, codes: list[str]) -> None:
    scene = asking.scene
    scene.exemptions = (
        Exemption("billing", "governance-mismatch", "governance.attestor", "x", (host,), NOW, NOW + 10, "", ("alice", "bob")),
    )
    token, _ = asking.token("one")
    request = asking.request("one", token)
    assert asking.decide(request, now=NOW + 10).claims is not None
    assert [reason.code for reason in asking.decide(request, now=NOW + 11).entry.reasons] == codes


def test_agents_whose_version_ran_out_leave_the_others_theirs(asking: Asking) -> None:
    scene = asking.scene
    scene.references = (*scene.references, replace(approved("other", measurement("other")), valid_until=NOW + 10))
    token, _ = asking.token("one")
    assert asking.decide(asking.request("one", token), now=NOW + 11).claims is not None


def test_lineage_that_the_log_does_not_tell_is_refused(asking: Asking) -> None:
    asking.token("one")
    token, _ = asking.token("two", lineage=())
    assert [reason.code for reason in asking.decide(asking.request("two", token)).entry.reasons] == ["parent-refused"]


@pytest.mark.parametrize(
    "changed, code",
    [
        ({"grants": GRANTS}, "grant-missing"), ({"policy": Digest.of(b"x")}, "policy-digest-mismatch"),
        ({"agent": None}, "instance-key-mismatch"), ({"instance": sixteen("nobody")}, "instance-unknown"),
    ],
)  # fmt: skip
def test_token_that_says_otherwise_than_the_record_is_refused(asking: Asking, changed: dict[str, object], code: str) -> None:
    if "agent" in changed:
        changed = {"agent": permitted(asking.scene.attest("one")).agent.parse("spiffe://example.org/billing/agent/scribe")}
    token, _ = asking.token("one", **changed)
    verdict = asking.decide(asking.request("one", token))
    assert verdict.claims is None
    assert [reason.code for reason in verdict.entry.reasons] == [code]


def test_host_that_was_never_attested_or_is_contained_gets_none(asking: Asking) -> None:
    token, _ = asking.token("one")
    request, scene = asking.request("one", token), asking.scene
    assert scene.state is not None
    scene.state = replace(scene.state, status="contained")
    assert [reason.code for reason in asking.decide(request).entry.reasons] == ["host-not-active"]
    scene.state = None
    assert [reason.code for reason in asking.decide(request).entry.reasons] == ["instance-unknown"]


def test_token_of_hardware_mode_takes_a_lease_that_lives(asking: Asking) -> None:
    chip = LeaseChip()
    token, claims = asking.token("one", lease=chip.terms())
    assert refused(lambda: asking.decide(asking.request("one", token))).code == "lease-missing"
    lease = chip.lease(claims.instance, claims.key, Digest.of(token.encode()))
    assert asking.decide(asking.request("one", token, lease)).claims is not None
    other = chip.lease(claims.instance, claims.key, Digest.of(b"another token"))
    assert refused(lambda: asking.decide(asking.request("one", token, other))).code == "lease-mismatch"


def test_message_of_another_kind_is_no_request(asking: Asking) -> None:
    with pytest.raises(FormatError, match="exchange-request"):
        asking.decide(EXCHANGE.encode(NonceAnswer(bytes(32), 1)))


def test_token_of_another_key_or_issuer_shows_nobody(asking: Asking) -> None:
    token, claims = asking.token("one")
    stranger = sign_token(claims, signer("stranger"), kid=key_id(KEY))
    assert refused(lambda: asking.decide(asking.request("one", stranger))).code == "signature-invalid"
    unknown = sign_token(claims, signer("stranger"), kid=key_id(signer("stranger").public))
    assert refused(lambda: asking.decide(asking.request("one", unknown))).code == "token-key-unknown"
    elsewhere = sign_token(replace(claims, issuer="https://evil.example.org"), kid=key_id(KEY))
    assert refused(lambda: asking.decide(asking.request("one", elsewhere))).code == "token-issuer"
    assert refused(lambda: asking.decide(asking.request("one", token), now=claims.expires_at)).code == "token-expired"
