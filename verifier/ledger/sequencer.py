"""The one writer: changes queue up, and one thread commits them in groups, each whole or not at all.

A change waits at most `LINGER` for others to share its fsync. A change that
is refused is rolled back alone, to its savepoint; if the group itself cannot
be made durable, no caller of it is answered.

A write or a sync that failed ends the writer: what was written may be on the
disk or not, and only a start, which reads and syncs everything, finds out.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from pathlib import Path
from typing import Final

from verifier.ledger import Applied, Change, Committed, ContentErased, Tables
from verifier.ledger.sqlite import SqliteTables, connect, hold
from verifier.ledger.transaction import apply, entered
from verifier.ledger.translog import Extended, TransparencyLog
from writ.formats.errors import Unavailable, WritError
from writ.service.log_store import sync
from writ.service.observe import get_logger

LINGER: Final = 0.001
MAX_GROUP: Final = 256
MAX_QUEUE: Final = 4096
MAX_WAIT: Final = 10.0
"""Seconds a caller waits. What it did not hear of may have happened: a byte-identical retry tells."""

_LOG = get_logger("verifier.ledger")

Job = tuple[Change, "Future[Committed]"]


class SqliteLedger:
    """`Ledger` on one SQLite file, which no other ledger has meanwhile. `close` when done. `writer` is the one connection that writes.

    `log` is the transparency log of its entries, and closed with it; without one no checkpoint is ever signed.
    Raises Unavailable where another process, or another ledger of this one, holds the file, and what `TransparencyLog.open` does.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection | None = None, log: TransparencyLog | None = None) -> None:
        self._path, self.log = path, log
        self._held = hold(path)
        try:
            self._writer = writer or connect(path)
            if log is not None:
                sync(self._writer, "ledger")
                log.open(SqliteTables(self._writer))
        except BaseException:
            os.close(self._held)
            raise
        self._ended = ""
        self._tell: Callable[[], None] = lambda: None
        self._readers = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._jobs: queue.Queue[Job | None] = queue.Queue(MAX_QUEUE)
        self._thread = threading.Thread(target=self._run, name="sequencer", daemon=True)
        self._thread.start()

    def commit(self, change: Change) -> Committed:
        """Durable when it returns. Raises Refused, Void, Unavailable."""
        self.demand()
        done: Future[Committed] = Future()
        try:
            self._jobs.put((change, done), timeout=1)
            return done.result(MAX_WAIT)
        except (queue.Full, FutureTimeout):
            raise Unavailable("ledger", "the sequencer did not answer in time") from None

    def demand(self) -> None:
        """There is a writer. Raises Unavailable."""
        if not self._thread.is_alive() or self._ended:
            raise Unavailable("ledger", "the sequencer has stopped" + (f": {self._ended}" if self._ended else ""))

    @property
    def ended(self) -> str:
        """Why nothing is committed any more; empty while something is."""
        return self._ended

    def when_ended(self, tell: Callable[[], None]) -> None:
        """`tell` is called, in the writer's thread, once the disk has ended it; nothing is committed then until there is a new ledger."""
        self._tell = tell
        if self._ended:
            tell()

    def read(self) -> SqliteTables:
        """Reading on a connection that is this thread's until it ends; then another thread has it. None is closed before the ledger."""
        tables: SqliteTables | None = getattr(self._readers, "tables", None)
        if tables is None:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            connection = connection or self._reader()
            tables = self._readers.tables = SqliteTables(connection)
            weakref.finalize(tables, self._idle.append, connection).atexit = False
        return tables

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Tables]:
        """What is committed when the block first reads, also for `read` in this thread, until it ends. Keeps no writer waiting."""
        tables = self.read()
        tables.begin()
        try:
            yield tables
        finally:
            tables.end()

    def _reader(self) -> sqlite3.Connection:
        connection = connect(self._path)
        connection.execute("PRAGMA query_only = ON")
        with self._lock:
            self._opened.append(connection)
        return connection

    def close(self) -> None:
        """Everything queued is answered, and every connection is closed."""
        self._jobs.put(None)
        self._thread.join()
        with self._lock:
            for connection in (*self._opened, self._writer):
                connection.close()
            self._opened.clear()
            self._idle.clear()
            if self._held >= 0:
                os.close(self._held)
                self._held = -1
                if self.log is not None:
                    self.log.close()

    # --- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (group := self._gather()) is not None:
            if self._ended:
                _fail(group, f"the sequencer has stopped: {self._ended}")
            else:
                self._commit(group)
        while not self._jobs.empty():
            left = self._jobs.get_nowait()
            if left is not None:
                left[1].set_exception(Unavailable("ledger", "the verifier is stopping"))

    def _gather(self) -> list[Job] | None:
        first = self._jobs.get()
        if first is None:
            return None
        group, until = [first], time.monotonic() + LINGER
        while len(group) < MAX_GROUP and not isinstance(group[-1][0], ContentErased):  # nothing shares the fsync of one behind it
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            group.append(job)
        return group

    def _commit(self, group: list[Job]) -> None:
        tables, committing = SqliteTables(self._writer), False
        applied: list[tuple[Future[Committed], Applied]] = []
        refused: list[tuple[Future[Committed], Exception]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for change, done in group:
                self._writer.execute("SAVEPOINT change")
                try:
                    applied.append((done, apply(change, tables)))
                except (WritError, sqlite3.IntegrityError) as error:
                    self._writer.execute("ROLLBACK TO change")
                    refused.append((done, error))
                self._writer.execute("RELEASE change")
            committed = entered([one for _, one in applied], tables)
            extended = self._extended(tables, committed)
            committing = True
            self._writer.execute("COMMIT")
            if self.log is not None:
                if extended is not None:
                    self.log.keep(extended)
                self.log.publish()
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody of the group is answered, and every caller must hear so
            self._abandon(group, error, ends=committing or _of_the_disk(error))
            return
        for (done, one), answer in zip(applied, committed, strict=True):
            if one.erases is None:
                done.set_result(answer)
            else:
                _erase(tables, one.erases, answer, done)
        for done, fault in refused:
            if isinstance(fault, WritError):
                done.set_exception(fault)
            else:
                _LOG.error("change-refused-by-database", exception=fault)
                done.set_exception(Unavailable("ledger", "the database refused the change"))

    def _extended(self, tables: SqliteTables, committed: Sequence[Committed]) -> Extended | None:
        """What the group makes of the log; None where it appends nothing."""
        rows = [one.entry for one in committed if one.entry is not None]
        return self.log.extend(tables, rows) if rows and self.log is not None else None

    def _abandon(self, group: list[Job], error: Exception, *, ends: bool) -> None:
        """Nobody of the group is answered; nobody is any more where the writer `ends` with it."""
        _LOG.error("commit-failed", exception=error, changes=len(group), ends=ends)
        if ends:
            self._ended = getattr(error, "sqlite_errorname", None) or str(error)
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error as fault:
            _LOG.error("rollback-failed", exception=fault)
            self._ended = self._ended or "a change that could not be rolled back"
        _fail(group, "the commit is not known to have happened")
        if self._ended:
            self._tell()


def _erase(tables: SqliteTables, namespace: str, answer: Committed, done: Future[Committed]) -> None:
    """What is on record is done, before anything else is committed; or who asked hears that it is not."""
    try:
        done.set_result(replace(answer, erased=tables.erase(namespace)))
    except Unavailable as error:
        done.set_exception(error)


def _of_the_disk(error: Exception) -> bool:
    """Whether what was written may not be there, or what is there not be ours. A lock that somebody else has says neither."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorname", "") != "SQLITE_BUSY"
    return isinstance(error, OSError | Unavailable)


def _fail(group: list[Job], why: str) -> None:
    for _, done in group:
        done.set_exception(Unavailable("ledger", why))
