"""One SQLite file of what must not be forgotten: WAL, synchronous=FULL, made once, and never anew where it is gone."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from writ.formats.errors import FormatError, Unavailable


@dataclass(frozen=True, slots=True)
class Kind:
    """What such a file is called in errors, which version of its tables this is, the tables, and what to do where it is lost."""

    what: str
    version: int
    tables: tuple[str, ...]
    remedy: str


def create(path: Path, kind: Kind) -> None:
    """An empty one is durable at `path`, mode 0600. One that is there stays. Raises Unavailable."""
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        with contextlib.closing(connect(path, kind)):
            pass
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(kind.what, f"cannot make {path}: {error.strerror}") from None


def sync_folder(folder: Path) -> None:
    """The names in `folder` are durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def in_memory(kind: Kind) -> sqlite3.Connection:
    """One that is lost with the process: for tests."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _prepare(connection, kind)
    return connection


def connect(path: Path, kind: Kind) -> sqlite3.Connection:
    """The file at `path`, for any thread, in no transaction. Raises Unavailable where there is none, FormatError for another version."""
    if not path.is_file():
        raise Unavailable(kind.what, f"expected the file {path} that `init` made, got none: {kind.remedy}")
    with faults(kind):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=5
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            _prepare(connection, kind)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, kind: Kind) -> None:
    connection.execute("BEGIN IMMEDIATE")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found == 0:
        for table in kind.tables:
            connection.execute(table)
        connection.execute(f"PRAGMA user_version = {kind.version}")
    connection.execute("COMMIT")
    if found not in (0, kind.version):
        raise FormatError(kind.what, f"version {kind.version}", str(found))


@contextlib.contextmanager
def exclusive(connection: sqlite3.Connection, kind: Kind) -> Iterator[None]:
    """Nobody else writes meanwhile. What was written is durable at the end; after an exception nothing is. Raises Unavailable."""
    with faults(kind):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextlib.contextmanager
def faults(kind: Kind) -> Iterator[None]:
    """What SQLite cannot do is Unavailable."""
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(kind.what, f"expected SQLite to read and write it, got {error.sqlite_errorname}") from None
