"""A proof as text: an entry is in the log of a checkpoint. What an auditor keeps beside the entry.

    c2sp.org/tlog-proof@v1
    index 7
    base64(hash)              one line a hash, from the leaf to the root
                              an empty line
    the checkpoint, as signed

Source: C2SP tlog-proof (2026-07). Its `extra` line, which nobody signs, is refused in ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError
from writ.formats.tlog.checkpoint import MAX_CHECKPOINT, SignedCheckpoint, parse_signed_checkpoint
from writ.formats.tlog.merkle import HASH_SIZE, MAX_SIZE
from writ.formats.tlog.note import encode_note, from_base64, to_base64

HEADER: Final = "c2sp.org/tlog-proof@v1"
MOST_HASHES: Final = 63
MAX_PROOF: Final = MAX_CHECKPOINT + 64 * 48
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class TlogProof:
    """The entry at `index` leads by `hashes` to the root of `checkpoint`: as they say, who are not asked here. Raises FormatError."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: SignedCheckpoint

    def __post_init__(self) -> None:
        if not 0 <= self.index < MAX_SIZE:
            raise FormatError("tlog proof index", f"below {MAX_SIZE}", str(self.index)[:40])
        if len(self.hashes) > MOST_HASHES or any(len(one) != HASH_SIZE for one in self.hashes):
            raise FormatError("tlog proof", f"at most {MOST_HASHES} hashes of {HASH_SIZE} bytes", "others")


def encode_tlog_proof(proof: TlogProof) -> bytes:
    """The text of a proof."""
    lines = "".join(f"{to_base64(one)}\n" for one in proof.hashes)
    return f"{HEADER}\nindex {proof.index}\n{lines}\n".encode() + encode_note(proof.checkpoint.note)


def parse_tlog_proof(data: bytes) -> TlogProof:
    """Read a proof. Raises FormatError."""
    if len(data) > MAX_PROOF:
        raise FormatError("tlog proof", f"at most {MAX_PROOF} bytes", f"{len(data)}")
    head, parted, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise FormatError("tlog proof", "ASCII above the checkpoint", "other bytes") from None
    match = _INDEX.match(lines[1]) if len(lines) > 1 else None
    if not parted or lines[0] != HEADER or match is None:
        raise FormatError("tlog proof", f"{HEADER}, an index and hashes", repr(head[:80]))
    hashes = tuple(from_base64(line, "tlog proof") for line in lines[2:])
    return TlogProof(int(match[1]), hashes, parse_signed_checkpoint(checkpoint))
