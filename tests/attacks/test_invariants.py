"""The invariants of the design, as far as pure code holds them. The rest of each is the ledger's, the gatekeeper's and the auditor's."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.attacks.policies import PERMISSIVE, SHAPES, WIDE
from tests.world.chip import Chip
from tests.world.scene import ENGINE_ID, GOVERNED, NOW, Scene, codes, measurement, permitted, policy, reference, signer, sixteen
from tests.writ.verdict.test_decide import ACTION, TOKEN, ask
from writ.formats.decision import encode_entry
from writ.formats.digest import Digest, Nonce
from writ.formats.ear import parse_ear_cbor
from writ.formats.errors import FormatError, Refused
from writ.formats.eventlog.runtime import DriftEvent
from writ.formats.evidence import InstanceRequest, encode_evidence
from writ.formats.exemption import EXEMPTIBLE
from writ.formats.grants import Grant
from writ.formats.reason import REMEDIES, Reason
from writ.verdict.attestation import decide_attestation
from writ.verdict.decide import would_refuse
from writ.verdict.reference import measured_values, reference_set

ANYTHING = policy(PERMISSIVE, policies=WIDE)


def running(**given: Any) -> Scene:
    scene = Scene(**given)
    scene.launch("one")
    return scene


def test_i1_no_token_without_evidence_bound_to_its_nonce_and_its_host() -> None:
    scene = running(bundle=ANYTHING)
    whole = scene.evidence("one")
    assert permitted(scene.judge(whole)).instance == sixteen("one")
    for other in (
        replace(whole, nonce=Nonce(bytes(32))),
        replace(whole, host="host-2"),
        replace(whole, attest=b""),
        replace(whole, signature=b""),
    ):
        with pytest.raises((Refused, FormatError)):
            scene.judge(other)
    stranger = Scene(chip=Chip("stranger"), bundle=ANYTHING)
    stranger.launch("one")
    with pytest.raises(Refused):
        scene.judge(stranger.evidence("one"))


def test_i2_nothing_is_trusted_that_the_quote_does_not_cover() -> None:
    """Registers, log entries, session keys and grants: each changed beside the same quote is refused or without effect."""
    scene = running(bundle=ANYTHING)
    whole = scene.evidence("one")
    request = whole.requests[0]
    changed: dict[str, Any] = {
        "instance": sixteen("two"), "session_key": signer("thief").public, "audience": "x", "grants": (),
        "log_size": 9, "log_root": bytes(32),
    }  # fmt: skip
    assert {f.name for f in fields(InstanceRequest)} - set(changed) == {"log_from", "log_proof", "anchored"}, "these prove themselves"
    for name, value in changed.items():
        one: dict[str, Any] = {name: value}
        with pytest.raises(Refused):
            scene.judge(replace(whole, requests=(replace(request, **one),)))
    tail = Scene()
    tail.launch("two")
    longer = replace(whole, log=whole.log + b"".join(_record(scene)))
    assert scene.judge(longer).state_after.runtime.events == 3
    assert scene.judge(replace(whole, log=whole.log[:-1])).tokens[0].claims is None


def _record(scene: Scene) -> list[bytes]:
    from writ.formats.eventlog.cel import encode_record
    from writ.formats.eventlog.runtime import record_event

    drift = DriftEvent(sixteen("one"), "code", "main.py", Digest.of(b"x"), None)
    return [encode_record(record_event(drift, record_number=len(scene.records), pcr=14, banks=("sha256", "sha384")))]


@pytest.mark.parametrize("shape", [name for name in SHAPES if name not in {"most permissive", "demo"}])
def test_i3_whatever_is_missing_or_errs_refuses_the_token(shape: str) -> None:
    assert codes(running(bundle=SHAPES[shape]).attest("one"))


def test_i3_whatever_is_missing_or_errs_refuses_the_action() -> None:
    assert ask().permit
    for decision in (ask(token=None), ask(bundle=None), ask(token=None, bundle=None), ask(bundle=SHAPES["erring"]), ask(now=NOW + 10_000)):
        assert not decision.permit
        assert decision.reasons


WATCHED = replace(measurement(), mode="observe")


def test_i3_observed_agent_gets_no_token_whatever_approves_it() -> None:
    """Approved whole, under the widest policy, on a host that nothing stands against: the mode alone refuses, and the EAR says so."""
    approved = replace(reference(), components=tuple(sorted(measured_values(WATCHED).items())))
    scene = Scene(bundle=ANYTHING, references=(GOVERNED, approved))
    scene.launch("one", what=WATCHED)
    verdict = scene.attest("one")
    (decision,) = verdict.tokens
    assert decision.claims is None
    assert [(r.code, r.claim.split(".")[-1], r.expected, r.got) for r in decision.reasons] == [("observed", "mode", "enforce", "observe")]
    part = dict(parse_ear_cbor(verdict.result).submodules)[f"instance.{sixteen('one').hex()}"]
    assert [r.code for r in part.reasons] == ["observed"]
    assert part.status == "contraindicated"


def test_i3_child_of_an_observed_agent_gets_no_token() -> None:
    approved = replace(reference(), components=tuple(sorted(measured_values(WATCHED).items())))
    scene = Scene(bundle=ANYTHING, references=(GOVERNED, approved, reference(version="2")))
    scene.launch("one", what=WATCHED)
    scene.launch("two", parent="one")
    (decision,) = scene.attest("two").tokens
    assert decision.claims is None
    assert {r.code for r in decision.reasons} == {"parent-refused"}


def test_i3_observed_mode_cannot_be_excepted_and_is_never_a_permit() -> None:
    assert "observed" not in EXEMPTIBLE
    for grants in ((), (Grant("tool.call", "*"),), (Grant(ACTION.name, ACTION.resource),)):
        assert would_refuse(ACTION, grants)[0].code == "observed"
    assert [r.code for r in would_refuse(ACTION, (Grant(ACTION.name, ACTION.resource),))] == ["observed"]
    assert [r.code for r in would_refuse(ACTION, ())] == ["observed", "grant-missing"]


def test_i5_same_inputs_give_the_same_bytes_again_and_on_a_fresh_copy_of_the_world() -> None:
    def record() -> bytes:
        scene = running()
        scene.attest("one")
        scene.launch("two", parent="one")
        return encode_entry(scene.judge(scene.evidence("one", "two")).entry)

    assert record() == record()
    assert ask().inputs == ask().inputs


@pytest.mark.parametrize("way", ["silence", "retry", "reboot", "restart", "resume", "full log", "new key"])
def test_i6_failed_instance_never_becomes_trusted(way: str) -> None:
    scene = running(bundle=ANYTHING)
    scene.attest("one")
    scene.event(DriftEvent(sixteen("one"), "code", "main.py", Digest.of(b"x"), None))
    codes(scene.attest("one"))
    one = scene.running["one"]
    first = None
    if way == "silence":
        scene.now += 10_000_000
    elif way == "resume":
        scene.chip.resume()
    elif way == "reboot":
        scene.reboot()
        scene.running["one"] = one
    elif way == "restart":
        scene.reboot()
        scene.launch("one")
    elif way == "full log":
        first = 0
    elif way == "new key":
        one.key = signer("new")
    verdict = scene.judge(scene.evidence("one", first=first))
    assert verdict.tokens[0].claims is None


@pytest.mark.parametrize("way", ["silence", "retry", "reboot", "resume"])
def test_i6_failed_host_never_becomes_trusted(way: str) -> None:
    scene = running(bundle=ANYTHING)
    scene.attest("one")
    scene.chip.clock = 0
    codes(scene.attest("one"))
    scene.chip.clock = 10_000_000
    if way == "silence":
        scene.now += 10_000_000
    elif way == "resume":
        scene.chip.resume()
    elif way == "reboot":
        scene.reboot()
        scene.launch("one")
    for _ in range(3):
        verdict = scene.attest("one")
        assert codes(verdict) == {"host-contained"}
        assert verdict.state_after.status == "contained"


def test_i7_evidence_is_useless_at_another_verifier_and_any_later() -> None:
    scene = running(bundle=ANYTHING)
    evidence = encode_evidence(scene.evidence("one"))
    given: dict[str, Any] = {
        "record": scene.record, "state": None, "references": reference_set(scene.references), "bundle": ANYTHING,
        "engine": ENGINE_ID.digest, "issuance": scene.issuance(1),
    }  # fmt: skip
    with pytest.raises(Refused):
        decide_attestation(evidence, verifier=signer("another verifier").public.thumbprint(), **given)
    ours = signer("decision").public.thumbprint()
    assert permitted(decide_attestation(evidence, verifier=ours, **given)).instance == sixteen("one")
    later = given | {"issuance": replace(scene.issuance(1), now=NOW + 300)}
    assert codes(decide_attestation(evidence, verifier=ours, **later)) == {"nonce-expired"}


def test_i10_every_refusal_says_what_was_expected_and_what_came_and_can_be_recorded() -> None:
    scene = running(bundle=policy(replace(PERMISSIVE, accept_runtime_only=False)))
    scene.event(DriftEvent(sixteen("one"), "code", "main.py", Digest.of(b"x"), None))
    seen = [*scene.attest("one").tokens[0].reasons, *ask(token=None).reasons, *ask(bundle=None).reasons]
    whole = scene.evidence("one")
    for wrong in (replace(whole, nonce=Nonce(bytes(32))), replace(whole, host="host-2")):
        with pytest.raises(Refused) as caught:
            scene.judge(wrong)
        seen.extend(caught.value.reasons)
    for reason in seen:
        assert reason.expected
        assert reason.got
        assert REMEDIES[reason.code] == reason.remedy
        assert Reason.from_cbor(reason.to_cbor()) == reason
    assert ACTION.name
    assert TOKEN.digest.hex() not in str(seen)
