"""What every log in a SQLite file owes at its start, whoever writes it."""

from __future__ import annotations

import sqlite3

from writ.formats.errors import Unavailable


def sync(connection: sqlite3.Connection, what: str) -> None:
    """What can be read is on disk, also what a process committed that was killed before its sync, or whose sync failed.

    After a sync that failed the next one succeeds, though what was to be written never was: Linux forgets it. So what stands in the WAL is
    not only synced but written once more, into the database, and that is synced.

    `connection` is in no transaction, in WAL mode with synchronous=FULL, and the one writer's. Raises Unavailable about `what`.

    Source: fsync(2), EIO; sqlite.org/pragma.html, wal_checkpoint.
    """
    try:
        busy, written, copied = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    except sqlite3.Error as error:
        raise Unavailable(what, f"SQLite says {type(error).__name__} ({getattr(error, 'sqlite_errorname', '')})") from None
    if busy or written != copied:
        raise Unavailable(what, f"expected all {written} pages of its WAL to be copied, got {copied}: somebody else holds it")
