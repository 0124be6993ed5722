"""What a store keeps: leaves, sealed contents, papers and every checkpoint that it cosigned, in one SQLite file.

Nothing in it is ever changed or removed, and triggers see to it that nothing can be by mistake: what is there was there whole when its
receipt left. Whoever owns the file can do as they like with it, and is found out by the receipts that others hold.

    batches   one row a request: the records from `start` to `size` of a log, and the checkpoint at that size, cosigned
    tiles     full hash tiles (C2SP tlog-tiles)
    papers    what records and decisions name by digest
    forks     checkpoints that a log signed and that do not extend what is here

Beside them `used` says by how much each host's requests made the file grow; nothing rests on it but who may send more.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from auditor.serving import database
from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from writ.formats.tlog.edge import Edge
from writ.formats.tlog.merkle import EMPTY_ROOT, leaf_hash
from writ.formats.tlog.note import encode_note
from writ.formats.tlog.storing import AddRecords, encode_sealed, parse_sealed
from writ.formats.tlog.tile import WIDTH, Tile, encode_bundle, fold, parse_bundle, parse_tile, root_of
from writ.verdict.storing import ProvenRecords

FILE: Final = "records.sqlite"
_TABLES: Final = {
    "batches": "origin TEXT NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL, note BLOB NOT NULL, leaves BLOB NOT NULL, "
    "sealed BLOB NOT NULL, PRIMARY KEY (origin, size)",
    "tiles": "origin TEXT NOT NULL, level INTEGER NOT NULL, number INTEGER NOT NULL, hashes BLOB NOT NULL, "
    "PRIMARY KEY (origin, level, number)",
    "papers": "origin TEXT NOT NULL, kind TEXT NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (origin, kind, digest)",
    "forks": "origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, held BLOB NOT NULL, other BLOB NOT NULL, "
    "PRIMARY KEY (origin, size, root)",
}
KIND: Final = database.Kind(
    "record store",
    2,
    (
        "CREATE TABLE used (host TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT",
        *(f"CREATE TABLE {name} ({columns}) STRICT" for name, columns in _TABLES.items()),
        *(
            f"CREATE TRIGGER no_{change}_of_{name} BEFORE {change} ON {name} BEGIN SELECT RAISE(ABORT, 'written once'); END"
            for name in _TABLES
            for change in ("update", "delete")
        ),
    ),
    "a store that lost its records is another store, in another folder with another key; keep a copy of its file",
)
MOST_EDGES: Final = 1024
"""Logs whose edge is kept in memory, each at most 100 KB; that of another is made again."""
MOST_FORKS: Final = 64
"""Of one log: who has its key can sign as many as they like."""


class Records:
    """Every log of a store, for any number of threads, one at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._edges: OrderedDict[str, Edge] = OrderedDict()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[Held]:
        """Nobody else reads or writes meanwhile. What was added is durable at the end; after an exception nothing is.

        Raises Unavailable.
        """
        with self._lock:
            held = Held(self._connection, self._edges)
            try:
                with database.exclusive(self._connection, KIND):
                    yield held
            except BaseException:
                self._edges.clear()  # what is in the file is read again, not guessed
                raise
            for origin, edge in held.grown.items():
                self._edges[origin] = edge
                self._edges.move_to_end(origin)
            while len(self._edges) > MOST_EDGES:
                self._edges.popitem(last=False)

    def close(self) -> None:
        """The file is closed."""
        with self._lock:
            self._connection.close()


class Held:
    """The store, within `Records.exclusive`."""

    def __init__(self, connection: sqlite3.Connection, edges: OrderedDict[str, Edge]) -> None:
        self._connection, self._edges = connection, edges
        self.grown: dict[str, Edge] = {}

    # --- reading ---------------------------------------------------------------------------------------------------------

    def origins(self) -> list[str]:
        """The names of all logs."""
        return [row[0] for row in self._connection.execute("SELECT DISTINCT origin FROM batches ORDER BY origin")]

    def latest(self, origin: str) -> SignedCheckpoint | None:
        """The last checkpoint of a log, cosigned; None where there is no such log. Raises FormatError for a row that is none."""
        row = self._connection.execute("SELECT note FROM batches WHERE origin = ? ORDER BY size DESC LIMIT 1", (origin,)).fetchone()
        return None if row is None else parse_signed_checkpoint(row[0])

    def edge(self, origin: str) -> Edge:
        """The right edge of a log, empty of one that is not there. Not to be changed."""
        held = self._edges.get(origin)
        if held is None:
            latest = self.latest(origin)
            held = Edge() if latest is None else Edge.at(latest.checkpoint.size, lambda tile: self._made_again(origin, tile))
            if latest is not None and held.root() != latest.checkpoint.root:
                raise FormatError("record store", f"root {latest.checkpoint.root.hex()} of {origin}", held.root().hex())
            self._edges[origin] = held
        return held

    def root_at(self, origin: str, size: int) -> bytes:
        """The root of a log at a size up to its own."""
        return root_of(lambda tile: self.hashes(origin, tile) or (), size) if size else EMPTY_ROOT

    def hashes(self, origin: str, tile: Tile) -> tuple[bytes, ...] | None:
        """The hashes of a tile, as many as it is wide; None where the log does not reach so far."""
        row = self._connection.execute(
            "SELECT hashes FROM tiles WHERE origin = ? AND level = ? AND number = ?", (origin, tile.level, tile.index)
        ).fetchone()
        if row is not None:
            return parse_tile(row[0], WIDTH)[: tile.width]
        found = next((hashes for one, hashes in self.edge(origin).partial() if (one.level, one.index) == (tile.level, tile.index)), ())
        return found[: tile.width] if len(found) >= tile.width else None

    def leaves(self, origin: str, start: int, end: int) -> list[bytes]:
        """The leaves from `start` to `end`, as far as they are there."""
        return [leaf for leaf, _ in self.contents(origin, start, end)]

    def contents(self, origin: str, start: int, end: int) -> Iterator[tuple[bytes, bytes | None]]:
        """The same, each with what is sealed beside it."""
        rows = self._connection.execute(
            "SELECT start, size, leaves, sealed FROM batches WHERE origin = ? AND size > ? AND start < ? ORDER BY size",
            (origin, start, end),
        )
        for first, size, leaves, sealed in rows:
            pairs = zip(parse_bundle(leaves, size - first), parse_sealed(sealed, size - first), strict=True)
            yield from (pair for at, pair in enumerate(pairs, first) if start <= at < end)

    def papers(self, origin: str) -> list[tuple[str, bytes]]:
        """The papers of a log."""
        return list(self._connection.execute("SELECT kind, body FROM papers WHERE origin = ?", (origin,)))

    def forks(self) -> list[tuple[str, bytes, bytes]]:
        """Of each fork the log, what was held and what was signed beside it."""
        return list(self._connection.execute("SELECT origin, held, other FROM forks ORDER BY origin, size"))

    def lacking(self, origin: str, papers: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, bytes], ...]:
        """Those that are not there, each once."""
        known = "SELECT 1 FROM papers WHERE origin = ? AND kind = ? AND digest = ?"
        return tuple(
            (kind, body)
            for kind, body in dict.fromkeys(papers)
            if self._connection.execute(known, (origin, kind, Digest.of(body).value)).fetchone() is None
        )

    def bytes_of(self, host: str) -> int:
        """By how much this host's requests made the file grow."""
        row = self._connection.execute("SELECT bytes FROM used WHERE host = ?", (host,)).fetchone()
        return 0 if row is None else int(row[0])

    def bytes_used(self) -> int:
        """Of the file, without what SQLite keeps beside it."""
        pages, size = (self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(pages) * int(size)

    def _made_again(self, origin: str, tile: Tile) -> list[bytes]:
        """A partial tile out of what lies below it."""
        first = tile.index * WIDTH
        if tile.level == 0:
            return [leaf_hash(leaf) for leaf in self.leaves(origin, first, first + tile.width)]
        below = (self.hashes_full(origin, Tile(tile.level - 1, first + at)) for at in range(tile.width))
        return [fold(hashes) for hashes in below]

    def hashes_full(self, origin: str, tile: Tile) -> tuple[bytes, ...]:
        """The hashes of a full tile. Raises FormatError where it is not there."""
        row = self._connection.execute(
            "SELECT hashes FROM tiles WHERE origin = ? AND level = ? AND number = ?", (origin, tile.level, tile.index)
        ).fetchone()
        if row is None:
            raise FormatError("record store", f"{tile} of {origin}", "none")
        return parse_tile(row[0], WIDTH)

    # --- writing -----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def charged(self, host: str) -> Iterator[None]:
        """By as much as the file grows meanwhile, this host has used more."""
        before = self.bytes_used()
        yield
        self._connection.execute(
            "INSERT INTO used VALUES (?, ?) ON CONFLICT (host) DO UPDATE SET bytes = bytes + excluded.bytes",
            (host, self.bytes_used() - before),
        )

    def add(self, asked: AddRecords, proven: ProvenRecords, note: bytes) -> None:
        """These records are there, with the tiles that they fill, and the checkpoint that they lead to, cosigned in `note`."""
        origin = proven.checkpoint.origin
        self._connection.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)",
            (origin, asked.start, proven.checkpoint.size, note, encode_bundle(asked.leaves), encode_sealed(asked.sealed)),
        )
        self._connection.executemany(
            "INSERT INTO tiles VALUES (?, ?, ?, ?)",
            [(origin, tile.level, tile.index, b"".join(hashes)) for tile, hashes in proven.filled],
        )
        self.grown[origin] = proven.edge

    def add_papers(self, origin: str, papers: tuple[tuple[str, bytes], ...]) -> None:
        """These are there, under their digests."""
        named = [(origin, kind, Digest.of(body).value, body) for kind, body in papers]
        self._connection.executemany("INSERT OR IGNORE INTO papers VALUES (?, ?, ?, ?)", named)

    def add_fork(self, held: SignedCheckpoint | None, other: SignedCheckpoint) -> bool:
        """A checkpoint that does not extend what is held is kept beside it. False where it was already, or enough of this log are."""
        one = other.checkpoint
        count = self._connection.execute("SELECT count(*) FROM forks WHERE origin = ?", (one.origin,)).fetchone()[0]
        if count >= MOST_FORKS:
            return False
        kept = b"" if held is None else encode_note(held.note)
        changed = self._connection.execute(
            "INSERT OR IGNORE INTO forks VALUES (?, ?, ?, ?, ?)", (one.origin, one.size, one.root, kept, encode_note(other.note))
        )
        return changed.rowcount == 1


def create(folder: Path) -> None:
    """An empty store is durable in `folder`. Raises Unavailable."""
    database.create(folder / FILE, KIND)


def open_records(folder: Path) -> Records:
    """The store in `folder`. Raises Unavailable where there is none."""
    return Records(database.connect(folder / FILE, KIND))


def in_memory() -> Records:
    """A store that is lost with the process: for tests."""
    return Records(database.in_memory(KIND))
