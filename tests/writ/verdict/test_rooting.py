"""A runtime is rooted where boot and IMA, in the same quote, vouch for whoever wrote its log; what is missing is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.world.ima_logs import Kernel
from tests.world.machine import FILES, SHELL, STRICT, Machine, content, part_reference
from tests.world.scene import DEMO, NAMESPACE, NOW, codes, permitted, reference
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.ear import parse_ear_cbor
from writ.formats.evidence import ImaLog
from writ.formats.exemption import Exemption
from writ.formats.ima_rules import ImaRules
from writ.formats.policy_bundle import PolicySettings
from writ.verdict.appraise.ima import PARTS
from writ.verdict.attestation import AttestationVerdict


def reasons(verdict: AttestationVerdict) -> set[tuple[str, str]]:
    return {(reason.code, reason.claim) for reason in verdict.reasons}


def test_runtime_is_affirming_where_boot_and_files_were_approved() -> None:
    machine = Machine()
    for _ in range(2):
        verdict = machine.attest()
        claims = permitted(verdict)
        assert (claims.runtime, claims.exceptions) == ("affirming", ())
        ear = parse_ear_cbor(verdict.result)
        host = ear.submodule("host")
        assert host is not None
        assert (host.claim("executables"), host.runtime_only) == (2, False)
        assert all(part.claim("executables") == 2 for name, part in ear.submodules if name.startswith("instance."))
    assert machine.scene.state is not None
    assert machine.scene.state.logs == ("ima", "uefi")


@pytest.mark.parametrize("part", PARTS)
def test_part_that_was_not_measured_as_approved_is_named(part: str) -> None:
    machine = Machine()
    machine.parts.pop(part)
    machine.reboot()
    verdict = machine.attest()
    assert reasons(verdict) == {("attestor-not-rooted", f"executables.{part}")}
    assert verdict.reasons[0].expected == f"{FILES[part]} measured as approved"
    machine.kernel.measure(FILES[part], content(part))
    assert permitted(machine.attest()).runtime == "affirming"


@pytest.mark.parametrize("part", PARTS)
def test_part_without_reference_values_is_named(part: str) -> None:
    machine = Machine()
    machine.scene.references = tuple(c for c in machine.scene.references if c.environment != f"rooted/{part}")
    found = reasons(machine.attest())
    assert ("attestor-not-rooted", f"executables.{part}") in found
    assert ("file-unknown", f"ima.{FILES[part]}") in found


def test_part_measured_half_in_one_version_and_half_in_another_is_not_rooted() -> None:
    machine = Machine()
    both = [(FILES["attestor"], content("attestor")), ("/usr/lib/helper", content("helper"))]
    old = replace(part_reference("attestor"), components=tuple(sorted(both)))
    new = replace(old, id="attestor-2", components=tuple(sorted((name, Digest.of(digest.value)) for name, digest in both)))
    machine.scene.references = (*(c for c in machine.scene.references if c.environment != "rooted/attestor"), old, new)
    machine.kernel.measure("/usr/lib/helper", Digest.of(content("helper").value))
    assert reasons(machine.attest()) == {("attestor-not-rooted", "executables.attestor")}
    machine.kernel.measure("/usr/lib/helper", content("helper"))
    assert permitted(machine.attest()).runtime == "affirming"


def test_other_version_of_a_part_is_refused() -> None:
    machine = Machine()
    machine.parts["enforcer"] = "evil"
    machine.reboot()
    assert reasons(machine.attest()) == {("file-mismatch", f"ima.{FILES['enforcer']}"), ("attestor-not-rooted", "executables.enforcer")}


def test_policy_may_accept_what_is_missing_and_never_what_contradicts() -> None:
    machine = Machine(DEMO)
    machine.parts.pop("attestor")
    machine.reboot()
    claims = permitted(machine.attest())
    assert (claims.runtime, claims.exceptions) == ("runtime-only", ("attestor-not-rooted",))
    machine.kernel.measure("/tmp/evil", Digest.of(b"evil"))
    assert codes(machine.attest()) == {"file-unknown"}
    assert codes(machine.attest()) == {"file-unknown"}


def test_ima_list_without_boot_log_roots_nothing() -> None:
    machine = Machine()
    verdict = machine.attest(uefi_log=None)
    assert reasons(verdict) == {("attestor-not-rooted", f"executables.{name}") for name in ("boot", "firmware", "secure-boot")}
    assert {reason.expected for reason in verdict.reasons} == {"boot evidence"}


@pytest.mark.parametrize("environment", ["boot", "firmware", "secure-boot"])
def test_boot_without_reference_values_roots_nothing(environment: str) -> None:
    machine = Machine()
    machine.scene.references = tuple(c for c in machine.scene.references if c.environment != environment)
    assert reasons(machine.attest()) == {("attestor-not-rooted", f"executables.{environment}")}


def test_boot_register_that_does_not_replay_roots_nothing() -> None:
    machine = Machine()
    machine.scene.chip.pcrs["sha256"][7] = bytes(32)
    found = reasons(machine.attest())
    assert {("uefi-log-mismatch", "uefi_log.sha256.pcr7"), ("attestor-not-rooted", "executables.secure-boot")} <= found


def test_i6_host_that_sent_a_list_owes_it_in_every_attestation_and_boot() -> None:
    machine = Machine()
    machine.attest()
    assert reasons(machine.judge(ima_log=None)) == {("ima-log-required", "ima")}
    machine.reboot()
    found = reasons(machine.attest(ima_log=None))
    assert ("ima-log-required", "ima") in found
    assert ("ima-log-required", "ima") in reasons(machine.attest(ima_log=None, uefi_log=machine.log))
    assert permitted(machine.attest(uefi_log=machine.log)).runtime == "affirming"


def test_after_a_resume_the_list_is_asked_for_from_its_beginning() -> None:
    machine = Machine()
    machine.attest()
    machine.scene.chip.resume()
    assert reasons(machine.judge(uefi_log=machine.log)) == {("ima-log-required", "ima.first")} | {
        ("attestor-not-rooted", f"executables.{part}") for part in PARTS
    }
    assert permitted(machine.attest(uefi_log=machine.log, ima_log=ImaLog(0, machine.kernel.binary))).runtime == "affirming"


def test_i2_part_of_a_list_gives_no_token_and_is_forgotten_with_its_boot() -> None:
    """Nothing is trusted that no quote covers: a part passes nothing, roots nothing, and of another boot it is not continued."""
    machine = Machine()
    ends = [0, *machine.kernel.ends]
    part, rest = (ImaLog(a, machine.kernel.binary[ends[a] : ends[b]], b == 3) for a, b in ((0, 3), (3, len(ends) - 1)))
    verdict = machine.attest(ima_log=part)
    assert codes(verdict) == {"ima-log-partial", "attestor-not-rooted"}
    assert all(token.claims is None for token in verdict.tokens)
    assert machine.scene.state is not None
    assert (machine.scene.state.ima, machine.scene.state.ima_part is None) == (None, False)
    without = machine.attest(ima_log=None)
    assert "ima-log-required" in codes(without)
    assert permitted(machine.judge(uefi_log=machine.log, ima_log=rest)).runtime == "affirming"
    machine.scene.chip.resume()
    assert "ima-log-required" in codes(machine.judge(uefi_log=machine.log, ima_log=rest))
    machine.attest(uefi_log=machine.log, ima_log=part)
    machine.reboot()
    assert "ima-log-required" in codes(machine.attest(uefi_log=machine.log, ima_log=rest))


def test_i6_what_stands_against_a_list_is_not_ended_by_a_part() -> None:
    machine = Machine()
    machine.kernel.measure("/bin/evil", SHELL)
    assert codes(machine.attest()) == {"file-unknown"}
    known = machine.scene.state
    assert known is not None
    machine.attest(ima_log=ImaLog(0, machine.kernel.binary[: machine.kernel.ends[1]], more=True))
    assert machine.scene.state is not None
    assert machine.scene.state.ima == known.ima
    assert codes(machine.judge(ima_log=ImaLog(machine.kernel.entries, b""))) == {"file-unknown"}


def test_register_of_the_loader_that_moves_after_the_boot_is_no_fault_of_the_list() -> None:
    machine = Machine()
    machine.attest()
    for index in (8, 9):
        machine.scene.chip.extend(index, {"sha256": bytes(32)})
    assert permitted(machine.attest(ima_log=ImaLog(0, machine.kernel.binary))).runtime == "affirming"
    other = Kernel(boot={**machine.kernel.boot, 9: bytes(32)})
    machine.reboot()
    machine.kernel = other
    assert "boot-aggregate-mismatch" in codes(machine.judge())


def test_list_that_was_rewound_or_is_of_another_boot_is_refused() -> None:
    machine = Machine()
    machine.attest()
    old = machine.kernel
    machine.kernel, machine.acknowledged = Kernel(boot=old.boot), 0
    machine.kernel.measure("/bin/sh", SHELL)
    assert codes(machine.judge(ima_log=ImaLog(0, machine.kernel.binary))) == {"ima-log-rewound"}
    assert codes(machine.judge(ima_log=ImaLog(0, old.binary))) == {"ima-log-mismatch"}


def test_other_references_ask_for_the_list_again_and_lose_no_one() -> None:
    machine = Machine()
    machine.attest()
    machine.scene.references = (*machine.scene.references, Corim("os-2", NAMESPACE, "files/os", (("/bin/sh", Digest.of(b"new")),)))
    assert codes(machine.judge()) == {"ima-log-required"}
    assert permitted(machine.attest(ima_log=ImaLog(0, machine.kernel.binary))).runtime == "affirming"
    machine.scene.references = tuple(c for c in machine.scene.references if c.id != "os-1")
    machine.kernel.measure("/bin/sh", SHELL)
    assert codes(machine.attest(ima_log=ImaLog(0, machine.kernel.binary))) == {"file-mismatch"}


def test_reference_that_runs_out_ends_the_approval_of_its_files() -> None:
    machine = Machine()
    until = Corim("os-3", NAMESPACE, "files/os", (("/bin/extra", SHELL),), valid_until=NOW + 60)
    machine.scene.references = (*machine.scene.references, until)
    machine.kernel.measure("/bin/extra", SHELL)
    whole = ImaLog(0, machine.kernel.binary)
    for now, found in ((NOW, set()), (NOW + 60, set()), (NOW + 61, {"ima-log-required"})):
        machine.scene.now = now
        assert {code for code, _ in reasons(machine.attest())} == found
    assert codes(machine.attest(ima_log=whole)) == {"file-unknown"}


@pytest.mark.parametrize("environment", ["boot", "firmware", "secure-boot"])
@pytest.mark.parametrize("settings", [STRICT, DEMO], ids=["strict", "runtime-only"])
def test_boot_whose_reference_values_all_ran_out_is_refused_whatever_the_policy(environment: str, settings: PolicySettings) -> None:
    machine = Machine(settings)
    machine.scene.references = tuple(
        replace(c, valid_until=NOW + 60) if c.environment == environment else c for c in machine.scene.references
    )
    for now, found in ((NOW + 60, set()), (NOW + 61, {("reference-expired", environment)})):
        machine.scene.now = now
        assert reasons(machine.attest()) == found


def test_rules_of_the_policy_leave_files_out() -> None:
    machine = Machine(replace(STRICT, ima=ImaRules(exclude=("/var/log/.*",))))
    machine.kernel.measure("/var/log/a", Digest.of(b"any"))
    assert permitted(machine.attest()).runtime == "affirming"
    machine.kernel.measure("/var/lib/a", Digest.of(b"any"))
    assert codes(machine.attest()) == {"file-unknown"}


def test_exempted_file_passes_and_the_result_is_not_affirming() -> None:
    machine = Machine()
    evil = Digest.of(b"hotfix")
    machine.kernel.measure("/bin/hotfix", evil)
    exemption = Exemption(NAMESPACE, "file-unknown", "ima./bin/hotfix", str(evil), ("host-1",), NOW, NOW + 60, "fix", ("alice", "bob"))
    assert codes(machine.judge()) == {"file-unknown"}
    machine.scene.exemptions = (exemption,)
    verdict = machine.attest()
    claims = permitted(verdict)
    assert (claims.runtime, claims.exceptions) == ("affirming", (exemption.label,))
    host = parse_ear_cbor(verdict.result).submodule("host")
    assert host is not None
    assert host.claim("executables") == 32


def test_more_differences_than_are_kept_are_a_reason_that_nothing_lets_pass() -> None:
    machine = Machine()
    for number in range(70):
        machine.kernel.measure(f"/bin/{number:02}", Digest.of(b"x"))
    assert codes(machine.attest()) == {"file-unknown", "ima-not-approved"}


def test_host_that_never_sent_a_list_owes_none() -> None:
    machine = Machine(DEMO)
    for _ in range(2):
        assert permitted(machine.attest(ima_log=None)).runtime == "runtime-only"
    machine.reboot()
    assert permitted(machine.attest(ima_log=None)).runtime == "runtime-only"


def test_rooted_runtime_needs_no_exception_where_the_policy_would_make_one() -> None:
    claims = permitted(Machine(DEMO).attest())
    assert (claims.runtime, claims.exceptions) == ("affirming", ())


def test_exempted_instance_on_a_rooted_host_is_not_affirming() -> None:
    machine = Machine()
    approved = dict(reference().components)["prompts"]
    other = replace(reference(), components=tuple((n, Digest.of(b"x") if n == "prompts" else d) for n, d in reference().components))
    machine.scene.references = tuple(other if c.id == "reporter-1" else c for c in machine.scene.references)
    machine.scene.exemptions = (
        Exemption(NAMESPACE, "component-mismatch", "agent/reporter:prompts", str(approved), ("host-1",), NOW, NOW + 60, "x", ("a", "b")),
    )
    ear = parse_ear_cbor(machine.attest().result)
    tiers = {name.split(".")[0]: part.claim("executables") for name, part in ear.submodules}
    assert tiers == {"host": 2, "instance": 32}


def test_of_two_references_that_run_out_the_first_is_gone_before_the_second() -> None:
    machine = Machine()
    ends = ((b"a", 60), (b"b", 120))
    files = tuple(Corim(f"os-{life}", NAMESPACE, "files/os", ((f"/bin/{n.decode()}", SHELL),), valid_until=NOW + life) for n, life in ends)
    machine.scene.references = (*machine.scene.references, *files)
    for name, _ in ends:
        machine.kernel.measure(f"/bin/{name.decode()}", SHELL)
    for now, found in ((NOW + 60, set()), (NOW + 61, {"ima./bin/a"}), (NOW + 121, {"ima./bin/a", "ima./bin/b"})):
        machine.scene.now = now
        verdict = machine.judge()
        assert {reason.claim for reason in verdict.reasons} == found


# --- PCRs ------------------------------------------------------------------------------------------------------------------------


def pinned(machine: Machine, environment: str, index: int, value: Digest) -> None:
    """The version of `environment` names a PCR besides."""
    machine.scene.references = tuple(
        replace(one, registers=((index, value),)) if one.environment == environment else one for one in machine.scene.references
    )


@pytest.mark.parametrize("environment", ["governance", "firmware", "secure-boot", "boot"])
def test_pcr_of_reference_values_is_the_quoted_one(environment: str) -> None:
    machine = Machine()
    quoted = Digest("sha256", machine.scene.chip.pcrs["sha256"][7])
    pinned(machine, environment, 7, quoted)
    assert permitted(machine.attest()).runtime == "affirming"
    other = "governance-mismatch" if environment == "governance" else "boot-mismatch"
    pinned(machine, environment, 7, Digest.of(b"another"))
    for _ in range(2):
        verdict = machine.attest()
        assert reasons(verdict) == {(other, f"{environment}.registers.7")}
        assert [(r.expected, r.got) for r in verdict.reasons] == [(str(Digest.of(b"another")), str(quoted))]
        host = parse_ear_cbor(verdict.result).submodule("host")
        assert host is not None
        assert host.claim("executables") == 33
    pinned(machine, environment, 16, quoted)
    assert reasons(machine.attest()) == {("component-missing", f"{environment}.registers.16")}


@pytest.mark.parametrize("sent", [{"uefi_log": None, "ima_log": None}, {"uefi_log": None}], ids=["no log", "no boot log"])
def test_pcr_of_a_boot_is_compared_without_its_log(sent: dict[str, None]) -> None:
    machine = Machine(settings=DEMO)
    pinned(machine, "boot", 4, Digest("sha256", machine.scene.chip.pcrs["sha256"][4]))
    assert permitted(machine.judge(**sent)).runtime == "runtime-only"
    pinned(machine, "boot", 4, Digest.of(b"another"))
    assert reasons(machine.judge(**sent)) == {("boot-mismatch", "boot.registers.4")}


def test_agent_has_no_pcrs() -> None:
    """`import` refuses such a version; one that came into force otherwise is no agent's."""
    machine = Machine()
    (agent,) = (one.environment for one in machine.scene.references if one.environment.startswith("spiffe:"))
    pinned(machine, agent, 7, Digest("sha256", machine.scene.chip.pcrs["sha256"][7]))
    (refused,) = machine.attest().tokens[0].reasons
    assert (refused.code, refused.claim.rsplit(".", 2)[1:]) == ("component-missing", ["registers", "7"])


def test_exemption_lets_another_pcr_pass_for_a_while() -> None:
    machine = Machine()
    pinned(machine, "governance", 7, Digest.of(b"another"))
    got = str(Digest("sha256", machine.scene.chip.pcrs["sha256"][7]))
    claim = "governance.registers.7"
    exemption = Exemption(NAMESPACE, "governance-mismatch", claim, got, ("host-1",), NOW - 10, NOW + 100, "new shim", ("alice", "bob"))
    machine.scene.exemptions = (exemption,)
    assert permitted(machine.attest()).exceptions == (exemption.label,)


def test_part_without_files_roots_nothing() -> None:
    machine = Machine()
    part = next(one for one in machine.scene.references if one.environment == "rooted/launcher")
    machine.scene.references = (*(c for c in machine.scene.references if c != part), replace(part, components=(), registers=((7, SHELL),)))
    assert ("attestor-not-rooted", "executables.launcher") in reasons(machine.attest())
