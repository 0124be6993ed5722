"""A child instance runs what nobody measured: neither its result nor its token may say otherwise, whatever vouches for the host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.machine import Machine
from tests.world.scene import NAMESPACE, POLICIES, Scene, measurement, permitted, policy, sixteen
from tests.writ.verdict.test_dry_run import ask
from writ.formats.corim import Corim
from writ.formats.ear import parse_ear_cbor
from writ.formats.measurement import PROFILES, UNMEASURED, Measurement, Profile
from writ.formats.policy_bundle import PolicySettings
from writ.verdict.attestation import AttestationVerdict
from writ.verdict.reference import measured_values

ROOTED_ONLY = POLICIES + '\nforbid (principal, action == Writ::Action::"token.issue", resource) when { context.runtime != "affirming" };'


def approved(what: Measurement, agent: str) -> Corim:
    return Corim(f"{agent}-1", NAMESPACE, str(what.agent), tuple(sorted(measured_values(what).items())))


def family(machine: Machine, profile: Profile) -> AttestationVerdict:
    """The machine's agent, and a child of it under that profile; the state moved."""
    what = measurement("coder", profile=profile)
    scene = machine.scene
    scene.references = (*scene.references, approved(what, "coder"))
    scene.launch("two", agent="coder", parent="one", what=what)
    verdict = scene.judge(replace(scene.evidence("one", "two"), **machine.whole()))
    scene.state = verdict.state_after
    return verdict


def executables(verdict: AttestationVerdict, name: str) -> int | None:
    return dict(parse_ear_cbor(verdict.result).submodules)[f"instance.{sixteen(name).hex()}"].claim("executables")


@pytest.mark.parametrize("profile", PROFILES)
def test_executables_are_affirming_only_where_all_that_runs_was_measured(profile: Profile) -> None:
    verdict = family(Machine(), profile)
    one, two = permitted(verdict, 0), permitted(verdict, 1)
    assert (executables(verdict, "one"), one.runtime, one.exceptions) == (2, "affirming", ())
    if profile in UNMEASURED:
        assert (executables(verdict, "two"), two.runtime, two.exceptions) == (32, "sandboxed", ("executables-unmeasured",))
        said = dict(parse_ear_cbor(verdict.result).submodules)[f"instance.{sixteen('two').hex()}"]
        assert ([r.code for r in said.reasons], said.status) == (["executables-unmeasured"], "warning")
    else:
        assert (executables(verdict, "two"), two.runtime, two.exceptions) == (2, "affirming", ())


def test_what_descends_from_such_a_child_is_at_warning_too() -> None:
    scene = Scene()
    child, grandchild = measurement("coder", profile="sandboxed"), measurement("helper")
    scene.references = (*scene.references, approved(child, "coder"), approved(grandchild, "helper"))
    scene.launch("one")
    scene.launch("two", agent="coder", parent="one", what=child)
    scene.launch("three", agent="helper", parent="two", what=grandchild)
    verdict = scene.attest("one", "two", "three")
    assert [executables(verdict, name) for name in ("one", "two", "three")] == [32, 32, 32]
    assert [permitted(verdict, at).exceptions for at in range(3)] == [
        ("attestor-not-rooted",), ("attestor-not-rooted", "executables-unmeasured"), ("attestor-not-rooted", "executables-unmeasured"),
    ]  # fmt: skip
    assert {permitted(verdict, at).runtime for at in range(3)} == {"runtime-only"}


@pytest.mark.parametrize("profile", ["jit", "sandboxed"])
def test_policy_that_asks_for_affirming_runtimes_refuses_the_child_and_a_dry_run_foresees_it(profile: Profile) -> None:
    machine = Machine()
    machine.scene.bundle = policy(PolicySettings(accept_runtime_only=False, tpm_classes=("software",)), policies=ROOTED_ONLY)
    verdict = family(machine, profile)
    refused = {"policy-refused"} if profile == "sandboxed" else set()
    assert [{r.code for r in token.reasons} for token in verdict.tokens] == [set(), refused]
    foreseen = ask(machine)
    assert [{r.code for r in reasons} for instance, _, reasons in foreseen.instances if instance == sixteen("two")] == [refused]
