"""`verifier doctor`: what is wrong with this installation, and what to do about it."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from verifier.config import VerifierConfig
from verifier.keys import DECISION_FILE, LOG_FILE
from verifier.ledger.schema import EntryRow, KeyRow, PolicyRow, TrustRow
from verifier.ledger.sqlite import SqliteTables, connect
from verifier.ledger.translog import agrees, look, standing
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.tlog.note import PLAIN, NoteKey
from writ.service.signers import load_signer


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at; `remedy` is empty where it is well."""

    what: str
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, object]:
        """For --json."""
        return {"what": self.what, "ok": not self.remedy, "found": self.found, "remedy": self.remedy}


def examine(config: VerifierConfig) -> tuple[Checked, ...]:
    """Everything, in order; what depends on a missing part is left out."""
    return tuple(_examine(config))


def _examine(config: VerifierConfig) -> Iterator[Checked]:
    yield _folder(config.state_dir)
    yield _folder(config.key_dir)
    try:
        load_signer(config.key_dir / DECISION_FILE)
        yield Checked("decision key", "there")
    except (Unavailable, FormatError) as error:
        yield Checked("decision key", str(error), "Run `verifier init`, or restore the key directory from its backup.")
    if config.tls_cert_file is None:
        yield Checked("TLS", "none: loopback only")
    else:
        there = config.tls_cert_file.is_file() and config.tls_key_file is not None and config.tls_key_file.is_file()
        yield Checked("TLS", "certificate and key" if there else "a missing file", "" if there else "Set tls_cert_file and tls_key_file.")
    if not config.ledger_file.exists():
        yield Checked("ledger", "none", "Run `verifier init`.")
        return
    try:
        looked = connect(config.ledger_file)  # beside a verifier that serves: it takes no lock of the ledger's
        looked.execute("PRAGMA query_only = ON")
    except (Unavailable, sqlite3.Error) as error:
        yield Checked("ledger", str(error)[:200], "Restore the ledger from its backup.")
        return
    try:
        yield from _ledger(SqliteTables(looked), config)
    finally:
        looked.close()


def _folder(path: Path) -> Checked:
    if not path.is_dir():
        return Checked(f"directory {path}", "none", "Run `verifier init`.")
    mode = stat.S_IMODE(path.stat().st_mode)
    loose = bool(mode & 0o077) and path.name == "keys"
    return Checked(f"directory {path}", f"mode {mode:04o}", "Make it readable by its owner only: chmod 0700." if loose else "")


def _head(tables: SqliteTables, config: VerifierConfig) -> Checked:
    """Whether the log in the tables goes on from its head. The verifier may serve meanwhile, so the head is read first."""
    remedy = "Look for a backup that was put back; the head file belongs to this ledger. Where it is gone: `verifier init --head`."
    try:
        key = NoteKey(config.origin, PLAIN, load_signer(config.key_dir / LOG_FILE).public)
        head = look(config.head_file, key)
        tables.begin()
        try:
            size = standing(tables, key).edge.size
            agrees(tables, size, head)
        finally:
            tables.end()
    except (Refused, FormatError, Unavailable) as error:
        return Checked("log head", str(error)[:200], remedy)
    return Checked("log head", f"{0 if head is None else head.size} entries of {size}")


def _ledger(tables: SqliteTables, config: VerifierConfig) -> Iterator[Checked]:
    broken = [row.sequence for row in tables.select(EntryRow) if leaf_hash(row.entry) != row.leaf]
    count = tables.last(EntryRow)
    total = 0 if count is None else count.sequence + 1
    gaps = len(tables.select(EntryRow)) != total
    wrong = f"entry {broken[0]} is not what was hashed" if broken else "a gap in the sequence"
    yield Checked("log", wrong if broken or gaps else f"{total} entries, each as hashed", "Restore the ledger." if broken or gaps else "")
    yield _head(tables, config)
    current = [row for row in tables.select(KeyRow) if row.retired_at is None]
    there = bool(current) and (config.key_dir / f"token-{current[0].kid}.key").is_file()
    yield Checked("token key", current[0].kid if current else "none", "" if there else "Restore the key directory.")
    roots = tables.select(TrustRow, current=1)
    yield Checked("trust anchors", "imported" if roots else "none", "" if roots else "Import TPM roots: `verifier trust import`.")
    policies = tables.select(PolicyRow)
    yield Checked("policy", f"{len(policies)} published", "" if policies else "Publish one: `verifier policy publish`.")
