"""Two histories of one action log, each with a proof: what the verifier never took as a continuation carries nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.world.scene import DEMO, Scene, policy, sign_entry, sixteen
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.errors import Refused
from writ.formats.eventlog.runtime import DriftEvent
from writ.formats.evidence import Evidence, encode_evidence
from writ.formats.proof_bundle import Leaf, ProofBundle
from writ.formats.record import ActionRecord, encode_record, parse_record
from writ.formats.tlog.merkle import inclusion_proof
from writ.verdict.proof import prove


def carried() -> tuple[Scene, ProofBundle]:
    """An action proven by an honest bundle, its log carried to the verifier, and remembered there."""
    scene = Scene(bundle=policy(DEMO))
    bundle = scene.proof_bundle()
    assert prove(bundle, scene.trust).record.resource == "files/a"
    scene.attest("one")
    return scene, bundle


def rewrite(scene: Scene, at: int) -> None:
    """The record at `at` was carried, and is another now."""
    one = scene.running["one"]
    record = parse_record(one.leaves[at])
    assert isinstance(record, ActionRecord)
    one.leaves[at] = encode_record(replace(record, resource="files/forged"))


def carried_by(scene: Scene, bundle: ProofBundle, at: int, change: Callable[[Evidence], Evidence] = lambda e: e) -> ProofBundle:
    """The bundle of record `at` as the log stands now, with a fresh quote for its carrier, decided and signed by the verifier."""
    evidence = change(scene.evidence("one"))
    verdict = scene.judge(evidence)
    scene.state = verdict.state_after
    one = scene.running["one"]
    leaf = Leaf(one.leaves[at], at, inclusion_proof(one.hashes(), at))
    return replace(bundle, action=leaf, outcome=None, carrier=encode_evidence(evidence), carrier_decision=sign_entry(verdict.entry))


def test_history_rewritten_under_another_base_is_not_proven() -> None:
    """The host sends its forged log with a `log_from` that is not the verifier's: `action-log-base`, which nobody takes for a fork."""
    scene, bundle = carried()
    rewrite(scene, bundle.action.index)
    scene.running["one"].carried = 0
    with pytest.raises(Refused):
        prove(carried_by(scene, bundle, bundle.action.index), scene.trust)


def test_history_rewritten_under_a_broken_runtime_log_is_not_proven() -> None:
    """Where the runtime log leads nowhere no action log is looked at; the decision that says so carries nothing."""
    scene, bundle = carried()
    rewrite(scene, bundle.action.index)
    with pytest.raises(Refused):
        prove(carried_by(scene, bundle, bundle.action.index, lambda e: replace(e, log_first=e.log_first + 7)), scene.trust)


def test_drifted_instance_has_one_last_history() -> None:
    """After a drift the checkpoint stands still, so that each of two continuations extends it."""
    scene, bundle = carried()
    scene.event(DriftEvent(sixteen("one"), "prompts", "prompt.md", Digest.of(b"x"), Digest.of(b"y")))
    claims, one, proven = parse_token(bundle.token).claims, scene.running["one"], set()
    before = list(one.leaves)
    for resource in ("files/book", "files/other"):
        one.leaves, one.carried = list(before), len(before)
        scene.now -= 30
        scene.act("one", bundle.token, claims, resource=resource)
        scene.now += 30
        try:
            proven.add(prove(carried_by(scene, bundle, len(before)), scene.trust).record.resource)
        except Refused:
            continue
    assert len(proven) < 2


def test_history_rewritten_under_another_enrolment_is_not_proven() -> None:
    """The same TPM enrolled again begins with no checkpoint: what it carries says nothing of the enrolment before."""

    class Again(Scene):
        def govern(self) -> None:
            """Measured already, in this boot."""

    scene, bundle = carried()
    rewrite(scene, bundle.action.index)
    again = Again(chip=scene.chip, bundle=scene.bundle, now=scene.now, nonces=scene.nonces)
    again.record = replace(again.record, generation=2)
    again.records, again.running, again.measured = scene.records, scene.running, scene.measured
    again.running["one"].carried = 0
    with pytest.raises(Refused):
        prove(carried_by(again, bundle, bundle.action.index), scene.trust)
