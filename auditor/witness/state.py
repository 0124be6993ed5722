"""What a witness must not forget: of each log the last checkpoint that it cosigned.

One SQLite file, WAL, synchronous=FULL. What was looked at and what is put in its place are of one transaction, and that is durable before
`exclusive` ends. A file that is gone is not made anew: a witness that has forgotten would cosign another history.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from writ.formats.errors import FormatError, Unavailable
from writ.formats.tlog.checkpoint import Checkpoint

VERSION: Final = 1
_TABLE: Final = "CREATE TABLE latest (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT"


class State:
    """The last checkpoint of each origin, for any number of threads and processes, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[Held]:
        """Nobody else reads or writes meanwhile. What was put is durable at the end; after an exception nothing is. Raises Unavailable."""
        with self._lock, _sqlite():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield Held(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """The file is closed."""
        with self._lock:
            self._connection.close()


class Held:
    """The state, within `State.exclusive`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def latest(self, origin: str) -> Checkpoint | None:
        """The last checkpoint of `origin` that was cosigned. Raises FormatError for a row that is none."""
        row = self._connection.execute("SELECT size, root FROM latest WHERE origin = ?", (origin,)).fetchone()
        return None if row is None else Checkpoint(origin, *row)

    def note(self, origin: str) -> bytes | None:
        """That checkpoint, as signed by the log and cosigned."""
        row = self._connection.execute("SELECT note FROM latest WHERE origin = ?", (origin,)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, checkpoint: Checkpoint, note: bytes) -> None:
        """`checkpoint` is the last of its origin."""
        self._connection.execute(
            "INSERT INTO latest VALUES (?, ?, ?, ?)"
            " ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note",
            (checkpoint.origin, checkpoint.size, checkpoint.root, note),
        )


def create(path: Path) -> None:
    """An empty state is durable at `path`, mode 0600. One that is there stays. Raises Unavailable."""
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        with contextlib.closing(_connect(path)):
            pass
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable("witness state", f"cannot make {path}: {error.strerror}") from None


def sync_folder(folder: Path) -> None:
    """The names in `folder` are durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_state(path: Path) -> State:
    """The state in `path`. Raises Unavailable where there is none."""
    return State(_connect(path))


def in_memory() -> State:
    """A state that is lost with the process: for tests."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _prepare(connection)
    return State(connection)


def _connect(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        remedy = "a witness that lost its state begins anew, in another folder with another key"
        raise Unavailable("witness state", f"expected the file {path} that `auditor witness init` made, got none: {remedy}")
    with _sqlite():
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=5
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found == 0:
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
    if found not in (0, VERSION):
        raise FormatError("witness state", f"version {VERSION}", str(found))


@contextlib.contextmanager
def _sqlite() -> Iterator[None]:
    """What SQLite cannot do is Unavailable."""
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable("witness state", f"expected SQLite to read and write it, got {error.sqlite_errorname}") from None
