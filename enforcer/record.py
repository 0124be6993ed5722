"""The action log of one instance: an RFC 6962 tree of records, durable before any action passes.

One SQLite file, written by one thread: whatever is waiting is appended in one
transaction and one fsync (WAL, synchronous=FULL), and only then do the waiting
callers hear of it. Where several waited for the last one, the writer gives as
many the time to come again, a fraction of what that one took. Each transaction also writes the tree's new size and root,
so a log that was altered, cut or only half written is noticed when it is
opened: a torn tail was never acknowledged and is rolled back by SQLite, and
everything else is refused. What is opened is synced first: the checkpoint of
what a killed writer left is carried like any other.

    records(sequence, leaf, sealed)    leaf = formats.record; salts and what they hide, sealed with the instance's content key
    commits(size, root)                one row a transaction

The content key lies in a file of its own, wrapped by the namespace's (`content_keys`).
Destroying it (`erase`), or that one, makes every commitment in the log opaque for ever,
while all proofs still hold.

This says nothing about who may alter the file: root can rewrite all of it, and
is found out by the verifier, which holds the checkpoint carried last.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from enforcer.content_keys import KEY_FILE, ContentKeys
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError, Unavailable
from writ.formats.hidden import LENGTH, NONCE, SALT, Hidden, bound_to, unseal
from writ.formats.record import (
    MAX_RECORD,
    ActionDraft,
    ActionRecord,
    LogShape,
    Opening,
    OutcomeDraft,
    Record,
    commit,
    encode_record,
    parse_record,
)
from writ.formats.spiffe import AgentId
from writ.formats.tlog import merkle
from writ.service.key_files import destroy_key
from writ.service.log_store import sync

_SCHEMA: Final = """
BEGIN;
CREATE TABLE IF NOT EXISTS records(sequence INTEGER PRIMARY KEY, leaf BLOB NOT NULL, sealed BLOB) STRICT;
CREATE TABLE IF NOT EXISTS commits(size INTEGER PRIMARY KEY, root BLOB NOT NULL) STRICT;
COMMIT;
"""
LOG_FILE: Final = "action-log.sqlite"
LOCK_FILE: Final = "action-log.lock"
MAX_BATCH: Final = 256
_RANDOM: Final = 2 * SALT + NONCE
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


@dataclass(slots=True)
class Recorded:
    """A record that is durable: its place in the log, its leaf hash, and the commitment to its arguments or result."""

    sequence: int
    leaf_hash: bytes
    commitment: bytes


@dataclass(frozen=True, slots=True)
class Inclusion:
    """One record with the proof that it is in the log of `checkpoint`."""

    leaf: bytes
    index: int
    checkpoint: Checkpoint
    proof: tuple[bytes, ...]


_Row = tuple[int, bytes, bytes | None]


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class Waiting:
    """A caller whose record is not durable yet. `told` is released once, when there is a record or a fault.

    A future does as much, and takes four times as long.
    """

    draft: ActionDraft | OutcomeDraft
    content: bytes
    recorded: Recorded | None = None
    fault: str = ""
    told: threading.Lock = field(default_factory=_held_lock)


class ActionLog:
    """The log, open for appending by one object at a time: a lock beside the file holds it to that. Others may read meanwhile."""

    def __init__(self, folder: Path, instance: bytes, agent: AgentId, engine: EngineId, now: int, keys: Path | None = None) -> None:
        """Open or begin the log in `folder`, in which `engine` decides from here on: where no opening says so, one comes before the next.

        `keys` is the folder of the namespaces' keys, by default the log's own.
        Raises FormatError for a log that was altered, or is another's, Unavailable where it cannot be opened.
        """
        self._instance, self._begins = instance, Opening(0, now, instance, str(agent), engine)
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._broken: str | None = None
        self._closed = False
        with contextlib.ExitStack() as opened:
            try:
                self._sole = _only_writer(folder / LOCK_FILE)
                opened.callback(os.close, self._sole)
                self._db = sqlite3.connect(folder / LOG_FILE, isolation_level=None, check_same_thread=False)
                opened.callback(self._db.close)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
                sync(self._db, "action log")
                read, shape = _read_records(self._db, instance)
                last = shape.opening
                if last is not None and last.agent != self._begins.agent:
                    raise FormatError("action log", f"one of {self._begins.agent}", f"one of {last.agent}")
                namespace = ContentKeys(keys or folder, agent.namespace)
                self._kept = namespace.writing()
                opened.callback(os.close, self._kept)
                self._cipher = ChaCha20Poly1305(namespace.open(folder, instance))
                self._leaves = [merkle.leaf_hash(leaf) for leaf, _ in read]
                self._frontier = merkle.append(merkle.EMPTY_FRONTIER, *self._leaves)
            except sqlite3.DatabaseError as error:
                raise Unavailable("action log", f"SQLite says {type(error).__name__} ({error.sqlite_errorname})") from None
            except OSError as error:
                raise Unavailable("action log", f"{error.strerror}") from None
            opened.pop_all()
        self._opening = last.sequence if last is not None and last.engine == engine else None
        self.permits: Final = Counter(record.action for _, record in read if isinstance(record, ActionRecord) and record.permit)
        """How often each action had been permitted when the log was opened."""
        self._unfinished = shape.unfinished
        self._times = array("q", (time_of(record) for _, record in read))
        self._stored: int | None = None
        self._last_batch, self._last_took = 1, 0.0
        self._thread = threading.Thread(target=self._write, name="action-log", daemon=True)
        self._thread.start()

    # --- appending ---------------------------------------------------------------------------------------------------

    def append(self, draft: ActionDraft | OutcomeDraft, content: bytes) -> Recorded:
        """The record is durable, and so is its content (arguments or result), sealed.

        Raises Unavailable where it is not known to be, and for what would be no record: odd text, too much of it, another outcome.
        """
        if len(content) > MAX_CONTENT:
            raise Unavailable("action log", f"expected content of at most {MAX_CONTENT} bytes, got {len(content)}")
        try:
            draft.check()  # what no reader would take is not written
        except FormatError as error:
            raise Unavailable("action log", str(error)) from None
        with self._lock:
            if self._broken is not None or self._closed:
                raise Unavailable("action log", self._broken or "closed")
            waiting = Waiting(draft, content)
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
                waiting.recorded = recorded  # None of one that was refused by itself, which says why
                waiting.told.release()

    def _batch(self) -> list[Waiting]:
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

    def _commit(self, batch: list[Waiting]) -> list[Recorded | None]:
        """One transaction for all that wait, but for those that would be no records. Nothing in memory moves before it is durable."""
        rows: list[_Row] = []
        times: list[int] = []
        done: list[Recorded] = []
        told: list[Recorded | None] = []
        finished: set[int] = set()
        first, opening = self._frontier.size, self._opening
        if opening is None:
            rows.append((first, encode_record(replace(self._begins, sequence=first)), None))
            times.append(self._begins.opened_at)
            first, opening = first + 1, first
        random = os.urandom(len(batch) * _RANDOM)
        at = first
        for waiting in batch:
            own, random = random[:_RANDOM], random[_RANDOM:]
            draft, content, salt, nonce = waiting.draft, waiting.content, own[:SALT], own[2 * SALT :]
            commitment = commit(salt, content)
            if isinstance(draft, ActionDraft):
                context = draft.context
                leaf = draft.leaf(at, opening, commitment, commit(own[SALT : 2 * SALT], context))
                hidden = own[: 2 * SALT] + len(context).to_bytes(LENGTH, "big") + context + content
                when = draft.decided_at
            else:
                leaf = draft.leaf(at, len(content), commitment)
                hidden = salt + content
                when = draft.finished_at
            if why := self._against(draft, leaf, finished):
                waiting.fault = why
                told.append(None)
                continue
            times.append(when)
            rows.append((at, leaf, nonce + self._cipher.encrypt(nonce, hidden, bound_to(self._instance, at))))
            done.append(Recorded(at, merkle.leaf_hash(leaf), commitment))
            told.append(done[-1])
            at += 1
        if not done:
            return told
        hashes = [recorded.leaf_hash for recorded in done]
        if len(rows) > len(done):
            hashes.insert(0, merkle.leaf_hash(rows[0][1]))
        self._store(rows, hashes, times)
        self._opening = opening
        self._unfinished -= finished
        self._unfinished.update(
            one.sequence for one, waiting in zip(told, batch, strict=True) if one is not None and isinstance(waiting.draft, ActionDraft)
        )
        return told

    def _against(self, draft: ActionDraft | OutcomeDraft, leaf: bytes, finished: set[int]) -> str:
        """Why `leaf` would be no record of this log; empty where it would. The action of an outcome is `finished` then."""
        if len(leaf) > MAX_RECORD:
            return f"expected a record of at most {MAX_RECORD} bytes, got {len(leaf)}"
        if isinstance(draft, OutcomeDraft):
            if draft.of not in self._unfinished or draft.of in finished:
                return f"expected an action without an outcome, got {draft.of}"
            finished.add(draft.of)
        return ""

    def _store(self, rows: list[_Row], hashes: list[bytes], times: list[int]) -> None:
        """One transaction: leaves, what they hide, size and root."""
        frontier = merkle.append(self._frontier, *hashes)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
        self._db.execute("INSERT INTO commits VALUES (?, ?)", (frontier.size, merkle.frontier_root(frontier)))
        self._db.execute("COMMIT")
        with self._lock:
            self._leaves += hashes
            self._times.extend(times)
            self._frontier = frontier

    def _break(self, why: str, batch: list[Waiting]) -> None:
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

    # --- what lies on the host alone -----------------------------------------------------------------------------------------

    def stored(self, size: int) -> None:
        """The first `size` records are in the store off the host, which has given its receipt."""
        with self._lock:
            self._stored = min(size, len(self._times))

    def lag(self, now: int) -> int | None:
        """For how many seconds the oldest record has lain that is on this host alone, 0 where none does; None where nobody ships them."""
        with self._lock:
            if self._stored is None:
                return None
            return max(0, now - self._times[self._stored]) if self._stored < len(self._times) else 0

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
        os.close(self._kept)
        os.close(self._sole)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as it is read back, under its opening; what it hides, too, where the content key still exists."""

    record: Record
    leaf: bytes
    opening: Opening
    hidden: Hidden | None

    @property
    def content(self) -> bytes | None:
        """The arguments, or the result; None once erased."""
        return None if self.hidden is None else self.hidden.content

    @property
    def context(self) -> bytes | None:
        """What the decision saw; None once erased, and of what is no action."""
        return None if self.hidden is None else self.hidden.context


class LogReader:
    """A log read by someone else: every record, checked against the recorded roots. Writes nothing."""

    def __init__(self, folder: Path, instance: bytes, keys: Path | None = None) -> None:
        """Read the log in `folder`. Raises FormatError for one that was altered, Unavailable where there is none.

        `keys` is the folder of the namespaces' keys, by default the log's own.
        """
        self._folder, self._instance, self._keys = folder, instance, keys or folder
        try:
            db = sqlite3.connect(f"file:{folder / LOG_FILE}?mode=ro", uri=True)
            try:
                db.execute("BEGIN")  # one snapshot for all that is read: the log may be written meanwhile
                self._entries, _ = _read_records(db, instance)
                self._sealed = dict(db.execute("SELECT sequence, sealed FROM records"))
            finally:
                db.close()
        except sqlite3.Error as error:
            raise Unavailable("action log", f"{folder}: SQLite says {type(error).__name__}") from None
        self.leaf_hashes = tuple(merkle.leaf_hash(leaf) for leaf, _ in self._entries)
        self.checkpoint = Checkpoint(len(self._entries), merkle.root(self.leaf_hashes))

    def entries(self) -> tuple[Entry, ...]:
        """Every record in order, the openings too."""
        key: bytes | None = None
        found: list[Entry] = []
        opening: Opening | None = None
        for leaf, record in self._entries:
            if isinstance(record, Opening):
                key = ContentKeys(self._keys, AgentId.parse(record.agent).namespace).held(self._folder, self._instance)
                opening = record
            if opening is not None:  # the first record is one
                found.append(Entry(record, leaf, opening, unseal(key, self._instance, record, self._sealed.get(record.sequence))))
        return tuple(found)

    def inclusion(self, index: int) -> Inclusion:
        """Record `index` with its proof. Raises FormatError where there is none."""
        if not 0 <= index < len(self._entries):
            raise FormatError("record", f"0 to {len(self._entries) - 1}", str(index))
        return Inclusion(self._entries[index][0], index, self.checkpoint, merkle.inclusion_proof(self.leaf_hashes, index))


def erase(folder: Path) -> bool:
    """Destroy the content key: every argument, result and context of this log becomes unreadable, every proof still holds.

    False where there was none. Does not reach copies of the file that someone else made. Raises Unavailable while the log is written: what
    came after would be sealed with a key that is nowhere. Who may, and whether it is held, is looked at elsewhere (`holds`).
    """
    path = folder / KEY_FILE
    if not path.exists():
        return False
    sole = _only_writer(folder / LOCK_FILE)  # until the key is gone: whoever opened the log meanwhile would seal with it
    try:
        return destroy_key(path)
    finally:
        os.close(sole)


def _read_records(db: sqlite3.Connection, instance: bytes) -> tuple[list[tuple[bytes, Record]], LogShape]:
    """All leaves with what they say, and what they are together, after the check that they lead to the root recorded at every commit.

    1. Sequence numbers run from 0 without a gap, and the records are a log, of this instance.
    2. The tree over the first n leaves has the recorded root, for every commit (n, root), and the last n is all of them.
    """
    rows = db.execute("SELECT sequence, leaf FROM records ORDER BY sequence").fetchall()
    commits = dict(db.execute("SELECT size, root FROM commits"))
    # 1
    read: list[tuple[bytes, Record]] = []
    shape, frontier = LogShape(), merkle.EMPTY_FRONTIER
    for at, (sequence, leaf) in enumerate(rows):
        record = parse_record(leaf)
        if sequence != at:
            raise FormatError("action log", f"record {at}", f"record {sequence}")
        shape.add(record)
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
    if shape.opening is not None and shape.opening.instance != instance:
        raise FormatError("action log", f"one of instance {instance.hex()}", f"one of {shape.opening.instance.hex()}")
    return read, shape


def time_of(record: Record) -> int:
    """When it was made, in seconds."""
    if isinstance(record, Opening):
        return record.opened_at
    return record.decided_at if isinstance(record, ActionRecord) else record.finished_at


def _only_writer(path: Path) -> int:
    """A lock that ends with this process. Raises Unavailable where another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Unavailable("action log", "another process writes it") from None
    return descriptor
