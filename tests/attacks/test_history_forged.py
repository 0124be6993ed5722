"""A log that is rewound, forked or retyped; clocks set back; counters fallen; keys and instances claimed twice; a dead parent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.attacks.policies import SHAPES
from tests.world.scene import DEMO, Scene, codes, measurement, permitted, policy, reference, signer, sixteen
from writ.formats.digest import Digest
from writ.formats.eventlog.cel import encode_cel
from writ.formats.eventlog.runtime import DriftEvent, KeyEvent, StartEvent, StopEvent, encode_event, event_digests
from writ.formats.strict import decode_cbor, encode_cbor

DRIFT = DriftEvent(sixteen("one"), "prompts", "prompt.txt", Digest.of(b"x"), Digest.of(b"y"))


def attested(*names: str) -> Scene:
    scene = Scene(bundle=SHAPES["most permissive"])
    for name in names:
        scene.launch(name)
    scene.attest(*names)
    return scene


def reasons(scene: Scene, *names: str) -> list[str]:
    return [r.code for r in scene.judge(scene.evidence(*names)).entry.reasons]


def test_retyped_event_is_refused() -> None:
    """The kind is inside what is hashed: a drift told as a stop does not lead to the register (TCG event logs leave the type outside)."""
    scene = attested("one")
    scene.event(DRIFT)
    told = encode_event(StopEvent(sixteen("one"), "exited"))
    for record in (
        replace(scene.records[-1], content=told),
        replace(scene.records[-1], content=told, digests=event_digests(told, ("sha256", "sha384"))),
        replace(scene.records[-1], content_type=8),
    ):
        verdict = scene.judge(replace(scene.evidence("one"), log=encode_cel([record])))
        assert verdict.entry.reasons[0].code in {"runtime-log-malformed", "runtime-log-mismatch"}
        assert verdict.tokens[0].claims is None


def test_event_left_out_is_refused() -> None:
    scene = attested("one")
    scene.event(DRIFT)
    assert scene.judge(replace(scene.evidence("one"), log=b"")).entry.reasons[0].code == "runtime-log-mismatch"


def test_unknown_event_is_refused() -> None:
    scene = attested("one")
    content = encode_cbor({**decode_cbor(encode_event(DRIFT), "event"), "kind": "forgive"})
    digests = event_digests(content, ("sha256", "sha384"))
    scene.records.append(replace(scene.records[-1], record_number=3, content=content, digests=digests))
    scene.chip.extend(14, {d.algorithm: d.value for d in digests})
    assert reasons(scene, "one") == ["runtime-log-malformed"]


def test_log_rewound_to_before_the_drift_is_refused() -> None:
    scene = attested("one")
    scene.event(DRIFT)
    scene.attest("one")
    scene.records = scene.records[:-1]
    for first in (0, 3):
        verdict = scene.judge(scene.evidence("one", first=first))
        assert [r.code for r in verdict.entry.reasons] == ["runtime-log-rewound"]


def test_forked_log_is_refused_in_full_and_in_part() -> None:
    scene = attested("one")
    honest = list(scene.records)
    scene.chip.reset_count -= 1
    scene.reboot()
    scene.chip.clock = 1_000_000
    scene.launch("two")
    assert [r.code for r in scene.judge(scene.evidence("two", first=0)).entry.reasons] == ["runtime-log-mismatch"]
    scene.records = [*honest, *scene.records[len(honest) :]]
    assert reasons(scene, "two") == ["runtime-log-mismatch"]


def test_log_sent_again_in_full_is_judged_as_the_same_log() -> None:
    scene = attested("one")
    assert scene.state is not None
    verdict = scene.judge(scene.evidence("one", first=0))
    assert permitted(verdict).instance == sixteen("one")
    assert verdict.state_after.runtime == scene.state.runtime


def test_clock_set_back_contains_the_host() -> None:
    scene = attested("one")
    scene.chip.clock = 100
    assert reasons(scene, "one") == ["clock-fell"]
    scene.chip.clock = 100
    scene.attest("one")
    scene.chip.clock += 1_000_000
    assert reasons(scene, "one") == ["host-contained"]


def test_reset_count_fallen_contains_the_host() -> None:
    """A virtual TPM restored from a snapshot."""
    scene = attested("one")
    scene.chip.reset_count -= 1
    scene.chip.clock += 1_000_000
    assert reasons(scene, "one") == ["reset-count-fell"]
    assert scene.attest("one").state_after.status == "contained"


def test_i6_reboot_does_not_end_containment() -> None:
    scene = attested("one")
    scene.chip.clock = 0
    scene.attest("one")
    scene.reboot()
    scene.launch("new")
    verdict = scene.attest("new")
    assert codes(verdict) == {"host-contained"}
    assert verdict.state_after.status == "contained"


def test_t4_suspend_reboot_and_unsafe_clock_are_no_fork() -> None:
    """What others report as tampering: reboot after a resume, a clock that is not safe, an equal clock."""
    scene = attested("one")
    scene.chip.resume()
    assert reasons(scene, "one") == []
    scene.attest("one")
    scene.chip.safe = False
    assert reasons(scene, "one") == []
    scene.chip.clock -= 1_000
    assert reasons(scene, "one") == []
    scene.reboot()
    assert scene.chip.restart_count == 0
    scene.launch("new")
    assert permitted(scene.attest("new")).instance == sixteen("new")


def test_instances_key_claimed_twice_is_refused() -> None:
    scene = attested("one")
    scene.launch("two", key=signer("session/one"))
    verdict = scene.judge(scene.evidence("one", "two"))
    assert [r.code for r in verdict.entry.reasons] == ["instance-key-reused"]
    assert all(t.claims is None for t in verdict.tokens)


def test_instances_key_claimed_by_another_request_is_refused() -> None:
    scene = attested("one", "two")
    stolen = replace(scene.running["two"].request(), session_key=scene.running["one"].key.public)
    verdict = scene.judge(scene.evidence(requests=(scene.running["one"].request(), stolen)))
    assert codes(verdict, 1) == {"instance-key-mismatch"}


def test_instance_of_another_boot_cannot_be_claimed() -> None:
    scene = attested("one")
    old = scene.running["one"]
    scene.reboot()
    verdict = scene.judge(scene.evidence(requests=(old.request(),)))
    assert codes(verdict) == {"instance-unknown"}


def test_tainted_instance_is_never_started_again_not_even_after_a_reboot() -> None:
    scene = attested("one")
    scene.event(DRIFT)
    scene.attest("one")
    scene.reboot()
    scene.launch("one")
    assert codes(scene.attest("one")) == {"instance-tainted"}
    assert codes(scene.attest("one")) == {"instance-tainted"}


def test_drifted_instance_does_not_heal_by_a_new_key() -> None:
    scene = attested("one")
    scene.event(DRIFT)
    scene.running["one"].key = signer("fresh")
    scene.event(KeyEvent(sixteen("one"), signer("fresh").public.thumbprint()))
    assert codes(scene.attest("one")) == {"instance-drifted"}
    assert codes(scene.attest("one")) == {"instance-tainted"}


def test_source_changed_by_the_host_under_a_new_launch_is_refused() -> None:
    scene = attested("one")
    scene.launch("two", what=measurement(prompt=b"be evil"))
    verdict = scene.judge(scene.evidence("one", "two"))
    assert permitted(verdict, 0).instance == sixteen("one")
    assert codes(verdict, 1) == {"component-mismatch"}


def test_root_extending_known_good_digests_gets_nothing_where_the_policy_demands_affirming() -> None:
    """Root can write any event. What a runtime event is worth follows from what measured its writer; nothing did."""
    strict = policy(replace(DEMO, accept_runtime_only=False))
    scene = Scene(bundle=strict)
    approved, key = measurement(), signer("session/fake").public.thumbprint()
    scene.launch("one")
    scene.records.pop()
    scene.chip.reset_count -= 1
    scene.reboot()
    scene.event(StartEvent(sixteen("one"), str(approved.agent), approved.root(), Digest.of(b""), key, None, ()))
    verdict = scene.judge(scene.evidence())
    assert [r.code for r in verdict.entry.reasons] == ["attestor-not-rooted"]
    honest = Scene(bundle=strict)
    honest.launch("one")
    assert codes(honest.attest("one")) == {"attestor-not-rooted"}
    named = Scene(bundle=policy())
    named.launch("one")
    claims = permitted(named.attest("one"))
    assert (claims.runtime, claims.exceptions) == ("runtime-only", ("attestor-not-rooted",))


def test_child_with_wider_grants_is_refused() -> None:
    scene = attested("one")
    scene.launch("two", parent="one", grants=(("tool.call", "files/*"), ("tool.call", "mail/*")))
    assert codes(scene.judge(scene.evidence("one", "two")), 1) == {"grants-not-narrower"}


@pytest.mark.parametrize("event", [DRIFT, StopEvent(sixteen("one"), "killed")])
def test_child_of_a_dead_parent_is_refused_and_tainted(event: DriftEvent | StopEvent) -> None:
    scene = attested("one")
    scene.launch("two", parent="one", grants=())
    scene.event(event)
    verdict = scene.attest("two")
    assert codes(verdict) == {"instance-tainted"}
    known = verdict.state_after.runtime.find(sixteen("two"))
    assert known is not None
    assert known.phase == "tainted"


@pytest.mark.parametrize("parent", ["unknown", "itself"])
def test_child_of_nobody_is_refused(parent: str) -> None:
    scene = attested("one")
    above = sixteen("two") if parent == "itself" else sixteen("nobody")
    what = measurement()
    scene.event(StartEvent(sixteen("two"), str(what.agent), what.root(), Digest.of(b""), bytes(32), above, ()))
    assert reasons(scene, "one") == ["runtime-log-malformed"]


def test_action_log_rewritten_by_the_agents_host_taints_the_instance_for_ever() -> None:
    scene = attested("one", "two")
    one = scene.running["one"]
    one.leaves = [b"bought a book", b"sold a book"]
    scene.attest("one", "two")
    one.leaves = [b"bought nothing", b"sold a book", b"went home"]
    verdict = scene.attest("one", "two")
    assert codes(verdict, 0) == {"action-log-inconsistent"}
    assert permitted(verdict, 1).instance == sixteen("two")
    one.leaves, one.carried = [b"bought a book", b"sold a book"], 2
    assert codes(scene.attest("one", "two"), 0) == {"instance-tainted"}


def test_reference_values_past_their_date_approve_nothing() -> None:
    scene = attested("one")
    scene.references = [*scene.references[:1], reference(valid_until=scene.now - 1)]
    assert codes(scene.judge(scene.evidence("one"))) == {"agent-unknown"}
