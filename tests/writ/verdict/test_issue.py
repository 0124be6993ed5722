"""Each step of `issue`: who gets claims, for how long, and who does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.scene import (
    AUDIENCE,
    DEMO,
    GOVERNED,
    GRANTS,
    ISSUER,
    NAMESPACE,
    NOW,
    POLICIES,
    STATUS_URI,
    Scene,
    codes,
    measurement,
    permitted,
    policy,
    reference,
    sixteen,
)  # fmt: skip
from tests.writ.verdict.test_cedar import ERRING
from writ.formats.corim import Corim
from writ.formats.decision import encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims
from writ.formats.errors import FormatError, Misuse
from writ.formats.eventlog.runtime import StopEvent
from writ.formats.grants import grant_set
from writ.verdict.attestation import AttestationVerdict, said_parents
from writ.verdict.reference import measured_values


def launched(*names: str, **given: object) -> Scene:
    scene = Scene(**given)  # type: ignore[arg-type] # fields of the scene, by name
    for name in names:
        scene.launch(name)
    return scene


def test_claims_are_those_of_host_instance_policy_and_result() -> None:
    scene = launched("one")
    verdict = scene.attest("one")
    assert permitted(verdict) == TokenClaims(
        issuer=ISSUER, agent=measurement().agent, audience=AUDIENCE, issued_at=NOW, expires_at=NOW - 2 + 60, token_id="token-id-0001-0000",
        key=scene.running["one"].key.public.thumbprint(), host="host-1", instance=sixteen("one"), policy=scene.bundle.digest,
        result=Digest.of(verdict.result), grants=GRANTS, lineage=(), tpm_class="software", runtime="runtime-only",
        exceptions=("attestor-not-rooted",), status_index=100, status_uri=STATUS_URI,
    )  # fmt: skip
    assert verdict.tokens[0].reasons == ()


def test_answers_come_in_the_order_of_the_requests_each_with_its_own_id() -> None:
    scene = launched("one")
    scene.launch("two", parent="one")
    verdict = scene.attest("two", "one")
    assert [(t.instance, t.claims.token_id, t.claims.status_index) for t in verdict.tokens if t.claims] == [
        (sixteen("two"), "token-id-0001-0000", 100),
        (sixteen("one"), "token-id-0001-0001", 101),
    ]


def test_nothing_is_issued_to_anyone_on_a_host_with_a_reason_against_it() -> None:
    scene = launched("one", "two", bundle=policy(replace(DEMO, accept_runtime_only=False)))
    verdict = scene.attest("one", "two")
    assert codes(verdict, 0) == codes(verdict, 1) == {"attestor-not-rooted"}


def test_i11_instance_with_a_reason_against_it_costs_its_neighbour_nothing() -> None:
    scene = launched("one", "two")
    scene.event(StopEvent(sixteen("one"), "exited"))
    verdict = scene.attest("one", "two")
    assert codes(verdict, 0) == {"instance-stopped"}
    assert permitted(verdict, 1).instance == sixteen("two")


# --- 3: grants of a child

WIDER = grant_set([("tool.call", "files/*"), ("tool.call", "mail/*")])


def family(child: tuple[tuple[str, str], ...]) -> Scene:
    scene = launched("one")
    scene.launch("two", parent="one", grants=child)
    return scene


def test_child_with_grants_within_its_parents_gets_them() -> None:
    verdict = family((("tool.call", "files/reports/*"),)).attest("one", "two")
    claims = permitted(verdict, 1)
    assert (claims.grants, claims.lineage) == ((("tool.call", "files/reports/*"),), (sixteen("one"),))


@pytest.mark.parametrize("child", [WIDER, (("file.read", "files/a"),), (("tool.call", "mail/send"), ("tool.call", "mail/sent"))])
def test_child_with_grants_beyond_its_parents_gets_nothing(child: tuple[tuple[str, str], ...]) -> None:
    assert codes(family(child).attest("one", "two"), 1) == {"grants-not-narrower"}


def test_child_renews_without_its_parent() -> None:
    scene = family(GRANTS)
    scene.attest("one", "two")
    assert permitted(scene.attest("two")).lineage == (sixteen("one"),)


def exps(verdict: AttestationVerdict) -> list[int | None]:
    return [None if token.claims is None else token.claims.expires_at - NOW for token in verdict.tokens]


def test_child_expires_no_later_than_the_token_that_its_parent_holds() -> None:
    scene = family(GRANTS)
    scene.alive = ((sixteen("one"), NOW + 20), (sixteen("other"), NOW + 5))
    verdict = scene.attest("two")
    assert (exps(verdict), verdict.entry.alive) == ([20], ((sixteen("one"), NOW + 20),))
    scene.alive = ((sixteen("one"), NOW + 200),)
    assert exps(scene.attest("two")) == [58]


@pytest.mark.parametrize("alive", [(), ((sixteen("one"), NOW),), ((sixteen("other"), NOW + 60),)])
def test_child_of_a_parent_without_a_token_gets_none(alive: tuple[tuple[bytes, int], ...]) -> None:
    scene = family(GRANTS)
    scene.alive = alive
    assert codes(scene.attest("two")) == {"parent-refused"}


def test_child_and_parent_that_ask_together_expire_together_in_whatever_order_they_ask() -> None:
    scene = family(GRANTS)
    scene.launch("three", parent="two")
    scene.alive = ((sixteen("one"), NOW + 1),)
    for names in (("three", "one", "two"), ("one", "two", "three")):
        verdict = scene.attest(*names)
        assert (exps(verdict), verdict.entry.alive) == ([58, 58, 58], ())
    scene.alive = ((sixteen("one"), NOW + 30),)
    assert exps(scene.attest("three", "two")) == [30, 30]


def test_a_parent_that_is_refused_here_takes_its_descendants_with_it_whatever_token_it_holds() -> None:
    scene = family(GRANTS)
    scene.launch("three", parent="two")
    scene.alive = ((sixteen("one"), NOW + 50), (sixteen("two"), NOW + 50))
    forked = replace(scene.running["one"].request(), log_from=1)
    asked = (scene.running["three"].request(), scene.running["two"].request(), forked)
    verdict = scene.judge(scene.evidence(requests=asked))
    assert [codes(verdict, at) for at in range(3)] == [{"parent-refused"}, {"parent-refused"}, {"action-log-base"}]


def test_nothing_is_said_of_parents_where_none_ask_below_one_or_where_nobody_knew() -> None:
    scene = family(GRANTS)
    scene.alive = ((sixteen("one"), NOW + 5),)
    assert scene.attest("one").entry.alive is None
    scene.alive = None
    verdict = scene.attest("two")
    assert (exps(verdict), verdict.entry.alive) == ([58], None)


def test_decision_that_says_until_when_parents_hold_tokens_is_read_in_one_spelling() -> None:
    scene = family(GRANTS)
    scene.alive = ((sixteen("one"), NOW + 20),)
    entry = scene.attest("two").entry
    assert parse_entry(encode_entry(entry)) == entry
    one, other = sorted((sixteen("one"), sixteen("two")))
    for alive in (((other, 1), (one, 1)), ((one, 1), (one, 2))):
        with pytest.raises(FormatError, match="sorted"):
            parse_entry(encode_entry(replace(entry, alive=alive)))


def test_parents_to_look_up_are_those_that_state_and_log_name_for_who_asks() -> None:
    scene = family(GRANTS)
    scene.launch("other")
    assert said_parents(scene.evidence("two", "other"), scene.state) == {sixteen("one")}
    assert said_parents(scene.evidence("one"), scene.state) == frozenset()
    scene.attest("two")
    later = scene.evidence("two")
    assert not later.log
    assert said_parents(later, scene.state) == {sixteen("one")}
    assert said_parents(replace(later, log=b"rubbish"), scene.state) == {sixteen("one")}


def test_child_of_a_parent_that_would_not_pass_is_refused() -> None:
    scene = Scene(references=(GOVERNED, reference()))
    scene.launch("one", what=measurement(prompt=b"be evil"))
    scene.launch("two", parent="one")
    verdict = scene.attest("two", "one")
    assert codes(verdict, 1) == {"component-mismatch"}
    assert codes(verdict, 0) == {"parent-refused"}
    scene.references = (*scene.references, reference(version="evil", prompt=b"be evil"))
    assert permitted(scene.attest("two")).lineage == (sixteen("one"),)


def test_child_of_a_parent_that_the_policy_refuses_is_refused() -> None:
    forbidding = POLICIES + '@id("x") forbid(principal == Writ::Agent::"spiffe://example.org/billing/agent/boss", action, resource);'
    scene = Scene(references=(GOVERNED, reference(), reference("boss")), bundle=policy(policies=forbidding))
    scene.launch("one", agent="boss")
    scene.launch("two", parent="one")
    assert codes(scene.attest("two")) == {"policy-refused"}


def test_grandchild_is_bound_by_its_parent_and_not_by_its_grandparent() -> None:
    narrow = measurement("narrow", grants=(("tool.call", "files/reports/*"),))
    approved = Corim("narrow-1", NAMESPACE, str(narrow.agent), tuple(sorted(measured_values(narrow).items())))
    scene = Scene(references=(GOVERNED, reference(), approved))
    scene.launch("one")
    scene.launch("two", agent="narrow", parent="one", what=narrow, grants=narrow.grants)
    scene.launch("three", parent="two", grants=(("tool.call", "files/other"),))
    verdict = scene.attest("three", "two", "one")
    assert codes(verdict, 0) == {"grants-not-narrower"}
    assert permitted(verdict, 1).instance == sixteen("two")


def test_child_may_speak_to_another_audience_than_its_parent() -> None:
    caller = measurement("caller", audience="elsewhere")
    approved = Corim("caller-1", NAMESPACE, str(caller.agent), tuple(sorted(measured_values(caller).items())))
    wider = POLICIES + '@id("e") permit(principal, action == Writ::Action::"token.issue", resource == Writ::Audience::"elsewhere");'
    scene = Scene(references=(GOVERNED, reference(), approved), bundle=policy(policies=wider))
    scene.launch("one")
    scene.launch("two", agent="caller", parent="one", what=caller)
    asked = replace(scene.running["two"].request(), audience="elsewhere")
    assert permitted(scene.judge(scene.evidence(requests=(asked,)))).audience == "elsewhere"


def test_no_instance_gets_more_than_its_measured_manifest_allows() -> None:
    scene = Scene(references=(GOVERNED, reference()))
    scene.launch("one", grants=(*GRANTS, ("tool.call", "vault/*")))
    assert codes(scene.attest("one")) == {"grants-not-narrower"}


def test_no_instance_gets_a_token_for_another_audience_than_its_manifest_names() -> None:
    scene = launched("one")
    asked = replace(scene.running["one"].request(), audience="elsewhere")
    assert codes(scene.judge(scene.evidence(requests=(asked,)))) == {"token-audience"}


# --- 4: namespace and policy


def test_agent_of_another_namespace_is_refused() -> None:
    other = measurement(namespace="other")
    known = Corim("o", "other", str(other.agent), reference().components)
    scene = Scene(references=(GOVERNED, known))
    scene.launch("one", what=other)
    assert codes(scene.attest("one")) == {"policy-refused"}
    assert NAMESPACE != "other"


def test_policy_that_forbids_the_token_names_itself() -> None:
    scene = launched(
        "one", bundle=policy(policies=POLICIES + '@id("closed") forbid(principal, action == Writ::Action::"token.issue", resource);')
    )
    verdict = scene.attest("one")
    assert codes(verdict) == {"policy-refused"}
    assert verdict.tokens[0].reasons[0].got == "closed"


def test_policy_that_says_nothing_of_tokens_refuses() -> None:
    scene = launched("one", bundle=policy(policies='permit(principal, action == Writ::Action::"tool.call", resource);'))
    assert scene.attest("one").tokens[0].reasons[0].got == "no policy permits"


def test_policy_that_errs_or_cannot_be_loaded_refuses_and_the_decision_still_stands() -> None:
    for policies in (POLICIES + ERRING, "permit(principal, action, resource);", "rubbish"):
        verdict = launched("one", bundle=policy(policies=policies)).attest("one")
        assert codes(verdict) == {"policy-error"}
        assert verdict.entry.verdict == "accepted"


def test_policy_sees_what_the_verifier_knows_of_the_tpm() -> None:
    seen = '@id("seen") permit(principal, action == Writ::Action::"token.issue", resource) when {{ {} }};'
    for condition, good in (
        ('context.tpm_class == "software"', True), ('context.tpm_class == "discrete"', False), ("context.endorsed", True),
        ('context.runtime == "runtime-only"', True), ('context.host == "host-1"', True), ('resource == Writ::Audience::"tools"', True),
        ('principal == Writ::Agent::"spiffe://example.org/billing/agent/reporter"', True), ('resource == Writ::Audience::"other"', False),
    ):  # fmt: skip
        verdict = launched("one", bundle=policy(policies=seen.format(condition))).attest("one")
        assert (verdict.tokens[0].claims is not None) == good, condition


# --- 5: life


@pytest.mark.parametrize("age, life", [(0, 60), (59, 1)])
def test_life_counts_from_the_nonces_issue(age: int, life: int) -> None:
    scene = launched("one")
    claims = permitted(scene.judge(scene.evidence("one"), nonce_age=age))
    assert claims.expires_at - claims.issued_at == life


@pytest.mark.parametrize("age", [60, 61, 100])
def test_evidence_saved_up_gets_nothing(age: int) -> None:
    scene = launched("one")
    assert codes(scene.judge(scene.evidence("one"), nonce_age=age)) == {"nonce-expired"}


def test_life_is_the_policys() -> None:
    scene = launched("one", bundle=policy(replace(DEMO, token_life=300)))
    assert permitted(scene.judge(scene.evidence("one"), nonce_age=0)).expires_at == NOW + 300


def test_as_many_ids_as_requests_or_it_is_our_bug() -> None:
    scene = launched("one")
    scene.issuance = lambda count, *, nonce_age=2: Scene.issuance(scene, count + 1, nonce_age=nonce_age)  # type: ignore[method-assign] # a shell that errs
    with pytest.raises(Misuse):
        scene.judge(scene.evidence("one"))
