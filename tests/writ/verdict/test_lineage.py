"""What led to each record: found where it must be, or named as broken."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from auditor.__main__ import main
from tests.world.scene import ENGINE_ID, NOW, Scene, permitted, sign_token, sixteen
from writ.formats.action import ActionRecord, OutcomeRecord, commit, encode_record
from writ.formats.archive import Archive, InstanceLog, encode_archive
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.tlog.merkle import leaf_hash
from writ.verdict.lineage import judge_lineage

PARENT, CHILD, OTHER = sixteen("boss"), sixteen("coder"), sixteen("other")
TOKEN = Digest.of(b"the child's token")


def record(instance: bytes, sequence: int, **changed: object) -> ActionRecord:
    made = ActionRecord(
        sequence, NOW + sequence, ENGINE_ID, instance, "spiffe://example.org/billing/agent/a", "instance.run", "agent:coder",
        commit(bytes(32), b"true"), Digest.of(b"a token"), Digest.of(b"a policy"), b"\xa0", True, (), None, "socket",
    )  # fmt: skip
    return replace(made, **changed)  # type: ignore[arg-type]  # fields of a record, by name


def name(one: ActionRecord | OutcomeRecord) -> bytes:
    return leaf_hash(encode_record(one))


FIRST = record(PARENT, 0, action="tool.call", resource="notes")
ASKED = record(PARENT, 1, parent=name(FIRST))
RAN = record(CHILD, 0, gate="instance", parent=name(ASKED), token=TOKEN)


def judged(
    parents: Sequence[ActionRecord | OutcomeRecord] = (FIRST, ASKED), child: ActionRecord = RAN,
    above: Mapping[Digest, tuple[bytes, ...]] | None = None, **more: Sequence[ActionRecord],
) -> tuple[Reason, ...]:  # fmt: skip
    logs = {PARENT: parents, CHILD: [child], **{sixteen(which): records for which, records in more.items()}}
    leaves = {instance: [encode_record(one) for one in records] for instance, records in logs.items()}
    return judge_lineage(leaves, {TOKEN: (PARENT,)} if above is None else above).reasons


def broken(reasons: tuple[Reason, ...]) -> tuple[str, str]:
    (reason,) = reasons
    assert reason.code == "lineage-broken"
    return reason.claim.rpartition("-")[2], reason.expected


def test_a_command_of_a_child_descends_from_the_permit_of_its_parent() -> None:
    assert judged() == ()
    assert judged(above={}) == (), "its token is not at hand"
    assert judged(child=replace(RAN, token=None, permit=False, reasons=(Reason("token-expired", "token", "a live token", "none"),))) == ()


REFUSED = replace(ASKED, permit=False, reasons=(Reason("policy-refused", "a", "b", "c"),))
ELSEWHERE = replace(ASKED, resource="agent:other")
LATER = replace(ASKED, decided_at=RAN.decided_at + 6)
ENDED = OutcomeRecord(1, NOW, PARENT, 0, "done", commit(bytes(32), b""))


@pytest.mark.parametrize(
    "asked, expected",
    [
        (REFUSED, "a permit"),
        (ELSEWHERE, "instance.run on agent:coder"),
        (replace(ASKED, action="instance.end"), "instance.run on agent:coder"),
        (LATER, f"one decided at {RAN.decided_at} or before"),
        (ENDED, "an action"),
    ],
    ids=["a refusal", "of another child", "of another action", "decided later", "an outcome"],
)
def test_what_led_to_nothing_led_not_to_this(asked: ActionRecord | OutcomeRecord, expected: str) -> None:
    assert broken(judged((FIRST, asked), replace(RAN, parent=name(asked)))) == ("0.parent", expected)


def test_a_parent_that_is_in_no_log_is_forged_or_kept_back() -> None:
    assert broken(judged(child=replace(RAN, parent=bytes(32)))) == ("0.parent", "a record that is at hand")
    assert broken(judged(child=replace(RAN, parent=None))) == ("0.parent", "a record of its parent's log")


def test_a_permit_of_an_instance_from_which_the_child_does_not_descend_is_none() -> None:
    others = record(OTHER, 0)
    forged = replace(RAN, parent=name(others))
    assert broken(judged(child=forged, other=[others])) == ("0.parent", PARENT.hex())
    assert broken(judged(above={TOKEN: ()})) == ("0.parent", "no parent")
    own = [record(CHILD, 0), record(CHILD, 1, gate="instance", parent=name(record(CHILD, 0)))]
    leaves = {CHILD: [encode_record(one) for one in own]}
    assert broken(judge_lineage(leaves, {}).reasons) == ("1.parent", "a record of another log")


def test_what_is_no_child_names_what_stands_before_it_in_its_own_log() -> None:
    elsewhere = record(OTHER, 0, parent=name(FIRST))
    assert broken(judged(other=[elsewhere])) == ("0.parent", "a record of its own log")
    late = [record(OTHER, 0, parent=name(record(OTHER, 1))), record(OTHER, 1)]
    assert broken(judged(other=late)) == ("0.parent", "a record before 0")


def test_a_leaf_that_is_no_record_is_malformed() -> None:
    with pytest.raises(FormatError):
        judge_lineage({PARENT: [b"rubbish"]}, {})


def without_token(child: ActionRecord, above: Mapping[Digest, tuple[bytes, ...]]) -> tuple[str, ...]:
    logs: dict[bytes, list[ActionRecord]] = {PARENT: [FIRST, ASKED], CHILD: [child]}
    return judge_lineage({instance: [encode_record(one) for one in records] for instance, records in logs.items()}, above).without_token


def test_of_which_records_the_token_is_not_at_hand_is_said() -> None:
    assert without_token(RAN, {}) == (f"{CHILD.hex()}-0",)
    assert without_token(RAN, {TOKEN: (PARENT,)}) == (), "it is at hand"
    assert without_token(replace(RAN, token=None), {}) == (), "the record names none"
    assert without_token(replace(RAN, parent=bytes(32)), {}) == (), "it is broken, whatever its token says"


def test_the_command_does_not_accept_what_it_could_not_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tuple(InstanceLog(of, tuple(map(encode_record, records))) for of, records in ((PARENT, (FIRST, ASKED)), (CHILD, (RAN,))))
    path = tmp_path / "enforcer.archive"
    path.write_bytes(encode_archive(Archive((), (), (), logs)))
    assert main(["lineage", str(path), "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["without_token"], said["reasons"], said["records"]) == ("incomplete", [f"{CHILD.hex()}-0"], [], 3)
    assert main(["lineage", str(path)]) == 3
    out, err = capsys.readouterr()
    assert (out, "none for 1 of 3 records" in err) == ("", True)

    broke = InstanceLog(OTHER, (encode_record(record(OTHER, 0, parent=bytes(32))),))
    path.write_bytes(encode_archive(Archive((), (), (), (*logs, broke))))
    assert main(["lineage", str(path), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["without_token"]) == 1
    assert main(["lineage", str(path)]) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in ("lineage-broken", "none for 1 of 4 records"))


def test_the_command_says_what_is_broken_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene()
    scene.launch("boss")
    scene.launch("coder", parent="boss")
    token = sign_token(permitted(scene.attest("coder")))
    ran = replace(RAN, token=Digest.of(token.encode()))
    for asked, status in ((ASKED, 0), (REFUSED, 1)):
        records = (FIRST, asked), (replace(ran, parent=name(asked)),)
        logs = tuple(InstanceLog(one[0].instance, tuple(map(encode_record, one))) for one in records)
        path = tmp_path / "enforcer.archive"
        path.write_bytes(encode_archive(Archive((), (token,), (), logs)))
        assert main(["lineage", str(path), "--json"]) == status
        said = json.loads(capsys.readouterr().out)
        assert (said["verdict"], said["logs"], said["records"]) == ("refused" if status else "accepted", 2, 3)
        assert [reason["expected"] for reason in said["reasons"]] == ["a permit"] * status
        assert main(["lineage", str(path)]) == status
        assert ("lineage-broken" in "".join(capsys.readouterr())) == bool(status)


def test_one_permit_of_a_parent_is_for_one_command_of_its_child() -> None:
    leaves = {PARENT: [FIRST, ASKED], CHILD: [RAN, replace(RAN, sequence=1, arguments=bytes(32))]}
    found = judge_lineage({instance: [encode_record(one) for one in records] for instance, records in leaves.items()}, {TOKEN: (PARENT,)})
    assert broken(found.reasons) == ("1.parent", "one record of a child for each of its parent's")


def test_a_record_of_another_instance_is_none_of_this_log() -> None:
    leaves = {PARENT: [FIRST, ASKED, replace(RAN, sequence=2)]}
    found = judge_lineage({instance: [encode_record(one) for one in records] for instance, records in leaves.items()}, {TOKEN: (PARENT,)})
    assert broken(found.reasons) == ("2.instance", PARENT.hex())
