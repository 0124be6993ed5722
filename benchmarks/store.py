"""The record store over HTTP: batches of records made durable elsewhere, each with a receipt that is checked.

The store is `auditor store serve`, a process of its own on loopback without TLS, its file on the disk of the temporary directory. Timed is
everything that a host does for a batch, one after another over one connection: leaves hashed, checkpoint signed, request made and sent; the
store reads and checks it, makes its root again, commits to SQLite (WAL, synchronous=FULL) and cosigns; the cosignature is verified. Beside
it the same bytes are appended to a file and synced, by this process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Case
from writ.formats.action import Action, encode_context
from writ.formats.digest import Digest
from writ.formats.keys import Signer
from writ.formats.record import ActionDraft
from writ.formats.tlog import merkle
from writ.formats.tlog.checkpoint import Checkpoint, SignedCheckpoint
from writ.formats.tlog.cosignature import cosigned_at
from writ.formats.tlog.note import PLAIN, Note, NoteKey, parse_vkey, sign_note
from writ.formats.tlog.storing import CONTENT_TYPE, AddRecords, encode_add_records, log_key
from writ.formats.tlog.witnessing import parse_cosignatures
from writ.service.clock import SystemClock
from writ.service.signers import MemorySigner
from writ.service.uplink import Uplink

BATCHES = (64, 256, 1024)
SEALED = 600
"""Bytes of a record's sealed content: salts, a context, and arguments of some 300 bytes."""


class Host:
    """Ships records that are made as the enforcer makes them."""

    def __init__(self, url: str, store: NoteKey, host: NoteKey, signer: Signer, instance: bytes) -> None:
        self._uplink = Uplink(url, ca_file=None, signer=signer, clock=SystemClock())
        self._store, self._key, self._signer = store, log_key(host, instance), signer
        self._frontier = merkle.EMPTY_FRONTIER
        action = Action("http.post", "https://api.example.org/v1/messages", Digest.of(b""))
        self._draft = ActionDraft(1_790_000_000, action, Digest.of(b"t"), Digest.of(b"b"), encode_context({}), (), bytes(32), "egress")
        self._sealed = os.urandom(SEALED)

    def records(self, count: int) -> tuple[bytes, ...]:
        """The next leaves."""
        first, random = self._frontier.size, os.urandom(64)
        return tuple(self._draft.leaf(at, 0, random[:32], random[32:]) for at in range(first, first + count))

    def ship(self, leaves: tuple[bytes, ...]) -> None:
        """They are in the store, and its receipt holds."""
        frontier = merkle.append(self._frontier, *map(merkle.leaf_hash, leaves))
        checkpoint = Checkpoint(self._key.name, frontier.size, merkle.frontier_root(frontier))
        signed = SignedCheckpoint(checkpoint, sign_note(str(checkpoint), self._key, self._signer.sign))
        asked = AddRecords(self._frontier.size, signed, leaves, (self._sealed,) * len(leaves))
        answer = self._uplink.post("/add-records", encode_add_records(asked), CONTENT_TYPE)
        if answer.status != 200 or cosigned_at(Note(signed.note.text, parse_cosignatures(answer.body)), self._store) is None:
            raise RuntimeError(f"no receipt: status {answer.status}, {answer.body[:200]!r}")
        self._frontier = frontier


def shipped(folder: Path) -> Iterator[Case]:
    """A store, and batches of three sizes."""
    signer = MemorySigner.generate()
    host = NoteKey("records.example/host-1", PLAIN, signer.public)
    (folder / "hosts").write_text(f"log {host}\nquorum none\n")
    command = (sys.executable, "-m", "auditor", "store")
    subprocess.run([*command, "init", str(folder / "store"), "--name", "store.example"], check=True, stdout=subprocess.DEVNULL)
    key = parse_vkey((folder / "store" / "vkey").read_text().strip())
    serve = [*command, "serve", str(folder / "store"), "--hosts", str(folder / "hosts"), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(serve, stderr=subprocess.PIPE) as store, (folder / "beside").open("ab") as beside:
        try:
            url = _url(store)
            for at, count in enumerate(BATCHES):
                yield _case(Host(url, key, host, signer, bytes([at] * 16)), count, beside.fileno())
        finally:
            store.terminate()
            store.wait(20)


def _case(host: Host, count: int, beside: int) -> Case:
    data = b"".join(host.records(count)) + bytes(SEALED * count)

    def bare() -> None:
        os.write(beside, data)
        os.fdatasync(beside)

    name = f"append: {count} records to the store over HTTP, with a receipt"
    return Case(name, "written and synced", lambda: host.ship(host.records(count)), bare, count, "record")


def _url(store: subprocess.Popen[bytes]) -> str:
    if store.stderr is None:
        raise RuntimeError("no standard error")
    return str(json.loads(store.stderr.readline())["url"])
