"""What the store off the host has given for a log, and what of it is on this host alone.

instances/ID/receipt.json   {"papers": 12, "receipt": the checkpoint with the store's cosignature}
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enforcer.record import LOG_FILE, time_of
from writ.formats.errors import FormatError
from writ.formats.record import parse_record
from writ.formats.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from writ.formats.tlog.cosignature import cosigned_at
from writ.formats.tlog.note import NoteKey

RECEIPT_FILE: Final = "receipt.json"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The checkpoint that the store cosigned last, and how many rows of papers it has."""

    signed: SignedCheckpoint
    papers: int


def read_receipt(folder: Path, store: NoteKey | None = None, origin: str | None = None) -> Receipt | None:
    """The receipt kept in `folder`; None where none is there that reads, that `store` cosigned, and that is of the log `origin`."""
    try:
        kept = json.loads((folder / RECEIPT_FILE).read_bytes())
        receipt = Receipt(parse_signed_checkpoint(kept["receipt"].encode()), int(kept["papers"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, FormatError):
        return None
    if origin is not None and receipt.signed.checkpoint.origin != origin:
        return None
    return receipt if store is None or cosigned_at(receipt.signed.note, store) is not None else None


def unstored(folder: Path, size: int) -> tuple[int, int | None]:
    """How many records of the log in `folder` lie beyond `size`, and when the first of them was made. Raises sqlite3.Error, FormatError."""
    with contextlib.closing(sqlite3.connect(f"file:{folder / LOG_FILE}?mode=ro", uri=True, timeout=5)) as db:
        whole = db.execute("SELECT max(size) FROM commits").fetchone()[0] or 0
        row = db.execute("SELECT leaf FROM records WHERE sequence = ?", (size,)).fetchone()
    return max(0, whole - size), None if row is None else time_of(parse_record(row[0]))
