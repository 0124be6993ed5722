"""What stands above a checkpoint in the texts that carry one: lines of their own, then a path, a hash a line, then an empty line.

Source: C2SP tlog-proof (2026-07), tlog-witness v1.0.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, SignedCheckpoint
from writ.formats.tlog.merkle import HASH_SIZE, MOST_HASHES
from writ.formats.tlog.note import encode_note, from_base64, to_base64

MAX_TEXT: Final = MAX_CHECKPOINT + 64 * 48


def check_path(path: Sequence[bytes], what: str) -> None:
    """`path` is one of at most `MOST_HASHES` hashes. Raises FormatError."""
    if len(path) > MOST_HASHES or any(len(one) != HASH_SIZE for one in path):
        raise FormatError(what, f"at most {MOST_HASHES} hashes of {HASH_SIZE} bytes", "others")


def encode_above(head: str, path: Sequence[bytes], checkpoint: SignedCheckpoint) -> bytes:
    """The text: `head`, whose lines are each ended, the path, and the checkpoint."""
    lines = "".join(f"{to_base64(one)}\n" for one in path)
    return f"{head}{lines}\n".encode() + encode_note(checkpoint.note)


def split_above(data: bytes, what: str) -> tuple[str, bytes | None]:
    """The text above the checkpoint, and the bytes of that; None where no empty line parts the two. Raises FormatError."""
    if len(data) > MAX_TEXT:
        raise FormatError(what, f"at most {MAX_TEXT} bytes", f"{len(data)}")
    head, parted, checkpoint = data.partition(b"\n\n")
    try:
        return head.decode("ascii"), checkpoint if parted else None
    except UnicodeDecodeError:
        raise FormatError(what, "ASCII above the checkpoint", "other bytes") from None


def read_path(lines: Sequence[str], what: str) -> tuple[bytes, ...]:
    """The hashes of these lines, whose number and size are not looked at. Raises FormatError."""
    return tuple(from_base64(line, what) for line in lines)
