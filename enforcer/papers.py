"""What the verifier gave for an instance, kept whole for the proof bundles: decisions, tokens, and what digests name.

Nothing here decides anything; an export that lacks a part says so when it is verified.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from writ.formats.archive import Archive, parse_place
from writ.formats.cose import parse_sign1
from writ.formats.digest import Digest
from writ.formats.errors import Unavailable
from writ.formats.local import TokenGiven
from writ.formats.tlog.merkle import leaf_hash

PAPERS_FILE: Final = "papers.sqlite"
_SCHEMA: Final = """CREATE TABLE IF NOT EXISTS papers(
    kind TEXT NOT NULL, digest BLOB NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, digest)) STRICT"""


def keep(folder: Path, given: TokenGiven, *, logged: bool = False) -> None:
    """The parts of one answer are durable; its receipt too, where it was `logged`: verified. Raises Unavailable."""
    policy = parse_sign1(given.policy).payload or b""
    rows = [
        ("token", given.token.encode("ascii")), ("entry", given.decision), ("object", given.result), ("object", policy),
        ("object", given.evidence),
    ]  # fmt: skip
    if logged and given.receipt is not None:
        rows.append(("place", leaf_hash(given.decision) + given.receipt))
    _insert(folder, rows)


def _insert(folder: Path, rows: list[tuple[str, bytes]]) -> None:
    try:
        db = sqlite3.connect(folder / PAPERS_FILE)
        try:
            with db:
                db.execute(_SCHEMA)
                named = [(kind, Digest.of(body).value, body) for kind, body in rows]
                db.executemany("INSERT OR IGNORE INTO papers VALUES (?, ?, ?)", named)
        finally:
            db.close()
    except sqlite3.Error as error:
        raise Unavailable("papers", f"{folder}: SQLite says {type(error).__name__}") from None


def keep_object(folder: Path, body: bytes) -> None:
    """One object more that a record's context names by its digest is durable. Raises Unavailable."""
    _insert(folder, [("object", body)])


def kept(folder: Path) -> Archive:
    """Everything kept in `folder`, as an archive without logs. Raises Unavailable, FormatError."""
    path = folder / PAPERS_FILE
    if not path.exists():
        return Archive((), (), (), ())
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            rows = db.execute("SELECT kind, body FROM papers").fetchall()
        finally:
            db.close()
    except sqlite3.Error as error:
        raise Unavailable("papers", f"{folder}: SQLite says {type(error).__name__}") from None
    found: dict[str, list[bytes]] = {"token": [], "entry": [], "object": [], "place": []}
    for kind, body in rows:
        found[kind].append(body)
    tokens = tuple(sorted(body.decode("ascii") for body in found["token"]))
    places = tuple(sorted(map(parse_place, found["place"])))
    return Archive(tuple(sorted(found["entry"])), tokens, tuple(sorted(found["object"])), (), places)
