"""The ledgers: SQLite and memory under one suite, and what only a file can show."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.verifier.ledger_suite import Desk, LedgerSuite
from tests.world.ledger import MemoryLedger
from verifier.ledger import Change, Ledger
from verifier.ledger.schema import EntryRow, HostRow, NonceRow
from verifier.ledger.sequencer import SqliteLedger
from verifier.ledger.sqlite import SqliteTables, connect
from writ.formats.errors import Unavailable


def handles(path: Path) -> int:
    """How many descriptors of this process are of the file."""
    return [link.resolve() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()].count(path.resolve())


class TestMemoryLedger(LedgerSuite):
    @pytest.fixture
    def ledger(self) -> Ledger:
        return MemoryLedger()


class TestSqliteLedger(LedgerSuite):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Iterator[Ledger]:
        made = SqliteLedger(tmp_path / "ledger.sqlite")
        yield made
        made.close()

    def test_everything_is_there_after_reopening(self, tmp_path: Path) -> None:
        path = tmp_path / "again.sqlite"
        first = SqliteLedger(path)
        desk = Desk(first).ready()
        first.commit(desk.attested(1, 2))
        before = (first.read().select(EntryRow), first.read().select(HostRow), first.read().select(NonceRow))
        first.close()
        second = SqliteLedger(path)
        after = (second.read().select(EntryRow), second.read().select(HostRow), second.read().select(NonceRow))
        second.close()
        assert after == before

    def test_the_log_is_append_only_in_the_file_itself(self, tmp_path: Path) -> None:
        path = tmp_path / "log.sqlite"
        made = SqliteLedger(path)
        Desk(made).ready()
        made.close()
        connection = sqlite3.connect(path)
        for statement in ("UPDATE entry SET entry = x'00'", "DELETE FROM entry"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
        connection.close()

    def test_connection_of_a_thread_that_ended_serves_the_next(self, tmp_path: Path) -> None:
        made = SqliteLedger(tmp_path / "threads.sqlite")
        Desk(made).ready()
        read: list[int] = []
        for _ in range(8):
            thread = threading.Thread(target=lambda: read.append(len(made.read().select(HostRow))))
            thread.start()
            thread.join()
        held = handles(tmp_path / "threads.sqlite")
        made.close()
        assert len(set(read)) == 1
        assert held <= 3  # the writer's, this thread's, that of the eight

    def test_ledger_that_is_held_is_refused_until_it_is_closed(self, tmp_path: Path) -> None:
        first = SqliteLedger(tmp_path / "one.sqlite")
        with pytest.raises(Unavailable, match="holds it"):
            SqliteLedger(tmp_path / "one.sqlite")
        first.close()
        SqliteLedger(tmp_path / "one.sqlite").close()

    def test_an_entry_is_found_without_reading_the_log(self, tmp_path: Path) -> None:
        asked: list[str] = []
        reader = connect(tmp_path / "plan.sqlite")
        reader.set_trace_callback(asked.append)
        SqliteTables(reader).entries("ab" * 32, most=1)
        reader.set_trace_callback(None)
        plan = " ".join(str(row[3]) for row in reader.execute(f"EXPLAIN QUERY PLAN {asked[-1]}"))
        reader.close()
        assert "USING INDEX entry_leaf" in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan

    def test_commits_reach_the_disk(self, tmp_path: Path) -> None:
        writer = connect(tmp_path / "sync.sqlite")
        assert writer.execute("PRAGMA synchronous").fetchone()[0] == 2
        assert writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        writer.close()

    def test_the_file_is_its_owners_alone(self, tmp_path: Path) -> None:
        old = os.umask(0)
        try:
            SqliteLedger(tmp_path / "mode.sqlite").close()
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "mode.sqlite").stat().st_mode) == 0o600

    def test_a_file_that_is_no_ledger_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.sqlite").write_bytes(b"not a database" * 100)
        with pytest.raises(Unavailable) as caught:
            SqliteLedger(tmp_path / "x.sqlite")
        assert handles(tmp_path / "x.sqlite") == 0, f"still open after: {caught.value}"

    def test_a_later_schema_is_refused(self, tmp_path: Path) -> None:
        SqliteLedger(tmp_path / "later.sqlite").close()
        connection = sqlite3.connect(tmp_path / "later.sqlite")
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(Unavailable, match="99") as caught:
            SqliteLedger(tmp_path / "later.sqlite")
        assert handles(tmp_path / "later.sqlite") == 0, f"still open after: {caught.value}"

    def test_a_commit_after_the_end_is_unavailable(self, tmp_path: Path) -> None:
        made = SqliteLedger(tmp_path / "end.sqlite")
        desk = Desk(made).ready()
        change: Change = desk.attested(1, 2)
        made.close()
        with pytest.raises(Unavailable):
            made.commit(change)

    def test_a_failed_commit_leaves_nothing_says_so_and_ends_the_writer(self, tmp_path: Path) -> None:
        writer, told = connect(tmp_path / "full.sqlite"), []
        made = SqliteLedger(tmp_path / "full.sqlite", writer)
        made.when_ended(lambda: told.append("ended"))
        desk = Desk(made).ready()
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        before = made.read().select(NonceRow)
        change = desk.attested(1, 2)
        with pytest.raises(Unavailable, match="not known"):
            made.commit(replace(change, blobs=(bytes(1 << 20),)))
        assert made.read().select(NonceRow) == before
        writer.execute("PRAGMA max_page_count = 1073741823")
        with pytest.raises(Unavailable, match="SQLITE_FULL"):
            made.commit(change)
        with pytest.raises(Unavailable, match="SQLITE_FULL"):
            made.demand()
        assert told == ["ended"]
        made.close()
        again = SqliteLedger(tmp_path / "full.sqlite")
        assert again.commit(change).entry is not None
        again.close()

    def test_a_fault_in_a_change_ends_no_writer(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        """Code of ours that errs before anything is written to the disk is a fault of that group, and of no other."""
        desk = Desk(ledger).ready()
        with monkeypatch.context() as patch:
            patch.setattr("verifier.ledger.sequencer.apply", lambda *_: next(iter(())))
            with pytest.raises(Unavailable, match="not known"):
                ledger.commit(desk.attested(1, 2))
        assert ledger.commit(desk.attested(1, 2)).entry is not None

    def test_a_lock_that_somebody_else_has_ends_no_writer(self, tmp_path: Path) -> None:
        writer = connect(tmp_path / "busy.sqlite")
        made = SqliteLedger(tmp_path / "busy.sqlite", writer)
        writer.execute("PRAGMA busy_timeout = 1")
        desk = Desk(made).ready()
        other = connect(tmp_path / "busy.sqlite")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="not known"):
            made.commit(desk.attested(1, 2))
        other.execute("ROLLBACK")
        other.close()
        assert made.commit(desk.attested(1, 2)).entry is not None
        made.close()
