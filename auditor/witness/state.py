"""What a witness must not forget: of each log the last checkpoint that it cosigned.

What was looked at and what is put in its place are of one transaction, and that is durable before `exclusive` ends. A file that is gone is
not made anew: a witness that has forgotten would cosign another history.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from auditor.serving import database
from writ.formats.tlog.checkpoint import Checkpoint

KIND: Final = database.Kind(
    "witness state",
    1,
    ("CREATE TABLE latest (origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT",),
    "a witness that lost its state begins anew, in another folder with another key",
)


class State:
    """The last checkpoint of each origin, for any number of threads and processes, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[Held]:
        """Nobody else reads or writes meanwhile. What was put is durable at the end; after an exception nothing is. Raises Unavailable."""
        with self._lock, database.exclusive(self._connection, KIND):
            yield Held(self._connection)

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
    """An empty state is durable at `path`. Raises Unavailable."""
    database.create(path, KIND)


def open_state(path: Path) -> State:
    """The state in `path`. Raises Unavailable where there is none."""
    return State(database.connect(path, KIND))


def in_memory() -> State:
    """A state that is lost with the process: for tests."""
    return State(database.in_memory(KIND))
