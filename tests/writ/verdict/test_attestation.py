"""The whole decision: its record names every input, and the same inputs give the same bytes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from tests.world.scene import DEMO, ENGINE_ID, GOVERNED, NOW, STATUS_LIST, Scene, permitted, policy, reference, signer, sixteen
from writ.formats.decision import encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import encode_claims
from writ.formats.errors import FormatError
from writ.formats.eventlog.runtime import StopEvent
from writ.formats.evidence import encode_evidence
from writ.formats.state import encode_host_record, encode_host_state, parse_host_state
from writ.verdict.attestation import AttestationVerdict, decide_attestation
from writ.verdict.reference import reference_set


def decide(scene: Scene, evidence: bytes, **changed: Any) -> AttestationVerdict:
    given: dict[str, Any] = {
        "record": scene.record, "state": scene.state, "references": reference_set(scene.references), "bundle": scene.bundle,
        "verifier": signer("decision").public.thumbprint(), "issuance": scene.issuance(1), "engine": ENGINE_ID.digest,
    } | changed  # fmt: skip
    return decide_attestation(evidence, **given)


def prepared() -> tuple[Scene, bytes]:
    scene = Scene()
    scene.launch("one")
    scene.attest("one")
    return scene, encode_evidence(scene.evidence("one"))


def test_record_names_every_input_and_output() -> None:
    scene, evidence = prepared()
    assert scene.state is not None
    verdict = decide(scene, evidence)
    entry = verdict.entry
    assert dict(entry.inputs) == {
        "evidence": Digest.of(evidence), "policy": scene.bundle.digest, "record": Digest.of(encode_host_record(scene.record)),
        "references": reference_set(scene.references).digest, "state": Digest.of(encode_host_state(scene.state)),
    }  # fmt: skip
    assert (entry.engine, entry.decided_at, entry.host, entry.namespace) == (ENGINE_ID.digest, NOW, "host-1", "billing")
    assert (entry.nonce_issued_at, entry.issued, entry.status_list) == (NOW - 2, scene.issuance(1).issued, STATUS_LIST)
    assert (entry.verdict, entry.reasons) == ("accepted", ())
    assert entry.result == Digest.of(verdict.result)
    assert entry.state_after == Digest.of(encode_host_state(verdict.state_after))
    assert [(o.instance, o.claims, o.reasons) for o in entry.outcomes] == [
        (sixteen("one"), Digest.of(encode_claims(permitted(verdict))), ())
    ]  # fmt: skip
    assert parse_entry(encode_entry(entry)) == entry
    assert parse_host_state(encode_host_state(verdict.state_after)) == verdict.state_after


def test_first_attestation_names_the_empty_state() -> None:
    scene = Scene()
    assert dict(scene.judge(scene.evidence()).entry.inputs)["state"] == Digest.of(b"")


def test_refusal_is_recorded_with_its_reasons() -> None:
    scene = Scene(bundle=policy(replace(DEMO, accept_runtime_only=False)))
    scene.launch("one")
    entry = scene.attest("one").entry
    assert (entry.verdict, [r.code for r in entry.reasons]) == ("refused", ["attestor-not-rooted"])
    assert [(o.claims, [r.code for r in o.reasons]) for o in entry.outcomes] == [(None, ["host-refused"])]
    assert parse_entry(encode_entry(entry)) == entry


def test_i5_same_inputs_give_the_same_bytes() -> None:
    scene, evidence = prepared()
    first, second = decide(scene, evidence), decide(scene, evidence)
    assert encode_entry(first.entry) == encode_entry(second.entry)
    assert (first.result, first.tokens, first.state_after) == (second.result, second.tokens, second.state_after)


def test_i5_order_in_which_reference_values_are_read_changes_nothing() -> None:
    scene, evidence = prepared()
    extra = (*scene.references, reference(version="2", prompt=b"x"), reference("other"))
    assert encode_entry(decide(scene, evidence, references=reference_set(extra)).entry) == encode_entry(
        decide(scene, evidence, references=reference_set(extra[::-1])).entry
    )


def test_every_input_changes_the_record() -> None:
    scene, evidence = prepared()
    assert scene.state is not None
    moved = replace(scene.state, seen_at=1)
    changes: list[dict[str, Any]] = [
        {}, {"record": replace(scene.record, generation=2)}, {"state": moved}, {"references": reference_set((GOVERNED,))},
        {"bundle": replace(scene.bundle, version=2)},
        {"issuance": replace(scene.issuance(1), now=NOW + 1)}, {"issuance": replace(scene.issuance(1), nonce_issued_at=NOW)},
        {"issuance": replace(scene.issuance(1), status_list=2)},
        {"issuance": replace(scene.issuance(1), issuer="https://other")},
        {"issuance": replace(scene.issuance(1), issued=(("another-token-id", 7),))}, {"engine": replace(ENGINE_ID, number=2).digest},
    ]  # fmt: skip
    entries = {encode_entry(decide(scene, evidence, **change).entry) for change in changes}
    assert len(entries) == len(changes)


def test_stopped_instance_leaves_the_host_accepted() -> None:
    scene, _ = prepared()
    scene.event(StopEvent(sixteen("one"), "exited"))
    assert scene.attest("one").entry.verdict == "accepted"


def test_bytes_that_are_no_evidence_are_malformed() -> None:
    scene, evidence = prepared()
    with pytest.raises(FormatError):
        decide(scene, evidence + b"\0")


def test_state_of_ten_thousand_instances_is_judged_in_time() -> None:
    scene, _ = prepared()
    assert scene.state is not None
    known = scene.state.runtime.instances[0]
    many = tuple(
        sorted(
            replace(known, instance=at.to_bytes(16, "big"), session_key=at.to_bytes(32, "big"), phase="stopped", measurement=b"")
            for at in range(10_000)
        )
    )
    runtime = replace(scene.state.runtime, instances=tuple(sorted((*many, known), key=lambda i: i.instance)))
    scene.state = replace(scene.state, runtime=runtime)
    began = time.process_time()
    verdict = scene.attest("one")
    assert time.process_time() - began < 5
    assert permitted(verdict).instance == sixteen("one")
