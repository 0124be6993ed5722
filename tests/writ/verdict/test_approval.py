"""What a policy refuses but for a person: who could approve it, what such a yes must be, and that an auditor says the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cbor2
import pytest

from tests.signers import new_signer
from tests.world.approvals import ALICE, BOB, BUNDLE, NEVER, PEOPLE, READ, SCHEMA, SEND, WIPE, Approved, approval_of
from tests.world.scene import AUDIENCE, DEMO, ISSUER, NOW, Scene, permitted, policy, sign_token, signer
from tests.writ.verdict.refusal import refused
from writ.formats.action import Action, encode_context
from writ.formats.approval import parse_signed_approval, sign_approval
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import FormatError
from writ.formats.keys import Signer
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.proof_bundle import encode_proof_bundle, parse_proof_bundle
from writ.formats.record import ActionRecord, parse_record
from writ.verdict.approval import Asked, Consent, Given, consent_of
from writ.verdict.decide import decide, judge_recorded
from writ.verdict.decision import Decision
from writ.verdict.lint import validate
from writ.verdict.memo import Memo
from writ.verdict.proof import prove
from writ.verdict.rehearsal import again, by_policy, otherwise
from writ.verdict.token import VerifiedToken, verify_token

SCENE = Scene(bundle=BUNDLE)
SCENE.launch("one")
CLAIMS = permitted(SCENE.attest("one"))


ASKED = Asked(SEND, "socket", bytes(range(32)), bytes(32))


def token(bundle: PolicyBundle = BUNDLE) -> VerifiedToken:
    claims = replace(CLAIMS, policy=bundle.digest)
    return verify_token(
        parse_token(sign_token(claims)),
        keys={"token-1": signer("token").public},
        issuer=ISSUER,
        audience=AUDIENCE,
        now=NOW,
        revocation=None,
    )


TOKEN = token()


def given(by: Signer = ALICE, asked: Asked = ASKED, **changed: Any) -> Given:
    approval = replace(approval_of(asked, instance=CLAIMS.instance, policy=BUNDLE.digest, made_at=NOW), **changed)
    return Given(parse_signed_approval(sign_approval(approval, by)), asked)


def ask(
    action: Action = SEND, *, bundle: PolicyBundle = BUNDLE, now: int = NOW, memo: Memo | None = None, by: Given | None = None
) -> Decision:
    held = TOKEN if bundle is BUNDLE else token(bundle)
    return decide(action, token=held, bundle=bundle, gate="socket", now=now, memo=memo, given=by)


def codes(decision: Decision) -> list[str]:
    return [reason.code for reason in decision.reasons]


def test_who_could_approve_is_what_the_policy_says() -> None:
    assert (codes(ask()), ask().reasons[0].expected) == (["approval-required"], "an approval by alice or bob")
    assert (codes(ask(WIPE)), ask(WIPE).reasons[0].expected) == (["approval-required"], "an approval by bob")
    assert codes(ask(NEVER)) == ["policy-refused"], "no approval would change that"
    assert ask(READ).permit


def test_without_anybody_who_may_approve_it_is_a_refusal_as_ever() -> None:
    nobody = replace(BUNDLE, settings=replace(BUNDLE.settings, approvers=()))
    assert codes(ask(bundle=nobody)) == ["policy-refused"]


def test_schema_that_knows_no_approval_is_given_none() -> None:
    old = SCHEMA.replace(", approval?: String, approver?: String", "")
    plain = policy(
        replace(DEMO, approvers=PEOPLE),
        schema=old,
        policies='permit(principal, action == Writ::Action::"tool.call", resource) when { context.depth > 3 };',
    )
    assert codes(ask(bundle=plain)) == ["policy-refused"]
    asked = replace(plain, policies=plain.policies.replace("> 3", "< 3"))
    assert ask(bundle=asked).permit
    assert any(finding.code == "misfit" and "approver" in finding.detail for finding in validate(plain))
    assert not any(finding.code == "misfit" for finding in validate(BUNDLE))
    assert not any(finding.code == "misfit" for finding in validate(replace(plain, settings=DEMO)))


def test_memo_changes_nothing() -> None:
    memo = Memo()
    for action in (SEND, WIPE, NEVER, READ):
        for _ in range(2):
            with_memo, without = ask(action, memo=memo), ask(action)
            assert (with_memo.reasons, with_memo.context, with_memo.inputs) == (without.reasons, without.context, without.inputs)
    assert ask(memo=memo, by=given()).permit
    assert codes(ask(memo=memo)) == ["approval-required"], "an approval is remembered nowhere"


@pytest.mark.parametrize("by", [ALICE, BOB])
def test_approved_action_is_permitted_and_its_context_names_the_approval(by: Signer) -> None:
    one = given(by)
    decision = ask(by=one)
    assert decision.permit
    context = cbor2.loads(decision.context)
    assert context == {**cbor2.loads(ask().context), "approver": "alice" if by is ALICE else "bob", "approval": str(one.signed.digest)}
    assert len({decision.inputs, ask().inputs, ask(by=given(id=bytes(range(16)))).inputs}) == 3
    answer = judge_recorded(SEND, TOKEN.claims, BUNDLE, gate="socket", now=NOW, consent=consent_of(decision.context))
    assert (answer.permit, answer.context, answer.determining) == (True, decision.context, decision.determining)


def test_approval_by_one_whom_the_policy_does_not_ask_changes_nothing() -> None:
    wipe = replace(ASKED, action=WIPE)
    assert codes(ask(WIPE, by=given(ALICE, wipe))) == ["policy-refused"]
    assert ask(WIPE, by=given(BOB, wipe)).permit
    assert codes(ask(NEVER, by=given(ALICE, replace(ASKED, action=NEVER)))) == ["policy-refused"]


@pytest.mark.parametrize(
    "claim, changed",
    [
        ("instance", {"instance": bytes(range(16))}), ("action", {"action": "http.get"}), ("resource", {"resource": "files/send2"}),
        ("gate", {"gate": "egress"}), ("policy", {"policy": Digest.of(b"another")}),
        ("refused", {"refused": bytes(32)}), ("arguments", {"arguments": bytes(range(32))}),
    ],
)  # fmt: skip
def test_approval_of_something_else_refuses_by_what_differs(claim: str, changed: dict[str, Any]) -> None:
    decision = ask(by=given(**changed))
    assert (codes(decision), decision.reasons[0].claim) == (["approval-refused"], f"approval.{claim}")
    assert decision.context == ask().context


def test_approval_that_was_given_for_other_arguments_refuses() -> None:
    other = replace(SEND, arguments=Digest.of(b"argumentt"))
    decision = ask(other, by=given())
    assert (codes(decision), decision.reasons[0].claim) == (["approval-refused"], "approval.arguments")


def test_signature_by_somebody_else_refuses() -> None:
    assert ask(by=given(new_signer())).reasons[0].claim == "approval.kid"
    mine, theirs = given(ALICE), given(new_signer())
    forged = replace(mine.signed, sign1=replace(mine.signed.sign1, signature=theirs.signed.sign1.signature))
    assert codes(ask(by=Given(forged, ASKED))) == ["signature-invalid"]


def test_approval_is_good_from_its_making_to_its_end() -> None:
    at = NOW + 20
    assert ask(by=given(not_after=at + 1), now=at).permit
    assert codes(ask(by=given(not_after=at), now=at)) == ["approval-expired"]
    skew = BUNDLE.settings.clock_skew
    assert ask(by=given(made_at=NOW + skew)).permit
    assert codes(ask(by=given(made_at=NOW + skew + 1))) == ["approval-expired"]


def test_approval_replaces_no_other_step() -> None:
    assert codes(decide(SEND, token=None, bundle=BUNDLE, gate="socket", now=NOW, given=given())) == ["hold"]
    assert codes(ask(by=given(not_after=NOW + 900), now=CLAIMS.expires_at)) == ["token-expired"]
    outside = Action("file.read", "files/send", SEND.arguments)
    assert codes(ask(outside, by=given(ALICE, replace(ASKED, action=outside)))) == ["grant-missing"]


@pytest.mark.parametrize("spelt", [{"approver": "alice"}, {"approval": "sha256:00"}, {"approver": 1, "approval": "x"}])
def test_context_with_half_an_approval_is_refused(spelt: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        consent_of(encode_context(spelt))
    assert consent_of(encode_context({})) is None
    assert consent_of(encode_context({"approver": "a", "approval": "b"})) == Consent("a", "b")


# --- the proof -----------------------------------------------------------------------------------------------------------


def test_auditor_proves_an_approved_action_and_only_with_its_approval() -> None:
    scene = Approved(bundle=BUNDLE)
    whole = replace(scene.proof_bundle(), approval=None)
    proven = prove(replace(whole, approval=scene.approval), scene.trust)
    assert proven.record.permit
    assert refused(lambda: prove(whole, scene.trust)).code == "proof-bundle-incomplete"
    approval = parse_signed_approval(scene.approval).approval
    by_bob = sign_approval(approval, BOB)
    assert refused(lambda: prove(replace(whole, approval=by_bob), scene.trust)).code == "digest-mismatch"
    late = sign_approval(replace(approval, made_at=approval.made_at - 300, not_after=approval.made_at), ALICE)
    assert refused(lambda: prove(replace(whole, approval=late), scene.trust)).code == "approval-expired"
    assert parse_proof_bundle(encode_proof_bundle(replace(whole, approval=scene.approval))).approval == scene.approval
    plain = Scene(bundle=BUNDLE)
    assert refused(lambda: prove(replace(plain.proof_bundle(), approval=scene.approval), plain.trust)).code == "proof-bundle-incomplete"


# --- what another policy would say ---------------------------------------------------------------------------------------


def test_another_policy_is_asked_about_an_approved_action_as_approved() -> None:
    scene = Approved(bundle=BUNDLE)
    bundle = scene.proof_bundle()
    record, opened = parse_record(bundle.action.record), bundle.context
    assert opened is not None
    assert isinstance(record, ActionRecord)
    claims, consent = permitted(scene.attest("one")), consent_of(opened.context)
    claims = replace(claims, issued_at=record.decided_at, expires_at=record.decided_at + 60)
    stricter = replace(
        BUNDLE, version=2, policies=BUNDLE.policies.replace("context has approver }", 'context has approver && context.approver == "bob" }')
    )
    for candidate, permit in ((replace(BUNDLE, version=2), True), (stricter, False)):
        assert again(record, opened.context, claims, candidate).permit == permit
        found = otherwise(SEND, claims, candidate, gate="socket", now=record.decided_at, reasons=(), consent=consent)
        assert (found is None) == permit
    assert by_policy(ask().reasons)
