"""Each step of `decide`: everything must say yes, in order, and each no has its reason."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest

from tests.world.scene import AUDIENCE, ISSUER, NOW, POLICIES, Scene, permitted, policy, sign_token, signer
from tests.writ.verdict.test_cedar import ERRING
from writ.formats.action import Action, encode_context
from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims, parse_token
from writ.formats.errors import FormatError
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.strict import decode_cbor, encode_cbor
from writ.verdict.decide import decide, decision_context, judge_recorded, lag_of, used_of
from writ.verdict.decision import Decision
from writ.verdict.memo import Memo
from writ.verdict.schema import cedar_schema
from writ.verdict.token import VerifiedToken, verify_token

SCENE = Scene()
SCENE.launch("one")
CLAIMS = permitted(SCENE.attest("one"))
ACTION = Action("tool.call", "files/a", Digest.of(b"arguments"))


def verified(claims: TokenClaims = CLAIMS) -> VerifiedToken:
    token = parse_token(sign_token(claims))
    keys = {"token-1": signer("token").public}
    return verify_token(token, keys=keys, issuer=ISSUER, audience=AUDIENCE, now=NOW, revocation=None)


TOKEN = verified()


def ask(
    action: Action = ACTION, *, token: VerifiedToken | None = TOKEN, bundle: PolicyBundle | None = SCENE.bundle, now: int = NOW
) -> Decision:
    return decide(action, token=token, bundle=bundle, gate="socket", now=now)


def code(decision: Decision) -> str:
    assert not decision.permit
    assert len(decision.reasons) == 1
    return decision.reasons[0].code


def named(bundle: PolicyBundle) -> VerifiedToken:
    """A token that names `bundle`."""
    return verified(replace(CLAIMS, policy=bundle.digest))


def test_permit_has_no_reasons_and_names_the_policy() -> None:
    decision = ask()
    assert (decision.action, decision.permit, decision.reasons, decision.determining) == (ACTION, True, (), ("call",))
    assert cbor2.loads(decision.context) == {
        "now": NOW, "attest_age": 0, "gate": "socket", "host": "host-1", "namespace": "billing", "tpm_class": "software",
        "runtime": "runtime-only", "depth": 0,
    }  # fmt: skip


def test_no_token_is_hold() -> None:
    decision = ask(token=None)
    assert code(decision) == "hold"
    assert decision.context == encode_context({})
    assert code(ask(token=None, bundle=None)) == "hold"


def test_no_bundle_is_refused() -> None:
    assert code(ask(bundle=None)) == "policy-unknown"


def test_token_dies_on_the_second() -> None:
    assert ask(now=CLAIMS.expires_at - 1).permit
    assert code(ask(now=CLAIMS.expires_at)) == "token-expired"


def test_bundle_other_than_the_token_names_is_refused() -> None:
    other = replace(SCENE.bundle, version=2)
    assert code(ask(bundle=other)) == "policy-digest-mismatch"
    assert ask(bundle=other, token=named(other)).permit


def test_action_outside_the_grants_is_refused_though_policy_would_permit() -> None:
    for action, resource in (("tool.call", "other/a"), ("tool.call", "files/"), ("tool.call", "mail/send/more"), ("file.read", "files/a")):
        assert code(ask(Action(action, resource, ACTION.arguments))) == "grant-missing"
    assert ask(Action("tool.call", "mail/send", ACTION.arguments)).permit
    assert code(ask(token=verified(replace(CLAIMS, grants=())))) == "grant-missing"


def test_policy_that_forbids_or_says_nothing_refuses() -> None:
    forbidding = policy(policies=POLICIES + '@id("closed") forbid(principal, action, resource == Writ::Resource::"files/a");')
    decision = ask(bundle=forbidding, token=named(forbidding))
    assert (code(decision), decision.determining, decision.reasons[0].got) == ("policy-refused", ("closed",), "closed")
    silent = policy(policies='permit(principal, action == Writ::Action::"file.read", resource);')
    assert ask(bundle=silent, token=named(silent)).reasons[0].got == "no policy permits"


def test_policy_that_errs_refuses_by_its_own_name() -> None:
    erring = policy(policies=POLICIES + ERRING)
    assert code(ask(bundle=erring, token=named(erring))) == "policy-error"


@pytest.mark.parametrize(
    "policies", ["permit(principal, action, resource);", "permit(", "forbid(principal, action, resource) when { context.now + 1 > 2 };"]
)
def test_bundle_that_may_not_be_loaded_refuses(policies: str) -> None:
    bundle = policy(policies=policies)
    assert code(ask(bundle=bundle, token=named(bundle))) == "policy-error"


def test_age_of_the_attestation_counts_from_issue_and_is_never_negative() -> None:
    assert decision_context(CLAIMS, gate="g", now=NOW + 7)["attest_age"] == 7
    assert decision_context(CLAIMS, gate="g", now=NOW - 3)["attest_age"] == 0
    assert decision_context(replace(CLAIMS, lineage=(bytes(16),)), gate="g", now=NOW)["depth"] == 1


def test_inputs_digest_changes_with_every_input() -> None:
    other = replace(SCENE.bundle, version=2)
    decisions = [
        ask(), ask(now=NOW + 1), ask(token=None), ask(bundle=None), ask(bundle=other), ask(token=None, bundle=None),
        ask(Action("tool.call", "files/b", ACTION.arguments)), ask(Action("tool.call", "files/a", Digest.of(b""))),
        ask(Action("tool.send", "files/a", ACTION.arguments)), ask(token=verified(replace(CLAIMS, grants=()))),
        decide(ACTION, token=TOKEN, bundle=SCENE.bundle, gate="other", now=NOW),
    ]  # fmt: skip
    assert len({d.inputs for d in decisions}) == len(decisions)
    assert ask().inputs == ask().inputs


def test_auditor_judges_the_same() -> None:
    answer = judge_recorded(ACTION, CLAIMS, SCENE.bundle, gate="socket", now=NOW)
    decision = ask()
    assert (answer.permit, answer.reasons, answer.determining, answer.context) == (True, (), decision.determining, decision.context)
    assert not judge_recorded(ACTION, CLAIMS, SCENE.bundle, gate="socket", now=CLAIMS.expires_at).permit


CALL = 'principal, action == Writ::Action::"tool.call", resource'


def test_exceptions_of_the_token_are_there_where_a_policy_asks_if_only_whether_they_are() -> None:
    none, one = "when { context has exceptions }", 'unless { context has exceptions && context.exceptions.contains("b") }'
    strict, only = (policy(policies=f"{POLICIES}forbid({CALL}) {asks};", schema=cedar_schema()) for asks in (none, one))
    plain, excepted = replace(CLAIMS, exceptions=()), replace(CLAIMS, exceptions=("a", "b"))
    for bundle, claims, permit in ((strict, plain, True), (strict, excepted, False), (only, plain, False), (only, excepted, True)):
        named = verified(replace(claims, policy=bundle.digest))
        decision = decide(ACTION, token=named, bundle=bundle, gate="socket", now=NOW, memo=Memo())
        assert decision.permit is permit
        assert decode_cbor(decision.context, "context").get("exceptions") == (["a", "b"] if claims is excepted else None)
    unasked = verified(replace(excepted, policy=SCENE.bundle.digest))
    assert "exceptions" not in decode_cbor(decide(ACTION, token=unasked, bundle=SCENE.bundle, gate="socket", now=NOW).context, "context")


def test_policy_counts_and_its_decision_is_replayed_from_the_record() -> None:
    bundle = policy(policies=f"permit({CALL}) when {{ context has used && context.used < 2 }};", schema=cedar_schema())
    token = verified(replace(CLAIMS, policy=bundle.digest))
    said = [decide(ACTION, token=token, bundle=bundle, gate="socket", now=NOW, used=used) for used in (0, 1, 2, None)]
    assert [one.permit for one in said] == [True, True, False, False]
    assert [used_of(one.context) for one in said] == [0, 1, 2, None]
    for one in said:
        again = judge_recorded(ACTION, token.claims, bundle, gate="socket", now=NOW, used=used_of(one.context))
        assert (again.permit, again.reasons, again.context) == (one.permit, one.reasons, one.context)
    assert used_of(judge_recorded(ACTION, CLAIMS, SCENE.bundle, gate="socket", now=NOW, used=7).context) is None  # it asks for none


@pytest.mark.parametrize("context", [{"used": -1}, {"used": "1"}, {"used": True}, {"used": 1 << 63}, [1]])
def test_count_that_is_none_is_refused(context: object) -> None:
    with pytest.raises(FormatError):
        used_of(encode_cbor(context))


# --- records that lie on the host alone -----------------------------------------------------------------------------------

LAGS = replace(SCENE.bundle, settings=replace(SCENE.bundle.settings, record_lag_most=30))


@pytest.mark.parametrize("lag, permit", [(0, True), (30, True), (31, False), (None, False)])
def test_a_lag_beyond_the_bound_refuses_and_is_recorded_and_judged_again(lag: int | None, permit: bool) -> None:
    token, memo = named(LAGS), Memo()
    for remembered in (None, memo, memo):
        decision = decide(ACTION, token=token, bundle=LAGS, gate="socket", now=NOW, lag=lag, memo=remembered)
        assert decision.permit is permit
        assert permit or code(decision) == "record-lag"
        assert lag_of(decision.context) == lag
        again = judge_recorded(ACTION, token.claims, LAGS, gate="socket", now=NOW, lag=lag_of(decision.context))
        assert (again.permit, again.reasons, again.context) == (decision.permit, decision.reasons, decision.context)


def test_a_lag_within_the_bound_does_not_answer_for_one_beyond() -> None:
    token, memo = named(LAGS), Memo()
    said = [decide(ACTION, token=token, bundle=LAGS, gate="socket", now=NOW, lag=lag, memo=memo).permit for lag in (0, 31, 30, None, 5)]
    assert said == [True, False, True, False, True]


def test_no_lag_is_recorded_where_the_policy_sets_no_bound() -> None:
    decision = decide(ACTION, token=TOKEN, bundle=SCENE.bundle, gate="socket", now=NOW, lag=10_000)
    assert decision.permit
    assert lag_of(decision.context) is None


def test_a_lag_that_is_no_number_is_no_context() -> None:
    for wrong in (-1, True, "1", 1 << 63):
        with pytest.raises(FormatError):
            lag_of(encode_context({"record_lag": wrong}))
