"""`auditor replay`: what was decided is decided again, and whatever is not the same, not there or not decided is said to be that."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from auditor.__main__ import main
from auditor.engines import Engines
from auditor.objects import Objects
from auditor.replay.decisions import (
    DIFFERING,
    ERASED,
    IDENTICAL,
    INCOMPLETE,
    NOT_BY_POLICY,
    NOT_REPLAYED,
    NOTHING_TO_DECIDE,
    OUTCOMES,
    Replay,
    Replayed,
    Summary,
)
from tests.signers import new_signer
from tests.world.approvals import BUNDLE, Approved
from tests.world.recorded import A_SCENE, Recorded, record, write
from tests.world.scene import NOW, Scene, sign_entry, sign_token, sixteen
from tests.world.specimens import REASONS
from writ.formats.archive import EMPTY, Archive, InstanceLog, encode_archive
from writ.formats.corim import encode_corim
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, EnrolDecision, Entry, ExchangeDecision, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import parse_token
from writ.formats.engine import EngineId, encode_engine
from writ.formats.evidence import encode_evidence
from writ.formats.policy_bundle import encode_bundle
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening, commit, encode_record, parse_log, preimage_of
from writ.formats.state import encode_host_record
from writ.formats.trust import Trust, encode_trust
from writ.service.engine_id import installed_engine
from writ.verdict.reference import reference_set

HERE = installed_engine()
ROUNDS = 2
DECISIONS = 1 + ROUNDS * 9
REFUSED = Reason("policy-refused", "tool.call on files/a", "a permit", "no-mail")


@cache
def told() -> Recorded:
    return record(1, HERE, ROUNDS)


def archive() -> Archive:
    return told().verifier().merged(told().enforcer())


def trust() -> Trust:
    found = told().trust
    assert found is not None
    return found


def replayed(given: Archive | None = None, *, by: Trust | None = None, here: EngineId = HERE) -> tuple[list[Replayed], Summary]:
    found = list(Replay(archive() if given is None else given, by or trust(), Engines(None), here).judged())
    summary = Summary()
    for one in found:
        summary.add(one)
    return found, summary


def of(outcome: str, found: list[Replayed]) -> list[Replayed]:
    return [one for one in found if one.outcome == outcome]


def entries(kind: type[Entry], given: Archive) -> list[tuple[bytes, Any]]:
    read = [(signed, parse_entry(parse_sign1(signed).payload or b"")) for signed in given.entries]
    return [(signed, entry) for signed, entry in read if isinstance(entry, kind)]


def exchanged(given: Archive, old: bytes, new: bytes) -> Archive:
    return replace(given, entries=tuple(sorted({*given.entries, new} - {old})))


def leaves(given: Archive, at: int, change: Callable[[ActionRecord], ActionRecord]) -> Archive:
    """The archive with action number `at` of its log changed."""
    (log,) = given.logs
    records = parse_log(log.leaves)
    actions = [one for one in records if isinstance(one, ActionRecord)]
    changed = list(log.leaves)
    changed[actions[at].sequence] = encode_record(change(actions[at]))
    return replace(given, logs=(InstanceLog(log.instance, tuple(changed)),))


# --- the same ---------------------------------------------------------------------------------------------------------------


def test_decisions_of_every_kind_come_to_the_same_bytes() -> None:
    found, summary = replayed()
    assert [one.what.split()[0] for one in found].count("action") == 7 * ROUNDS + 1
    assert {one.what.split()[0] for one in of(IDENTICAL, found)} == {"enrol", "attest", "exchange", "action"}
    assert dict(summary.counts) == {IDENTICAL: DECISIONS, NOT_BY_POLICY: 1}
    assert (summary.verdict, summary.exit_code) == ("accepted", 0)
    assert all(one.recorded == one.made is not None for one in of(IDENTICAL, found))
    assert summary.to_json() == replayed()[1].to_json(), "what was made again is the same at every time"
    assert A_SCENE == 1 + 10 * 9


def test_refused_attestations_and_exchanges_are_replayed_too() -> None:
    attests, exchanges = entries(AttestDecision, archive()), entries(ExchangeDecision, archive())
    assert {all(o.claims is None for o in one.outcomes) for _, one in attests} == {True, False}
    assert {one.claims is None for _, one in exchanges} == {True, False}


def test_an_approved_action_is_decided_again_with_its_approval() -> None:
    scene = Approved(bundle=BUNDLE, engine=HERE)
    whole = acted(scene).merged(replace(EMPTY, objects=(scene.approval,)))
    assert [one.outcome for one in replayed(whole, by=scene.trust)[0] if one.what.startswith("action")] == [IDENTICAL]
    lacking = replace(whole, objects=tuple(one for one in whole.objects if one != scene.approval))
    (one,) = of(INCOMPLETE, replayed(lacking, by=scene.trust)[0])
    assert one.reasons[0].expected == str(Digest.of(scene.approval))


def acted(scene: Scene, **more: Any) -> Archive:
    """The archives of one action in `scene`."""
    made = Recorded(trust=scene.trust)
    one = scene.launch("one")
    evidence = scene.evidence("one")
    verdict = scene.judge(evidence)
    claims = verdict.tokens[0].claims
    assert claims is not None
    token = sign_token(claims)
    scene.act("one", token, claims, **more)
    made.sign(verdict.entry)
    made.objects |= {encode_engine(scene.engine), encode_evidence(evidence), encode_host_record(scene.record), encode_bundle(scene.bundle)}
    made.objects |= {reference_set(scene.references).listed, *map(encode_corim, scene.references)}
    made.tokens.add(token)
    made.logs.append(InstanceLog(one.instance, tuple(one.leaves)))
    made.shown |= {part for context in one.contexts.values() for part in (context, preimage_of(bytes(32), context))}
    return made.verifier().merged(made.enforcer())


# --- other bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, change",
    [
        (EnrolDecision, {"cleared": True}),
        (EnrolDecision, {"record": Digest.of(b"")}),
        (EnrolDecision, {"decided_at": NOW - 4_000}),
        (EnrolDecision, {"host": "other"}),
        (AttestDecision, {"state_after": Digest.of(b"another")}),
        (AttestDecision, {"result": Digest.of(b"another")}),
        (AttestDecision, {"decided_at": NOW}),
        (AttestDecision, {"host": "other"}),
        (AttestDecision, {"outcomes": ()}),
        (ExchangeDecision, {"claims": None, "reasons": REASONS}),
        (ExchangeDecision, {"claims": Digest.of(b"more"), "reasons": ()}),
        (ExchangeDecision, {"audience": "https://third.example.org"}),
    ],
)
def test_a_decision_that_is_not_what_its_inputs_give_is_found(kind: type[Entry], change: dict[str, Any]) -> None:
    signed, entry = entries(kind, archive())[0]
    forged = sign_entry(replace(entry, **change))
    found, summary = replayed(exchanged(archive(), signed, forged))
    wrong = [one for one in of(DIFFERING, found) if not one.what.startswith("action")]
    assert len(wrong) == 1
    assert wrong[0].reasons[0].code in ("decision-mismatch", "activation-wrong", "extra-data-mismatch", "proof-mismatch")
    if wrong[0].made is not None:
        assert (wrong[0].reasons[0].expected, wrong[0].reasons[0].got) == (str(wrong[0].recorded), str(wrong[0].made))
    assert summary.exit_code == 1


@pytest.mark.parametrize(
    "at, change",
    [
        (0, {"reasons": (REFUSED,)}),
        (3, {"reasons": ()}),
        (3, {"reasons": (replace(REFUSED, got="another rule"),)}),
        (0, {"decided_at": NOW + 21}),
        (0, {"gate": "egress"}),
    ],
)
def test_an_action_that_token_and_policy_do_not_decide_so_is_found(at: int, change: dict[str, Any]) -> None:
    forged = leaves(archive(), at, lambda one: replace(one, **change))
    found, summary = replayed(forged)
    (wrong,) = of(DIFFERING, found)
    assert wrong.what.startswith("action")
    assert wrong.reasons[0].code == "decision-mismatch"
    assert summary.exit_code == 1


def test_a_context_that_the_decision_did_not_see_is_found() -> None:
    salt, context = bytes(32), b"\xa0"
    forged = leaves(archive(), 0, lambda one: replace(one, context=commit(salt, context)))
    forged = forged.merged(replace(EMPTY, objects=tuple(sorted((context, preimage_of(salt, context))))))
    assert [one.reasons[0].code for one in of(DIFFERING, replayed(forged)[0])] == ["decision-mismatch"]


def test_a_permit_without_a_token_is_found_whoever_recorded_it() -> None:
    forged = leaves(archive(), 0, lambda one: replace(one, token=None, bundle=None))
    (wrong,) = of(DIFFERING, replayed(forged)[0])
    assert (wrong.reasons[0].claim, wrong.reasons[0].got) == ("action.token", "a permit")


def test_an_action_under_another_instances_token_is_found() -> None:
    (log,) = archive().logs
    opening, *rest = parse_log(log.leaves)
    assert isinstance(opening, Opening)
    other = replace(opening, instance=sixteen("other"))
    logs = (InstanceLog(other.instance, (encode_record(other), *map(encode_record, rest))),)
    found, _ = replayed(replace(archive(), logs=logs))
    assert {one.reasons[0].claim for one in of(DIFFERING, found)} == {"opening.instance"}


def test_a_log_under_another_instances_name_is_found() -> None:
    """Only the label of the archive differs: opening and tokens agree with each other."""
    (log,) = archive().logs
    found, summary = replayed(replace(archive(), logs=(InstanceLog(sixteen("other"), log.leaves),)))
    assert [one.reasons[0].claim for one in of(DIFFERING, found)] == ["opening.instance"]
    assert summary.exit_code == 1


def test_an_action_of_this_engine_under_another_number_is_found() -> None:
    (log,) = archive().logs
    opening, *rest = parse_log(log.leaves)
    assert isinstance(opening, Opening)
    other = replace(opening, engine=replace(opening.engine, number=HERE.number + 1))
    found, _ = replayed(replace(archive(), logs=(InstanceLog(log.instance, (encode_record(other), *map(encode_record, rest))),)))
    assert {one.reasons[0].claim for one in of(DIFFERING, found)} == {"engine.number"}


def test_an_action_under_another_policy_than_it_names_is_found() -> None:
    bundle = next(one for signed, one in entries(AttestDecision, archive()))
    forged = leaves(archive(), 0, lambda one: replace(one, bundle=dict(bundle.inputs)["record"]))
    (wrong,) = of(DIFFERING, replayed(forged)[0])
    assert wrong.reasons[0].code == "malformed", "a host's record is no policy"


def test_a_log_that_is_none_is_found() -> None:
    (log,) = archive().logs
    found, summary = replayed(replace(archive(), logs=(InstanceLog(log.instance, log.leaves[1:]),)))
    assert [one.reasons[0].code for one in of(DIFFERING, found)] == ["malformed"]
    assert summary.exit_code == 1


def test_bytes_that_are_no_entry_are_found() -> None:
    rubbish = b"\xff"
    found, _ = replayed(replace(archive(), entries=(*archive().entries, rubbish)))
    assert [(one.what, one.reasons[0].code) for one in of(DIFFERING, found)] == [(f"entry {Digest.of(rubbish)}", "malformed")]


# --- who signed -------------------------------------------------------------------------------------------------------------


def test_a_decision_of_a_key_that_is_not_trusted_is_found() -> None:
    signed, entry = entries(AttestDecision, archive())[0]
    found, _ = replayed(exchanged(archive(), signed, sign_entry(entry, new_signer())))
    assert [one.reasons[0].code for one in of(DIFFERING, found)] == ["trust-root-unknown"]


def test_a_decision_whose_signature_does_not_hold_is_found_and_issues_nothing() -> None:
    given = archive()
    for signed, _ in entries(AttestDecision, archive()):
        given = exchanged(given, signed, signed[:-1] + bytes([signed[-1] ^ 1]))
    found, _ = replayed(given)
    assert [one.reasons[0].code for one in of(DIFFERING, found)] == ["signature-invalid"] * ROUNDS
    assert {one.what.split()[0] for one in of(INCOMPLETE, found)} == {"action"}, "no token is one that a decision issued"


def test_decisions_of_another_issuer_are_found() -> None:
    found, _ = replayed(by=replace(trust(), issuer="https://another.example.org"))
    assert [one.what.split()[0] for one in of(DIFFERING, found)].count("exchange") == ROUNDS
    assert [one.what.split()[0] for one in of(DIFFERING, found)].count("attest") == ROUNDS - 1, "but for the one that issued nothing"


def test_what_an_operator_did_is_signed_and_no_more() -> None:
    act = OperatorAct(HERE.digest, NOW, "billing", "root", "host-admit", "host-0", None)
    found, summary = replayed(replace(archive(), entries=tuple(sorted({*archive().entries, sign_entry(act)}))))
    assert [one.what.split()[0] for one in of(NOTHING_TO_DECIDE, found)] == ["host-admit"]
    assert summary.exit_code == 0
    forged = replace(archive(), entries=tuple(sorted({*archive().entries, sign_entry(act, new_signer())})))
    assert replayed(forged)[1].exit_code == 1


# --- what is not there --------------------------------------------------------------------------------------------------------


def test_whatever_object_is_missing_is_named_and_nothing_passes_for_it() -> None:
    shown = {one for one in archive().objects if Objects(archive()).find(Digest.of(one))}
    preimages = {preimage_of(bytes(32), one) for one in told().shown}
    for gone in sorted(shown - preimages):
        found, summary = replayed(replace(archive(), objects=tuple(one for one in archive().objects if one != gone)))
        assert of(INCOMPLETE, found), f"{gone[:40]!r} is not needed?"
        assert {reason.expected for one in of(INCOMPLETE, found) for reason in one.reasons} == {str(Digest.of(gone))}
        assert (summary.verdict, summary.exit_code) == ("incomplete", 3)
        assert not of(DIFFERING, found)


def test_the_record_that_came_of_an_enrolment_has_to_be_there() -> None:
    (one,) = entries(EnrolDecision, archive())
    alone = replace(archive(), entries=(one[0],), logs=())
    assert replayed(alone)[1].exit_code == 0
    lacking = replace(alone, objects=tuple(data for data in alone.objects if Digest.of(data) != one[1].record))
    assert [found.reasons[0].claim for found in of(INCOMPLETE, replayed(lacking)[0])] == ["record"]


def test_a_token_that_is_missing_and_one_that_nobody_issued_are_named() -> None:
    token = parse_token(archive().tokens[0])
    found, summary = replayed(replace(archive(), tokens=()))
    assert len(of(INCOMPLETE, found)) == 7 * ROUNDS
    assert {one.reasons[0].expected for one in of(INCOMPLETE, found)} == {str(token.digest)}
    assert summary.exit_code == 3
    forged = sign_token(replace(token.claims, expires_at=token.claims.expires_at + 60))
    given = leaves(replace(archive(), tokens=(*archive().tokens, forged)), 0, lambda one: replace(one, token=parse_token(forged).digest))
    (lacking,) = of(INCOMPLETE, replayed(given)[0])
    assert lacking.reasons[0].claim == "attest_decision"


def test_archives_with_nothing_in_them_prove_nothing() -> None:
    assert replayed(EMPTY)[1].exit_code == 3
    assert replayed(replace(archive(), logs=()))[1].exit_code == 0
    only_held = leaves(replace(archive(), entries=()), 0, lambda one: replace(one, reasons=REASONS, token=None, bundle=None))
    assert replayed(only_held)[1].exit_code == 3


def test_what_is_erased_is_said_to_be_and_is_no_fault() -> None:
    shown = told().shown
    left = replace(archive(), objects=tuple(one for one in archive().objects if one not in shown))
    found, summary = replayed(left)
    assert len(of(ERASED, found)) == 7 * ROUNDS
    assert all(one.made is None for one in of(ERASED, found))
    assert (summary.verdict, summary.exit_code) == ("accepted", 0)


def test_an_action_whose_context_is_kept_back_is_still_held_to_its_token() -> None:
    """Who hands an archive over chooses what it shows. Before the token's end, and within its grants, a permit is to be seen without it."""
    shown = told().shown
    for change in ({"resource": "secrets/a"}, {"action": "file.read"}, {"decided_at": 1 << 40}):
        forged = leaves(archive(), 0, lambda one, change=change: replace(one, **change, reasons=()))  # type: ignore[misc]
        found, summary = replayed(replace(forged, objects=tuple(one for one in forged.objects if one not in shown)))
        assert [one.reasons[0].code for one in of(DIFFERING, found)] == ["decision-mismatch"], change
        assert summary.exit_code == 1


@pytest.mark.parametrize(
    "change, outcome",
    [
        ({"reasons": REASONS, "token": None, "bundle": None}, NOT_BY_POLICY),
        ({"reasons": (Reason("approval-refused", "approval.resource", "files/a", "files/b"),)}, NOT_BY_POLICY),
        ({"reasons": (Reason("observed", "mode", "an agent that is enforced", "observe"),)}, NOT_BY_POLICY),
        ({"reasons": tuple(sorted((REFUSED, Reason("hold", "daemon", "a living daemon", "none"))))}, NOT_BY_POLICY),
        ({"reasons": (REFUSED,), "token": None}, NOT_BY_POLICY),
        ({"reasons": (REFUSED,)}, DIFFERING),
    ],
)
def test_refusals_that_follow_from_no_policy_are_counted_apart(change: dict[str, Any], outcome: str) -> None:
    found, _ = replayed(leaves(archive(), 0, lambda one: replace(one, **change)))
    action = next(one for one in found if one.what.startswith("action") and "-1 " in one.what)
    assert action.outcome == outcome


# --- engines ------------------------------------------------------------------------------------------------------------------


def test_what_another_engine_decided_is_not_replayed_by_this_one() -> None:
    found, summary = replayed(here=replace(HERE, tree=Digest.of(b"another")))
    assert {one.reasons[0].expected for one in of(NOT_REPLAYED, found)} == {str(HERE.tree)}
    assert (summary.counts[NOT_REPLAYED], summary.counts[IDENTICAL], summary.exit_code) == (DECISIONS, 0, 3)


def test_one_decision_of_another_engine_among_many_of_this_one_is_no_pass() -> None:
    signed, entry = entries(ExchangeDecision, archive())[0]
    other = replace(HERE, tree=Digest.of(b"another"))
    given = exchanged(archive(), signed, sign_entry(replace(entry, engine=other.digest)))
    found, summary = replayed(given.merged(replace(EMPTY, objects=(encode_engine(other),))))
    assert [one.reasons[0].expected for one in of(NOT_REPLAYED, found)] == [str(other.tree)]
    assert summary.counts[IDENTICAL] == DECISIONS - 1
    assert (summary.verdict, summary.exit_code) == ("incomplete", 3)


def test_a_decision_that_names_this_tree_by_another_number_is_found() -> None:
    other = replace(HERE, number=HERE.number + 1)
    given = archive().merged(replace(EMPTY, objects=(encode_engine(other),)))
    for signed, entry in entries(ExchangeDecision, given):
        given = exchanged(given, signed, sign_entry(replace(entry, engine=other.digest)))
    found, _ = replayed(given)
    assert [one.reasons[0].claim for one in of(DIFFERING, found)] == ["engine.number"] * ROUNDS


def test_libraries_may_be_others_than_those_recorded() -> None:
    scene = Scene(engine=replace(HERE, libraries=(("cbor2", "5.0"), ("python", "3.99"))))
    found, _ = replayed(acted(scene), by=scene.trust)
    assert [one.outcome for one in found] == [IDENTICAL] * 2


# --- the command ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "trust").write_bytes(encode_trust(trust()))
    (tmp_path / "verifier").write_bytes(encode_archive(told().verifier()))
    (tmp_path / "enforcer").write_bytes(encode_archive(told().enforcer()))
    return tmp_path


def run(place: Path, capsys: pytest.CaptureFixture[str], *more: str, archives: tuple[str, ...] = ("verifier", "enforcer")) -> Any:
    code = main(["replay", *(str(place / one) for one in archives), "--trust", str(place / "trust"), *more])
    return code, capsys.readouterr().out


def test_command_says_what_became_of_all(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(place, capsys, "--json")
    answer = json.loads(text)
    assert (code, answer["verdict"], answer["decisions"]) == (0, "accepted", [])
    assert list(answer["counts"]) == list(OUTCOMES)
    assert answer["counts"][IDENTICAL] == DECISIONS
    code, text = run(place, capsys)
    assert code == 0
    assert text.splitlines() == [
        f"engine 1 {HERE.tree} (the one that runs here): {DECISIONS} decisions",
        f"accepted: {DECISIONS} identical, 0 differing, 0 erased, 0 not replayed, 0 incomplete, 1 not decided by policy, 0 signed only",
    ]


def test_explain_names_every_step_with_what_was_checked_against_what(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(place, capsys, "--explain", "--json")
    found = [one for one in json.loads(text)["decisions"] if one["outcome"] == IDENTICAL]
    assert code == 0
    assert len(found) == DECISIONS
    for one in found:
        assert [step[:2] for step in one["steps"]] == ["1.", "2.", "3.", "4."]
        assert str(HERE.tree) in one["steps"][2]
        assert one["steps"][3] == f"4. recorded {one['recorded']}, made {one['made']}"
        wanted = "context" if one["decision"].startswith("action") else "evidence" if "exchange" not in one["decision"] else "request"
        assert f"{wanted} sha256:" in one["steps"][1]
    _, text = run(place, capsys, "--explain")
    assert text.count("\n  4. recorded sha256:") == DECISIONS


def test_a_difference_exits_1_and_shows_both_digests(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signed, entry = entries(AttestDecision, archive())[0]
    forged = exchanged(told().verifier(), signed, sign_entry(replace(entry, state_after=Digest.of(b"another"))))
    (place / "verifier").write_bytes(encode_archive(forged))
    code, text = run(place, capsys, "--json")
    (one,) = json.loads(text)["decisions"]
    assert (code, one["outcome"]) == (1, DIFFERING)
    assert one["recorded"] != one["made"]
    assert [(r["expected"], r["got"]) for r in one["reasons"]] == [(one["recorded"], one["made"])]
    code, text = run(place, capsys)
    assert code == 1
    assert text.startswith("differing: attest sha256:")
    assert "refused: " in text


def test_an_archive_alone_is_incomplete_where_it_needs_the_other(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(place, capsys, archives=("enforcer",))
    assert code == 3
    assert "incomplete: action" in text


def test_written_world_is_what_the_command_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(1, tmp_path)
    code, text = run(tmp_path, capsys, "--json")
    assert (code, json.loads(text)["counts"][IDENTICAL]) == (0, A_SCENE)
