"""The action log of one instance: an RFC 6962 tree of records, durable before any action passes.

One SQLite file, written by one thread: whatever is waiting is appended in one
transaction and one fsync (WAL, synchronous=FULL), and only then do the waiting
callers hear of it. Where several waited for the last one, the writer gives as
many the time to come again, a fraction of what that one took. Each transaction also writes the tree's new size and root,
so a log that was altered, cut or only half written is noticed when it is
opened: a torn tail was never acknowledged and is rolled back by SQLite, and
everything else is refused.

    records(sequence, leaf)            leaf = formats.action.encode_record
    contents(sequence, sealed)         salt and content, sealed with the instance's content key
    commits(size, root)                one row a transaction

The content key lies in a file of its own. Destroying it (`erase`) makes every
commitment in the log opaque for ever, while all proofs still hold.

This says nothing about who may alter the file: root can rewrite all of it, and
is found out by the verifier, which holds the checkpoint carried last.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from writ.formats.action import ActionRecord, Record, commit, encode_record, parse_record
from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.formats.tlog import merkle

_SCHEMA: Final = """
BEGIN;
CREATE TABLE IF NOT EXISTS records(sequence INTEGER PRIMARY KEY, leaf BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS contents(sequence INTEGER PRIMARY KEY, sealed BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS commits(size INTEGER PRIMARY KEY, root BLOB NOT NULL) STRICT;
COMMIT;
"""
LOG_FILE: Final = "action-log.sqlite"
KEY_FILE: Final = "content.key"
LOCK_FILE: Final = "action-log.lock"
MAX_BATCH: Final = 256
_SALT, _NONCE = 32, 12
"""Bytes of the commitment's salt and of the seal's nonce."""
DURABLE_WITHIN: Final = 10.0
"""Seconds a caller waits for its record; after that the action is refused, even if the record comes to be."""
MAX_CONTENT: Final = 4 << 20
GATHERS: Final = 0.25
"""The part of the last commit's time for which the writer waits for as many records as were in it, where that was more than one."""
GATHERS_AT_MOST: Final = 0.005
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Size and root of the log at one moment."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record that is durable: its place in the log and its leaf hash."""

    record: Record
    leaf_hash: bytes


@dataclass(frozen=True, slots=True)
class Inclusion:
    """One record with the proof that it is in the log of `checkpoint`."""

    leaf: bytes
    index: int
    checkpoint: Checkpoint
    proof: tuple[bytes, ...]


Make = Callable[[int, bytes], Record]
"""From a sequence number and a commitment, the record to be."""


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class _Waiting:
    """One caller. `told` is released once, when there is a record or a fault: a future does as much, and takes four times as long."""

    make: Make
    content: bytes
    recorded: Recorded | None = None
    fault: str = ""
    told: threading.Lock = field(default_factory=_held_lock)


class ActionLog:
    """The log, open for appending by one object at a time: a lock beside the file holds it to that. Others may read meanwhile."""

    def __init__(self, folder: Path, instance: bytes) -> None:
        """Open or begin the log in `folder`. Raises FormatError for a log that was altered, Unavailable where it cannot be opened."""
        self._instance = instance
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._broken: str | None = None
        self._closed = False
        with contextlib.ExitStack() as opened:
            try:
                self._sole = _only_writer(folder / LOCK_FILE)
                opened.callback(os.close, self._sole)
                self._cipher = ChaCha20Poly1305(_content_key(folder / KEY_FILE))
                self._db = sqlite3.connect(folder / LOG_FILE, isolation_level=None, check_same_thread=False)
                opened.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
                read = _read_records(self._db)
            except sqlite3.DatabaseError as error:
                raise Unavailable("action log", f"SQLite says {type(error).__name__} ({error.sqlite_errorname})") from None
            except OSError as error:
                raise Unavailable("action log", f"{error.strerror}") from None
            opened.pop_all()
        self.permits: Final = Counter(record.action for _, record in read if isinstance(record, ActionRecord) and record.permit)
        """How often each action had been permitted when the log was opened."""
        self._leaves = [merkle.leaf_hash(leaf) for leaf, _ in read]
        self._frontier = merkle.append(merkle.EMPTY_FRONTIER, *self._leaves)
        self._last_batch, self._last_took = 1, 0.0
        self._thread = threading.Thread(target=self._write, name="action-log", daemon=True)
        self._thread.start()

    # --- appending ---------------------------------------------------------------------------------------------------

    def append(self, make: Make, content: bytes) -> Recorded:
        """The record is durable, and so is its content, sealed. Raises Unavailable where it is not known to be."""
        if len(content) > MAX_CONTENT:
            raise Unavailable("action log", f"expected content of at most {MAX_CONTENT} bytes, got {len(content)}")
        with self._lock:
            if self._broken is not None or self._closed:
                raise Unavailable("action log", self._broken or "closed")
            waiting = _Waiting(make, content)
            self._queue.put(waiting)
        if not waiting.told.acquire(timeout=DURABLE_WITHIN):
            raise Unavailable("action log", f"not durable within {DURABLE_WITHIN:.0f} s")
        if waiting.recorded is None:
            raise Unavailable("action log", waiting.fault)
        return waiting.recorded

    def _write(self) -> None:
        while True:
            batch = self._batch()
            if not batch:
                return
            began = time.monotonic()
            try:
                done = self._commit(batch)
            except Exception as error:  # noqa: BLE001 - a writer that dies silently would leave every caller waiting; all are told
                self._break(f"a write failed ({type(error).__name__})", batch)
                return
            self._last_batch, self._last_took = len(batch), time.monotonic() - began
            for waiting, recorded in zip(batch, done, strict=True):
                waiting.recorded = recorded
                waiting.told.release()

    def _batch(self) -> list[_Waiting]:
        """Whatever waits, at least one; empty at the end."""
        first = self._queue.get()
        batch = [] if first is None else [first]
        until = time.monotonic() + min(GATHERS_AT_MOST, GATHERS * self._last_took)
        while batch and len(batch) < MAX_BATCH:
            wait = until - time.monotonic() if len(batch) < self._last_batch else 0.0
            try:
                more = self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
            except Empty:
                break
            if more is None:
                self._queue.put(None)
                break
            batch.append(more)
        return batch

    def _commit(self, batch: list[_Waiting]) -> list[Recorded]:
        """One transaction: leaves, contents, size and root. Nothing in memory moves before it is durable."""
        done, rows, sealed = [], [], []
        random = os.urandom(len(batch) * (_SALT + _NONCE))
        for at, waiting in enumerate(batch):
            own = random[at * (_SALT + _NONCE) : (at + 1) * (_SALT + _NONCE)]
            sequence, salt = self._frontier.size + at, own[:_SALT]
            record = waiting.make(sequence, commit(salt, waiting.content))
            if record.sequence != sequence or record.instance != self._instance:
                raise Misuse("a record of another sequence or instance")
            leaf = encode_record(record)
            rows.append((sequence, leaf))
            sealed.append((sequence, self._sealed(own[_SALT:], sequence, salt + waiting.content)))
            done.append(Recorded(record, merkle.leaf_hash(leaf)))
        frontier = merkle.append(self._frontier, *(recorded.leaf_hash for recorded in done))
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO records VALUES (?, ?)", rows)
        self._db.executemany("INSERT INTO contents VALUES (?, ?)", sealed)
        self._db.execute("INSERT INTO commits VALUES (?, ?)", (frontier.size, merkle.frontier_root(frontier)))
        self._db.execute("COMMIT")
        with self._lock:
            self._leaves += [recorded.leaf_hash for recorded in done]
            self._frontier = frontier
        return done

    def _sealed(self, nonce: bytes, sequence: int, content: bytes) -> bytes:
        return nonce + self._cipher.encrypt(nonce, content, _aad(self._instance, sequence))

    def _break(self, why: str, batch: list[_Waiting]) -> None:
        """After a failed write nothing is known about the file: no record is accepted any more."""
        with self._lock:
            self._broken = why
        while True:
            for waiting in batch:
                waiting.fault = why
                waiting.told.release()
            try:
                more = self._queue.get_nowait()
            except Empty:
                return
            batch = [] if more is None else [more]

    # --- what the verifier is told -------------------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """The log as it is durable now."""
        with self._lock:
            return Checkpoint(self._frontier.size, merkle.frontier_root(self._frontier))

    def consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        """The proof that the log of `size` extends the log of `old`."""
        with self._lock:
            return merkle.consistency_proof(self._leaves[:size], old)

    @property
    def broken(self) -> str | None:
        """Why no record is accepted any more, or None."""
        return self._broken

    def close(self) -> None:
        """Everything accepted is durable, and the file is closed; where the disk does not answer in time, it stays open and locked."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join(timeout=DURABLE_WITHIN)
        if self._thread.is_alive():
            return  # SQLite does not survive being closed while a statement runs
        self._db.close()
        os.close(self._sole)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as it is read back: its content too, where the content key still exists."""

    record: Record
    leaf: bytes
    content: bytes | None


class LogReader:
    """A log read by someone else: every record, checked against the recorded roots. Writes nothing."""

    def __init__(self, folder: Path, instance: bytes) -> None:
        """Read the log in `folder`. Raises FormatError for one that was altered, Unavailable where there is none."""
        self._folder, self._instance = folder, instance
        try:
            db = sqlite3.connect(f"file:{folder / LOG_FILE}?mode=ro", uri=True)
            try:
                db.execute("BEGIN")  # one snapshot for all that is read: the log may be written meanwhile
                self._entries = _read_records(db)
                self._sealed = dict(db.execute("SELECT sequence, sealed FROM contents"))
            finally:
                db.close()
        except sqlite3.Error as error:
            raise Unavailable("action log", f"{folder}: SQLite says {type(error).__name__}") from None
        self.leaf_hashes = tuple(merkle.leaf_hash(leaf) for leaf, _ in self._entries)
        self.checkpoint = Checkpoint(len(self._entries), merkle.root(self.leaf_hashes))

    def entries(self) -> tuple[Entry, ...]:
        """Every record in order."""
        key = _held_key(self._folder / KEY_FILE)
        return tuple(
            Entry(record, leaf, _open(key, self._instance, sequence, self._sealed.get(sequence)))
            for sequence, (leaf, record) in enumerate(self._entries)
        )

    def salted(self, sequence: int) -> tuple[bytes, bytes] | None:
        """Salt and content of a record, which open its commitment; None once erased."""
        opened = _open_sealed(_held_key(self._folder / KEY_FILE), self._instance, sequence, self._sealed.get(sequence))
        return None if opened is None else (opened[:32], opened[32:])

    def inclusion(self, index: int) -> Inclusion:
        """Record `index` with its proof. Raises FormatError where there is none."""
        if not 0 <= index < len(self._entries):
            raise FormatError("record", f"0 to {len(self._entries) - 1}", str(index))
        return Inclusion(self._entries[index][0], index, self.checkpoint, merkle.inclusion_proof(self.leaf_hashes, index))


def erase(folder: Path) -> bool:
    """Destroy the content key: every argument and result of this log becomes unreadable, every proof still holds.

    False where there was none. Does not reach copies of the file that someone else made.
    """
    path = folder / KEY_FILE
    try:
        with path.open("r+b") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _read_records(db: sqlite3.Connection) -> list[tuple[bytes, Record]]:
    """All leaves with what they say, after the check that they lead to the root recorded at every commit.

    1. Sequence numbers run from 0 without a gap, and each leaf is a record with its own number.
    2. The tree over the first n leaves has the recorded root, for every commit (n, root), and the last n is all of them.
    """
    rows = db.execute("SELECT sequence, leaf FROM records ORDER BY sequence").fetchall()
    commits = dict(db.execute("SELECT size, root FROM commits"))
    # 1
    read: list[tuple[bytes, Record]] = []
    frontier = merkle.EMPTY_FRONTIER
    for at, (sequence, leaf) in enumerate(rows):
        record = parse_record(leaf)
        if sequence != at or record.sequence != at:
            raise FormatError("action log", f"record {at}", f"record {sequence}")
        read.append((leaf, record))
        frontier = merkle.append(frontier, merkle.leaf_hash(leaf))
        # 2
        recorded = commits.pop(frontier.size, None)
        if recorded is not None and recorded != merkle.frontier_root(frontier):
            expected, got = recorded.hex()[:16], merkle.frontier_root(frontier).hex()[:16]
            raise FormatError("action log", f"root {expected} at size {frontier.size}", got)
        if at == len(rows) - 1 and recorded is None:
            raise FormatError("action log", "a commit of its last record", f"none at size {frontier.size}")
    if commits:
        raise FormatError("action log", f"{max(commits)} records", f"{len(rows)}")
    return read


def _only_writer(path: Path) -> int:
    """A lock that ends with this process. Raises Unavailable where another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Unavailable("action log", "another process writes it") from None
    return descriptor


def _content_key(path: Path) -> bytes:
    """The instance's content key, made on first use with mode 0600."""
    if path.exists():
        key = path.read_bytes()
        if len(key) != 32:
            raise FormatError("content key", "32 bytes", f"{len(key)} bytes")
        return key
    key = secrets.token_bytes(32)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, key)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return key


def _held_key(path: Path) -> bytes | None:
    try:
        key = path.read_bytes()
    except OSError:
        return None
    return key if len(key) == 32 else None


def _aad(instance: bytes, sequence: int) -> bytes:
    return b"writ/content/v1" + instance + sequence.to_bytes(8, "big")


def _open_sealed(key: bytes | None, instance: bytes, sequence: int, sealed: bytes | None) -> bytes | None:
    if key is None or sealed is None or len(sealed) < 12:
        return None
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:12], sealed[12:], _aad(instance, sequence))
    except InvalidTag:
        return None


def _open(key: bytes | None, instance: bytes, sequence: int, sealed: bytes | None) -> bytes | None:
    opened = _open_sealed(key, instance, sequence, sealed)
    return None if opened is None else opened[32:]
