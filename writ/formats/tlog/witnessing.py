"""What a log asks of a witness: the size it knows the log at, why the newer one extends it, and the checkpoint.

    old 5
    base64(hash)              one line a hash of the consistency proof
                              an empty line
    the checkpoint, as signed

The answer is cosignature lines. A witness that knows another size says which (409, `text/x.tlog.size`).

Source: C2SP tlog-witness v1.0.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.tlog.above import MAX_TEXT, check_path, encode_above, read_path, split_above
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, SignedCheckpoint, parse_signed_checkpoint
from writ.formats.tlog.merkle import MAX_SIZE
from writ.formats.tlog.note import Note, NoteSignature, encode_note, parse_note

_WHAT: Final = "add-checkpoint"
MAX_REQUEST: Final = MAX_TEXT
SIZE_TYPE: Final = "text/x.tlog.size"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})\Z", re.ASCII)
_SIZE = re.compile(r"(0|[1-9][0-9]{0,18})\n\Z", re.ASCII)
_TEXT: Final = b"x\n\n"
"""What cosignature lines are put below to be read as those of a note are."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A checkpoint to cosign, and the proof that it extends the log of `old` entries. Raises FormatError."""

    old: int
    proof: tuple[bytes, ...]
    checkpoint: SignedCheckpoint

    def __post_init__(self) -> None:
        if not 0 <= self.old <= MAX_SIZE:
            raise FormatError("add-checkpoint old", f"at most {MAX_SIZE}", str(self.old)[:40])
        check_path(self.proof, _WHAT)


def encode_add_checkpoint(asked: AddCheckpoint) -> bytes:
    """The body of the request."""
    return encode_above(f"old {asked.old}\n", asked.proof, asked.checkpoint)


def parse_add_checkpoint(data: bytes) -> AddCheckpoint:
    """Read the body. Raises FormatError."""
    head, checkpoint = split_above(data, _WHAT)
    lines = head.split("\n")
    match = _OLD.match(lines[0])
    if checkpoint is None or match is None:
        raise FormatError(_WHAT, "old SIZE and hashes", repr(head.encode()[:80]))
    return AddCheckpoint(int(match[1]), read_path(lines[1:], _WHAT), parse_signed_checkpoint(checkpoint))


def encode_cosignatures(lines: tuple[NoteSignature, ...]) -> bytes:
    """The answer of a witness that cosigned."""
    return encode_note(Note("x\n", lines)).removeprefix(_TEXT)


def parse_cosignatures(data: bytes) -> tuple[NoteSignature, ...]:
    """Read the answer. Raises FormatError."""
    note = parse_note(_TEXT + data, "cosignatures", max_size=MAX_CHECKPOINT)
    if note.text.encode() + b"\n" != _TEXT:
        raise FormatError("cosignatures", "signature lines and nothing before them", "a text")
    return note.signatures


def parse_size(data: bytes) -> int:
    """Read the size that a witness knows the log at. Raises FormatError."""
    match = _SIZE.match(data[:32].decode("ascii", "replace"))
    if match is None or len(data) > 20 or int(match[1]) > MAX_SIZE:
        raise FormatError("witness size", "a decimal number and a newline", repr(data[:40]))
    return int(match[1])
