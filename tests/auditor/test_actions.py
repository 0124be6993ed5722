"""`auditor log verify --actions`: whatever was done to an action log after its checkpoint was carried is found, each by its own name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from auditor.__main__ import main
from tests.auditor.story import Site, leave
from tests.world.chip import Chip
from tests.world.scene import ENGINE_ID, NAMESPACE, Scene, sign_entry, sixteen
from writ.formats.archive import InstanceLog, encode_archive
from writ.formats.decision import AttestDecision, OperatorAct
from writ.formats.digest import Digest
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, Record, encode_record, parse_record

ONE, TWO = sixteen("one"), sixteen("two")


def told() -> Site:
    """Two instances, three attestations, four actions of each between them; two more of the first that nothing carried."""
    site = Site()
    site.scene.launch("one")
    site.scene.launch("two")
    for _ in range(2):
        site.renew("one", "two")
        for name in ("one", "two"):
            site.act(name, "files/a", "files/b")
    site.renew("one", "two")
    site.act("one", "files/late")
    return site


def judged(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object], list[tuple[str, str]]]:
    """Exit status, the whole answer, and code and claim of each finding."""
    code = main([*arguments, "--json"])
    answer = json.loads(capsys.readouterr().out)
    return code, answer, [(one["code"], one["claim"]) for one in answer["reasons"]]


def renumbered(leaf: bytes, sequence: int) -> bytes:
    """The record at another place, with all that names places moved along: what root on the host can write."""
    record = parse_record(leaf)
    moved: Record = replace(record, sequence=sequence)
    if isinstance(moved, OutcomeRecord) and isinstance(record, OutcomeRecord):
        moved = replace(moved, of=record.of + sequence - record.sequence)
    return encode_record(moved)


def test_honest_logs_are_whole_and_what_came_after_the_last_checkpoint_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, found = judged(leave(told(), tmp_path), capsys)

    assert (code, found) == (0, [])
    assert (answer["verdict"], answer["records"], answer["since"]) == ("accepted", 20, 2)


LIES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], list[tuple[str, str]]]] = {
    "dropped": (lambda log: [*log[:3], *log[4:]], [("action-log-removed", "record 3")]),
    "dropped, and the rest renumbered": (
        lambda log: [*log[:1], *(renumbered(leaf, at) for at, leaf in enumerate(log[3:], 1))],
        [("action-log-altered", "records 0 to 4")],
    ),
    "cut": (lambda log: log[:6], [("action-log-cut", "")]),
    "cut, and acted on": (
        lambda log: [*log[:5], renumbered(log[7], 5), renumbered(log[8], 6), *log[7:]], [("action-log-altered", "records 5 to 8")],
    ),
    "altered": (
        lambda log: [*log[:3], encode_record(replace(parse_record(log[3]), resource="files/z")), *log[4:]],  # type: ignore[arg-type]
        [("action-log-altered", "records 0 to 4")],
    ),
    "inserted": (lambda log: [*log[:3], log[1], *log[3:]], [("action-log-inserted", "record 3")]),
    "reordered": (lambda log: [*log[:1], log[3], log[4], log[1], log[2], *log[5:]], [("action-log-reordered", "record 1")]),
    "rubbish": (lambda log: [*log[:9], b"rubbish", b"rubbish"], [("action-log-malformed", "record 9")]),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_what_was_done_to_a_log_after_it_was_carried_is_found(lie: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = told()
    change, expected = LIES[lie]
    logs = {**site.logs(), ONE: change(site.logs()[ONE])}

    code, _, found = judged(leave(site, tmp_path, archive=site.archive(logs)), capsys)

    assert code == 1
    assert [(one, claim.partition(", ")[2]) for one, claim in found] == expected
    assert all(ONE.hex() in claim for _, claim in found)


def test_a_log_of_which_nothing_was_handed_over_is_missing_unless_its_host_was_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = told()
    arguments = leave(site, tmp_path, archive=site.archive({ONE: site.logs()[ONE]}))

    assert judged(arguments, capsys)[2] == [("action-log-missing", f"action log {TWO.hex()} of host-1")]
    assert judged([*arguments, "--host", "host-1"], capsys)[0] == 1
    assert judged([*arguments, "--host", "host-2"], capsys)[0] == 0


def test_two_archives_with_two_histories_of_one_instance_are_a_fork(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = told()
    arguments = leave(site, tmp_path)
    other = site.logs()[ONE]
    other[10] = encode_record(replace(parse_record(other[10]), size=7))  # type: ignore[arg-type]
    (tmp_path / "other").write_bytes(encode_archive(replace(site.archive(), logs=(InstanceLog(ONE, tuple(other)),))))

    assert judged([*arguments, str(tmp_path / "other")], capsys)[2] == [("action-log-forked", f"action log {ONE.hex()}, record 10")]


def test_a_fork_that_the_verifier_refused_is_found_in_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = told()
    forked = replace(site.scene.running["one"].request(), log_root=bytes(32), log_proof=())
    site.scene.now += 5
    site.entries.append(site.scene.judge(site.scene.evidence(requests=(forked,))).entry)

    code, _, found = judged(leave(site, tmp_path), capsys)

    assert (code, [one for one, _ in found]) == (1, ["action-log-forked"])


# --- records and what bounds them -------------------------------------------------------------------------------------------


def rewritten(site: Site, at: int, **changed: object) -> Site:
    """A host that wrote this record so from the beginning: what it carried is of that."""
    one = site.scene.running["one"]
    one.leaves[at] = encode_record(replace(parse_record(one.leaves[at]), **changed))  # type: ignore[arg-type]
    return site


UNBOUND: dict[str, tuple[dict[str, object], tuple[str, str]]] = {
    "no token": ({"token": None}, ("decision-mismatch", "token")),
    "after the token's end": ({"decided_at": 1_790_000_031 + 1000}, ("decision-mismatch", "decided_at")),
    "before its issue": ({"decided_at": 1_790_000_031 - 7}, ("decision-mismatch", "decided_at")),
    "outside its grants": ({"resource": "secrets/a"}, ("decision-mismatch", "resource")),
    "another policy": ({"bundle": Digest.of(b"another")}, ("digest-mismatch", "bundle")),
}


@pytest.mark.parametrize("what", UNBOUND)
def test_a_permit_that_its_token_does_not_cover_is_found(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed, (code, claim) = UNBOUND[what]
    site = Site()
    site.scene.launch("one")
    site.renew("one")
    site.act("one", "files/a")
    rewritten(site, 1, **changed)

    exit_code, _, found = judged(leave(site, tmp_path), capsys)

    assert (exit_code, found) == (1, [(code, f"{ONE.hex()}-1.{claim}")])


def test_a_refusal_need_not_be_within_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site()
    site.scene.launch("one")
    site.renew("one")
    token, claims = site.last["one"]
    site.scene.act("one", token, claims, resource="secrets/a", permit=False)

    assert judged(leave(site, tmp_path), capsys)[0] == 0


@pytest.mark.parametrize("moved, at", [(-400, 3), (600, 1)])
def test_a_record_dated_outside_the_checkpoints_around_it_is_found(
    moved: int, at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock of the host was moved: its outcomes say so, whatever its tokens say of actions."""
    site = Site()
    site.scene.launch("one")
    for _ in range(2):
        site.renew("one")
        site.act("one", "files/a")
        place = len(site.scene.running["one"].leaves) - 1
        if place == at + 1:
            record = parse_record(site.scene.running["one"].leaves[place])
            assert isinstance(record, OutcomeRecord)
            rewritten(site, place, finished_at=record.finished_at + moved)
    site.renew("one")

    assert judged(leave(site, tmp_path), capsys)[2] == [("record-time", f"{ONE.hex()}-{at + 1}")]


def test_a_token_that_no_decision_of_the_log_issued_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = told()
    entries = list(site.attestations())
    without = replace(entries[1], outcomes=tuple(replace(one, claims=Digest.of(b"other claims")) for one in entries[1].outcomes))
    log = site.log([sign_entry(without if entry == entries[1] else entry) for entry in site.entries])

    _, _, found = judged(leave(site, tmp_path, log=log), capsys)

    assert found == [("token-unlogged", f"{instance.hex()}-5.token") for instance in sorted((ONE, TWO))]


def test_an_instance_that_another_host_carried_is_found_about_that_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own log is judged by what its host carried, and is whole."""
    site = told()
    one = [entry for entry in site.entries if isinstance(entry, AttestDecision)][-1]
    outcome = replace(one.outcomes[0], log_size=50, log_root=bytes(32))
    fork = replace(outcome, claims=None, reasons=(Reason("action-log-inconsistent", "x", "a", "b"),))
    site.entries += [
        replace(one, host="host-2", nonce=bytes([at]) * 32, outcomes=(outcome,)) for at, outcome in enumerate((outcome, fork))
    ]  # fmt: skip
    code, _, found = judged(leave(site, tmp_path), capsys)
    assert (code, {name for name, _ in found}) == (1, {"action-log-forked"})
    assert len(found) == 2, "that it is of another host, and that it forked there"


def test_a_token_that_another_host_got_bounds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = told()
    site.entries = [replace(one, host="host-2") if isinstance(one, AttestDecision) else one for one in site.entries]
    assert ("digest-mismatch", f"{ONE.hex()}-1.token") in judged(leave(site, tmp_path), capsys)[2]


def test_a_token_of_another_instance_bounds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site()
    site.scene.launch("one")
    site.scene.launch("two")
    site.renew("one", "two")
    site.act("one", "files/a")
    rewritten(site, 1, token=Digest.of(site.tokens[1].encode()))

    assert judged(leave(site, tmp_path), capsys)[2] == [("digest-mismatch", f"{ONE.hex()}-1.token")]


def test_a_parent_that_is_not_there_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = Site()
    site.scene.launch("one")
    site.renew("one")
    site.act("one", "files/a")
    rewritten(site, 1, parent=bytes(32))

    assert judged(leave(site, tmp_path), capsys)[2] == [("lineage-broken", f"{ONE.hex()}-1.parent")]


def test_tokens_that_are_not_at_hand_leave_it_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = told()
    arguments = leave(site, tmp_path, archive=replace(site.archive(), tokens=()))

    code, answer, found = judged(arguments, capsys)

    assert (code, answer["verdict"], found) == (3, "incomplete", [])
    assert main(arguments) == 3
    assert "token of each action" in capsys.readouterr().err


def test_actions_are_judged_under_a_trust_file_and_hosts_with_actions(tmp_path: Path) -> None:
    log = leave(told(), tmp_path)[:3]
    key = ["--log-key", str(told().log().note_key)]

    assert main([*log, *key, "--actions", str(tmp_path / "enforcer")]) == 2
    assert main([*log, "--trust", str(tmp_path / "trust"), "--host", "host-1"]) == 2


# --- the verifier's own log ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [0, 3])
def test_what_was_decided_twice_is_found(apart: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One nonce, two decisions: whether the same bytes or others."""
    site = told()
    last = site.entries[-1]
    assert isinstance(last, AttestDecision)
    site.entries.append(replace(last, decided_at=last.decided_at + apart))

    code, _, found = judged(leave(site, tmp_path), capsys)

    assert (code, found) == (1, [("log-entry-repeated", f"entry.{len(site.entries)}")])


def test_an_opening_says_whose_log_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = told()
    record = parse_record(site.logs()[TWO][0])
    assert isinstance(record, Opening)
    logs = {**site.logs(), TWO: site.logs()[ONE]}

    found = judged(leave(site, tmp_path, archive=site.archive(logs)), capsys)[2]

    assert ("action-log-altered", f"action log {TWO.hex()}, records 0 to 4") in found
    assert ("lineage-broken", f"{TWO.hex()}-0.instance") in found
    assert isinstance(parse_record(site.logs()[ONE][1]), ActionRecord)


def test_a_verb_that_decides_no_action_loads_no_policy_engine(tmp_path: Path) -> None:
    arguments = leave(told(), tmp_path)
    program = "import sys; from auditor.__main__ import main; code = main(sys.argv[1:]); sys.exit(code or 7 * ('cedarpy' in sys.modules))"

    assert subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=False).returncode == 0
    lineage = ["lineage", str(tmp_path / "enforcer")]
    assert subprocess.run([sys.executable, "-c", program, *lineage], capture_output=True, check=False).returncode == 0
    replay = ["replay", str(tmp_path / "enforcer"), "--trust", str(tmp_path / "trust")]
    assert (
        subprocess.run([sys.executable, "-c", program.replace("code or ", ""), *replay], capture_output=True, check=False).returncode == 7
    )


# --- anchors -----------------------------------------------------------------------------------------------------------


def anchored() -> Site:
    """The same, and then the late action of the first was anchored; only the second renewed since, and its quote shows that."""
    site = told()
    site.scene.anchor("one")
    site.renew("two")
    return site


def test_record_that_was_anchored_and_never_carried_is_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = anchored()
    logs = site.logs()

    assert judged(leave(site, tmp_path), capsys)[2] == []
    code, _, found = judged(leave(site, tmp_path, archive=site.archive({**logs, ONE: logs[ONE][:-2]})), capsys)
    assert (code, {one for one, _ in found}) == (1, {"anchor-inconsistent"})
    other = encode_record(replace(parse_record(logs[ONE][-2]), resource="files/z"))  # type: ignore[arg-type]
    late = [*logs[ONE][:-2], other, logs[ONE][-1]]
    assert [one for one, _ in judged(leave(site, tmp_path, archive=site.archive({**logs, ONE: late})), capsys)[2]] == [
        "anchor-inconsistent"
    ]


def test_entry_whose_anchors_do_not_lead_to_the_quoted_register_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = anchored()
    last = site.entries[-1]
    assert isinstance(last, AttestDecision)
    assert last.anchors is not None
    site.entries[-1] = replace(last, anchors=replace(last.anchors, register=bytes(32)))

    assert [code for code, _ in judged(leave(site, tmp_path), capsys)[2]] == ["anchor-register-mismatch"]


def test_host_that_enrolled_again_is_followed_anew_and_who_let_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After `verifier host replace` the register is another TPM's; only an operator makes that so."""
    site = anchored()
    left = {ONE: site.logs()[ONE], TWO: site.logs()[TWO]}
    fresh = Scene(chip=Chip(seed="another", reset_count=1), now=site.scene.now)
    admitted = OperatorAct(ENGINE_ID.digest, fresh.now, NAMESPACE, "ruth", "host-replace", fresh.host, None)
    site.entries += [admitted, replace(fresh.enrol_entry, decided_at=fresh.now)]
    site.scene = fresh
    fresh.launch("three")
    fresh.anchor()
    site.renew("three")
    arguments = leave(site, tmp_path, archive=site.archive(left))
    code = main([*arguments, "--explain"])
    text = capsys.readouterr().out
    assert (code, "2 entries of 1 hosts against the register that each quote shows" in text) == (0, True)
    named = f"host-1.anchors, enrolled again at {fresh.now - 30}, admitted by ruth"
    assert f"anchors: 1 times an operator let a host begin anew, and no quote shows what it anchored last: {named}" in text

    site.entries.remove(admitted)
    assert [code for code, _ in judged(leave(site, tmp_path, archive=site.archive(left)), capsys)[2]] == ["enrolment-unadmitted"]


def test_reset_between_anchors_is_said_and_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A host may boot; what it anchored last is the window, and the audit says where."""
    site = anchored()
    left = {ONE: site.logs()[ONE], TWO: site.logs()[TWO]}
    site.scene.reboot()
    site.scene.launch("three")
    site.scene.anchor()
    site.renew("three")
    main([*leave(site, tmp_path, archive=site.archive(left)), "--explain"])

    assert "2 entries of 1 hosts against the register that each quote shows; 1 times a TPM was reset" in capsys.readouterr().out
