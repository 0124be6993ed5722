"""Deep evidence, reviewed from outside: boot, IMA, rooting, reference values and their life. Each test names the hole that it shows."""

from __future__ import annotations

import contextlib
import gc
import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.signers import new_signer
from tests.verifier.test_references import People, agent, import_, listed, publish, refusal, role
from tests.world.authority import at as at_time
from tests.world.chip import private_key
from tests.world.ima_logs import Kernel, certificate, signed
from tests.world.machine import FILES, STRICT, Machine, part_reference
from tests.world.scene import DEMO, GOVERNED, NAMESPACE, NOW, Scene, codes, measurement, permitted, policy, reference
from tests.world.verifier import RunningVerifier
from verifier.access import Operator
from verifier.http.wire import to_base64
from verifier.operate import Client
from verifier.packages.repository import open_repository
from writ.formats.corim import Corim
from writ.formats.digest import Digest
from writ.formats.ear import parse_ear_cbor
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.eventlog.ima import replay
from writ.formats.eventlog.uefi import EV_IPL
from writ.formats.evidence import ImaLog
from writ.formats.exemption import Exemption, claim_of
from writ.formats.ima_rules import ImaRules
from writ.formats.state import encode_host_state, parse_host_state
from writ.formats.trust import MOST_CRLS
from writ.verdict.attestation import AttestationVerdict
from writ.verdict.dry_run import MeasuredRows, foresee
from writ.verdict.reference import ReferenceSet, reference_set


def accepted(verdict: AttestationVerdict) -> bool:
    return verdict.tokens[0].claims is not None


def reasons(verdict: AttestationVerdict) -> set[tuple[str, str]]:
    return {(r.code, r.claim) for r in (*verdict.entry.reasons, *verdict.tokens[0].reasons)}


def demo() -> Machine:
    """A machine under a policy that accepts what nothing roots."""
    return Machine(settings=DEMO)


def evil_boot(machine: Machine) -> None:
    """Another loader boots than the approved one, and is refused for it."""
    machine.attest()
    machine.boot.loader = b"an evil loader"
    machine.reboot()
    assert "boot-mismatch" in {code for code, _ in reasons(machine.attest())}


# --- what is withdrawn or runs out must only ever refuse more -----------------------------------------------------------------


def test_i3_i6_boot_reference_values_that_run_out_end_no_refusal() -> None:
    machine = demo()
    machine.scene.references = tuple(
        replace(one, valid_until=NOW + 100) if one.environment == "boot" else one for one in machine.scene.references
    )
    evil_boot(machine)
    machine.scene.now += 101
    assert not accepted(machine.attest()), "the evil boot passes as soon as nothing is approved any more"


def test_i3_i6_file_reference_values_that_run_out_end_no_refusal() -> None:
    machine = demo()
    machine.scene.references = tuple(
        replace(one, valid_until=NOW + 100) if one.environment.startswith(("files/", "rooted/")) else one
        for one in machine.scene.references
    )
    machine.attest()
    machine.kernel.measure("/usr/bin/evil", Digest.of(b"evil"))
    assert codes(machine.attest()) == {"file-unknown"}
    machine.scene.now += 101
    machine.acknowledged = 0  # the list in full, as the attestor sends it when asked
    assert not accepted(machine.attest(uefi_log=None)), "with no file approved, every file passes"


def test_i6_policy_that_compares_with_what_there_is_keeps_the_last_there_is(verifier: RunningVerifier, tmp_path: Path) -> None:
    """Under a policy that demands boot and files, the same may go: it refuses more."""
    only = Corim("boot-1", "default", "boot", (("application.0", Digest.of(b"another boot")),))
    import_(verifier.client, only)
    digest = next(row["digest"] for row in listed(verifier.client) if row["environment"] == "boot")
    with pytest.raises(Refused, match="reference-last"):
        verifier.client.post("/v1/retirements", {"digests": [digest]})
    verifier.publish(accept_runtime_only=False)
    assert People(verifier, tmp_path)("alice").post("/v1/retirements", {"digests": [digest]})["retired"] == [digest]


def test_i6_one_person_retires_nobody_into_trust(verifier: RunningVerifier, tmp_path: Path) -> None:
    people = People(verifier, tmp_path)
    host = verifier.host("h1")
    host.boot()
    host.launch("one")
    verifier.approve(host)
    verifier.publish(approvals={"boot": 2, "files/*": 2})
    approved = Corim("boot-1", "default", "boot", (("application.0", Digest.of(b"another boot")),))
    proposal = import_(people("alice"), approved)["proposal"]
    people("bob").post(f"/v1/proposals/{proposal}/approve")
    assert host.attest("one").answers[0].token is None
    digest = next(row["digest"] for row in listed(verifier.client) if row["environment"] == "boot")
    with pytest.raises(Refused, match=r"reference-last: .*no other version of boot"):
        people("mallory").post("/v1/retirements", {"digests": [digest]})
    assert host.attest("one").answers[0].token is None, "what took two people to require, one person lifts"


# --- silence -----------------------------------------------------------------------------------------------------------------


def test_i6_list_that_contradicted_is_owed_ever_after() -> None:
    machine = demo()
    assert codes(machine.attest(ima_log=ImaLog(0, b"rubbish" * 9))) == {"ima-log-malformed"}
    assert not accepted(machine.attest(uefi_log=None, ima_log=None)), "refused for its list, and trusted for not sending it"


def test_i6_boot_log_that_contradicted_is_owed_although_the_runtime_log_was_refused() -> None:
    machine = demo()
    machine.attest(uefi_log=None, ima_log=None)
    machine.boot.loader = b"an evil loader"
    machine.scene.reboot()
    machine.start()
    assert "boot-mismatch" in {code for code, _ in reasons(machine.attest(log=b"rubbish", ima_log=None))}
    assert not accepted(machine.attest(uefi_log=None, ima_log=None))


# --- exemptions ----------------------------------------------------------------------------------------------------------------


REPORTER = measurement().agent


def exempt(scene: Scene, verdict: AttestationVerdict, code: str, ending: str) -> None:
    """An exemption for the difference of the reporter, as two people approve it."""
    reason = next(r for r in (*verdict.entry.reasons, *verdict.tokens[0].reasons) if r.code == code and r.claim.endswith(ending))
    one = Exemption(
        NAMESPACE, code, claim_of(reason, REPORTER), reason.got, (scene.host,), scene.now, scene.now + 3600, "night", ("a", "b")
    )
    scene.exemptions = (*scene.exemptions, one)


def test_missing_measurement_cannot_be_exempted() -> None:
    """It would let an agent that nobody approved act with any grants."""
    scene = Scene()
    scene.launch("one")
    first = scene.judge(replace(scene.evidence("one"), measurements=()))
    with pytest.raises(FormatError, match="one component"):
        exempt(scene, first, "component-missing", ".measurement")


def test_exemption_for_one_agent_is_of_no_use_for_another() -> None:
    scene = Scene(references=(GOVERNED, reference(), reference("payments", prompt=b"never pay twice")))
    scene.launch("one", what=measurement(prompt=b"hotfix"))
    exempt(scene, scene.judge(scene.evidence("one")), "component-mismatch", ".prompts")
    scene.launch("two", agent="payments", what=measurement("payments", prompt=b"hotfix"))
    assert not accepted(scene.judge(scene.evidence("two"))), "an exemption for reporter's prompts lets payments run with them"


def test_governance_without_reference_values_cannot_be_exempted() -> None:
    """The value found would be in no part of the exemption: any attestor would pass."""
    scene = Scene(references=(reference(),))
    scene.launch("one")
    with pytest.raises(FormatError, match="what was found there"):
        exempt(scene, scene.judge(scene.evidence("one")), "governance-mismatch", "governance")


# --- dry runs say what then happens --------------------------------------------------------------------------------------------


def dry(machine: Machine) -> Any:
    scene, state = machine.scene, machine.scene.state
    assert state is not None
    rows = None
    if state.ima is not None:
        found = replay(machine.kernel.binary, bytes(32), "sha256", state.ima.register)
        assert found is not None
        rows = MeasuredRows(found.rows, found.violated)
    return foresee(scene.record, state, rows, reference_set(scene.references, scene.exemptions), scene.bundle, scene.now)


def test_dry_run_refuses_the_weak_boot_aggregate_that_an_attestation_refuses() -> None:
    machine = demo()
    boot = machine.kernel.boot
    machine.kernel = Kernel(boot=boot, aggregate=False)
    machine.kernel.measure(
        "boot_aggregate", "sha1:" + hashlib.sha1(b"".join(boot[i] for i in range(10)), usedforsecurity=False).hexdigest()
    )
    machine.kernel.measure("/bin/sh", Digest.of(b"shell"))
    assert codes(machine.attest()) == {"algorithm-refused"}
    assert not dry(machine).passes


def test_dry_run_of_a_host_that_owes_its_logs_does_not_pass() -> None:
    machine = demo()
    machine.attest()
    machine.reboot()
    assert not accepted(machine.attest(uefi_log=None, ima_log=None))
    assert not dry(machine).passes


def test_dry_run_refuses_what_64_exemptions_do_not_let_pass() -> None:
    machine = demo()
    for number in range(64):
        machine.kernel.measure(f"/usr/bin/tool{number:02d}", Digest.of(b"tool"))
    verdict = machine.attest()
    found = [r for r in verdict.tokens[0].reasons if r.code == "file-unknown"]
    machine.scene.exemptions = tuple(
        Exemption(NAMESPACE, r.code, r.claim, r.got, ("host-1",), NOW, NOW + 3600, "night", ("a", "b")) for r in found
    )
    assert accepted(machine.attest()) == dry(machine).passes


# --- two people, one person ------------------------------------------------------------------------------------------------------


def test_file_of_a_rooted_part_is_approved_by_rooted_reference_values_only() -> None:
    """`rooted/*` takes two people, `files/*` one: one person approves another attestor at the attestor's path."""
    machine = Machine()
    machine.scene.references = (
        *machine.scene.references,
        Corim("hotfix", NAMESPACE, "files/hotfix", ((FILES["attestor"], Digest.of(b"an evil attestor")),)),
    )
    machine.kernel.measure(FILES["attestor"], Digest.of(b"an evil attestor"))
    verdict = machine.attest()
    assert not accepted(verdict), f"runtime {permitted(verdict).runtime}, with an attestor that one person approved as any file"


def test_file_of_a_rooted_part_is_not_approved_by_its_verity_digest_elsewhere() -> None:
    """The same, for a kernel that measures fs-verity digests: `verity:` before the path makes it another key."""
    machine = Machine()
    component = (f"verity:{FILES['attestor']}", Digest.of(b"an evil attestor"))
    machine.scene.references = (*machine.scene.references, Corim("hotfix", NAMESPACE, "files/hotfix", (component,)))
    machine.kernel.measure(FILES["attestor"], Digest.of(b"an evil attestor"), template="ima-ngv2", kind="verity")
    verdict = machine.attest()
    assert not accepted(verdict), f"runtime {permitted(verdict).runtime}"


def test_exclusion_covers_no_file_that_roots_a_runtime() -> None:
    """A violation of a required file is refused even where labelled; another content of it behind an exclusion is not."""
    machine = Machine(settings=replace(STRICT, ima=ImaRules(exclude=("/usr/lib/.*",))))
    machine.kernel.measure(FILES["attestor"], Digest.of(b"an evil attestor"))
    verdict = machine.attest()
    assert not accepted(verdict), f"runtime {permitted(verdict).runtime}"


@pytest.mark.parametrize(
    "weaker",
    [
        {"accept_runtime_only": True},
        {"tpm_classes": ["discrete", "firmware", "software", "virtual"]},
    ],
    ids=["runtime-only", "software-tpm"],
)
def test_who_may_not_approve_alone_does_not_lift_the_check_alone(bare: RunningVerifier, tmp_path: Path, weaker: dict[str, Any]) -> None:
    """Two people for boot, governance and rooted files; one person publishes a policy that asks for none of them."""
    strict = {"accept_runtime_only": False, "tpm_classes": ["discrete"], "approvals": {"boot": 2, "governance": 2, "rooted/*": 2}}
    bare.publish(**strict)
    shown = bare.client.get("/v1/policies/current")
    body = {"settings": {**strict, **weaker}, "schema": shown["schema"], "policies": shown["policies"]}
    answer = People(bare, tmp_path)("mallory").post("/v1/policies", body)
    assert answer.get("state") == "proposed"


# --- publishers ------------------------------------------------------------------------------------------------------------------


def test_i6_retired_release_is_not_brought_back_by_handing_it_in_again(verifier: RunningVerifier, tmp_path: Path) -> None:
    people = People(verifier, tmp_path)
    import_(verifier.client, agent())
    verifier.client.post("/v1/delegations", {"roles": [role()]})
    team = people("team", role="publisher")
    bad = agent(prompts=b"leaks secrets")
    publish(team, bad)
    digest = next(row["digest"] for row in listed(verifier.client) if row["id"] == bad.id)
    verifier.client.post("/v1/retirements", {"digests": [digest]})
    verifier.clock.advance(5)
    with contextlib.suppress(Refused):
        publish(people("thief", role="publisher"), bad)  # the same signed bytes, by who has no publisher's key
    assert digest not in {row["digest"] for row in listed(verifier.client)}, "an operator retired it, and a copy of the file undoes that"


def test_i11_publisher_with_one_key_of_two_leaves_room_for_operators(verifier: RunningVerifier, tmp_path: Path) -> None:
    people = People(verifier, tmp_path)
    one, two = new_signer(), new_signer()
    import_(verifier.client, agent())
    verifier.client.post("/v1/delegations", {"roles": [role(one, two, threshold=2)]})
    team = people("team", role="publisher")
    for number in range(300):
        try:
            publish(team, agent(prompts=b"%d" % number), one)
        except Refused:
            break
    host = verifier.host("h1")
    host.launch("one")
    verifier.approve(host)
    host.launch("two", prompt=b"hotfix")
    why = refusal(host, "two")
    body = {"reference": why, "component": "prompts", "life": 3600, "why": "night"}
    assert people("alice").post("/v1/exemptions", body)["proposal"]


# --- states that nobody can read again ------------------------------------------------------------------------------------------


def odd_section(machine: Machine, name: str) -> None:
    """One more section of the kernel image, as systemd-stub logs it, under a name of any characters."""
    measure = machine.boot.measure

    def more() -> Any:
        log = measure()
        machine.boot.add(11, EV_IPL, name.encode("utf-16-le") + b"\0\0", name.encode() + b"\0")
        machine.boot.add(11, EV_IPL, name.encode("utf-16-le") + b"\0\0", b"content")
        return replace(log, events=tuple(machine.boot.events))

    machine.boot.measure = more  # type: ignore[method-assign]  # this one machine boots so


@pytest.mark.parametrize("name", [".\n", ".\x01", ".a\x7f", ".\x1b[2J"])
def test_i10_name_of_a_section_leaves_no_unreadable_state(name: str) -> None:
    machine = demo()
    odd_section(machine, name)
    machine.scene.reboot()
    machine.start()
    verdict = machine.judge()
    parse_host_state(encode_host_state(verdict.state_after))


def test_i10_described_digest_of_any_length_leaves_no_unreadable_state() -> None:
    machine = Machine(settings=replace(DEMO, ima=ImaRules(keyrings=(certificate("vendor"),))))
    digest = Digest.of(b"x")
    machine.kernel.measure("/bin/odd", "whirl:" + "ab" * 4000, template="ima-sig", sig=signed(digest, "vendor"))
    verdict = machine.judge()
    parse_host_state(encode_host_state(verdict.state_after))


# --- the result ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["violation", "list"])
def test_result_of_a_host_that_is_refused_for_its_files_is_not_affirming(what: str) -> None:
    machine = Machine(settings=replace(STRICT, tpm_classes=("discrete",)))
    machine.scene = Scene(
        bundle=policy(replace(STRICT, tpm_classes=("discrete",))), tpm_class="discrete", references=machine.scene.references
    )
    machine.start()
    machine.scene.references = (*[one for one in machine.scene.references if one.environment not in ("boot", "firmware", "secure-boot")],
                                *machine.booted())  # fmt: skip
    machine.attest()
    if what == "violation":
        machine.kernel.measure("/bin/sh", Digest.of(b"shell"), violation=True)
        verdict = machine.attest()
    else:
        machine.kernel.measure("/bin/sh", Digest.of(b"shell"))
        verdict = machine.attest(ima_log=ImaLog(machine.acknowledged, b""))
    assert not accepted(verdict)
    ear = parse_ear_cbor(verdict.result)
    host = dict(ear.submodules)["host"]
    assert host.claim("executables") != 2, [str(r) for r in host.reasons]
    assert host.status != "affirming", [str(r) for r in host.reasons]


# --- sets that cannot be used ------------------------------------------------------------------------------------------------------


def test_i11_import_that_no_attestation_can_be_judged_with_is_refused(verifier: RunningVerifier) -> None:
    host = verifier.host("h1")
    host.launch("one")
    verifier.approve(host)
    assert host.attest("one").answers[0].token is not None
    for version in range(2):
        files = tuple((f"/usr/lib/python3/{version}/{number:05d}.py", Digest.of(b"%d" % number)) for number in range(8_500))
        try:
            import_(verifier.client, Corim(f"python-{version}", "default", "rooted/interpreter", files))
        except (Refused, FormatError):
            continue
    assert host.attest("one").answers, "every host of the namespace is answered with an error"


def test_rooted_files_whose_names_differ_in_a_space_root_all_the_same() -> None:
    machine = Machine()
    one, other = Digest.of(b"same"), Digest.of(b"same")
    part = Corim("launcher-2", NAMESPACE, "rooted/launcher", (("/opt/a b", one), ("/opt/a_b", other)))
    machine.scene.references = (*[r for r in machine.scene.references if r.environment != "rooted/launcher"], part,
                                replace(part_reference("launcher"), environment="files/launcher"))  # fmt: skip
    machine.kernel.measure("/opt/a b", one)
    machine.kernel.measure("/opt/a_b", other)
    assert accepted(machine.attest()), reasons(machine.judge())


def test_rules_for_files_can_be_published_at_all(verifier: RunningVerifier) -> None:
    """The remedy of `file-unknown` says "or exclude it in the policy"; no route and no command takes an exclusion, a keyring or a rule."""
    verifier.publish(ima={"exclude": ["/var/log/.*"], "violations": "refuse", "keyrings": [], "learn_keys": False})


def test_sets_that_were_asked_about_once_do_not_stay_in_memory() -> None:
    """Each dry run makes a set of its own: its index goes with it."""
    files = tuple((f"/usr/share/{number:04d}", Digest.of(b"%d" % number)) for number in range(100))

    def kept() -> int:
        gc.collect()
        return sum(isinstance(one, ReferenceSet) for one in gc.get_objects())

    before = kept()
    for _ in range(24):
        reference_set((Corim("p", NAMESPACE, "files/p", files),)).files(NOW)
    assert kept() - before <= 4


# --- manufacturers ---------------------------------------------------------------------------------------------------------------


@cache
def revocations(count: int, now: int) -> list[x509.RevokedCertificate]:
    """The entries of a CRL: the same ones each week."""
    return [x509.RevokedCertificateBuilder().serial_number((1 << 100) + at).revocation_date(at_time(now)).build() for at in range(count)]


def crl(number: int, *, revoked: int = 1, now: int) -> bytes:
    """A CRL of the maker's root, one for each week."""
    entry = revocations(revoked, now)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "maker root")])
    builder = x509.CertificateRevocationListBuilder(name, at_time(now - 1000 + number), at_time(now + 604_800), [], entry)
    return builder.sign(private_key("maker/root"), hashes.SHA256()).public_bytes(Encoding.DER)


def hand_in(client: Client, der: bytes) -> dict[str, Any]:
    return client.post("/v1/trust", {"files": [{"name": "week.crl", "data": to_base64(der)}]})


def test_fresh_crl_of_each_week_can_be_imported_for_years(verifier: RunningVerifier) -> None:
    """Ten CAs that issue weekly fill it in half a year; nothing takes an old CRL (or a root) out, and then no fresh one comes in."""
    now = verifier.clock.now()
    old = tuple(crl(week, now=now) for week in range(MOST_CRLS))
    verifier.made.parts.anchors.add(Operator("op", "*", "operator", "op"), (), (), old)
    hand_in(verifier.client, crl(MOST_CRLS, now=now))


def test_i3_import_never_leaves_a_trust_file_that_nobody_can_read(verifier: RunningVerifier) -> None:
    for week in range(9):
        try:
            hand_in(verifier.client, crl(week, revoked=29_500, now=verifier.clock.now()))
        except (Refused, Unavailable):
            break
    verifier.client.get("/v1/trust")
    verifier.host("h1")


# --- packages ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["foo", "shift_jis", "utf-7", "hex", "idna"])
def test_index_of_any_encoding_is_malformed_and_no_traceback(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "repodata").mkdir()
    (tmp_path / "repodata" / "repomd.xml").write_text(f'<?xml version="1.0" encoding="{encoding}"?><repomd/>')
    with pytest.raises(FormatError):
        open_repository(tmp_path, keyring=None)


# --- a list that grew for weeks -----------------------------------------------------------------------------------------------------
