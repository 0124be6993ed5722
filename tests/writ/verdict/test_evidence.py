"""Each step of `verify_evidence`: what the quote covers is kept, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.world.scene import DOMAIN, NAMESPACE, Scene, measurement, signer, sixteen
from tests.writ.verdict.refusal import refused
from writ.formats.digest import Digest, Nonce
from writ.formats.eventlog.cel import encode_cel
from writ.formats.eventlog.runtime import DriftEvent, StartEvent, StopEvent, command_digest
from writ.formats.evidence import Evidence
from writ.formats.ima_rules import ImaRules
from writ.formats.measurement import encode_measurement
from writ.formats.state import InstanceState
from writ.verdict.appraise.ima import index_files
from writ.verdict.evidence import VerifiedEvidence, verify_evidence

VERIFIER = signer("decision").public.thumbprint()

NO_FILES: Any = {"files": index_files([]), "rules": ImaRules()}


def verify(scene: Scene, evidence: Evidence | None = None, *names: str) -> VerifiedEvidence:
    return verify_evidence(
        evidence or scene.evidence(*names),
        record=scene.record,
        state=scene.state,
        verifier=VERIFIER,
        files=index_files([]),
        rules=ImaRules(),
    )


def launched(*names: str) -> Scene:
    scene = Scene()
    for name in names:
        scene.launch(name)
    return scene


def found(verified: VerifiedEvidence) -> list[tuple[str, str]]:
    return [(r.code, r.claim) for r in verified.findings]


def known(verified: VerifiedEvidence, name: str) -> InstanceState:
    assert verified.runtime is not None
    state = verified.runtime.find(sixteen(name))
    assert state is not None
    return state


def test_evidence_of_the_enrolled_host_is_verified_with_log_and_measurements() -> None:
    scene = launched("one", "two")
    verified = verify(scene, None, "one")
    assert found(verified) == []
    assert verified.epoch.kind == "first"
    assert verified.runtime is not None
    assert verified.runtime.events == 4
    assert known(verified, "one").measurement == encode_measurement(measurement())
    assert [r.instance for r in verified.requests] == [sixteen("one")]


def test_evidence_of_another_host_is_refused() -> None:
    scene = launched("one")
    assert refused(lambda: verify(scene, replace(scene.evidence("one"), host="host-2"))).code == "host-unknown"


def test_evidence_for_another_verifier_is_refused() -> None:
    scene = launched("one")
    other: Any = {"record": scene.record, "state": None, "verifier": bytes(32)}
    assert refused(lambda: verify_evidence(scene.evidence("one"), **other, **NO_FILES)).code == "extra-data-mismatch"


def test_nothing_that_travels_beside_the_quote_may_be_exchanged() -> None:
    scene = launched("one", "two")
    whole = scene.evidence("one", "two")
    first, second = whole.requests
    others = [
        replace(whole, nonce=Nonce(bytes(32))),
        replace(whole, requests=(first,)),
        replace(whole, requests=(second, first)),
        replace(whole, requests=(replace(first, session_key=second.session_key), second)),
        replace(whole, requests=(replace(first, instance=sixteen("three")), second)),
        replace(whole, requests=(replace(first, audience="other"), second)),
        replace(whole, requests=(replace(first, grants=()), second)),
        replace(whole, requests=(replace(first, log_size=first.log_size + 1), second)),
        replace(whole, requests=(replace(first, log_root=bytes(32)), second)),
    ]
    for other in others:
        assert refused(lambda other=other: verify(scene, other)).code == "extra-data-mismatch"  # type: ignore[misc] # a default binds the loop's value


def test_values_not_quoted_are_refused() -> None:
    scene = launched("one")
    values = scene.chip.values()
    scene.chip.extend(14, {"sha256": bytes(32)})
    evidence = scene.evidence("one")
    assert refused(lambda: verify(scene, replace(evidence, pcrs=values))).code == "pcr-digest-mismatch"


def test_log_is_continued_from_where_it_was_left_or_sent_in_full() -> None:
    scene = launched("one")
    scene.attest("one")
    scene.launch("two")
    parts, whole = verify(scene, scene.evidence("one")), verify(scene, scene.evidence("one", first=0))
    assert parts.epoch.kind == "same"
    assert parts.runtime == whole.runtime
    assert parts.runtime is not None
    assert parts.runtime.events == 4


def test_nothing_new_is_a_log_too() -> None:
    scene = launched("one")
    scene.attest("one")
    verified = verify(scene, scene.evidence("one"))
    assert found(verified) == []
    assert verified.runtime == scene.state.runtime if scene.state else False


@pytest.mark.parametrize("first", [1, 2, 4, 99])
def test_log_from_elsewhere_is_rewound(first: int) -> None:
    scene = launched("one")
    scene.attest("one")
    scene.launch("two")
    evidence = scene.evidence("one")
    moved = encode_cel(replace(r, record_number=first + at) for at, r in enumerate(scene.records[3:]))
    verified = verify(scene, replace(evidence, log_first=first, log=moved))
    assert found(verified) == [("runtime-log-rewound", "log_first")]
    assert verified.runtime is None


def test_full_log_shorter_than_the_one_judged_is_rewound() -> None:
    scene = launched("one")
    scene.attest("one")
    evidence = replace(scene.evidence("one", first=0), log=encode_cel(scene.records[:2]))
    assert found(verify(scene, evidence)) == [("runtime-log-rewound", "log")]


def test_full_log_of_exactly_the_length_judged_is_no_rewind() -> None:
    scene = launched("one")
    scene.attest("one")
    assert found(verify(scene, scene.evidence("one", first=0))) == []


def test_full_log_that_tells_another_past_is_refused() -> None:
    scene = launched("one")
    scene.attest("one")
    other = launched("two")
    other.launch("three")
    evidence = replace(scene.evidence("one", first=0), log=encode_cel(other.records))
    verified = verify(scene, evidence)
    assert found(verified) == [("runtime-log-mismatch", "register after 3 events")]
    assert verified.runtime is None


def test_log_that_does_not_lead_to_the_quote_is_not_kept() -> None:
    scene = launched("one")
    evidence = replace(scene.evidence("one"), log=encode_cel(scene.records[:2]))
    verified = verify(scene, evidence)
    assert found(verified) == [("runtime-log-mismatch", "pcr14")]
    assert verified.runtime is None


@pytest.mark.parametrize("log", [b"\xff", b"\0" * 40])
def test_log_that_is_no_log_is_a_finding_and_not_an_accident(log: bytes) -> None:
    scene = launched("one")
    assert found(verify(scene, replace(scene.evidence("one"), log=log))) == [("runtime-log-malformed", "runtime_log")]


def test_first_attestation_and_reboot_need_the_log_from_its_first_event() -> None:
    scene = launched("one")
    partly = replace(scene.evidence("one", first=2), log_first=2)
    assert found(verify(scene, partly)) == [("full-log-required", "log_first")]
    scene.attest("one")
    scene.reboot()
    scene.launch("two")
    assert found(verify(scene, scene.evidence("two", first=3))) == [("full-log-required", "log_first")]
    verified = verify(scene, scene.evidence("two"))
    assert (verified.epoch.kind, found(verified)) == ("rebooted", [])
    assert verified.runtime is not None
    assert [i.instance for i in verified.runtime.instances] == [sixteen("two")]


def test_first_state_without_a_log_is_begun_from_nothing() -> None:
    scene = launched("one")
    broken = scene.judge(replace(scene.evidence("one"), log=b""))
    scene.state = broken.state_after
    assert scene.state.runtime.events == 0
    verified = verify(scene, scene.evidence("one", first=0))
    assert found(verified) == []


def test_tainted_and_drifted_instances_survive_a_reboot_as_tainted_and_others_do_not() -> None:
    scene = launched("one", "two", "three", "four")
    scene.event(DriftEvent(sixteen("one"), "code", "main.py", Digest.of(b"x"), None))
    scene.event(StopEvent(sixteen("two"), "exited"))
    state = scene.attest("four").state_after
    tainted = state.runtime.find(sixteen("three"))
    assert tainted is not None
    scene.state = replace(state, runtime=state.runtime.with_instance(tainted.in_phase("tainted")))
    scene.reboot()
    verified = verify(scene, scene.evidence())
    assert verified.runtime is not None
    assert {i.instance: i.phase for i in verified.runtime.instances} == {sixteen("one"): "tainted", sixteen("three"): "tainted"}


def test_clock_set_back_is_found_and_the_log_is_not_even_read() -> None:
    scene = launched("one")
    scene.attest("one")
    scene.chip.clock = 0
    verified = verify(scene, scene.evidence("one"))
    assert (verified.epoch.kind, found(verified), verified.runtime) == ("forked", [("clock-fell", "clock")], None)


def test_measurement_of_a_start_in_the_tail_is_dropped_and_no_fault() -> None:
    """The log is read after the quote, so a launch may stand in it that the quote does not cover."""
    scene = launched("one")
    evidence = scene.evidence("one")
    scene.launch("two", what=measurement("other"), agent="other")
    verified = verify(scene, replace(evidence, log=encode_cel(scene.records), measurements=tuple(scene.measured)))
    assert found(verified) == []
    assert verified.runtime is not None
    assert [i.measurement for i in verified.runtime.instances] == [scene.measured[0]]


def test_measurement_that_is_no_preimage_is_dropped() -> None:
    scene = launched("one")
    verified = verify(scene, replace(scene.evidence("one"), measurements=(encode_measurement(measurement("other")), b"rubbish")))
    assert found(verified) == []
    assert known(verified, "one").measurement == b""


def test_preimage_that_does_not_parse_is_dropped_for_its_instance_alone() -> None:
    scene = launched("one")
    rubbish = b"rubbish"
    agent = f"spiffe://{DOMAIN}/{NAMESPACE}/agent/reporter"
    scene.event(StartEvent(sixteen("bad"), agent, Digest.of(rubbish), command_digest(()), b"k" * 32, None, ()))
    scene.measured.append(rubbish)
    verified = verify(scene, scene.evidence("one"))
    assert found(verified) == []
    assert (known(verified, "bad").measurement, known(verified, "one").measurement) == (b"", scene.measured[0])


def test_measurement_once_known_need_not_travel_again() -> None:
    scene = launched("one")
    scene.attest("one")
    verified = verify(scene, replace(scene.evidence("one"), measurements=()))
    assert known(verified, "one").measurement == scene.measured[0]
    scene.measured = []
    assert known(verify(scene, scene.evidence("one")), "one").measurement == encode_measurement(measurement())
