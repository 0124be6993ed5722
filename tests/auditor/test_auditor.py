"""The auditor's command on a story told in memory: archives in, proof bundles out, proven or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from auditor.__main__ import main
from auditor.export import Chains, Wanted
from tests.signers import new_signer
from tests.world.approvals import BUNDLE, Approved
from tests.world.authority import crls_of
from tests.world.scene import ENGINE_ID, NAMESPACE, NOW, Scene, codes, sign_entry, sign_token
from tests.world.tlog import MemoryLog, plain_key, witness_key
from writ.formats.archive import EMPTY, Archive, InstanceLog, Placed, encode_archive
from writ.formats.corim import encode_corim
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, EnrolDecision, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.engine import encode_engine
from writ.formats.errors import FormatError, Refused
from writ.formats.evidence import encode_evidence
from writ.formats.policy_bundle import encode_bundle
from writ.formats.proof_bundle import Collateral, ProofBundle, TokenProof, encode_proof_bundle, parse_proof, parse_proof_bundle
from writ.formats.record import preimage_of
from writ.formats.state import encode_host_record, encode_host_state
from writ.formats.tlog.proof import encode_tlog_proof
from writ.formats.trust import Trust, encode_trust
from writ.verdict.proof import prove
from writ.verdict.reference import reference_set

ALWAYS = Wanted(None, 0, 1 << 53)


def told(scene: Scene | None = None, refused: str = "mail/delete") -> tuple[Scene, Archive, Archive]:
    """A host enrols, an agent acts twice, a later attestation carries its log; the archives of verifier and enforcer."""
    scene = Scene() if scene is None else scene
    one = scene.launch("one")
    before = scene.state
    evidence = scene.evidence("one")
    verdict = scene.judge(evidence)
    scene.state = verdict.state_after
    claims = verdict.tokens[0].claims
    assert claims is not None
    token = sign_token(claims)
    first = scene.act("one", token, claims)
    scene.outcome("one", first.sequence)
    scene.act("one", token, claims, resource=refused, permit=False)
    scene.now += 30
    carrier = scene.evidence("one")
    carried = scene.judge(carrier)
    assert before is None
    verifier = Archive(
        entries=tuple(sorted(sign_entry(entry) for entry in (scene.enrol_entry, verdict.entry, carried.entry))),
        tokens=(),
        objects=tuple(
            sorted(
                {
                    scene.enrolment,
                    encode_engine(ENGINE_ID),
                    encode_host_record(scene.record),
                    encode_host_state(scene.state),
                    encode_evidence(evidence),
                    encode_evidence(carrier),
                    verdict.result,
                    carried.result,
                    reference_set(scene.references).listed,
                    encode_bundle(scene.bundle),
                    *map(encode_corim, scene.references),
                }
            )
        ),
        logs=(),
    )
    shown = {part for context in one.contexts.values() for part in (context, preimage_of(bytes(32), context))}
    enforcer = Archive((), (token,), tuple(sorted(shown)), (InstanceLog(one.instance, tuple(one.leaves)),))
    return scene, verifier, enforcer


def test_bundle_of_an_approved_action_has_its_approval_or_says_that_it_is_missing() -> None:
    scene = Approved(bundle=BUNDLE)
    _, verifier, enforcer = told(scene, "files/never")
    whole = verifier.merged(enforcer).merged(replace(EMPTY, objects=(scene.approval,)))
    permitted, refused = bundles(whole)
    assert isinstance(permitted, ProofBundle)
    assert permitted.approval == scene.approval
    prove(permitted, scene.trust)
    assert isinstance(refused, ProofBundle)
    assert refused.approval is None
    missing, _ = bundles(verifier.merged(enforcer))
    assert isinstance(missing, Refused)
    assert [(reason.code, reason.claim) for reason in missing.reasons] == [("proof-bundle-incomplete", "approval")]


def bundles(archive: Archive, wanted: Wanted = ALWAYS) -> list[ProofBundle | Refused]:
    return [bundle for _, _, bundle in Chains(archive).bundles(wanted)]


def test_each_action_gets_a_bundle_that_proves_it() -> None:
    scene, verifier, enforcer = told()
    made = bundles(verifier.merged(enforcer))
    assert len(made) == 2
    for bundle in made:
        assert isinstance(bundle, ProofBundle)
        prove(bundle, scene.trust)
    permitted, refused = made
    assert isinstance(permitted, ProofBundle)
    assert isinstance(refused, ProofBundle)
    assert permitted.outcome is not None
    assert refused.outcome is None
    assert prove(refused, scene.trust).record.permit is False


@pytest.mark.parametrize("part", ["enrolment", "record", "engine", "evidence", "references", "policy", "result", "carrier"])
def test_a_missing_object_is_named_and_nothing_is_written_for_it(part: str) -> None:
    _, verifier, enforcer = told()
    whole = bundles(verifier.merged(enforcer))[0]
    assert isinstance(whole, ProofBundle)
    gone = getattr(whole, part)
    lost = set(gone) if isinstance(gone, tuple) else {gone}
    archive = replace(verifier, objects=tuple(item for item in verifier.objects if item not in lost))
    for bundle in bundles(archive.merged(enforcer)):
        assert isinstance(bundle, Refused)
        assert {reason.code for reason in bundle.reasons} == {"proof-bundle-incomplete"}


def test_an_action_that_no_quote_carried_has_no_bundle() -> None:
    scene, verifier, enforcer = told()
    token = enforcer.tokens[0]
    scene.act("one", token, parse_token(token).claims)
    log = InstanceLog(enforcer.logs[0].instance, tuple(scene.running["one"].leaves))
    *carried, late = bundles(verifier.merged(replace(enforcer, logs=(log,))))
    assert all(isinstance(bundle, ProofBundle) for bundle in carried)
    assert isinstance(late, Refused)
    assert late.reasons[0].claim == "carrier"


def test_an_attestation_whose_checkpoint_was_not_taken_is_no_carrier() -> None:
    """A lost answer makes the host carry on from another base: such a carrier is passed over for the next one."""
    scene = Scene()
    bundle = scene.proof_bundle()
    one = scene.running["one"]
    one.carried = 1
    lost = scene.evidence("one")
    decision = scene.judge(lost)
    assert codes(decision) == {"action-log-base"}
    archive = Archive(
        entries=tuple(sorted({bundle.enrol_decision, bundle.attest_decision, sign_entry(decision.entry)})),
        tokens=(bundle.token,),
        objects=tuple(
            sorted(
                {
                    bundle.enrolment,
                    bundle.record,
                    bundle.evidence,
                    bundle.engine,
                    bundle.policy,
                    bundle.result,
                    encode_evidence(lost),
                    reference_set(scene.references).listed,
                    *bundle.references,
                }
            )
        ),
        logs=(InstanceLog(one.instance, tuple(one.leaves)),),
    )
    assert {b.reasons[0].claim for b in bundles(archive) if isinstance(b, Refused)} == {"carrier"}
    whole = replace(
        archive,
        entries=tuple(sorted({*archive.entries, bundle.carrier_decision})),
        objects=tuple(sorted({*archive.objects, bundle.carrier})),
    )
    for made in bundles(whole):
        assert isinstance(made, ProofBundle)
        prove(made, scene.trust)


def test_archives_that_fork_a_log_do_not_merge() -> None:
    _, _, enforcer = told()
    log = enforcer.logs[0]
    fork = replace(enforcer, logs=(InstanceLog(log.instance, (log.leaves[1], *log.leaves[1:])),))
    with pytest.raises(FormatError):
        enforcer.merged(fork)


def test_only_what_is_wanted_is_exported() -> None:
    scene, verifier, enforcer = told()
    archive = verifier.merged(enforcer)
    acted = scene.now - 30
    assert len(bundles(archive, Wanted("spiffe://example.org/billing/agent/reporter", acted, acted))) == 2
    assert bundles(archive, Wanted("spiffe://example.org/billing/agent/other", 0, 1 << 53)) == []
    assert bundles(archive, Wanted(None, acted + 1, 1 << 53)) == []
    assert bundles(archive, Wanted(None, 0, acted - 1)) == []


@pytest.fixture
def place(tmp_path: Path) -> Path:
    scene, verifier, enforcer = told()
    (tmp_path / "trust").write_bytes(encode_trust(scene.trust))
    (tmp_path / "verifier").write_bytes(encode_archive(verifier))
    (tmp_path / "enforcer").write_bytes(encode_archive(enforcer))
    return tmp_path


def exported(place: Path, capsys: pytest.CaptureFixture[str]) -> list[Path]:
    code = main(["export", str(place / "verifier"), str(place / "enforcer"), "--out", str(place / "proofs"), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert answer["missing"] == []
    return [place / "proofs" / name for name in answer["written"]]


def test_export_then_verify_exits_0_and_says_what_was_proven(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = exported(place, capsys)
    for file in files:
        assert main(["verify", str(file), "--trust", str(place / "trust"), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["verdict"] == "accepted"
        assert answer["tpm_class"] == "software"
        assert answer["runtime"] == "runtime-only"
        assert [step["number"] for step in answer["steps"]] == [*range(1, 14)]
    assert main(["verify", str(files[0]), "--trust", str(place / "trust")]) == 0
    assert "proven: tool.call on files/a" in capsys.readouterr().out


def test_a_spoilt_bundle_exits_1_with_the_reason(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = exported(place, capsys)[0]
    bundle = parse_proof_bundle(file.read_bytes())
    file.write_bytes(encode_proof_bundle(replace(bundle, policy=bundle.policy[:-1] + bytes([bundle.policy[-1] ^ 1]))))
    assert main(["verify", str(file), "--trust", str(place / "trust"), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "refused"
    assert answer["reasons"][0]["code"] in ("digest-mismatch", "malformed")
    assert main(["verify", str(file), "--trust", str(place / "trust")]) == 1
    assert "rule" in capsys.readouterr().err


def test_rubbish_is_refused_and_not_a_traceback(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "rubbish").write_bytes(b"\xff" * 100)
    assert main(["verify", str(place / "rubbish"), "--trust", str(place / "trust"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["reasons"][0]["code"] == "malformed"


def test_another_trust_file_proves_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = exported(place, capsys)[0]
    scene, _, _ = told()
    (place / "other").write_bytes(encode_trust(replace(scene.trust, decision_keys=())))
    assert main(["verify", str(file), "--trust", str(place / "other"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["reasons"][0]["code"] == "trust-root-unknown"


def test_a_file_that_is_not_there_exits_3(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(place / "none"), "--trust", str(place / "trust"), "--json"]) == 3
    assert "none" in capsys.readouterr().out


def test_what_a_bundle_lacks_is_said_in_words(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(place / "enforcer"), "--out", str(place / "proofs")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert all("none in the archives" in line and "{" not in line for line in lines)


def test_a_time_that_is_none_is_misuse(place: Path) -> None:
    arguments = ["export", str(place / "verifier"), "--out", str(place / "proofs")]
    assert main([*arguments, "--from", "yesterday"]) == 2
    assert main([*arguments, "--from", "2026-11-25T10:00:00Z", "--to", "2026-11-25T10:00:01"]) == 1


def test_the_empty_archive_is_neutral() -> None:
    _, verifier, _ = told()
    assert verifier.merged(EMPTY) == verifier


# --- the verifier's log --------------------------------------------------------------------------------------------------


def logged(archive: Archive, scene: Scene, *, witnesses: tuple[str, ...] = ()) -> tuple[Archive, Trust]:
    """The archive of a verifier that logs: behind the acts that published policy and references, enrolment, attestation, carrier."""
    decisions = {signed: parse_entry(parse_sign1(signed).payload or b"") for signed in archive.entries}
    enrolled = [signed for signed, entry in decisions.items() if isinstance(entry, EnrolDecision)]
    attested = sorted(
        ((entry.decided_at, signed) for signed, entry in decisions.items() if isinstance(entry, AttestDecision)), key=lambda one: one[0]
    )
    set_of = reference_set(scene.references).digest
    acts = [
        sign_entry(OperatorAct(ENGINE_ID.digest, NOW - 9_000 + at, NAMESPACE, "root", act, str(at), detail))
        for at, (act, detail) in enumerate(
            [
                ("reference-import", set_of), ("policy-publish", scene.bundle.digest), ("policy-publish", Digest.of(b"another")),
                ("policy-publish", scene.bundle.digest),
            ]
        )
    ]  # fmt: skip
    log = MemoryLog([b"genesis", *acts, *enrolled, *(signed for _, signed in attested), acts[-1]])
    places = {
        Placed(leaf, place)
        for index, leaf in enumerate(log.leaves[1:-1], 1)
        for place in (
            log.receipt(index),
            encode_tlog_proof(log.proof(index, witnesses=witnesses)),
            encode_tlog_proof(log.proof(index, index + 1)),
        )
    }
    entries = tuple(sorted({*archive.entries, *acts}))
    return replace(archive, entries=entries, places=tuple(sorted(places))), replace(scene.trust, log_keys=(plain_key(),))


def test_bundles_hold_where_their_decisions_stand_and_what_was_published_last_before() -> None:
    scene, verifier, enforcer = told()
    archive, trust = logged(verifier, scene, witnesses=("w1",))
    bundle, _ = bundles(archive.merged(enforcer))
    assert isinstance(bundle, ProofBundle)
    proven = prove(bundle, trust)
    assert [(name, one.index) for name, one in proven.logged] == [
        ("enrol_decision", 5), ("attest_decision", 6), ("policy_act", 4), ("references_act", 1), ("carrier_decision", 7),
    ]  # fmt: skip
    assert {one.size for _, one in proven.logged} == {9}, "the cosigned checkpoint before any other"
    without, _ = bundles(replace(archive, places=()).merged(enforcer))
    assert isinstance(without, ProofBundle)
    with pytest.raises(Refused, match="proof-bundle-incomplete"):
        prove(without, trust)
    prove(without, scene.trust)


def test_bundles_hold_what_the_verifier_held_about_the_chain() -> None:
    crls = tuple(sorted(crls_of(Scene().chip.maker, this=NOW - 6_000)))
    scene, verifier, enforcer = told(Scene(crls=crls))
    archive = replace(verifier, objects=tuple(sorted({*verifier.objects, encode_trust(scene.trust)})))
    bundle, _ = bundles(archive.merged(enforcer))
    assert isinstance(bundle, ProofBundle)
    assert bundle.collateral == Collateral(crls=crls)
    strict = replace(scene.trust, crls=(), rules=replace(scene.trust.rules, crl_required=True))
    prove(bundle, strict)
    with pytest.raises(Refused):
        prove(replace(bundle, collateral=Collateral()), strict)


def test_a_token_gets_a_bundle_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, verifier, enforcer = told()
    archive, trust = logged(verifier, scene)
    (tmp_path / "trust").write_bytes(encode_trust(trust))
    (tmp_path / "archive").write_bytes(encode_archive(archive.merged(enforcer)))
    assert main(["export", str(tmp_path / "archive"), "--out", str(tmp_path / "proofs"), "--tokens", "--json"]) == 0
    (name,) = json.loads(capsys.readouterr().out)["written"]
    assert type(parse_proof((tmp_path / "proofs" / name).read_bytes())) is TokenProof
    assert main(["verify", str(tmp_path / "proofs" / name), "--trust", str(tmp_path / "trust"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [step["number"] for step in answer["steps"]] == [*range(1, 8)]
    assert (answer["token"], answer["logged"][1]["index"]) == (parse_token(enforcer.tokens[0]).claims.token_id, 6)
    assert main(["verify", str(tmp_path / "proofs" / name), "--trust", str(tmp_path / "trust")]) == 0
    assert "proven: token " in capsys.readouterr().out
    argv = ["export", str(tmp_path / "archive"), "--out", str(tmp_path / "none"), "--tokens", "--to", "2001-01-01T00:00:00Z", "--json"]
    assert main(argv) == 1, "none is wanted, so none is there"
    capsys.readouterr()
    (tmp_path / "lacking").write_bytes(encode_archive(replace(archive, objects=()).merged(replace(enforcer, objects=(), logs=()))))
    assert main(["export", str(tmp_path / "lacking"), "--out", str(tmp_path / "none"), "--tokens", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["missing"][0]["reasons"][0]["code"] == "proof-bundle-incomplete"


def test_explain_names_each_step_with_what_was_checked_and_a_policy_asks_for_witnesses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, verifier, enforcer = told()
    archive, trust = logged(verifier, scene, witnesses=("w1",))
    (tmp_path / "trust").write_bytes(encode_trust(trust))
    (tmp_path / "bundle").write_bytes(
        encode_proof_bundle(next(one for one in bundles(archive.merged(enforcer)) if isinstance(one, ProofBundle)))
    )
    argv = ["verify", str(tmp_path / "bundle"), "--trust", str(tmp_path / "trust")]
    assert main([*argv, "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(".")[0].strip() for line in lines[:26:2]] == [str(number) for number in range(1, 14)]
    assert all(line.startswith("     ") and line.strip() for line in lines[1:26:2])
    for name, code in (("w1", 0), ("w2", 1)):
        policy = f"log {plain_key()}\nwitness one {witness_key(name)}\ngroup all all one\nquorum all\n"
        (tmp_path / "policy").write_text(policy)
        assert main([*argv, "--policy", str(tmp_path / "policy"), "--json"]) == code
        answer = json.loads(capsys.readouterr().out)
        if code:
            assert answer["reasons"][0]["code"] == "quorum-missing"
        else:
            assert {one["witnesses"][0]["name"] for one in answer["logged"]} == {"one"}


def test_the_bundle_of_an_action_is_below_64_kb_without_the_large_event_logs(capsys: pytest.CaptureFixture[str]) -> None:
    """Must show 6. A log of a hundred thousand entries has paths of 17 hashes; three witnesses cosign."""
    scene, verifier, enforcer = told()
    archive, trust = logged(verifier, scene, witnesses=("w1", "w2", "w3"))
    bundle, _ = bundles(archive.merged(enforcer))
    assert isinstance(bundle, ProofBundle)
    prove(bundle, trust)
    deep = 17 * 45 * 5  # base64 lines of a path in each of five places
    size = len(encode_proof_bundle(bundle)) + deep
    with capsys.disabled():
        print(f"\nproof bundle of one action: {size} bytes, {deep} of them for the paths of a log of 131,072 entries")
    assert size < 64_000


@pytest.mark.parametrize("what", ["forged", "junk"])
def test_what_one_archive_holds_beside_spoils_nobody_elses_bundles(tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    scene, verifier, enforcer = told()
    decisions = [parse_entry(parse_sign1(one).payload or b"") for one in verifier.entries]
    first = min((one for one in decisions if isinstance(one, AttestDecision)), key=lambda one: one.decided_at)
    forged = sign_entry(replace(first, decided_at=first.decided_at - 1), new_signer())
    hostile = Archive((forged,), (), (), ()) if what == "forged" else Archive((b"junk",), ("junk",), (), ())
    for name, archive in (("verifier", verifier), ("a", enforcer), ("b", hostile)):
        (tmp_path / name).write_bytes(encode_archive(archive))
    (tmp_path / "trust").write_bytes(encode_trust(scene.trust))
    sources = [str(tmp_path / name) for name in ("verifier", "a", "b")]
    assert main(["export", *sources, "--out", str(tmp_path / "out"), "--trust", str(tmp_path / "trust"), "--json"]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert (exported["passed_over"], exported["missing"]) == (1, [])
    for name in exported["written"]:
        assert main(["verify", str(tmp_path / "out" / name), "--trust", str(tmp_path / "trust")]) == 0
    if what == "junk":
        assert main(["export", *sources, "--out", str(tmp_path / "plain")]) == 0
        assert main(["lineage", *sources]) == 0
