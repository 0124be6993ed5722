"""The verifier's transparency log: what an append costs on the disk, apart from what it costs to come to the decision that is appended."""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.measure import Case
from tests.world.scene import NOW, sign_entry, signer
from tests.world.translog import ORIGIN, act
from verifier.ledger import Admitted, Applied, Entry
from verifier.ledger.schema import AdmissionRow
from verifier.ledger.sequencer import SqliteLedger
from verifier.ledger.sqlite import SqliteTables, connect
from verifier.ledger.transaction import entered
from verifier.ledger.translog import TransparencyLog
from writ.formats.digest import Digest

SIGNED: Final = os.urandom(600)
"""What an entry is cut from, behind its number: about the bytes of an unchanged renewal."""
CALLERS: Final = 32
BATCHES: Final = (1024, 256, 1)


class Appending:
    """A ledger's file and its log, to which groups are appended as the sequencer does with what a group came to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._writer = connect(folder / "ledger.sqlite")
        self._tables = SqliteTables(self._writer)
        self._log = TransparencyLog(ORIGIN, signer("log"), folder / "log-head")
        self._log.open(self._tables)
        self._size = 0

    def __call__(self, count: int) -> None:
        """`count` entries: rows and their indexes, tiles, checkpoint signed, transaction synced, head file synced."""
        kinds = ("genesis" if not at else "attest" for at in itertools.count(self._size))
        numbers = range(self._size, self._size + count)
        applied = [Applied(Entry(kind, "billing", "host-1", NOW, b"%09d" % at + SIGNED)) for kind, at in zip(kinds, numbers, strict=False)]
        self._size += count
        self._writer.execute("BEGIN IMMEDIATE")
        rows = [one.entry for one in entered(applied, self._tables) if one.entry is not None]
        extended = self._log.extend(self._tables, rows)
        self._writer.execute("COMMIT")
        self._log.keep(extended)
        self._log.publish()


class Bare:
    """The same bytes as rows of a table, in as many transactions, each synced; and of each the two hashes that a tree takes."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE entry (sequence INTEGER PRIMARY KEY, leaf BLOB NOT NULL, entry BLOB NOT NULL) STRICT")
        self._next = itertools.count()

    def __call__(self, count: int) -> None:
        """`count` rows."""
        rows = []
        for at in itertools.islice(self._next, count):
            data = b"%09d" % at + SIGNED
            leaf = hashlib.sha256(b"\0" + data).digest()
            hashlib.sha256(b"\1" + leaf + leaf).digest()
            rows.append((at, leaf, data))
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT INTO entry VALUES (?, ?, ?)", rows)
        self._database.execute("COMMIT")


def log(folder: Path, *, part: int = 1) -> Iterator[Case]:
    """Appends in process, by size of group; then a decision signed; then whole commits by many callers at once, and a receipt."""
    for batch in BATCHES:
        count = max(1, batch // part)
        ours, bare = Appending(folder / f"log-{batch}"), Bare(folder / f"bare-{batch}.sqlite")
        name, beside = f"append to the verifier's log, in process, {count} in a group", "rows of one table, hashed twice and synced"
        yield Case(name, beside, partial(ours, count), partial(bare, count), count, "append")
    by = signer("decision")
    yield Case("a log's decision encoded and signed", "one Ed25519 signature", _decision, partial(by.sign, bytes(200)), 1, "decision")
    yield from _committed(folder)


def _decision() -> bytes:
    return sign_entry(act(NOW))


def _committed(folder: Path) -> Iterator[Case]:
    place = folder / "committed"
    place.mkdir()
    translog = TransparencyLog(ORIGIN, signer("log"), place / "log-head")
    ledger, bare, number = SqliteLedger(place / "ledger.sqlite", log=translog), Bare(place / "bare.sqlite"), itertools.count()
    signed = itertools.cycle([sign_entry(act(NOW, f"host-{at}")) for at in range(64)])

    def commit(_: int = 0) -> int:
        at = next(number)
        name, kind = f"host-{at}", "operator" if at else "genesis"
        admission = AdmissionRow(Digest.of(name.encode()).value, name, "billing", None, 0, 1, 0, 0)
        row = ledger.commit(Admitted(Entry(kind, "billing", name, NOW, next(signed)), admission)).entry
        assert row is not None
        return row.sequence

    commit()
    last = commit()
    key = signer("log")

    def receipt() -> bytes:
        return translog.receipt(ledger.read(), last)

    yield Case("a log's receipt", "one Ed25519 signature", receipt, lambda: key.sign(bytes(80)))
    with ThreadPoolExecutor(CALLERS) as pool:
        yield Case(
            f"log and ledger: commits of {CALLERS} operators at once, signed before", f"{CALLERS} rows, in one transaction",
            lambda: list(pool.map(commit, range(CALLERS))), lambda: bare(CALLERS), CALLERS, "commit",
        )  # fmt: skip
    ledger.close()
