"""The transparency log of a ledger: tiles and signed checkpoints, in the transaction of the entries that they are of.

    1. In the transaction that appends entries: their hashes enter the tiles, and the checkpoint of the new size is signed and inserted.
       A size that is there already, or another last checkpoint or head than those known here, ends the transaction: a second writer fails.
    2. The transaction is on disk.
    3. The checkpoint is in the head file, outside the database, and on disk.
    4. Answers leave, and checkpoint, tiles and proofs of that size are served.

A write or a sync that fails anywhere there ends the writer, which answers nobody.

So a database that is older than the head was put back, and signs nothing: `open` refuses it. One that is ahead of the head lost its process
between 2 and 3, and nobody was answered: the head follows.

Where head file and database are both put back as they were, nothing here can know; hosts, witnesses and auditors find it.

Source: C2SP tlog-tiles, tlog-checkpoint; `docs/model/`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verifier.ledger import Tables
from verifier.ledger.schema import CheckpointRow, EntryRow, TileRow
from writ.formats.errors import FormatError, Misuse, Refused, Unavailable
from writ.formats.keys import Signer
from writ.formats.reason import Reason
from writ.formats.tlog import merkle
from writ.formats.tlog.checkpoint import Checkpoint, SignedCheckpoint, parse_signed_checkpoint
from writ.formats.tlog.edge import Edge
from writ.formats.tlog.merkle import Frontier
from writ.formats.tlog.note import PLAIN, NoteKey, encode_note, sign_note
from writ.formats.tlog.proof import TlogProof, encode_tlog_proof
from writ.formats.tlog.receipt import encode_receipt
from writ.formats.tlog.tile import ENTRIES, WIDTH, Tile, consistency_from, encode_bundle, inclusion_from, parse_tile, root_of
from writ.verdict.transparency import verify_checkpoint

GENESIS: Final = "genesis"
"""The kind of entry 0, and of no other."""
SLOT: Final = 4096
LEAST_RECEIPT: Final = 2
"""A COSE Receipt cannot say that an entry is alone in its log."""
_LEVEL: Final = 56


class HeadFile:
    """The last checkpoint that was signed, in a file of two slots: the older one is written over, so one of them is always whole."""

    def __init__(self, path: Path) -> None:
        """Nobody else has it meanwhile. Raises Unavailable."""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DSYNC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._slots, self._older = self._stored(), 0
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BlockingIOError:
            os.close(self._file)
            raise Unavailable("log head", f"expected {path} to be of one process, got a verifier that holds it") from None
        except OSError as error:
            raise Unavailable("log head", f"{path}: {error.strerror}") from None
        self._path = path

    def _stored(self) -> list[bytes]:
        return [os.pread(self._file, SLOT, at * SLOT).rstrip(b"\0") for at in range(2)]

    def read(self, key: NoteKey) -> Checkpoint | None:
        """The newer of those that `key` signed, as they are now; None in a file in which nothing was ever written. Raises Refused."""
        self._slots = self._stored()
        self._older = min((0, 1), key=lambda at: _size(self._slots[at]))
        return _newest(self._slots, key)

    @property
    def moved(self) -> bool:
        """Whether someone else has written it since it was read or written here."""
        return self._stored() != self._slots

    def write(self, note: bytes) -> None:
        """`note` is on disk. Raises Unavailable; then it may be there or not."""
        if len(note) > SLOT:
            raise Misuse(f"a checkpoint of at most {SLOT} bytes")
        try:
            if os.pwrite(self._file, note.ljust(SLOT, b"\0"), self._older * SLOT) != SLOT:
                raise Unavailable("log head", f"{self._path}: written in part")
        except OSError as error:
            raise Unavailable("log head", f"{self._path}: {error.strerror}") from None
        self._slots[self._older] = note
        self._older ^= 1

    def close(self) -> None:
        """The file is closed."""
        os.close(self._file)


def replace_head(path: Path, key: NoteKey, note: bytes) -> None:
    """`note`, a checkpoint by `key`, is the head in `path` and on disk, where there was none; nobody has the file meanwhile.

    A file of which no slot is a checkpoint of this log is kept beside it, as `.lost`. What a start then finds goes on from `note` or is
    refused. Does not say that `note` is the last one that was signed: who has it from outside says that.

    Raises Refused for a checkpoint by another key, and where there is a head: then nothing is missing. Raises FormatError, Unavailable.
    """
    verify_checkpoint(parse_signed_checkpoint(note), key)
    if len(note) > SLOT:
        raise FormatError("log head", f"a checkpoint of at most {SLOT} bytes; lines of witnesses may be left out", f"{len(note)} bytes")
    fresh, data = path.with_name(f"{path.name}.new"), b""
    try:
        with contextlib.suppress(FileNotFoundError):
            data = path.read_bytes()
        if _checkpoints(_slots(data), key):
            raise Refused(Reason("log-head-there", "head", "no checkpoint of this log in the head file", "one"))
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(note.ljust(SLOT, b"\0"))
            file.flush()
            os.fsync(file.fileno())
        if data:
            path.replace(path.with_name(f"{path.name}.lost"))
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Unavailable("log head", f"{path}: {error.strerror}") from None


def look(path: Path, key: NoteKey) -> Checkpoint | None:
    """What the head file at `path` says, beside a log that writes it. Raises Refused, Unavailable."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable("log head", f"{path}: {error.strerror}") from None
    return _newest(_slots(data), key)


def _slots(data: bytes) -> list[bytes]:
    return [data[at : at + SLOT].rstrip(b"\0") for at in (0, SLOT)]


def _checkpoints(slots: Sequence[bytes], key: NoteKey) -> list[Checkpoint]:
    found = []
    for slot in slots:
        with contextlib.suppress(FormatError, Refused):
            found.append(verify_checkpoint(parse_signed_checkpoint(slot), key))
    return found


def _newest(slots: Sequence[bytes], key: NoteKey) -> Checkpoint | None:
    found = _checkpoints(slots, key)
    if len({one.root for one in found}) > 1 and len({one.size for one in found}) == 1:
        raise Refused(Reason("log-put-back", "head", "one checkpoint of a size", "two"))
    if not found and any(slots):
        raise Refused(Reason("log-put-back", "head", f"a checkpoint by {key.name}", "another text, or one by another key"))
    return max(found, key=lambda one: one.size, default=None)


def _size(slot: bytes) -> int:
    try:
        return parse_signed_checkpoint(slot).checkpoint.size
    except FormatError:
        return -1


@dataclass(frozen=True, slots=True)
class Extended:
    """What a transaction makes of the log; it is so once that is on disk."""

    edge: Edge
    frontier: Frontier
    note: bytes


class TransparencyLog:
    """The log of one ledger: one writer extends it, anyone reads. `open` it before anything else."""

    def __init__(self, origin: str, signer: Signer, head: Path) -> None:
        """`signer` signs its checkpoints, and nothing else; `head` is the head file, best on another disk. Raises Unavailable."""
        self.key: Final = NoteKey(origin, PLAIN, signer.public)
        self._signer = signer
        self._head = HeadFile(head)
        self._stands = Extended(Edge(), merkle.EMPTY_FRONTIER, b"")
        self._published: SignedCheckpoint | None = None
        self._note = b""
        self._shown = b""

    def open(self, tables: Tables) -> None:
        """What the tables hold is the log that was signed last, or goes on from it.

        1. The head is read before the tables, which another process may have moved on until its lock was ours.
        2. The last checkpoint is by this log's key, and the tiles lead to its root; there is an entry for each of its leaves, and no more.
        3. The head is of the same log, and the tables extend it.
        4. The head is the last checkpoint from now on, of no entries in a new log, and on disk: what a process wrote that was killed is
           read, and need not be there after the next power cut. The caller has synced the tables for the same reason.

        Raises Refused for a database or a head that was put back or altered, Unavailable where the head cannot be written.
        """
        # 1
        head = self._head.read(self.key)
        # 2
        self._stands = stands = standing(tables, self.key)
        size = stands.edge.size
        # 3
        agrees(tables, size, head)
        # 4
        self._head.write(stands.note if size else self._signed(Checkpoint(self.key.name, 0, merkle.EMPTY_ROOT)))
        self._publishes(stands.note)

    def _publishes(self, note: bytes) -> None:
        self._note, self._published = note, parse_signed_checkpoint(note) if note else None

    # --- the writer ------------------------------------------------------------------------------------------------------

    def extend(self, tables: Tables, rows: Sequence[EntryRow]) -> Extended:
        """In the transaction that inserted `rows`: tiles and checkpoint follow. Nothing here has changed until `keep`.

        Raises Unavailable where the tables are not those that this log left.
        """
        size, last = self._stands.edge.size, tables.last(CheckpointRow)
        same = (b"" if last is None else last.note) == self._stands.note and not self._head.moved
        if not same or [row.sequence for row in rows] != list(range(size, size + len(rows))):
            raise Unavailable("log", f"expected the log of {size} entries, got one that another process wrote")
        if any((row.sequence == 0) != (row.kind == GENESIS) for row in rows):
            raise Misuse("entry 0 is the genesis, and no other is")
        leaves = [row.leaf for row in rows]
        edge = self._stands.edge.copy()
        filled = edge.append(leaves)
        risen = max((tile.level for tile, _ in filled), default=-1) + 1
        for tile, hashes in (*filled, *edge.partial()):
            if tile.level <= risen:  # what stands above has not changed
                tables.put(TileRow(_tile_id(tile), b"".join(hashes)))
        frontier = edge.frontier() if filled else merkle.append(self._stands.frontier, *leaves)
        note = self._signed(Checkpoint(self.key.name, frontier.size, merkle.frontier_root(frontier)))
        tables.put(CheckpointRow(frontier.size, note))
        if size and size // WIDTH == frontier.size // WIDTH:
            tables.drop(CheckpointRow, size)
        return Extended(edge, frontier, note)

    def _signed(self, checkpoint: Checkpoint) -> bytes:
        return encode_note(sign_note(str(checkpoint), self.key, self._signer.sign))

    def keep(self, extended: Extended) -> None:
        """The transaction is on disk: the log is so."""
        self._stands = extended

    def publish(self) -> None:
        """The last checkpoint is in the head file, and served from now on. Raises Unavailable; nobody may be answered then."""
        if self._note != self._stands.note:
            if self._head.moved:
                raise Unavailable("log head", "expected the head as this log left it, got one that somebody else wrote")
            self._head.write(self._stands.note)
            self._publishes(self._stands.note)

    def close(self) -> None:
        """The head file is closed."""
        self._head.close()

    # --- readers -----------------------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> bytes:
        """The last checkpoint that was published, signed; empty before the first."""
        return self._note

    @property
    def shown(self) -> bytes:
        """The checkpoint that is served: the last one that witnesses cosigned, if there is one, else the last one published."""
        return self._shown or self._note

    def show(self, note: bytes) -> None:
        """`note`, a published checkpoint with cosignatures on it, is served from now on."""
        self._shown = note

    def current(self) -> Checkpoint | None:
        """The checkpoint that was published last, read."""
        published = self._published
        return None if published is None else published.checkpoint

    def tile(self, tables: Tables, tile: Tile) -> bytes | None:
        """The bytes of a tile or an entry bundle of the log as it is published; None where it has not so many entries."""
        current = self.current()
        wide = 1 if tile.level == ENTRIES else WIDTH**tile.level
        within = current is not None and (tile.index * WIDTH + tile.width) * wide <= current.size
        return tile_of(tables, tile) if within else None

    def inclusion(self, tables: Tables, index: int, size: int) -> tuple[bytes, ...]:
        """The path from entry `index` to the root of `size` entries. Raises Misuse."""
        return inclusion_from(_reader(tables, size), index, size)

    def proof(self, tables: Tables, index: int) -> bytes:
        """That entry `index` is in the log, as `formats.tlog.proof` has it: of the checkpoint that is served, or of a later one.

        Raises Unavailable where the entry is not published.
        """
        shown = parse_signed_checkpoint(self.shown) if self._shown else None
        seen = shown is not None and shown.checkpoint.size > index
        signed = shown if shown is not None and seen else self._published_of(index)
        return encode_tlog_proof(TlogProof(index, self.inclusion(tables, index, signed.checkpoint.size), signed))

    def receipt(self, tables: Tables, index: int) -> bytes:
        """The same as a COSE Receipt by the log's key: `formats.tlog.receipt`. Raises Unavailable where the entry is not published."""
        checkpoint = self._published_of(index).checkpoint
        path, key = self.inclusion(tables, index, checkpoint.size), self.key.key
        return encode_receipt(
            self.key.name, size=checkpoint.size, index=index, path=path, root=checkpoint.root, algorithm=key.algorithm,
            kid=key.thumbprint(), sign=self._signer.sign,
        )  # fmt: skip

    def _published_of(self, index: int) -> SignedCheckpoint:
        published = self._published
        if published is None or published.checkpoint.size < max(index + 1, LEAST_RECEIPT):
            raise Unavailable("log", f"no checkpoint yet that has entry {index}, of {LEAST_RECEIPT} at least")
        return published

    def consistency(self, tables: Tables, old: int, size: int) -> tuple[bytes, ...]:
        """Why the log of `size` extends that of `old`. Raises Misuse."""
        return consistency_from(_reader(tables, size), old, size)


def standing(tables: Tables, key: NoteKey) -> Extended:
    """The log that the tables hold: its last checkpoint is by `key`, its tiles lead to that root, and there is an entry for each leaf.

    Raises Refused.
    """
    last, entry = tables.last(CheckpointRow), tables.last(EntryRow)
    entries, size = 0 if entry is None else entry.sequence + 1, 0 if last is None else last.size
    if size != entries:
        raise _put_back("entries", str(size), str(entries))
    if last is None:
        return Extended(Edge(), merkle.EMPTY_FRONTIER, b"")
    checkpoint = verify_checkpoint(parse_signed_checkpoint(last.note), key)
    edge = Edge.at(size, lambda tile: _right(tables, tile))
    frontier = edge.frontier()
    if checkpoint.size != size or merkle.frontier_root(frontier) != checkpoint.root:
        raise _put_back("checkpoint", f"the root of {size} entries", "another")
    return Extended(edge, frontier, last.note)


def agrees(tables: Tables, size: int, head: Checkpoint | None) -> None:
    """The log of `size` in the tables goes on from what the head says. Raises Refused."""
    if head is None:
        if size:
            raise _put_back("head", f"a head of {size} entries or fewer", "none")
        return
    if head.size > size:
        raise _put_back("entries", f"{head.size} at least, as the head says", str(size))
    if head.size and root_of(_reader(tables, size), size, 0, head.size) != head.root:
        raise _put_back("root", f"{head.root.hex()} at size {head.size}", "another")


def tile_of(tables: Tables, tile: Tile) -> bytes | None:
    """The bytes of a tile or an entry bundle as committed; None where the log has not so many entries."""
    if tile.level == ENTRIES:
        first = tile.index * WIDTH
        rows = tables.select(EntryRow, most=tile.width, after=first - 1)
        whole = len(rows) == tile.width and rows[-1].sequence == first + tile.width - 1
        return encode_bundle([row.entry for row in rows]) if whole else None
    row = tables.get(TileRow, _tile_id(tile))
    end = tile.width * merkle.HASH_SIZE
    return None if row is None or len(row.hashes) < end else row.hashes[:end]


def _reader(tables: Tables, size: int) -> Callable[[Tile], Sequence[bytes]]:
    def read(tile: Tile) -> Sequence[bytes]:
        data = tile_of(tables, tile)
        if data is None:
            raise Unavailable("log", f"no {tile} in a log of {size} entries")
        return parse_tile(data, tile.width)

    return read


def _right(tables: Tables, tile: Tile) -> tuple[bytes, ...]:
    """The hashes of a partial tile at the right edge, which has no more and no fewer. Raises Refused."""
    row = tables.get(TileRow, _tile_id(tile))
    if row is None or len(row.hashes) != tile.width * merkle.HASH_SIZE:
        raise _put_back(f"tile/{tile.level}", f"{tile.width} hashes", "another number")
    return parse_tile(row.hashes, tile.width)


def _tile_id(tile: Tile) -> int:
    return tile.level << _LEVEL | tile.index


def _put_back(claim: str, expected: str, got: str) -> Refused:
    return Refused(Reason("log-put-back", claim, expected[:200], got[:200]))
