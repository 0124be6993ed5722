"""A ledger in memory: the rules of the product over dicts, so that a test needs no file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from verifier.ledger import Change, Committed
from verifier.ledger.schema import EntryRow, R, Row, columns
from verifier.ledger.transaction import apply, entered


class MemoryTables:
    """`Tables` over dicts by row type and key."""

    def __init__(self, rows: dict[type[Row], dict[Any, Any]]) -> None:
        self.rows = rows

    def _of(self, table: type[R]) -> dict[Any, R]:
        return self.rows.setdefault(table, {})

    def get(self, table: type[R], key: object) -> R | None:
        """The row under its key."""
        return self._of(table).get(key)

    def select(self, table: type[R], *, most: int = 0, after: object = None, **equal: object) -> list[R]:
        """The rows whose columns equal these, in the order of their keys."""
        found = [row for key, row in sorted(self._of(table).items()) if (after is None or key > after) and _equal(row, equal)]
        return found[:most] if most else found

    def entries(self, reference: str, *, most: int) -> list[EntryRow]:
        """The first `most` entries whose leaf hash begins so."""
        found = [row for row in self._of(EntryRow).values() if row.reference.startswith(reference)]
        return sorted(found, key=lambda row: (row.leaf, row.sequence))[:most]

    def last(self, table: type[R]) -> R | None:
        """The row with the greatest key."""
        found = self._of(table)
        return found[max(found)] if found else None

    def put(self, row: R) -> None:
        """Insert or replace."""
        table, key = type(row), getattr(row, columns(type(row))[0])
        self._of(table)[key] = row

    def append(self, rows: Sequence[EntryRow]) -> None:
        """Insert entries of the log."""
        for row in rows:
            assert row.sequence not in self._of(EntryRow), "the log is append-only"
            self.put(row)

    def drop(self, table: type[R], key: object) -> None:
        """Drop the row under its key."""
        self._of(table).pop(key, None)

    def prune(self, table: type[R], before: int) -> None:
        """Drop what expired before that time."""
        for key, row in list(self._of(table).items()):
            if getattr(row, "expires_at") < before:  # noqa: B009 - only tables that have it are pruned
                del self._of(table)[key]


def _equal(row: object, equal: dict[str, object]) -> bool:
    return all(getattr(row, column) == value for column, value in equal.items())


class MemoryLedger:
    """`Ledger` in memory: one change at a time, whole or not at all."""

    def __init__(self) -> None:
        self._rows: dict[type[Row], dict[Any, Any]] = {}
        self._lock = threading.Lock()

    def commit(self, change: Change) -> Committed:
        """Apply the change to a copy, which takes the place of the rows if nothing was raised."""
        with self._lock:
            copy = {table: dict(rows) for table, rows in self._rows.items()}
            (committed,) = entered([apply(change, MemoryTables(copy))], MemoryTables(copy))
            self._rows = copy
            return committed

    def demand(self) -> None:
        """There is always a writer."""

    def read(self) -> MemoryTables:
        """What is committed."""
        return MemoryTables(self._rows)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[MemoryTables]:
        """What is committed now."""
        yield self.read()
