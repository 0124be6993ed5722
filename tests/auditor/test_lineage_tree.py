"""`auditor lineage ID`: what led to an action and what followed from it, over agents and hosts, with its gaps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auditor.__main__ import main
from tests.world.scene import ENGINE_ID, NOW, Scene, permitted, sign_token, sixteen
from writ.formats.archive import Archive, InstanceLog, encode_archive
from writ.formats.digest import Digest
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, commit, encode_record
from writ.formats.tlog.merkle import leaf_hash

BOSS, CODER, ELSE = sixteen("boss"), sixteen("coder"), sixteen("elsewhere")
TRACE = bytes(range(16)) + bytes(9)


def made(sequence: int, **changed: object) -> ActionRecord:
    one = ActionRecord(
        sequence, NOW + sequence, 0, "tool.call", f"notes/{sequence}", commit(bytes(32), b""), None, None, commit(bytes(32), b"\xa0"), (),
        None, "socket",
    )  # fmt: skip
    return replace(one, **changed)  # type: ignore[arg-type]


def leaf(one: ActionRecord) -> bytes:
    return leaf_hash(encode_record(one))


READ = made(1, trace=TRACE)
ASKED = made(2, parent=leaf(READ), action="instance.run", resource="agent:coder")
WROTE = made(3, parent=leaf(READ))
RAN = made(1, parent=leaf(ASKED), action="instance.run", resource="agent:coder", gate="instance")
CALLED = made(2, parent=leaf(RAN))
ALONE = made(1, trace=TRACE)
OTHER = made(2)


def log(instance: bytes, *records: ActionRecord | OutcomeRecord) -> InstanceLog:
    opening = Opening(0, NOW, instance, f"spiffe://example.org/billing/agent/{'coder' if instance == CODER else 'boss'}", ENGINE_ID)
    return InstanceLog(instance, tuple(encode_record(one) for one in (opening, *records)))


LOGS = (
    log(BOSS, READ, ASKED, WROTE, OutcomeRecord(4, NOW + 5, 2, "done", 0, 3, bytes(32))),
    log(CODER, RAN, CALLED),
    log(ELSE, ALONE, OTHER),
)


def shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str, logs: tuple[InstanceLog, ...] = LOGS, tokens: tuple[str, ...] = ()
) -> tuple[int, dict[str, Any]]:
    names = []
    for at, one in enumerate(logs):
        (tmp_path / str(at)).write_bytes(encode_archive(Archive((), tokens, (), (one,))))
        names.append(str(tmp_path / str(at)))
    capsys.readouterr()
    code = main(["lineage", asked, *names, "--json"])
    return code, json.loads(capsys.readouterr().out)


def rows(answer: dict[str, Any]) -> list[tuple[int, str, bool]]:
    return [(one["depth"], one["id"], one["asked"]) for one in answer["tree"]]


LINE = [(0, f"{BOSS.hex()}-1", False), (1, f"{BOSS.hex()}-2", False), (2, f"{CODER.hex()}-1", True), (3, f"{CODER.hex()}-2", False)]


@pytest.mark.parametrize("asked", [f"{CODER.hex()}-1", leaf(RAN).hex(), f"sha256:{leaf(RAN).hex()}"])
def test_a_tree_has_what_led_to_an_action_and_what_followed_from_it(asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = shown(tmp_path, capsys, asked)
    assert (code, answer["verdict"]) == (0, "accepted")
    assert rows(answer) == LINE, "but not what followed from its ancestors beside it"
    assert [one["agent"].rpartition("/")[2] for one in answer["tree"]] == ["boss", "boss", "coder", "coder"]
    assert [one["outcome"] for one in answer["tree"]] == [None, "done", None, None]


def test_of_the_first_action_everything_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = shown(tmp_path, capsys, f"{BOSS.hex()}-1")
    assert code == 0
    assert [one[:2] for one in rows(answer)] == [*(one[:2] for one in LINE), (1, f"{BOSS.hex()}-3")]
    assert [one["id"] for one in answer["same_trace"]] == [f"{ELSE.hex()}-1"], "it says so itself, and stands apart"


def test_a_trace_and_an_instance_are_names_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, answer = shown(tmp_path, capsys, TRACE[:16].hex())
    assert {one for _, one, asked in rows(answer) if asked} == {f"{BOSS.hex()}-1", f"{ELSE.hex()}-1"}
    assert answer["same_trace"] == []
    _, answer = shown(tmp_path, capsys, ELSE.hex())
    assert {one for _, one, asked in rows(answer) if asked} == {f"{ELSE.hex()}-1", f"{ELSE.hex()}-2"}


def test_a_token_names_what_was_done_under_it_and_its_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene()
    scene.launch("one")
    claims = permitted(scene.attest("one"))
    token = sign_token(claims)
    digest = Digest.of(token.encode())
    logs = (log(ELSE, replace(OTHER, sequence=1, token=digest), made(2)),)
    code, answer = shown(tmp_path, capsys, str(digest), logs, (token,))
    assert code == 0
    assert [(one["id"], one["host"]) for one in answer["tree"]] == [(f"{ELSE.hex()}-1", "host-1")]


def test_what_is_not_at_hand_is_a_gap_and_not_the_beginning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = shown(tmp_path, capsys, f"{CODER.hex()}-2", (LOGS[1],))
    assert (code, answer["verdict"]) == (3, "incomplete")
    assert [(one["id"], one["not_at_hand"], one["parent"]) for one in answer["tree"]] == [
        (f"{CODER.hex()}-1", True, leaf(ASKED).hex()),
        (f"{CODER.hex()}-2", False, leaf(RAN).hex()),
    ]
    assert main(["lineage", f"{CODER.hex()}-2", str(tmp_path / "0")]) == 3
    text = capsys.readouterr()
    assert text.out.startswith(f"? not at hand: {leaf(ASKED).hex()}\n")
    called = "spiffe://example.org/billing/agent/coder: tool.call on notes/2 permitted, outcome unknown"
    assert f">   2026-09-21T14:13:22Z {called}  {CODER.hex()}-2" in text.out
    assert "Give those of its parent's host" in text.err


def test_a_link_that_is_not_what_it_says_is_a_finding_in_its_tree_and_in_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(RAN, resource="agent:other")
    logs = (LOGS[0], log(CODER, other), LOGS[2])
    code, answer = shown(tmp_path, capsys, f"{CODER.hex()}-1", logs)
    assert (code, [one["claim"] for one in answer["reasons"]]) == (1, [f"{CODER.hex()}-1.parent"])
    assert shown(tmp_path, capsys, f"{ELSE.hex()}-2", logs)[0] == 0
    assert main(["lineage", f"{CODER.hex()}-1", *(str(tmp_path / str(at)) for at in range(3))]) == 1


def test_a_log_that_is_none_shows_no_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = InstanceLog(BOSS, LOGS[0].leaves[:1] + LOGS[0].leaves[2:])
    (tmp_path / "a").write_bytes(encode_archive(Archive((), (), (), (broken,))))
    assert main(["lineage", f"{BOSS.hex()}-2", str(tmp_path / "a")]) == 1
    assert "action-log-removed" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [f"{BOSS.hex()}-99", f"{BOSS.hex()}-0", "ab" * 32, "ab" * 16])
def test_what_nothing_is_named_by_is_could_not(asked: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(encode_archive(Archive((), (), (), LOGS[:1])))
    assert main(["lineage", asked, str(tmp_path / "a")]) == 3


def test_an_id_takes_archives() -> None:
    assert main(["lineage", f"{BOSS.hex()}-1"]) == 2
