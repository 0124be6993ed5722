"""The action log: nothing acknowledged is lost, nothing altered is opened."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from enforcer.record import KEY_FILE, LOG_FILE, ActionLog, LogReader, Make, erase
from tests.world.attestor import ENGINE
from writ.formats.action import ActionRecord, OutcomeRecord, commit, parse_record
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.reason import Reason
from writ.formats.tlog import merkle

INSTANCE = bytes(range(16))


def action(resource: str = "mcp:notes/read", instance: bytes = INSTANCE) -> Make:
    def make(sequence: int, commitment: bytes) -> ActionRecord:
        reasons = (Reason("hold", "token", "a token", "none"),)
        return ActionRecord(
            sequence,
            1,
            ENGINE,
            instance,
            "spiffe://d/n/agent/a",
            "tool.call",
            resource,
            commitment,
            None,
            None,
            b"\xa0",
            False,
            reasons,
            None,
            "socket",
        )

    return make


def filled(folder: Path, count: int = 5) -> tuple[int, bytes]:
    log = ActionLog(folder, INSTANCE)
    for number in range(count):
        log.append(action(), b"argument %d" % number)
    checkpoint = log.checkpoint()
    log.close()
    return checkpoint.size, checkpoint.root


def test_log_continues_where_it_stood(tmp_path: Path) -> None:
    size, root = filled(tmp_path, 5)
    log = ActionLog(tmp_path, INSTANCE)
    assert (log.checkpoint().size, log.checkpoint().root) == (size, root)
    for _ in range(4):
        log.append(action(), b"")
    proof, now = log.consistency(5, 9), log.checkpoint()
    log.close()

    assert merkle.verify_consistency(5, root, now.size, now.root, proof)


def test_many_threads_get_records_in_one_order(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, INSTANCE)
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(log.append(action(), b"x").record.sequence for _ in range(20))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()

    assert sorted(seen) == list(range(160))
    assert LogReader(tmp_path, INSTANCE).checkpoint.size == 160


def test_log_is_whole_to_a_reader_while_it_is_written(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, INSTANCE)
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
    record, opened = parse_record(reader.inclusion(1).leaf), reader.salted(1)
    assert isinstance(record, ActionRecord)
    assert opened is not None
    assert commit(*opened) == record.arguments
    assert opened[1] == b"argument 1"
    raw = b"".join((tmp_path / name).read_bytes() for name in os.listdir(tmp_path) if name.startswith(LOG_FILE))
    assert b"argument 1" not in raw

    assert erase(tmp_path)
    after = LogReader(tmp_path, INSTANCE)
    assert after.salted(1) is None
    assert [entry.content for entry in after.entries()] == [None] * 3
    assert after.checkpoint == reader.checkpoint
    assert not erase(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE records SET leaf = (SELECT leaf FROM records WHERE sequence = 1) WHERE sequence = 2",
        "DELETE FROM records WHERE sequence = 4",
        "DELETE FROM records WHERE sequence = 2",
        "DELETE FROM commits WHERE size = 5",
        "UPDATE commits SET root = zeroblob(32) WHERE size = 3",
        "INSERT INTO commits VALUES (9, zeroblob(32))",
        "UPDATE records SET leaf = x'00' WHERE sequence = 0",
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
            ActionLog(tmp_path, INSTANCE)
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
        ActionLog(tmp_path, INSTANCE)


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from enforcer.record import ActionLog
from tests.enforcer.test_record import INSTANCE, action
log = ActionLog(Path(sys.argv[1]), INSTANCE)
while True:
    print(log.append(action(), b"x" * 3000).record.sequence, flush=True)
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

    log = ActionLog(tmp_path, INSTANCE)
    assert log.checkpoint().size > acknowledged[-1]
    log.append(action(), b"")
    log.close()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_torn_tail_leaves_a_whole_prefix(tmp_path: Path, kept: float) -> None:
    """The write-ahead file is cut as a crash of the machine may cut what was not yet synced."""
    whole = tmp_path / "whole"
    whole.mkdir()
    log = ActionLog(whole, INSTANCE)
    for number in range(20):
        log.append(action(), b"argument %d" % number)
    torn = tmp_path / "torn"
    torn.mkdir()
    for name in (LOG_FILE, KEY_FILE, f"{LOG_FILE}-wal"):
        data = (whole / name).read_bytes()
        (torn / name).write_bytes(data[: int(len(data) * kept)] if name.endswith("-wal") else data)
    full = list(log._leaves)  # noqa: SLF001 - what the whole log held
    log.close()

    again = ActionLog(torn, INSTANCE)
    size = again.checkpoint().size
    assert size <= 20
    assert again.checkpoint().root == merkle.root(full[:size])
    again.close()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, INSTANCE)
    with pytest.raises(Unavailable, match="another process"):
        ActionLog(tmp_path, INSTANCE)
    log.close()


def test_after_a_failed_write_no_record_is_accepted(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, INSTANCE)
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
    assert log.checkpoint().size == 1
    log.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_bytes(b"not a database at all, but long enough to be looked at" * 30)
    with pytest.raises(Unavailable):
        ActionLog(tmp_path, INSTANCE)


def test_outcomes_stand_beside_actions(tmp_path: Path) -> None:
    log = ActionLog(tmp_path, INSTANCE)
    log.append(action(), b"in")
    log.append(lambda sequence, commitment: OutcomeRecord(sequence, 2, INSTANCE, 0, "done", commitment), b"out")
    log.close()

    first, second = LogReader(tmp_path, INSTANCE).entries()
    assert (first.content, second.content) == (b"in", b"out")
    assert isinstance(second.record, OutcomeRecord)
    assert Digest.of(first.leaf) != Digest.of(second.leaf)
