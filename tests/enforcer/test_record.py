"""The action log: nothing acknowledged is lost, nothing altered is opened."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from enforcer.content_keys import KEY_FILE
from enforcer.record import LOG_FILE, ActionLog, LogReader, erase
from tests.world.attestor import ENGINE
from writ.formats.action import Action, encode_context
from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason
from writ.formats.record import ActionDraft, ActionRecord, Opening, OutcomeDraft, OutcomeRecord, commit, parse_record
from writ.formats.spiffe import AgentId
from writ.formats.tlog import merkle

INSTANCE = bytes(range(16))


AGENT = AgentId("d", "n", "a")
CONTEXT = encode_context({"now": 1})


def action(resource: str = "mcp:notes/read") -> ActionDraft:
    reasons = (Reason("hold", "token", "a token", "none"),)
    return ActionDraft(1, Action("tool.call", resource, Digest.of(b"")), None, None, CONTEXT, reasons, None, "socket")


def opened(folder: Path, engine: EngineId = ENGINE) -> ActionLog:
    return ActionLog(folder, INSTANCE, AGENT, engine, 1)


def filled(folder: Path, count: int = 5) -> tuple[int, bytes]:
    log = opened(folder)
    for number in range(count):
        log.append(action(), b"argument %d" % number)
    checkpoint = log.checkpoint()
    log.close()
    return checkpoint.size, checkpoint.root


def test_log_continues_where_it_stood(tmp_path: Path) -> None:
    size, root = filled(tmp_path, 5)
    log = opened(tmp_path)
    assert (log.checkpoint().size, log.checkpoint().root) == (size, root)
    for _ in range(4):
        log.append(action(), b"")
    proof, now = log.consistency(6, 10), log.checkpoint()
    log.close()

    assert merkle.verify_consistency(6, root, now.size, now.root, proof)


def test_many_threads_get_records_in_one_order(tmp_path: Path) -> None:
    log = opened(tmp_path)
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.extend(log.append(action(), b"x").sequence for _ in range(20))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()

    assert sorted(seen) == list(range(1, 161))
    assert LogReader(tmp_path, INSTANCE).checkpoint.size == 161


def test_log_is_whole_to_a_reader_while_it_is_written(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append(action(), b"")
    writer = threading.Thread(target=lambda: [log.append(action(), b"") for _ in range(200)])
    writer.start()
    sizes = []
    while writer.is_alive():
        sizes.append(LogReader(tmp_path, INSTANCE).checkpoint.size)
    writer.join()
    log.close()

    assert sizes == sorted(sizes)
    assert sizes[0] >= 1


def test_every_record_is_proven_to_be_in_the_log(tmp_path: Path) -> None:
    size, root = filled(tmp_path, 7)
    reader = LogReader(tmp_path, INSTANCE)
    for index in range(size):
        proof = reader.inclusion(index)
        assert merkle.verify_inclusion(merkle.leaf_hash(proof.leaf), index, size, proof.proof, root)
    with pytest.raises(FormatError):
        reader.inclusion(size)


def test_content_opens_its_commitment_until_it_is_erased(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    reader = LogReader(tmp_path, INSTANCE)
    entry = reader.entries()[2]
    record, hidden = entry.record, entry.hidden
    assert isinstance(record, ActionRecord)
    assert hidden is not None
    assert (hidden.content, hidden.context) == (b"argument 1", CONTEXT)
    assert commit(hidden.salt, hidden.content) == record.arguments
    assert commit(hidden.context_salt or b"", CONTEXT) == record.context
    assert hidden.salt != hidden.context_salt, "who is shown one is not shown the other"
    assert len({one.hidden.salt for one in reader.entries() if one.hidden is not None}) == 3
    raw = b"".join((tmp_path / name).read_bytes() for name in os.listdir(tmp_path) if name.startswith(LOG_FILE))
    assert b"argument 1" not in raw

    assert erase(tmp_path)
    after = LogReader(tmp_path, INSTANCE)
    assert [(entry.hidden, entry.content, entry.context) for entry in after.entries()] == [(None, None, None)] * 4
    assert after.checkpoint == reader.checkpoint
    assert not erase(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE records SET leaf = (SELECT leaf FROM records WHERE sequence = 1) WHERE sequence = 2",
        "DELETE FROM records WHERE sequence = 5",
        "DELETE FROM records WHERE sequence = 2",
        "DELETE FROM commits WHERE size = 6",
        "UPDATE commits SET root = zeroblob(32) WHERE size = 3",
        "INSERT INTO commits VALUES (9, zeroblob(32))",
        "UPDATE records SET leaf = x'00' WHERE sequence = 0",
        "DELETE FROM records WHERE sequence = 0",
    ],
)
def test_altered_log_is_not_opened(tmp_path: Path, damage: str) -> None:
    filled(tmp_path, 5)
    db = sqlite3.connect(tmp_path / LOG_FILE)
    with db:
        assert db.execute(damage).rowcount == 1
    db.close()

    for _ in range(2):  # and what was refused holds no lock
        with pytest.raises(FormatError):
            opened(tmp_path)
    with pytest.raises(FormatError):
        LogReader(tmp_path, INSTANCE)


def test_a_changed_argument_in_a_leaf_is_found(tmp_path: Path) -> None:
    filled(tmp_path, 5)
    db = sqlite3.connect(tmp_path / LOG_FILE)
    leaf = bytearray(db.execute("SELECT leaf FROM records WHERE sequence = 3").fetchone()[0])
    at = leaf.index(b"notes")
    leaf[at] ^= 1
    with db:
        db.execute("UPDATE records SET leaf = ? WHERE sequence = 3", (bytes(leaf),))
    db.close()

    with pytest.raises(FormatError, match="root"):
        opened(tmp_path)


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.enforcer.test_record import action, opened
log = opened(Path(sys.argv[1]))
while True:
    print(log.append(action(), b"x" * 3000).sequence, flush=True)
"""


@pytest.mark.parametrize("wait", [1, 7, 30])
def test_killed_in_the_middle_of_a_record_loses_none_that_was_acknowledged(tmp_path: Path, wait: int) -> None:
    root = Path(__file__).parents[2]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(root)], stdout=subprocess.PIPE, cwd=root)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(wait)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()

    log = opened(tmp_path)
    assert log.checkpoint().size > acknowledged[-1]
    log.append(action(), b"")
    log.close()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_torn_tail_leaves_a_whole_prefix(tmp_path: Path, kept: float) -> None:
    """The write-ahead file is cut as a crash of the machine may cut what was not yet synced."""
    whole = tmp_path / "whole"
    whole.mkdir()
    log = opened(whole)
    for number in range(20):
        log.append(action(), b"argument %d" % number)
    torn = tmp_path / "torn"
    torn.mkdir()
    for name in (LOG_FILE, KEY_FILE, "n.key", f"{LOG_FILE}-wal"):
        data = (whole / name).read_bytes()
        (torn / name).write_bytes(data[: int(len(data) * kept)] if name.endswith("-wal") else data)
    full = list(log._leaves)  # noqa: SLF001 - what the whole log held
    log.close()

    again = opened(torn)
    size = again.checkpoint().size
    assert size <= 21
    assert again.checkpoint().root == merkle.root(full[:size])
    again.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    log = opened(tmp_path)
    with pytest.raises(Unavailable, match="another process"):
        opened(tmp_path)
    log.close()


def test_after_a_failed_write_no_record_is_accepted(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append(action(), b"")
    other = sqlite3.connect(tmp_path / LOG_FILE)
    other.execute("DROP TABLE commits")
    other.commit()
    other.close()
    with pytest.raises(Unavailable):
        log.append(action(), b"")
    with pytest.raises(Unavailable):
        log.append(action(), b"")
    assert log.broken is not None
    assert log.checkpoint().size == 2
    log.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_bytes(b"not a database at all, but long enough to be looked at" * 30)
    with pytest.raises(Unavailable):
        opened(tmp_path)


def test_outcomes_stand_beside_actions(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append(action(), b"in")
    log.append(OutcomeDraft(2, 1, True, 200), b"out")
    log.close()

    _, first, second = LogReader(tmp_path, INSTANCE).entries()
    assert (first.content, second.content) == (b"in", b"out")
    assert isinstance(second.record, OutcomeRecord)
    assert (second.record.of, second.record.status, second.record.size) == (1, 200, 3)


def test_opening_says_who_decides_and_comes_before_what_another_engine_decided(tmp_path: Path) -> None:
    later = EngineId(ENGINE.number, Digest.of(b"other code"), ENGINE.libraries)
    for engine in (ENGINE, ENGINE, later, ENGINE):
        log = opened(tmp_path, engine)
        before = log.checkpoint().size
        log.append(action(), b"")
        assert log.checkpoint().size >= before + 1
        log.close()
    silent = opened(tmp_path, later)
    silent.close()

    entries = LogReader(tmp_path, INSTANCE).entries()
    assert [type(entry.record) for entry in entries] == [Opening, ActionRecord, ActionRecord, Opening, ActionRecord, Opening, ActionRecord]
    assert [entry.opening.engine for entry in entries if isinstance(entry.record, ActionRecord)] == [ENGINE, ENGINE, later, ENGINE]
    assert {(entry.opening.instance, entry.opening.agent) for entry in entries} == {(INSTANCE, str(AGENT))}


def test_log_of_another_instance_or_agent_is_not_opened(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    with pytest.raises(FormatError, match="of instance"):
        ActionLog(tmp_path, bytes(16), AGENT, ENGINE, 1)
    with pytest.raises(FormatError, match="one of spiffe://d/n/agent/b"):
        ActionLog(tmp_path, INSTANCE, AgentId("d", "n", "b"), ENGINE, 1)
    with pytest.raises(FormatError, match="of instance"):
        LogReader(tmp_path, bytes(16))


def test_record_of_an_ordinary_action_with_its_outcome_takes_at_most_300_bytes_and_leaf_hashes(tmp_path: Path) -> None:
    """What docs/formats.md says of them: the action at most 300 bytes, whatever its trace, and the outcome 60."""
    log = opened(tmp_path)
    asked = Action("http.post", "https://api.example.com:443/v1/reports", Digest.of(b"{}"))
    digests = Digest.of(b"a token"), Digest.of(b"a policy")
    log.append(ActionDraft(1_796_000_000, asked, *digests, CONTEXT, (), bytes(32), "egress", bytes(25)), b"{}")
    log.append(OutcomeDraft(1_796_000_000, 1, True, 200), bytes(100_000))
    log.close()

    _, act, outcome = LogReader(tmp_path, INSTANCE).entries()
    assert (len(act.leaf) <= 300, len(outcome.leaf) <= 60) == (True, True), (len(act.leaf), len(outcome.leaf))


def test_a_log_that_is_written_is_not_erased(tmp_path: Path) -> None:
    """What came after would be unreadable too, without anybody having asked for that."""
    log = opened(tmp_path)
    log.append(action(), b"before")
    with pytest.raises(Unavailable, match="another process writes it"):
        erase(tmp_path)
    log.append(action(), b"after")
    log.close()
    assert [entry.content for entry in LogReader(tmp_path, INSTANCE).entries()] == [None, b"before", b"after"]
    assert erase(tmp_path)


def test_a_process_that_ended_while_it_made_the_content_key_left_none(tmp_path: Path) -> None:
    (tmp_path / f".{KEY_FILE}.{os.getpid()}").write_bytes(b"")
    filled(tmp_path, 1)
    assert len((tmp_path / KEY_FILE).read_bytes()) == 12 + 32 + 16


# --- what the reader would refuse, the writer does not write --------------------------------------------------------------


def refused(expected: str) -> Reason:
    return Reason("hold", "token", expected, "none")


HOSTILE: dict[str, ActionDraft | OutcomeDraft] = {
    "65 reasons": replace(action(), reasons=(refused("x"),) * 65),
    "a reason too long": replace(action(), reasons=(refused("x" * 1025),)),
    "a control character": replace(action(), reasons=(refused("a\x1bb"),)),
    "half a character": replace(action(), reasons=(refused("\ud800"),)),
    "a record too long": replace(action(), reasons=(refused("\U0001f600" * 1024),) * 60),
    "a gate of another spelling": replace(action(), gate="Socket"),
    "a gate of nothing": replace(action(), gate=""),
    "a parent too short": replace(action(), parent=b"x"),
    "a trace too long": replace(action(), trace=bytes(26)),
    "a time before all": replace(action(), decided_at=-1),
    "a time behind all": replace(action(), decided_at=1 << 63),
    "a digest of another kind": replace(action(), token=Digest("sha384", bytes(48))),
    "a context too long": replace(action(), context=bytes(16_385)),
    "an outcome of the opening": OutcomeDraft(1, 0, True),
    "an outcome of an outcome": OutcomeDraft(1, 2, True),
    "a second outcome": OutcomeDraft(1, 1, True),
    "an outcome of what is to come": OutcomeDraft(1, 9, True),
    "a status beyond 32 bits": OutcomeDraft(1, 3, True, 1 << 31),
    "a status that is a flag": OutcomeDraft(1, 3, True, True),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_reader_takes_is_not_written(tmp_path: Path, name: str) -> None:
    log = opened(tmp_path)
    first = log.append(action(), b"")
    log.append(OutcomeDraft(1, first.sequence, True), b"")
    third = log.append(action(), b"")
    before = log.checkpoint()
    with pytest.raises(Unavailable):
        log.append(HOSTILE[name], b"")
    assert (log.checkpoint(), log.broken) == (before, None)
    log.append(OutcomeDraft(1, third.sequence, False), b"")
    log.close()
    assert len(LogReader(tmp_path, INSTANCE).entries()) == 5
    opened(tmp_path).close()


def test_of_two_outcomes_at_once_one_is_written(tmp_path: Path) -> None:
    """Also where both are of one batch, and after the log was opened anew."""
    log = opened(tmp_path)
    acted = [log.append(action(), b"").sequence for _ in range(40)]
    done: list[int] = []

    def finish() -> None:
        for at in acted:
            with contextlib.suppress(Unavailable):
                done.append(log.append(OutcomeDraft(1, at, True), b"").sequence)

    threads = [threading.Thread(target=finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(done) == 40
    assert len(LogReader(tmp_path, INSTANCE).entries()) == 81
    log = opened(tmp_path)
    with pytest.raises(Unavailable, match="without an outcome"):
        log.append(OutcomeDraft(1, acted[0], True), b"")
    log.close()


def test_writer_and_reader_agree_about_any_draft() -> None:
    """Of each hostile draft by itself: `check` takes it exactly where `parse_record` takes its leaf, but for its length and its place."""
    texts = ["", "x", "x" * 1024, "x" * 1025, "\x7f", "\x00", "\u0085", "\u2028", "é", "\U0001f600", "a\nb"]
    drafts = [replace(action(), reasons=(refused(text),)) for text in texts]
    drafts += [replace(action(), gate=text) for text in (*texts, "a-b", "-a", "a" * 63, "a" * 64, "ä")]
    drafts += [replace(action(), parent=bytes(size)) for size in (0, 31, 32, 33)]
    drafts += [replace(action(), trace=bytes(size)) for size in (0, 24, 25, 26)]
    drafts += [replace(action(), decided_at=at) for at in (-1, 0, (1 << 63) - 1, 1 << 63)]
    drafts += [replace(action(), reasons=(refused("x"),) * count) for count in (0, 64, 65)]
    outcomes = [OutcomeDraft(1, 3, True, status) for status in (None, 0, 200, -32_700, (1 << 31) - 1, 1 << 31, -(1 << 31), True, "200")]  # type: ignore[arg-type]
    leaves: list[tuple[ActionDraft | OutcomeDraft, bytes]] = [(draft, draft.leaf(4, 0, bytes(32), bytes(32))) for draft in drafts]
    leaves += [(outcome, outcome.leaf(4, 0, bytes(32))) for outcome in outcomes]
    for draft, leaf in leaves:
        assert accepts(draft.check) is accepts(partial(parse_record, leaf)), draft


def accepts(what: Callable[[], object]) -> bool:
    try:
        what()
    except FormatError:
        return False
    return True
