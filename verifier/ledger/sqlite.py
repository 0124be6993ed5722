"""The tables in one SQLite file: WAL, synchronous=FULL, readers beside the one writer."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from verifier.ledger.blobs import keys_beside
from verifier.ledger.schema import LEAF_KEY, TABLES, VERSION, BlobRow, EntryRow, R, columns, statements
from writ.formats.errors import Unavailable

WAL_PAGES: Final = 4000
"""How many pages (of 4 KiB) the write-ahead log has before they are copied into the database. Pages of an index change in each group:
copied a quarter as often as SQLite does of itself, an append takes a tenth less."""

BUSY: Final = 10_000
READERS_END: Final = 1000
"""Milliseconds for which a lock is waited for, and for which readers are before the write-ahead log is cut."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection to the ledger at `path`, which is made if it is not there (mode 0600). Raises Unavailable.

    A file that is there is opened by SQLite alone: whoever closes a descriptor of it ends every POSIX lock that this
    process holds on it, and another process may then delete the WAL that others still write to.
    Source: fcntl(2); sqlite.org/howtocorrupt.html, section 2.2.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY / 1000)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            connection.execute("PRAGMA secure_delete = ON")
            _make(connection)
        except BaseException:
            connection.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise Unavailable("ledger", f"expected a SQLite file that can be opened, got {type(error).__name__}") from None
    return connection


def hold(path: Path) -> int:
    """The descriptor of a lock file beside the ledger: while it is open no other ledger can be had of it. Raises Unavailable."""
    try:
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable("ledger", f"{path}.lock: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise Unavailable("ledger", f"expected {path} to be of one process, got a verifier that holds it") from None
    return handle


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found == 0:
        for statement in statements():
            connection.execute(statement)
    connection.execute("COMMIT")
    if found not in (0, VERSION):
        raise Unavailable("ledger", f"expected schema version {VERSION}, got {found}")


def _upsert(table: type) -> str:
    named = columns(table)
    changed = ", ".join(f"{column} = excluded.{column}" for column in named[1:])
    marks = ", ".join("?" for _ in named)
    return f"INSERT INTO {TABLES[table]} ({', '.join(named)}) VALUES ({marks}) ON CONFLICT ({named[0]}) DO UPDATE SET {changed}"  # noqa: S608


_SELECT: Final = {table: f"SELECT {', '.join(columns(table))} FROM {name}" for table, name in TABLES.items()}  # noqa: S608 - our own names
_UPSERT: Final = {table: _upsert(table) for table in TABLES}
_APPEND: Final = "INSERT INTO entry (sequence, kind, namespace, host, at, leaf, entry) VALUES (?, ?, ?, ?, ?, ?, ?)"


class SqliteTables:
    """`Tables` over one connection. Whether it is within a transaction is the caller's affair."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._blob_keys = keys_beside(connection)

    def begin(self) -> None:
        """Reading stays with what is committed at the next read, until `end`."""
        self._connection.execute("BEGIN")

    def end(self) -> None:
        """Reading goes on with what is committed."""
        self._connection.execute("ROLLBACK")

    def get(self, table: type[R], key: object) -> R | None:
        """The row under its key."""
        row = self._connection.execute(f"{_SELECT[table]} WHERE {columns(table)[0]} = ?", (key,)).fetchone()
        found = None if row is None else table(*row)
        return cast("R | None", self._blob_keys.opened(found)) if isinstance(found, BlobRow) else found

    def select(self, table: type[R], *, most: int = 0, after: object = None, **equal: object) -> list[R]:
        """The rows whose columns equal these, in the order of their keys."""
        key = columns(table)[0]
        named = columns(table)
        conditions = [f"{column} = ?" for column in named if column in equal]
        values = [equal[column] for column in named if column in equal]
        if len(values) != len(equal):
            raise sqlite3.ProgrammingError(f"{TABLES[table]} has not all of {', '.join(equal)}")
        if after is not None:
            conditions.append(f"{key} > ?")
            values.append(after)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        limit = f" LIMIT {int(most)}" if most else ""
        rows = self._connection.execute(f"{_SELECT[table]}{where} ORDER BY {key}{limit}", values)
        return [table(*row) for row in rows]

    def entries(self, reference: str, *, most: int) -> list[EntryRow]:
        """The first `most` entries whose leaf hash begins so, in hex."""
        ends = [bytes.fromhex(reference[: 2 * LEAF_KEY].ljust(2 * LEAF_KEY, digit)) for digit in "0f"]
        rows = self._connection.execute(
            f"{_SELECT[EntryRow]} WHERE substr(leaf, 1, {LEAF_KEY}) BETWEEN ? AND ? AND lower(hex(leaf)) >= ? AND lower(hex(leaf)) < ?"
            f" ORDER BY substr(leaf, 1, {LEAF_KEY}), sequence LIMIT ?",
            (*ends, reference, reference + "g", most),
        )
        return [EntryRow(*row) for row in rows]

    def last(self, table: type[R]) -> R | None:
        """The row with the greatest key."""
        row = self._connection.execute(f"{_SELECT[table]} ORDER BY {columns(table)[0]} DESC LIMIT 1").fetchone()
        return None if row is None else table(*row)

    def put(self, row: R) -> None:
        """Insert the row, or replace the one under its key."""
        row = cast("R", self._blob_keys.sealed(row)) if isinstance(row, BlobRow) else row
        self._connection.execute(_UPSERT[type(row)], [getattr(row, column) for column in columns(type(row))])

    def append(self, rows: Sequence[EntryRow]) -> None:
        """Insert entries of the log, all of which are new."""
        self._connection.executemany(_APPEND, ((r.sequence, r.kind, r.namespace, r.host, r.at, r.leaf, r.entry) for r in rows))

    def drop(self, table: type[R], key: object) -> None:
        """Drop the row under its key."""
        self._connection.execute(f"DELETE FROM {TABLES[table]} WHERE {columns(table)[0]} = ?", (key,))  # noqa: S608 - our own names

    def erase(self, namespace: str) -> bool:
        """Its key is destroyed, False where there was none; of what was replaced or dropped, no page and no write-ahead log has a copy.

        Not within a transaction. A reader that is at it longer than `READERS_END` keeps the write-ahead log. Raises Unavailable.
        """
        erased = self._blob_keys.erase(namespace)
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {READERS_END}")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY}")
        except sqlite3.Error as error:
            raise Unavailable("ledger", f"the key is gone, the write-ahead log is not: SQLite says {type(error).__name__}") from None
        return erased

    def prune(self, table: type[R], before: int) -> None:
        """Drop the rows that expired before that time."""
        self._connection.execute(f"DELETE FROM {TABLES[table]} WHERE expires_at < ?", (before,))  # noqa: S608 - names of our own tables
