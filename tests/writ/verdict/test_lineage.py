"""What led to each record: found where it must be, or named as broken."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from auditor.__main__ import main
from tests.world.scene import ENGINE_ID, NOW, Scene, permitted, sign_token, sixteen
from writ.formats.archive import Archive, InstanceLog, encode_archive
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, LogShape, Opening, OutcomeRecord, Record, commit, encode_record
from writ.formats.tlog.merkle import leaf_hash
from writ.verdict.lineage import judge_lineage

PARENT, CHILD, OTHER = sixteen("boss"), sixteen("coder"), sixteen("other")
TOKEN = Digest.of(b"the child's token")


def opening(instance: bytes) -> Opening:
    return Opening(0, NOW, instance, "spiffe://example.org/billing/agent/a", ENGINE_ID)


def record(sequence: int, **changed: object) -> ActionRecord:
    made = ActionRecord(
        sequence, NOW + sequence, 0, "instance.run", "agent:coder", commit(bytes(32), b"true"), Digest.of(b"a token"),
        Digest.of(b"a policy"), commit(bytes(32), b"\xa0"), (), None, "socket",
    )  # fmt: skip
    return replace(made, **changed)  # type: ignore[arg-type]  # fields of a record, by name


def logged(instance: bytes, records: Sequence[ActionRecord | OutcomeRecord]) -> list[bytes]:
    return [encode_record(one) for one in (opening(instance), *records)]


def name(one: ActionRecord | OutcomeRecord) -> bytes:
    return leaf_hash(encode_record(one))


FIRST = record(1, action="tool.call", resource="notes")
ASKED = record(2, parent=name(FIRST))
RAN = record(1, gate="instance", parent=name(ASKED), token=TOKEN)


def judged(
    parents: Sequence[ActionRecord | OutcomeRecord] = (FIRST, ASKED), child: ActionRecord = RAN,
    above: Mapping[Digest, tuple[bytes, ...]] | None = None, **more: Sequence[ActionRecord],
) -> tuple[Reason, ...]:  # fmt: skip
    logs = {PARENT: parents, CHILD: [child], **{sixteen(which): records for which, records in more.items()}}
    leaves = {instance: logged(instance, records) for instance, records in logs.items()}
    return judge_lineage(leaves, {TOKEN: (PARENT,)} if above is None else above).reasons


def broken(reasons: tuple[Reason, ...]) -> tuple[str, str]:
    (reason,) = reasons
    assert reason.code == "lineage-broken"
    return reason.claim.rpartition("-")[2], reason.expected


def test_a_command_of_a_child_descends_from_the_permit_of_its_parent() -> None:
    assert judged() == ()
    assert judged(above={}) == (), "its token is not at hand"
    assert judged(child=replace(RAN, token=None, reasons=(Reason("token-expired", "token", "a live token", "none"),))) == ()


REFUSED = replace(ASKED, reasons=(Reason("policy-refused", "a", "b", "c"),))
ELSEWHERE = replace(ASKED, resource="agent:other")
LATER = replace(ASKED, decided_at=RAN.decided_at + 6)
ENDED = OutcomeRecord(2, NOW, 1, "done", None, 0, commit(bytes(32), b""))


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
    assert broken(judged((FIRST, asked), replace(RAN, parent=name(asked)))) == ("1.parent", expected)


def test_a_parent_that_is_in_no_log_is_forged_or_kept_back() -> None:
    assert broken(judged(child=replace(RAN, parent=bytes(32)))) == ("1.parent", "a record that is at hand")
    assert broken(judged(child=replace(RAN, parent=None))) == ("1.parent", "a record of its parent's log")


def test_a_permit_of_an_instance_from_which_the_child_does_not_descend_is_none() -> None:
    others = record(1, decided_at=NOW)
    forged = replace(RAN, parent=name(others))
    assert broken(judged(child=forged, other=[others])) == ("1.parent", PARENT.hex())
    assert broken(judged(above={TOKEN: ()})) == ("1.parent", "no parent")
    own = [record(1), record(2, gate="instance", parent=name(record(1)))]
    leaves = {CHILD: logged(CHILD, own)}
    assert broken(judge_lineage(leaves, {}).reasons) == ("2.parent", "a record of another log")


def test_what_is_no_child_names_what_stands_before_it_in_its_own_log() -> None:
    elsewhere = record(1, parent=name(FIRST))
    assert broken(judged(other=[elsewhere])) == ("1.parent", "a record of its own log")
    late = [record(1, parent=name(record(2))), record(2)]
    assert broken(judged(other=late)) == ("1.parent", "a record before 1")


def test_a_leaf_that_is_no_record_is_malformed() -> None:
    with pytest.raises(FormatError):
        judge_lineage({PARENT: [b"rubbish"]}, {})


def without_token(child: ActionRecord, above: Mapping[Digest, tuple[bytes, ...]]) -> tuple[str, ...]:
    logs: dict[bytes, list[ActionRecord]] = {PARENT: [FIRST, ASKED], CHILD: [child]}
    return judge_lineage({instance: logged(instance, records) for instance, records in logs.items()}, above).without_token


def test_of_which_records_the_token_is_not_at_hand_is_said() -> None:
    assert without_token(RAN, {}) == (f"{CHILD.hex()}-1",)
    assert without_token(RAN, {TOKEN: (PARENT,)}) == (), "it is at hand"
    assert without_token(replace(RAN, token=None), {}) == (), "the record names none"
    assert without_token(replace(RAN, parent=bytes(32)), {}) == (), "it is broken, whatever its token says"


def test_the_command_does_not_accept_what_it_could_not_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tuple(InstanceLog(of, tuple(logged(of, records))) for of, records in ((PARENT, (FIRST, ASKED)), (CHILD, (RAN,))))
    path = tmp_path / "enforcer.archive"
    path.write_bytes(encode_archive(Archive((), (), (), logs)))
    assert main(["lineage", str(path), "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["without_token"], said["reasons"], said["records"]) == ("incomplete", [f"{CHILD.hex()}-1"], [], 5)
    assert main(["lineage", str(path)]) == 3
    out, err = capsys.readouterr()
    assert (out, "none for 1 of 5 records" in err) == ("", True)

    broke = InstanceLog(OTHER, tuple(logged(OTHER, [record(1, parent=bytes(32))])))
    path.write_bytes(encode_archive(Archive((), (), (), (*logs, broke))))
    assert main(["lineage", str(path), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["without_token"]) == 1
    assert main(["lineage", str(path)]) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in ("lineage-broken", "none for 1 of 7 records"))


def test_the_command_says_what_is_broken_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene()
    scene.launch("boss")
    scene.launch("coder", parent="boss")
    token = sign_token(permitted(scene.attest("coder")))
    ran = replace(RAN, token=Digest.of(token.encode()))
    for asked, status in ((ASKED, 0), (REFUSED, 1)):
        records = {PARENT: (FIRST, asked), CHILD: (replace(ran, parent=name(asked)),)}
        logs = tuple(InstanceLog(instance, tuple(logged(instance, one))) for instance, one in records.items())
        path = tmp_path / "enforcer.archive"
        path.write_bytes(encode_archive(Archive((), (token,), (), logs)))
        assert main(["lineage", str(path), "--json"]) == status
        said = json.loads(capsys.readouterr().out)
        assert (said["verdict"], said["logs"], said["records"]) == ("refused" if status else "accepted", 2, 5)
        assert [reason["expected"] for reason in said["reasons"]] == ["a permit"] * status
        assert main(["lineage", str(path)]) == status
        assert ("lineage-broken" in "".join(capsys.readouterr())) == bool(status)


def test_one_permit_of_a_parent_is_for_one_command_of_its_child() -> None:
    leaves = {PARENT: [FIRST, ASKED], CHILD: [RAN, replace(RAN, sequence=2, arguments=bytes(32))]}
    found = judge_lineage({instance: logged(instance, records) for instance, records in leaves.items()}, {TOKEN: (PARENT,)})
    assert broken(found.reasons) == ("2.parent", "one record of a child for each of its parent's")


def test_a_log_of_another_instance_is_none_of_this_one() -> None:
    found = judge_lineage({OTHER: logged(PARENT, [FIRST])}, {})
    assert broken(found.reasons) == ("0.instance", OTHER.hex())


OPENING, AGAIN = opening(PARENT), replace(opening(PARENT), sequence=2)
STRANGER = "spiffe://example.org/billing/agent/b"


@pytest.mark.parametrize(
    "records, field, expected, got",
    [
        # 1
        ((replace(OPENING, sequence=1),), "action log", "record 0", "record 1"),
        ((OPENING, replace(FIRST, sequence=2)), "action log", "record 1", "record 2"),
        ((OPENING, FIRST, FIRST), "action log", "record 2", "record 1"),
        # 2
        ((replace(opening(CHILD), sequence=0), FIRST, AGAIN), "action log", f"an opening of {CHILD.hex()}", PARENT.hex()),
        ((OPENING, FIRST, replace(AGAIN, agent=STRANGER)), "action log", f"an opening of {PARENT.hex()} of {OPENING.agent}", STRANGER),
        # 3
        ((OPENING, FIRST, AGAIN, record(3)), "record.opening", "2", "0"),
        ((OPENING, FIRST, AGAIN, record(3, opening=1)), "record.opening", "2", "1"),
        # 4
        ((OPENING, FIRST, ENDED, replace(ENDED, sequence=3)), "record.of", "an action without an outcome", "1"),
        ((OPENING, FIRST, ENDED, replace(ENDED, sequence=3, of=2)), "record.of", "an action without an outcome", "2"),
        ((OPENING, replace(ENDED, sequence=1, of=0)), "record.of", "an action without an outcome", "0"),
    ],
)  # fmt: skip
def test_a_log_that_is_none_is_malformed(records: Sequence[Record], field: str, expected: str, got: str) -> None:
    with pytest.raises(FormatError) as refused:
        judge_lineage({PARENT: [encode_record(one) for one in records]}, {})
    assert refused.value.what == field
    assert refused.value.expected.startswith(expected)
    assert got in refused.value.got


def test_a_log_begins_with_its_opening() -> None:
    """A leaf at 0 names no opening before it: only a shape that is told of records that nobody wrote meets one."""
    with pytest.raises(FormatError, match="an opening first"):
        LogShape().add(replace(FIRST, sequence=0))


def test_an_opening_goes_on_where_another_engine_does_and_actions_may_end_after_it() -> None:
    leaves = [encode_record(one) for one in (OPENING, FIRST, AGAIN, replace(ENDED, sequence=3), record(4, opening=2))]
    assert judge_lineage({PARENT: leaves}, {}).reasons == ()
