"""Checkpoints: origin, size and root of a log, as the text of a signed note.

    writ.example.org/log
    1234
    base64(root)

The origin is the name of the log's key, so one key speaks for one log. Extension lines are refused in ours: witnesses refuse them, and they
would be a way to say two things under one size.

Source: C2SP tlog-checkpoint v1.0.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.tlog.merkle import EMPTY_ROOT, HASH_SIZE, MAX_SIZE
from writ.formats.tlog.note import MAX_NAME, Note, from_base64, parse_note, to_base64

MAX_CHECKPOINT: Final = 64 << 10
"""With every signature that witnesses may have added."""
_ORIGIN = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_NAME}}}\Z")
EMPTY: Final = "checkpoint.root of no entries"
"""What a FormatError names that is of a checkpoint well spelt, and impossible: a witness answers it apart."""
_SIZE = re.compile(r"(?:0|[1-9][0-9]{0,18})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log of `size` entries under `root`. Says nothing about who says so. Raises FormatError."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not _ORIGIN.match(self.origin):
            raise FormatError("checkpoint.origin", f"one line of 1 to {MAX_NAME} printable characters", repr(self.origin[:80]))
        if not 0 <= self.size <= MAX_SIZE:
            raise FormatError("checkpoint.size", f"0 to {MAX_SIZE}", str(self.size)[:40])
        if len(self.root) != HASH_SIZE:
            raise FormatError("checkpoint.root", f"{HASH_SIZE} bytes", f"{len(self.root)}")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise FormatError(EMPTY, EMPTY_ROOT.hex(), self.root.hex())

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """Read the text of a note as a checkpoint. Raises FormatError."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3]:
        raise FormatError("checkpoint", "three lines: origin, size and root", f"{len(lines) - 1}")
    origin, size, root = lines[:3]
    if not _SIZE.match(size):
        raise FormatError("checkpoint.size", "a decimal number without zeros before it", repr(size[:40]))
    return Checkpoint(origin, int(size), from_base64(root, "checkpoint.root"))


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint, and the note that it came in. Says nothing yet about who signed it."""

    checkpoint: Checkpoint
    note: Note


def parse_signed_checkpoint(data: bytes) -> SignedCheckpoint:
    """Read a checkpoint as logs serve it. Raises FormatError."""
    note = parse_note(data, "checkpoint", max_size=MAX_CHECKPOINT)
    return SignedCheckpoint(parse_checkpoint(note.text), note)
