"""Records leave the host: every action log of this host is shipped to a store that writes once, in the background, and receipts are kept.

One thread of the daemon, over one connection. Never on an action's path: what it reads is durable already. It begins at the last receipt,
and where the store has more, there. What counts as stored is receipts, by the store's key alone: what a store merely says moves no lag. One
that has less than it gave receipts for is at odds; one that names a size and gives no receipt there is asked again later, as if it were
away. Each request is signed whole, as a DPoP proof (RFC 9449) by the key that signs checkpoints.

    instances/ID/receipt.json   {"papers": 12, "receipt": the checkpoint with the store's cosignature}
    operator/receipt.json       the same, of the log of holds and erasures

Papers of more than `LARGEST` bytes stay here, and are counted. This proves nothing about a host whose root ships other records from the
start; what was shipped once, nobody takes back.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from enforcer.config import EnforcerConfig
from enforcer.papers import PAPERS_FILE
from enforcer.receipts import RECEIPT_FILE, read_receipt, unstored
from enforcer.record import LOG_FILE
from writ.formats.errors import FormatError, Unavailable, WritError
from writ.formats.keys import Signer
from writ.formats.operator_log import OPERATOR_LOG
from writ.formats.tlog import merkle
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, Checkpoint, SignedCheckpoint
from writ.formats.tlog.cosignature import cosigned_at
from writ.formats.tlog.note import PLAIN, Note, NoteKey, encode_note, parse_vkey, sign_note
from writ.formats.tlog.storing import CONTENT_TYPE, INFO_TYPE, MOST_PAPERS, PATH, AddRecords, encode_add_records, log_key, parse_info
from writ.formats.tlog.witnessing import parse_cosignatures
from writ.service import observe
from writ.service.clock import Clock
from writ.service.signers import load_or_create_signer
from writ.service.uplink import Answer, Uplink

EVERY: Final = 0.2
"""Seconds between two looks."""
MOST: Final = 1024
"""Records of one request."""
BYTES: Final = 2 << 20
"""Of leaves and sealed contents in one request, beyond the first record."""
LARGEST: Final = 4 << 20
"""Bytes of a paper that is shipped."""
SETTLED: Final = 100_000_000
"""Nanoseconds after a file was written until its time tells a later write from that one."""
MEASURED_EVERY: Final = 1.0
"""Seconds between two writings of the metrics."""
BATCHES: Final = 16
"""Of one log, before the next one has its turn."""
WITHIN: Final = 30.0
"""Seconds for a request, beside what its body takes over a line of `SLOWEST` bytes a second."""
SLOWEST: Final = 64 << 10
READ_AT_ONCE: Final = 4096
"""Leaves that are in memory together while a log is read from its start."""
BACK_OFF: Final = (0.5, 5.0)
"""Seconds until a store that did not answer is asked again: the least, doubled each time, and the most."""

_LOG = observe.get_logger(__name__)

Stamp = tuple[tuple[int, int], ...]
Post = Callable[[bytes], Answer]


class AtOddsError(WritError):
    """The store has another history of this log than the host, or a longer one. Nothing more of it is shipped: a person has to look."""


def host_key(config: EnforcerConfig) -> tuple[NoteKey, Signer]:
    """The key that signs this host's checkpoints, made on first use. Raises FormatError, Unavailable."""
    signer = load_or_create_signer(config.log_key)
    return NoteKey(config.record_log, PLAIN, signer.public), signer


class LogShipper:
    """Ships one log. Not for two threads at once."""

    def __init__(self, folder: Path, instance: bytes, host: NoteKey, signer: Signer, store: NoteKey) -> None:
        self._folder, self._key, self._signer, self._store = folder, log_key(host, instance), signer, store
        kept = read_receipt(folder, store, self._key.name)
        self.size = 0 if kept is None else kept.signed.checkpoint.size
        """How many records the store has, by its receipt."""
        self._at = self.size
        """From where the next ones are sent: more than `size` where the store said so, which is not believed before its receipt."""
        self._papers = 0 if kept is None else kept.papers
        self._known = None if kept is None else kept.signed.checkpoint
        self._frontier: merkle.Frontier | None = None
        self.behind = 0
        """How many records the store did not have, when it was looked at last."""
        self.more = False
        """Whether there was more to ship, then: records or papers."""
        self.large, self._seen = 0, 0
        """How many papers are too large to be shipped, among those up to a row."""

    def ship(self, post: Post) -> bool:
        """The store has one batch more, and its receipt is kept, or it named a size; False where there was nothing to ship.

        1. The next records that are durable, and papers.
        2. Their checkpoint, signed.
        3. The answer is a receipt, or says where the store is.

        Raises Unavailable where the store did not take it, AtOddsError where it never will, FormatError for a log that is none.
        """
        with contextlib.closing(self._open(LOG_FILE)) as db:
            # 1
            db.execute("BEGIN")
            whole = db.execute("SELECT max(size) FROM commits").fetchone()[0] or 0
            if self.size > whole:
                raise AtOddsError("action log", f"at least the {self.size} records that the store has", f"{whole}")
            before = self._caught_up(db)
            rows = self._next(db)
        papers, row = self._next_papers()
        self.behind = whole - self.size
        if not rows and not papers and self._at == self.size:
            self._papers, self.more = row, False
            return False
        # 2
        frontier = merkle.append(before, *(merkle.leaf_hash(leaf) for leaf, _ in rows))
        checkpoint = Checkpoint(self._key.name, frontier.size, merkle.frontier_root(frontier))
        signed = SignedCheckpoint(checkpoint, sign_note(str(checkpoint), self._key, self._signer.sign))
        leaves, sealed = tuple(leaf for leaf, _ in rows), tuple(content for _, content in rows)
        # 3
        answer = post(encode_add_records(AddRecords(self._at, signed, leaves, sealed, papers)))
        if answer.status == 409 and answer.content_type == INFO_TYPE:
            self._go_on_from(answer.body, whole)
            return True
        if answer.status == 409:
            raise AtOddsError("record store", "a store with the same history", answer.body[:200].decode("ascii", "replace").strip())
        if answer.status != 200:
            detail = answer.body[:200].decode("ascii", "replace").strip()
            raise Unavailable("record store", f"expected status 200, got {answer.status}: {detail}")
        self._keep(signed, answer.body, row)
        self._frontier, self.size, self._at, self._papers, self._known = frontier, frontier.size, frontier.size, row, checkpoint
        self.behind = max(0, whole - self.size)
        self.more = self.behind > 0 or self._papers < self._seen
        return True

    def _open(self, name: str) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._folder / name}?mode=ro", uri=True, timeout=5)

    def _caught_up(self, db: sqlite3.Connection) -> merkle.Frontier:
        """The frontier of the records that are not sent again, and what the receipt is of is part of its history."""
        if self._frontier is None:
            self._frontier = self._grown(db, merkle.EMPTY_FRONTIER, self.size)
            if self._known is not None and self._known.root != merkle.frontier_root(self._frontier):
                self._frontier = None
                raise AtOddsError("action log", f"root {self._known.root.hex()} at size {self.size}, of the receipt", "another")
        return self._grown(db, self._frontier, self._at)

    def _grown(self, db: sqlite3.Connection, frontier: merkle.Frontier, size: int) -> merkle.Frontier:
        if frontier.size == size:
            return frontier
        rows = db.execute("SELECT leaf FROM records WHERE sequence >= ? AND sequence < ? ORDER BY sequence", (frontier.size, size))
        while leaves := rows.fetchmany(READ_AT_ONCE):
            frontier = merkle.append(frontier, *(merkle.leaf_hash(leaf) for (leaf,) in leaves))
        if frontier.size != size:
            raise FormatError("action log", f"{size} records", f"{frontier.size}")
        return frontier

    def _next(self, db: sqlite3.Connection) -> list[tuple[bytes, bytes | None]]:
        found: list[tuple[bytes, bytes | None]] = []
        size = 0
        rows = db.execute("SELECT sequence, leaf, sealed FROM records WHERE sequence >= ? ORDER BY sequence LIMIT ?", (self._at, MOST))
        for sequence, leaf, sealed in rows:
            size += len(leaf) + len(sealed or b"")
            if sequence != self._at + len(found):
                raise FormatError("action log", f"record {self._at + len(found)}", f"record {sequence}")
            if found and size > BYTES:
                break
            found.append((leaf, sealed))
        return found

    def _next_papers(self) -> tuple[tuple[tuple[str, bytes], ...], int]:
        """Papers that the store does not have, and the row of the last of them."""
        found: list[tuple[str, bytes]] = []
        last, size = self._papers, 0
        if not (self._folder / PAPERS_FILE).exists():
            return (), last
        with contextlib.closing(self._open(PAPERS_FILE)) as db:
            db.execute("BEGIN")
            fresh = "SELECT count(*) FILTER (WHERE length(body) > ?), max(rowid) FROM papers WHERE rowid > ?"
            large, newest = db.execute(fresh, (LARGEST, self._seen)).fetchone()
            self.large, self._seen = self.large + large, newest or self._seen
            rows = db.execute("SELECT rowid, kind, body FROM papers WHERE rowid > ? ORDER BY rowid LIMIT ?", (last, MOST_PAPERS))
            for row, kind, body in rows:
                whole = len(body) <= LARGEST  # larger evidence, with a whole IMA list, is the verifier's to keep
                size += len(body) if whole else 0
                if found and size > BYTES:
                    break
                if whole:
                    found.append((kind, body))
                last = row
        return tuple(found), last

    def _go_on_from(self, body: bytes, whole: int) -> None:
        """The next records are sent from where the store says it is, once: then it gives a receipt, or is asked again later."""
        try:
            named = parse_info(body)
        except FormatError as error:
            raise Unavailable("record store", str(error)) from None
        if named < self.size:
            raise AtOddsError("record store", f"at least the {self.size} records that it gave a receipt for", f"{named}")
        if named > whole:
            raise AtOddsError("record store", f"at most the {whole} records of this host", f"{named}")
        at, self._at = self._at, self.size
        if at != self.size or named == self.size:
            raise Unavailable("record store", f"expected a receipt for the records from {at} on, got the size {named}")
        self._at, self.more = named, True

    def _keep(self, signed: SignedCheckpoint, body: bytes, papers: int) -> None:
        """The receipt is durable: the store's own line, and no other that it may say. Raises Unavailable for one that it did not sign."""
        try:
            line = Note(signed.note.text, parse_cosignatures(body)).by(self._store)
        except FormatError as error:
            raise Unavailable("record store", str(error)) from None
        note = Note(signed.note.text, signed.note.signatures if line is None else (*signed.note.signatures, line))
        if cosigned_at(note, self._store) is None:
            raise Unavailable("record store", f"expected a cosignature by {self._store.name}+{self._store.id.hex()} that holds, got none")
        fresh = self._folder / f".{RECEIPT_FILE}"
        try:
            with fresh.open("wb") as file:
                file.write(json.dumps({"papers": papers, "receipt": encode_note(note).decode()}).encode())
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self._folder / RECEIPT_FILE)
        except OSError as error:
            raise Unavailable("receipt", f"cannot be written: {error.strerror}") from None


class Shipping:
    """Ships all logs of the host, until the process ends."""

    def __init__(
        self, config: EnforcerConfig, clock: Clock, living: Callable[[], Collection[bytes]], tell: Callable[[bytes, int], None]
    ) -> None:
        """`living` are the instances that may write, as operators always may; `tell` hears of each how many records are in the store.

        Raises FormatError, Unavailable.
        """
        self._config, self._clock, self._living, self._tell = config, clock, living, tell
        self._host, self._signer = host_key(config)
        self._store = parse_vkey(config.record_store_key)
        self._uplink = Uplink(
            config.record_store, ca_file=config.record_store_ca_file, signer=self._signer, clock=clock,
            timeout=WITHIN, slowest=SLOWEST, max_answer=MAX_CHECKPOINT,
        )  # fmt: skip
        self._logs: dict[bytes, LogShipper] = {}
        self._at_odds: set[bytes] = set()
        self._quiet: dict[bytes, Stamp] = {}
        """How the files of a log looked when there was nothing to ship."""
        self._large: dict[bytes, int] = {}
        """How many papers of a log are too large to be shipped."""
        self._waiting: Collection[bytes] = ()
        """The logs of which there may be more to ship."""
        self._failures = 0
        self._seldom = observe.Seldom()
        self._stopped = threading.Event()

    def begin(self) -> None:
        """In a thread of its own, from now on; and in another the metrics, which a store that never answers does not hold up."""
        threading.Thread(target=self._run, name="shipping", daemon=True).start()
        threading.Thread(target=self._measure, name="shipping-metrics", daemon=True).start()

    def close(self) -> None:
        """No request is made any more once the one that is under way has ended."""
        self._stopped.set()

    def size_of(self, instance: bytes) -> int:
        """How many records of an instance the store has, as far as we know."""
        log = self._logs.get(instance)
        if log is not None:
            return log.size
        kept = read_receipt(self._config.log_dir(instance), self._store, log_key(self._host, instance).name)
        return 0 if kept is None else kept.signed.checkpoint.size

    def _run(self) -> None:
        pause, self._waiting = 0.0, set(self._remembered())
        while not self._stopped.wait(pause):
            self._waiting = {*self._waiting, OPERATOR_LOG, *self._living()}
            self._waiting = self.round(self._waiting)
            pause = EVERY if self._failures == 0 else min(BACK_OFF[1], BACK_OFF[0] * 2 ** min(self._failures - 1, 8))

    def _measure(self) -> None:
        fresh = self._config.store_metrics.with_suffix(".new")
        while not self._stopped.wait(MEASURED_EVERY):
            with contextlib.suppress(OSError):
                fresh.write_text(self.metrics(self._waiting))
                fresh.rename(self._config.store_metrics)

    def round(self, instances: Collection[bytes]) -> set[bytes]:
        """What there is of these logs is shipped; those of which there is more, or that could not be, are returned."""
        left = set(instances) - self._at_odds
        away = False
        for instance in sorted(left):
            try:
                for _ in range(BATCHES):
                    if not self._ship(instance):
                        left.discard(instance)
                        break
            except (AtOddsError, FormatError) as error:
                self._at_odds.add(instance)
                left.discard(instance)
                _LOG.error("record-store-at-odds", instance=instance.hex(), detail=str(error))
            except Unavailable as error:
                away = True
                if self._failures in (0, 10) or self._failures % 100 == 0:
                    _LOG.warning("record-store-away", instance=instance.hex(), failures=self._failures, detail=str(error)[:300])
                if error.what == self._uplink.base_url:
                    break  # so it would be for the others
            except Exception as error:  # noqa: BLE001 - whatever is with this log, it ends neither the thread nor the shipping of others
                if self._seldom.now():
                    _LOG.error("record-log-unread", instance=instance.hex(), exception=error)
        self._failures = self._failures + 1 if away else 0
        for instance in self._logs.keys() - left - {OPERATOR_LOG, *self._living()}:
            del self._logs[instance]
            self._quiet.pop(instance, None)
        return left

    def metrics(self, left: Collection[bytes]) -> str:
        """How far the store is behind, for Prometheus: what of the logs in `left`, and of those at odds, is on this host alone."""
        behind = lag = 0
        for instance in {*left, *self._at_odds.copy()}:
            with contextlib.suppress(sqlite3.Error, FormatError):
                records, since = unstored(self._config.log_dir(instance), self.size_of(instance))
                behind, lag = behind + records, max(lag, 0 if since is None else self._clock.now() - since)
        values = {
            "behind_records": behind, "lag_seconds": lag, "at_odds_logs": len(self._at_odds), "failures": self._failures,
            "large_papers": sum([*self._large.values()]),
        }  # fmt: skip
        return "".join(f"# TYPE writ_record_store_{name} gauge\nwrit_record_store_{name} {value}\n" for name, value in values.items())

    def _ship(self, instance: bytes) -> bool:
        folder = self._config.log_dir(instance)
        if not (folder / LOG_FILE).exists():
            return False
        stamp, latest = _stamp(folder)
        if self._quiet.get(instance) == stamp:
            return False
        if instance not in self._logs:
            self._logs[instance] = LogShipper(folder, instance, self._host, self._signer, self._store)
        log = self._logs[instance]
        more = log.ship(self._post)
        self._large[instance] = log.large
        if more:
            self._tell(instance, log.size)
        elif time.time_ns() - latest > SETTLED:
            self._quiet[instance] = stamp
        return more and log.more

    def _post(self, body: bytes) -> Answer:
        return self._uplink.post(PATH, body, CONTENT_TYPE, retry=True)

    def _remembered(self) -> list[bytes]:
        with contextlib.suppress(OSError):
            names = [path.name for path in (self._config.state_dir / "instances").iterdir()]
            return [bytes.fromhex(name) for name in names if len(name) == 32]
        return []


def _stamp(folder: Path) -> tuple[Stamp, int]:
    """How log and papers look from outside, and when one of them was written last."""
    seen = []
    for name in (LOG_FILE, f"{LOG_FILE}-wal", PAPERS_FILE):
        try:
            status = (folder / name).stat()
            seen.append((status.st_mtime_ns, status.st_size))
        except FileNotFoundError:
            seen.append((0, 0))
    return tuple(seen), max(at for at, _ in seen)
