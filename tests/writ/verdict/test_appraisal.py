"""Each step of `appraise`: what stands against host and instance, what the EAR says, and the state that follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.scene import DEMO, GOVERNANCE, GOVERNED, NAMESPACE, NOW, Scene, measurement, policy, reference, signer, sixteen
from writ.formats.digest import Digest
from writ.formats.eventlog.runtime import ComponentEvent, DriftEvent, StartEvent, StopEvent, command_digest
from writ.formats.evidence import Evidence
from writ.formats.ima_rules import ImaRules
from writ.formats.reason import Reason
from writ.formats.state import HostState, encode_host_state, parse_host_state
from writ.formats.tlog.merkle import EMPTY_ROOT
from writ.verdict.appraisal import MOST_DIFFERENCES, AttestationResult, InstanceResult, appraise, at_most
from writ.verdict.appraise.ima import index_files
from writ.verdict.evidence import verify_evidence
from writ.verdict.reference import reference_set

VERIFIER = signer("decision").public.thumbprint()


def judge(scene: Scene, *names: str, evidence: Evidence | None = None) -> AttestationResult:
    given = evidence or scene.evidence(*names)
    verified = verify_evidence(given, record=scene.record, state=scene.state, verifier=VERIFIER, files=index_files([]), rules=ImaRules())
    return appraise(
        verified, record=scene.record, state=scene.state, references=reference_set(scene.references), bundle=scene.bundle, now=scene.now,
        nonce=given.nonce.value,
    )  # fmt: skip


def launched(*names: str, **given: object) -> Scene:
    scene = Scene(**given)  # type: ignore[arg-type] # fields of the scene, by name
    for name in names:
        scene.launch(name)
    return scene


def against_host(result: AttestationResult) -> list[tuple[str, str]]:
    return [(r.code, r.claim) for r in result.reasons]


def against(result: InstanceResult) -> set[str]:
    return {r.code for r in result.reasons}


def phase(state: HostState, name: str = "one") -> str:
    known = state.runtime.find(sixteen(name))
    assert known is not None
    return known.phase


def vector(result: AttestationResult, part: str = "host") -> dict[str, int]:
    return dict(dict(result.ear.submodules)[part].vector)


ONE = f"instance.{sixteen('one').hex()}"

# --- 1, 2: the host


def test_approved_host_and_instance_have_nothing_against_them() -> None:
    result = judge(launched("one"), "one")
    assert (result.reasons, against(result.instances[0]), result.exceptions) == ((), set(), ("attestor-not-rooted",))
    assert result.instances[0].parents == ()
    assert (result.ear.iat, result.ear.tpm_class) == (NOW, "software")
    assert {name for name, _ in result.ear.submodules} == {"host", ONE}


@pytest.mark.parametrize("status, code", [("contained", "host-contained"), ("retired", "host-not-active")])
def test_host_that_is_not_active_is_refused(status: str, code: str) -> None:
    scene = launched("one")
    scene.state = replace(scene.attest("one").state_after, status=status)
    result = judge(scene, "one")
    assert against_host(result) == [(code, "host.status")]
    assert result.state_after.status == status
    assert (vector(result)["instance-identity"], vector(result)["executables"]) == (97, 32)


def test_governance_other_than_approved_is_refused() -> None:
    scene = launched("one", references=(replace(GOVERNED, components=(GOVERNANCE[0], ("enforcer", Digest.of(b"new")))), reference()))
    assert against_host(judge(scene, "one")) == [("governance-mismatch", "governance.enforcer")]
    assert vector(judge(scene, "one"))["executables"] == 33
    unknown = launched("one", references=(reference(),))
    assert against_host(judge(unknown, "one")) == [("governance-mismatch", "governance")]


def test_code_that_governed_between_two_quotes_stands_against_the_host_until_it_is_approved() -> None:
    scene = launched("one")
    scene.state = judge(scene, "one").state_after
    scene.event(ComponentEvent("governance", "attestor", Digest.of(b"evil")))
    scene.govern()

    result = judge(scene, "one")
    assert against_host(result) == [
        ("component-missing", "governance-before.enforcer"), ("governance-mismatch", "governance-before.attestor"),
    ]  # fmt: skip
    scene.state = parse_host_state(encode_host_state(result.state_after))
    assert scene.state.runtime.unapproved == ((("attestor", Digest.of(b"evil")),),)
    assert {claim for _, claim in against_host(judge(scene, "one"))} == {"governance-before.attestor", "governance-before.enforcer"}
    scene.references = (*scene.references, replace(GOVERNED, id="evil", components=(("attestor", Digest.of(b"evil")),)))
    healed = judge(scene, "one")
    assert against_host(healed) == []
    assert healed.state_after.runtime.unapproved == ()


def test_an_approved_set_follows_another_while_instances_run_and_neither_is_held_against_the_host_later() -> None:
    newer = (("attestor", Digest.of(b"attestor 2")), ("enforcer", Digest.of(b"enforcer 2")))
    scene = launched("one", references=(GOVERNED, replace(GOVERNED, id="governance-2", components=newer), reference()))
    scene.state = judge(scene, "one").state_after
    for name, digest in newer:
        scene.event(ComponentEvent("governance", name, digest))
    after = judge(scene, "one")
    assert against_host(after) == []
    scene.state = after.state_after
    scene.references = (replace(GOVERNED, id="governance-2", components=newer), reference())  # the old version was taken out of force
    assert against_host(judge(scene, "one")) == []


def test_an_unapproved_set_holds_the_host_at_once_and_the_old_one_frees_it_only_after_a_boot() -> None:
    scene = launched("one")
    scene.state = judge(scene, "one").state_after
    scene.event(ComponentEvent("governance", "attestor", Digest.of(b"evil")))
    refused = judge(scene, "one")
    assert ("governance-mismatch", "governance.attestor") in against_host(refused)
    scene.state = refused.state_after
    scene.govern()
    assert ("governance-mismatch", "governance-before.attestor") in against_host(judge(scene, "one"))


def test_governance_component_too_many_or_missing_is_refused() -> None:
    for components, code in (
        (GOVERNANCE[:1], "component-unexpected"),
        ((*GOVERNANCE, ("policy", Digest.of(b"p"))), "component-missing"),
    ):
        scene = launched("one", references=(replace(GOVERNED, components=components), reference()))
        result = judge(scene, "one")
        assert [c for c, _ in against_host(result)] == [code]
        assert vector(result)["executables"] == 33


def test_host_component_is_not_governance() -> None:
    scene = Scene()
    scene.event(ComponentEvent("host", "kernel", Digest.of(b"kernel")))
    assert against_host(judge(scene)) == []


def test_class_of_tpm_the_policy_does_not_accept_is_refused() -> None:
    scene = launched("one", bundle=policy(replace(DEMO, tpm_classes=("discrete",))))
    assert against_host(judge(scene, "one")) == [("tpm-class-refused", "tpm_class")]


def test_runtime_only_is_refused_unless_the_policy_says_otherwise() -> None:
    result = judge(launched("one", bundle=policy(replace(DEMO, accept_runtime_only=False))), "one")
    assert against_host(result) == [("attestor-not-rooted", "executables")]
    assert result.exceptions == ()


# --- 3: the instances


def test_instance_without_start_event_is_unknown() -> None:
    scene = launched("one")
    stranger = replace(scene.running["one"].request(), instance=sixteen("two"))
    result = judge(scene, evidence=scene.evidence(requests=(stranger,)))
    assert against(result.instances[0]) == {"instance-unknown"}
    assert result.instances[0].state is None
    part = f"instance.{sixteen('two').hex()}"
    assert vector(result, part) == {"instance-identity": 97, "executables": 96}


def test_instance_whose_log_is_not_bound_is_unknown() -> None:
    scene = launched("one")
    result = judge(scene, evidence=replace(scene.evidence("one"), log=b""))
    assert against_host(result) == [("runtime-log-mismatch", "pcr14")]
    assert against(result.instances[0]) == {"instance-unknown"}
    assert vector(result)["executables"] == 33


@pytest.mark.parametrize(
    "event, code, after",
    [
        (StopEvent(sixteen("one"), "exited"), "instance-stopped", "stopped"),
        (DriftEvent(sixteen("one"), "code", "main.py", Digest.of(b"x"), None), "instance-drifted", "tainted"),
    ],
)
def test_instance_that_does_not_run_unchanged_is_refused(event: StopEvent | DriftEvent, code: str, after: str) -> None:
    scene = launched("one", "two")
    scene.event(event)
    result = judge(scene, "one", "two")
    assert against(result.instances[0]) == {code}
    assert against(result.instances[1]) == set()
    assert (phase(result.state_after), phase(result.state_after, "two")) == (after, "running")


def test_i6_tainted_instance_stays_tainted() -> None:
    scene = launched("one")
    scene.event(DriftEvent(sixteen("one"), "code", "main.py", Digest.of(b"x"), None))
    scene.state = judge(scene, "one").state_after
    result = judge(scene, "one")
    assert against(result.instances[0]) == {"instance-tainted"}
    assert phase(result.state_after) == "tainted"


def test_session_key_other_than_the_log_binds_is_refused() -> None:
    scene = launched("one")
    other = replace(scene.running["one"].request(), session_key=signer("thief").public)
    result = judge(scene, evidence=scene.evidence(requests=(other,)))
    assert against(result.instances[0]) == {"instance-key-mismatch"}


def test_component_other_than_approved_is_refused_by_name() -> None:
    scene = Scene()
    scene.launch("one", what=measurement(prompt=b"be evil"))
    result = judge(scene, "one")
    assert [(r.code, r.claim) for r in result.instances[0].reasons] == [("component-mismatch", f"{ONE}.prompts")]
    assert vector(result, ONE) == {"instance-identity": 2, "executables": 96}
    assert vector(judge(launched("one"), "one"), ONE) == {"instance-identity": 2, "executables": 32}


def test_old_and_new_version_are_both_accepted_while_both_are_approved() -> None:
    scene = Scene(references=(GOVERNED, reference(), reference(version="2", prompt=b"be brief")))
    scene.launch("one")
    scene.launch("two", what=measurement(prompt=b"be brief"))
    assert [against(i) for i in judge(scene, "one", "two").instances] == [set(), set()]


def test_agent_without_reference_values_is_refused() -> None:
    assert against(judge(launched("one", references=(GOVERNED,)), "one").instances[0]) == {"agent-unknown"}
    expired = launched("one", references=(GOVERNED, reference(valid_until=NOW - 1)))
    assert against(judge(expired, "one").instances[0]) == {"agent-unknown"}


def test_measurement_that_never_travelled_is_missing() -> None:
    scene = launched("one")
    assert against(judge(scene, evidence=replace(scene.evidence("one"), measurements=())).instances[0]) == {"component-missing"}


def test_agent_that_starts_under_anothers_measurement_is_refused() -> None:
    scene = Scene(references=(GOVERNED, reference(), reference("writer")))
    scene.launch("one", agent="writer", what=measurement("reporter"))
    assert [(r.code, r.claim) for r in judge(scene, "one").instances[0].reasons] == [("component-mismatch", f"{ONE}.agent")]


def test_command_other_than_the_measured_is_refused() -> None:
    scene = Scene()
    scene.launch("one")
    scene.records.pop()
    scene.chip.reboot()
    for record in scene.records:
        scene.chip.extend(14, {d.algorithm: d.value for d in record.digests})
    what, key = measurement(), scene.running["one"].key.public.thumbprint()
    scene.event(StartEvent(sixteen("one"), str(what.agent), what.root(), command_digest(("sh",)), key, None, ()))
    assert [(r.code, r.claim) for r in judge(scene, "one").instances[0].reasons] == [("component-mismatch", f"{ONE}.argv")]


def test_component_outside_the_measured_store_is_refused() -> None:
    scene = Scene()
    scene.launch("one", what=measurement(mutable=True))
    reasons = judge(scene, "one").instances[0].reasons
    assert [(r.code, r.got) for r in reasons] == [("manifest-mutable", "prompts")]


# --- 3: the action log


def acting(records: int = 3) -> Scene:
    scene = launched("one")
    scene.attest("one")
    scene.running["one"].leaves = [b"leaf %d" % at for at in range(records)]
    return scene


def test_action_log_that_grew_is_carried() -> None:
    scene = acting()
    result = judge(scene, "one")
    assert against(result.instances[0]) == set()
    known = result.state_after.runtime.find(sixteen("one"))
    assert known is not None
    assert (known.log_size, known.log_root) == (3, scene.running["one"].request().log_root)


@pytest.mark.parametrize("leaves", [[b"leaf 0", b"other", b"leaf 2", b"leaf 3"], [b"other", b"leaf 1", b"leaf 2"]])
def test_i6_action_log_that_forked_taints_for_ever(leaves: list[bytes]) -> None:
    scene = acting()
    scene.attest("one")
    scene.running["one"].leaves = leaves
    result = judge(scene, "one")
    assert against(result.instances[0]) == {"action-log-inconsistent"}
    assert phase(result.state_after) == "tainted"


def test_action_log_that_shrank_taints() -> None:
    scene = acting()
    scene.attest("one")
    shrunk = replace(scene.running["one"].request(), log_size=0, log_root=EMPTY_ROOT, log_proof=())
    result = judge(scene, evidence=scene.evidence(requests=(shrunk,)))
    assert against(result.instances[0]) == {"action-log-inconsistent"}


def test_action_log_proven_from_elsewhere_is_asked_again_and_nothing_is_lost() -> None:
    """The answer to the last attestation was lost: the enforcer does not know what the verifier holds."""
    scene = acting()
    scene.state = scene.judge(scene.evidence("one")).state_after
    scene.running["one"].leaves.append(b"leaf 3")
    result = judge(scene, "one")
    assert [(r.code, r.expected, r.got) for r in result.instances[0].reasons] == [("action-log-base", "3", "0")]
    assert phase(result.state_after) == "running"
    known = result.state_after.runtime.find(sixteen("one"))
    assert known is not None
    assert known.log_size == 3
    scene.state = result.state_after
    scene.running["one"].carried = 3
    assert against(judge(scene, "one").instances[0]) == set()


# --- 3: the lineage


def test_child_carries_its_parents_nearest_first() -> None:
    scene = launched("one")
    scene.launch("two", parent="one")
    scene.launch("three", parent="two")
    assert [tuple(p.instance for p in i.parents) for i in judge(scene, "one", "two", "three").instances] == [
        (),
        (sixteen("one"),),
        (sixteen("two"), sixteen("one")),
    ]


@pytest.mark.parametrize("dead", ["one", "two"])
@pytest.mark.parametrize("event", ["stop", "drift"])
def test_i6_child_dies_with_any_of_its_parents(dead: str, event: str) -> None:
    scene = launched("one", "other")
    scene.launch("two", parent="one")
    scene.launch("three", parent="two")
    gone = sixteen(dead)
    scene.event(StopEvent(gone, "exited") if event == "stop" else DriftEvent(gone, "code", "main.py", Digest.of(b"x"), None))
    result = judge(scene, "three", "other")
    assert [against(i) for i in result.instances] == [{"instance-tainted"}, set()]
    assert phase(result.state_after, "three") == "tainted"


def test_lineage_is_bounded() -> None:
    scene = launched("0")
    for at in range(1, 18):
        scene.launch(str(at), parent=str(at - 1))
    sixteenth, too_deep = judge(scene, "16", "17").instances
    assert (len(sixteenth.parents), against(sixteenth)) == (16, set())
    assert (len(too_deep.parents), against(too_deep)) == (16, {"instance-tainted"})


# --- 4: the state that follows


def test_first_state_is_as_quoted() -> None:
    scene = launched("one")
    state = judge(scene, "one").state_after
    quoted = scene.chip
    assert (state.version, state.status, state.seen_at) == (0, "active", NOW)
    assert (state.clock, state.reset_count, state.restart_count, state.safe) == (quoted.clock, 7, 0, True)
    assert (state.runtime.events, state.runtime.register) == (3, scene.chip.pcrs["sha256"][14])


def test_state_moves_by_one_version_each_time() -> None:
    scene = launched("one")
    scene.attest("one")
    scene.chip.resume()
    scene.chip.safe = False
    result = judge(scene, "one")
    assert (result.state_after.version, result.state_after.restart_count, result.state_after.safe) == (1, 1, False)
    assert vector(result)["configuration"] == 32


def test_i6_forked_host_is_contained_and_its_state_stands() -> None:
    scene = launched("one")
    before = scene.attest("one").state_after
    scene.chip.clock = 1
    result = judge(scene, "one")
    assert result.state_after == replace(before, version=1, status="contained")
    assert vector(result)["instance-identity"] == 97
    assert against_host(result) == [("clock-fell", "clock")]


def test_i6_retired_host_never_comes_back_by_way_of_containment() -> None:
    scene = launched("one")
    scene.state = replace(scene.attest("one").state_after, status="retired")
    scene.chip.clock = 1
    assert judge(scene, "one").state_after.status == "retired"


def test_log_that_does_not_replay_leaves_the_state_as_it_stood() -> None:
    scene = launched("one")
    before = scene.attest("one").state_after
    scene.launch("two")
    result = judge(scene, evidence=replace(scene.evidence("one"), log=b""))
    assert against_host(result) == [("runtime-log-mismatch", "pcr14")]
    assert result.state_after == replace(before, version=1)


def test_first_state_without_a_log_has_an_empty_one() -> None:
    scene = launched("one")
    state = judge(scene, evidence=replace(scene.evidence("one"), log=b"")).state_after
    assert (state.version, state.status, state.runtime.events, state.runtime.register) == (0, "active", 0, bytes(32))


@pytest.mark.parametrize("tpm_class, hardware", [("discrete", 2), ("firmware", 2), ("virtual", 32), ("software", 32)])
def test_hardware_is_affirming_for_hardware_only(tpm_class: str, hardware: int) -> None:
    scene = launched("one", tpm_class=tpm_class)
    scene.record = replace(scene.record, revocation_checked=True)
    result = judge(scene, "one")
    assert vector(result)["hardware"] == hardware
    assert vector(result) == {"instance-identity": 2, "configuration": 2, "executables": 32, "hardware": hardware}


@pytest.mark.parametrize("checked", [False, True])
def test_hardware_without_endorsement_is_not_affirming(checked: bool) -> None:
    scene = launched("one", tpm_class="discrete")
    scene.record = replace(scene.record, endorsed=False, revocation_checked=checked)
    assert vector(judge(scene, "one"))["hardware"] == 32


def test_result_says_where_no_crl_was_held_against_the_chain() -> None:
    """It refuses nothing: the rules of the trust file say whether a TPM enrols so."""
    scene = launched("one", tpm_class="discrete")

    def said() -> tuple[list[str], int, bool]:
        result = judge(scene, "one")
        host = result.ear.submodule("host")
        assert host is not None
        codes = [reason.code for reason in host.reasons if reason.claim == "hardware"]
        return codes, vector(result)["hardware"], bool(result.reasons)

    assert said() == (["revocation-unknown"], 32, False)
    scene.record = replace(scene.record, revocation_checked=True)
    assert said() == ([], 2, False)
    scene.record = replace(scene.record, endorsed=False, revocation_checked=False)
    assert said() == ([], 32, False), "there is no chain"


def test_executables_are_never_affirming_while_nothing_measured_the_attestor() -> None:
    result = judge(launched("one"), "one")
    for name, part in result.ear.submodules:
        assert dict(part.vector)["executables"] >= 32, name
        assert part.runtime_only
        assert part.policy_ids == (str(policy().digest),)
    assert [r.code for r in dict(result.ear.submodules)["host"].reasons] == ["attestor-not-rooted", "revocation-unknown"]
    assert NAMESPACE == "billing"


# --- what a decision has room for


def numbered(code: str, count: int) -> list[Reason]:
    return [Reason(code, f"{number:04}", "", "") for number in range(count)]


def test_of_each_code_the_first_are_named_and_the_rest_are_counted() -> None:
    found = [*numbered("component-mismatch", 5), *numbered("instance-drifted", 1), *numbered("component-missing", 4)]
    named = at_most(reversed(found), 3)
    assert [(r.code, r.claim) for r in named] == [
        *(("component-mismatch", f"000{n}") for n in range(3)),
        *(("component-missing", f"000{n}") for n in range(3)),
        ("instance-drifted", "0000"),
        ("reasons-left-out", "reasons"),
    ]
    assert named[-1].got == "3 more"


def test_where_all_are_named_none_is_said_to_be_left_out() -> None:
    found = numbered("component-mismatch", 3)
    assert at_most([*found, *found], 3) == tuple(found)


def test_instances_share_the_room_of_a_decision() -> None:
    names = tuple(f"n{number}" for number in range(32))
    scene = launched(*names)
    parts = tuple((f"prompts.{n:03}", Digest.of(b"%d" % n)) for n in range(MOST_DIFFERENCES))
    scene.references = tuple(
        replace(c, components=(*c.components, *parts)) if c.environment != "governance" else c for c in scene.references
    )
    for asked, each in ((names[:1], MOST_DIFFERENCES), (names, MOST_DIFFERENCES // 32)):
        result = judge(scene, *asked)
        assert {sum(r.code == "component-missing" for r in one.reasons) for one in result.instances} == {each}
