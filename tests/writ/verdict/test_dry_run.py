"""An update asked about before it is rolled out: what it would do to each host, from what the hosts attested last."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from tests.world.machine import FILES, SHELL, STRICT, Machine, content, part_reference
from tests.world.scene import DEMO, DOMAIN, GOVERNED, NAMESPACE, NOW, POLICIES, Scene, permitted, policy, reference
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.eventlog.ima import replay
from writ.formats.eventlog.runtime import StopEvent
from writ.formats.evidence import ImaLog
from writ.formats.exemption import Exemption
from writ.formats.reason import Reason
from writ.verdict.appraise.ima import PARTS
from writ.verdict.dry_run import Foreseen, MeasuredRows, foresee
from writ.verdict.reference import reference_set

LIBC = {"1": Digest.of(b"libc 1"), "2": Digest.of(b"libc 2")}


def rows(machine: Machine) -> MeasuredRows:
    """The list as the verifier has it stored."""
    assert machine.scene.state is not None
    assert machine.scene.state.ima is not None
    found = replay(machine.kernel.binary, bytes(32), "sha256", machine.scene.state.ima.register)
    assert found is not None
    return MeasuredRows(found.rows, found.violated)


def ask(machine: Machine, *corims: Corim, exemptions: tuple[Exemption, ...] = (), listed: bool = True) -> Foreseen:
    assert machine.scene.state is not None
    references = reference_set(corims or machine.scene.references, exemptions)
    known = rows(machine) if listed else None
    return foresee(machine.scene.record, machine.scene.state, known, references, machine.scene.bundle, NOW)


def without_list(machine: Machine) -> tuple[Reason, ...]:
    """What stands against a host of which no list is recorded."""
    assert machine.scene.state is not None
    references = reference_set(machine.scene.references)
    return foresee(machine.scene.record, machine.scene.state, None, references, machine.scene.bundle, NOW).reasons


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.attest()
    return made


def test_host_that_passes_is_foreseen_to_pass_under_what_is_in_force(machine: Machine) -> None:
    found = ask(machine)
    assert (found.passes, found.reasons, found.labels) == (True, (), ())
    assert [agent.rsplit("/", 1)[1] for _, agent, _ in found.instances] == ["reporter"]


def test_foreseen_is_what_then_happens(machine: Machine) -> None:
    """Whatever is withdrawn, the dry run and the next attestation give the same reasons."""
    whole = tuple(machine.scene.references)
    for gone in range(len(whole)):
        left = whole[:gone] + whole[gone + 1 :]
        foreseen = ask(machine, *left)
        machine.scene.references = left
        verdict = machine.judge(ima_log=ImaLog(0, machine.kernel.binary))
        assert foreseen.reasons == verdict.reasons, whole[gone].id
        assert (not foreseen.passes) == (verdict.tokens[0].claims is None), whole[gone].id
        if not foreseen.reasons:
            assert foreseen.instances[0][2] == verdict.tokens[0].reasons


def test_logs_that_are_owed_are_reasons_each_by_its_name(machine: Machine) -> None:
    machine.reboot()
    machine.attest(uefi_log=None, ima_log=None)
    assert {"boot-log-required", "ima-log-required"} <= {reason.code for reason in without_list(machine)}
    machine.attest(ima_log=None)
    found = {reason.code for reason in without_list(machine)}
    assert ("boot-log-required" in found, "ima-log-required" in found) == (False, True)


def test_what_no_reference_value_can_take_back_stands_though_the_list_is_not_at_hand(machine: Machine) -> None:
    assert machine.scene.state is not None
    assert machine.scene.state.ima is not None
    known = machine.scene.state.ima
    standing, anew = (Reason(code, "ima.entry", "x", "y") for code in ("ima-template-unknown", "file-unknown"))
    aggregate = Reason("algorithm-refused", "ima.boot_aggregate", "x", "y")
    verdict = replace(known.verdict, reasons=tuple(sorted((standing, anew, aggregate))), count=3)
    machine.scene.state = replace(machine.scene.state, ima=replace(known, verdict=verdict))
    found = set(ask(machine, listed=False).reasons)
    assert (standing in found, aggregate in found, anew in found) == (True, True, False)


def test_pcrs_are_foreseen_as_they_are_recorded(machine: Machine) -> None:
    """The boot log's and the runtime log's; another is not known to be right."""
    whole = tuple(machine.scene.references)
    quoted = {index: Digest("sha256", value) for index, value in machine.scene.chip.pcrs["sha256"].items()}

    def pinned(index: int, value: Digest, environment: str = "governance") -> list[tuple[str, str]]:
        corims = (replace(one, registers=((index, value),)) if one.environment == environment else one for one in whole)
        return [(reason.code, reason.got) for reason in ask(machine, *corims).reasons]

    assert pinned(7, quoted[7]) == pinned(14, quoted[14]) == pinned(7, quoted[7], "boot") == []
    assert pinned(7, LIBC["1"]) == [("governance-mismatch", str(quoted[7]))]
    assert pinned(7, LIBC["1"], "boot") == [("boot-mismatch", str(quoted[7]))]
    assert pinned(10, quoted[10]) == [("component-missing", "none")]


def test_list_that_is_not_at_hand_is_a_reason(machine: Machine) -> None:
    assert [reason.code for reason in ask(machine, listed=False).reasons] == ["ima-log-required"]


def test_what_stands_against_the_log_stands_whatever_is_approved(machine: Machine) -> None:
    machine.reboot()
    machine.scene.chip.pcrs["sha256"][4] = bytes(32)
    machine.attest()
    assert {"uefi-log-mismatch", "boot-aggregate-mismatch"} <= {reason.code for reason in ask(machine).reasons}


def test_exemption_is_foreseen(machine: Machine) -> None:
    left = tuple(c for c in machine.scene.references if c.id != "reporter-1")
    other = replace(reference(), components=tuple((n, Digest.of(b"x") if n == "prompts" else d) for n, d in reference().components))
    assert not ask(machine, *left, other).passes
    got = dict(reference().components)["prompts"]
    claim = Exemption(NAMESPACE, "component-mismatch", "agent/reporter:prompts", str(got), ("host-1",), NOW, NOW + 9, "x", ("a", "b"))
    found = ask(machine, *left, other, exemptions=(claim,))
    assert (found.passes, found.labels) == (True, (claim.label,))


def test_file_that_was_refused_passes_where_it_would_be_approved(machine: Machine) -> None:
    digest = Digest.of(b"hotfix")
    machine.kernel.measure("/bin/hotfix", digest)
    machine.attest()
    assert [reason.claim for reason in ask(machine).reasons] == ["ima./bin/hotfix"]
    hotfix = Corim("hotfix", NAMESPACE, "files/hotfix", (("/bin/hotfix", digest),))
    assert ask(machine, *machine.scene.references, hotfix).passes


def test_host_without_logs_is_asked_about_all_the_same() -> None:
    scene = Scene()
    scene.launch("one")
    scene.attest("one")
    assert scene.state is not None
    assert foresee(scene.record, scene.state, None, reference_set(scene.references), scene.bundle, NOW).passes


def test_contained_host_passes_under_nothing(machine: Machine) -> None:
    assert machine.scene.state is not None
    machine.scene.state = machine.scene.state.moved("contained")
    assert [reason.code for reason in ask(machine).reasons] == ["host-not-active"]


def test_only_running_instances_are_asked_about(machine: Machine) -> None:
    machine.scene.event(StopEvent(machine.scene.running["one"].instance, "exited"))
    machine.scene.launch("two")
    machine.attest()
    assert [instance for instance, _, _ in ask(machine).instances] == [machine.scene.running["two"].instance]


NO_TOKEN = '@id("closed") forbid(principal == Writ::Agent::"{}", action == Writ::Action::"token.issue", resource);'
BOSS = f"spiffe://{DOMAIN}/{NAMESPACE}/agent/boss"
REPORTER = f"spiffe://{DOMAIN}/{NAMESPACE}/agent/reporter"
AFFIRMING = (
    'permit(principal, action == Writ::Action::"token.issue", resource == Writ::Audience::"tools") when { context.runtime == "affirming" };'
)
LAX = 'permit(principal, action == Writ::Action::"token.issue", resource) when { context.runtime == "runtime-only" };'


@pytest.mark.parametrize(
    "policies, code",
    [
        (POLICIES, None),
        (POLICIES + NO_TOKEN.format(REPORTER), "policy-refused"),
        (POLICIES + NO_TOKEN.format(BOSS), "policy-refused"),
        (POLICIES + NO_TOKEN.format(f"{BOSS}es"), None),
        (AFFIRMING, None),
        (LAX, "policy-refused"),
        ("permit(", "policy-error"),
    ],
)
@pytest.mark.parametrize("missing", [False, True], ids=["rooted", "not rooted"])
def test_policy_is_asked_as_it_is_for_a_token(policies: str, code: str | None, missing: bool) -> None:
    settings = replace(DEMO, tpm_classes=("software",))
    machine = Machine(settings=settings)
    machine.scene.bundle = policy(settings, policies=policies)
    machine.scene.references = (*machine.scene.references, reference("boss"))
    if missing:
        machine.scene.references = tuple(one for one in machine.scene.references if one.environment != "firmware")
    machine.scene.launch("boss", agent="boss")
    machine.scene.launch("two", parent="boss")
    machine.scene.chip.pcrs["sha256"][10] = machine.kernel.pcr10["sha256"]
    sent = replace(machine.scene.evidence("two"), uefi_log=machine.log, ima_log=machine.sent())
    verdict = machine.scene.judge(sent)
    machine.scene.state = verdict.state_after
    (token,) = verdict.tokens
    reasons = {instance: found for instance, _, found in ask(machine).instances}
    assert reasons[machine.scene.running["two"].instance] == token.reasons
    if not missing:
        assert [reason.code for reason in token.reasons] == ([] if code is None else [code])
    assert ask(machine).passes == (not any(reasons.values()))


def test_policy_is_not_asked_of_what_is_refused_before(machine: Machine) -> None:
    """As for a token: what the policy would say comes with the reasons that stand only when those are gone."""
    machine.scene.bundle = policy(STRICT, policies="permit(")
    assert [[reason.code for reason in found] for _, _, found in ask(machine).instances] == [["policy-error"]]
    left = tuple(one for one in machine.scene.references if not one.environment.startswith("spiffe:"))
    assert [[reason.code for reason in found] for _, _, found in ask(machine, *left).instances] == [["agent-unknown"]]
    left = tuple(one for one in machine.scene.references if one.environment != "governance")
    assert [found for _, _, found in ask(machine, *left).instances] == [()]


# --- an update of kernel, libc and Writ across a fleet --------------------------------------------------------------------------


@dataclass
class Fleet:
    """Machines of one image, attested; `old` and `new` are the reference values before and after the update."""

    machines: list[Machine]
    old: tuple[Corim, ...]
    new: tuple[Corim, ...]

    def update(self, machine: Machine, *, kernel: bool = True, libc: bool = True, writ: bool = True) -> None:
        """The machine is updated, and boots."""
        if kernel:
            machine.boot = replace(machine.boot, kernel=b"a newer kernel", initrd=b"a newer initrd", loader=b"a newer image", events=[])
        if writ:
            machine.parts = dict.fromkeys(PARTS, "2")
        machine.reboot()
        machine.kernel.measure("/usr/lib/libc.so.6", LIBC["2" if libc else "1"])


def fleet(count: int) -> Fleet:
    machines = [Machine(host=f"host-{number}") for number in range(count)]
    first = machines[0]
    boot = tuple(c for c in first.scene.references if c.environment in ("boot", "firmware", "secure-boot"))
    parts = tuple(part_reference(part) for part in PARTS)
    libc = tuple(Corim(f"libc6_{v}", NAMESPACE, "files/libc6", (("/usr/lib/libc.so.6", d),)) for v, d in LIBC.items())
    common = (GOVERNED, reference(), Corim("os-1", NAMESPACE, "files/os", (("/bin/sh", SHELL),)))
    old = (*common, *boot, *parts, libc[0])
    trial = Machine()
    made = Fleet(machines, old, ())
    made.update(trial)
    after = trial.booted()
    made.new = (*common, *after, *(part_reference(part, "2") for part in PARTS), libc[1])
    for machine in machines:
        machine.kernel.measure("/usr/lib/libc.so.6", LIBC["1"])
        machine.scene.references = old
        permitted(machine.attest())
    return made


def staged(f: Fleet) -> tuple[Corim, ...]:
    """Old and new together; a new version of something has an id of its own."""
    known = {(c.environment, c.id) for c in f.old}
    return (*f.old, *(replace(c, id=f"{c.id}-new") if (c.environment, c.id) in known else c for c in f.new if c not in f.old))


def rolled_across(hosts: int) -> None:
    """An update goes over so many hosts, and none is refused that should not be."""
    f = fleet(hosts)
    both = staged(f)

    # 1. Before: the new values alone would refuse every host, old and new together none.
    assert not any(ask(machine, *f.new).passes for machine in f.machines)
    assert all(ask(machine, *both).passes for machine in f.machines)

    # 2. While it is rolled out, hosts of both kinds pass, and so does one whose files changed while it ran.
    for machine in f.machines:
        machine.scene.references = both
        machine.acknowledged = 0
        assert permitted(machine.attest(uefi_log=machine.log)).runtime == "affirming"
    f.machines[0].kernel.measure("/usr/lib/libc.so.6", LIBC["2"])
    assert permitted(f.machines[0].attest()).runtime == "affirming"
    f.update(f.machines[1])
    assert permitted(f.machines[1].attest(uefi_log=f.machines[1].log)).runtime == "affirming"

    for machine in f.machines[4:]:
        f.update(machine)
        assert permitted(machine.attest(uefi_log=machine.log)).runtime == "affirming"

    # 3. A mixture that no one approved is refused: the new kernel with the old initrd.
    f.machines[2].boot = replace(f.machines[2].boot, kernel=b"a newer kernel", loader=b"a newer image", events=[])
    f.machines[2].reboot()
    verdict = f.machines[2].attest(uefi_log=f.machines[2].log)
    assert {reason.code for reason in verdict.entry.reasons} == {"boot-mismatch"}

    # 4. Half of Writ in one version and half in the other is each part whole, and passes; half a part is not.
    f.machines[3].parts = {**dict.fromkeys(PARTS, "1"), "enforcer": "2"}
    f.machines[3].reboot()
    assert permitted(f.machines[3].attest(uefi_log=f.machines[3].log)).runtime == "affirming"

    # 5. The set shrinks: the dry run names the hosts that are left behind, before they are refused.
    assert [ask(machine, *f.new).passes for machine in f.machines] == [False, True, False, False] + [True] * (hosts - 4)
    left = {reason.claim for reason in ask(f.machines[3], *f.new).reasons}
    assert f"ima.{FILES['attestor']}" in left
    assert content("attestor", "2") in [digest for c in f.new for _, digest in c.components]


def test_update_is_rolled_across_hosts_without_a_false_refusal() -> None:
    """Across three hundred of them: tests/scale/test_update.py."""
    rolled_across(20)
