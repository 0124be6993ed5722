"""What an engine in a wheel answers: something to every message, and never bytes where its inputs are not those that were named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.recorded import record
from tests.world.scene import ENGINE_ID, ISSUER, Scene, permitted, sign_token, signer
from writ.formats.corim import encode_corim
from writ.formats.cose import parse_sign1
from writ.formats.decision import ExchangeDecision, encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import Refused
from writ.formats.evidence import encode_evidence
from writ.formats.policy_bundle import encode_bundle
from writ.formats.record import encode_record
from writ.formats.rerun import Made, Rerun, encode_made, encode_rerun, parse_made
from writ.formats.state import encode_host_record
from writ.formats.strict import decode_cbor
from writ.formats.trust import encode_trust
from writ.verdict.replay import Reruns, demand_same, judged, said


def answered(rerun: Rerun) -> Made:
    return parse_made(Reruns().answer(encode_rerun(rerun)))


def enrolment(scene: Scene) -> Rerun:
    return Rerun("enrol", encode_entry(scene.enrol_entry), {"evidence": scene.enrolment, "trust": encode_trust(scene.trust)})


def action(scene: Scene) -> tuple[Rerun, bytes]:
    one = scene.launch("one")
    claims = permitted(scene.attest("one"))
    token = sign_token(claims)
    acted = scene.act("one", token, claims)
    context = one.contexts[acted.sequence]
    inputs = {"context": context, "policy": encode_bundle(scene.bundle), "salt": bytes(32), "token": token.encode()}
    return Rerun("action", encode_record(acted), inputs), said(acted.reasons, context)


def test_enrolment_and_action_come_back_as_they_were_recorded() -> None:
    scene = Scene()
    assert answered(enrolment(scene)) == Made(encode_entry(scene.enrol_entry))
    rerun, recorded = action(scene)
    assert answered(rerun) == Made(recorded)


@pytest.mark.parametrize("message", [b"", b"\xff", b"\xa0", encode_made(Made(b""))])
def test_what_is_no_message_is_answered_with_a_reason(message: bytes) -> None:
    answer = parse_made(Reruns().answer(message))
    assert answer.data is None
    assert [reason.code for reason in answer.reasons] == ["malformed"]


def test_inputs_that_were_not_named_are_refused() -> None:
    scene = Scene()
    whole = enrolment(scene)
    other = Scene(now=scene.now + 1)
    for name, data in (("evidence", Scene(host="other").enrolment), ("trust", encode_trust(replace(other.trust, domain="other.org")))):
        answer = answered(replace(whole, inputs={**whole.inputs, name: data}))
        assert {reason.code for reason in answer.reasons} == {"digest-mismatch"}
    rerun, _ = action(scene)
    token = parse_token(rerun.inputs["token"].decode())
    others = {
        "token": sign_token(replace(token.claims, status_index=7)).encode(),
        "policy": encode_bundle(replace(scene.bundle, version=2)),
        "salt": b"\1" * 32,
        "context": b"\xa0",
    }
    for name, data in others.items():
        answer = answered(replace(rerun, inputs={**rerun.inputs, name: data}))
        assert [reason.code for reason in answer.reasons] == ["digest-mismatch"], name


def test_attestation_is_made_from_the_inputs_that_it_names_and_no_others() -> None:
    scene = Scene()
    scene.launch("one")
    evidence = scene.evidence("one")
    entry = scene.judge(evidence).entry
    inputs = {
        "evidence": encode_evidence(evidence), "policy": encode_bundle(scene.bundle), "record": encode_host_record(scene.record),
        "state": b"", "verifier": signer("decision").public.thumbprint(), "issuer": ISSUER.encode(),
    }  # fmt: skip
    rerun = Rerun("attest", encode_entry(entry), inputs, tuple(encode_corim(one) for one in scene.references))
    assert answered(rerun) == Made(encode_entry(entry))
    for name, data in (
        ("policy", encode_bundle(replace(scene.bundle, version=2))),
        ("state", b"\xa0"),
        ("record", b"\xa0"),
        ("evidence", b""),
    ):
        assert [one.code for one in answered(replace(rerun, inputs={**inputs, name: data})).reasons] == ["digest-mismatch"]
    fewer = answered(replace(rerun, references=rerun.references[:1]))
    assert fewer.data not in (None, encode_entry(entry)), "other reference values are another decision"
    assert answered(replace(rerun, inputs={**inputs, "verifier": bytes(32)})).reasons[0].code == "extra-data-mismatch"


def test_a_decision_of_another_kind_than_is_said_is_refused() -> None:
    whole = enrolment(Scene())
    rerun, _ = action(Scene())
    for wrong in (replace(rerun, decision=whole.decision), replace(whole, decision=rerun.decision)):
        assert [reason.code for reason in answered(wrong).reasons] == ["malformed"]


def test_references_remembered_change_no_answer() -> None:
    scene = Scene()
    reruns, whole = Reruns(), enrolment(scene)
    rerun, recorded = action(scene)
    assert [reruns.made(one).data for one in (whole, rerun, whole, rerun)] == [whole.decision, recorded] * 2


def test_difference_is_said_with_both_digests() -> None:
    demand_same("decision", b"a", b"a")
    with pytest.raises(Refused) as no:
        demand_same("decision", b"a", b"b")
    assert (no.value.reasons[0].expected[:13], no.value.reasons[0].got[:13]) == ("sha256:ca9781", "sha256:3e23e8")


def test_only_reasons_of_token_and_policy_are_judged_again() -> None:
    scene = Scene()
    scene.launch("one")
    claims = permitted(scene.attest("one"))
    refusal = scene.act("one", sign_token(claims), claims, resource="mail/delete", permit=False)
    assert judged(refusal)
    assert not judged(replace(refusal, token=None))
    assert not judged(replace(refusal, bundle=None))


def test_exchange_is_made_from_the_inputs_that_it_names_and_no_others() -> None:
    made = record(1, ENGINE_ID, 2)
    objects = {Digest.of(data): data for data in made.objects}
    found = [parse_entry(parse_sign1(signed).payload or b"") for signed in made.entries]
    entry = next(one for one in found if isinstance(one, ExchangeDecision) and one.claims is not None)
    named = dict(entry.inputs)
    references = tuple(objects[Digest("sha256", name)] for name in decode_cbor(objects[named.pop("references")], "references"))
    inputs = {name: objects[digest] for name, digest in named.items()}
    rerun = Rerun("exchange", encode_entry(entry), {**inputs, "issuer": ISSUER.encode()}, references)
    assert answered(rerun) == Made(encode_entry(entry))
    for name in inputs:
        assert [one.code for one in answered(replace(rerun, inputs={**rerun.inputs, name: b"\xa0"})).reasons] == ["digest-mismatch"], name
    assert answered(replace(rerun, references=references[:1])).data != encode_entry(entry)
    for issuer in (b"https://another.example.org", b"\xff"):
        assert answered(replace(rerun, inputs={**rerun.inputs, "issuer": issuer})).data is None
