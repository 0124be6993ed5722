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
from writ.formats.tlog.above import check_path, encode_above, read_path, split_above
from writ.formats.tlog.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from writ.formats.tlog.merkle import MAX_SIZE

HEADER: Final = "c2sp.org/tlog-proof@v1"
_WHAT: Final = "tlog proof"
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
        check_path(self.hashes, _WHAT)


def encode_tlog_proof(proof: TlogProof) -> bytes:
    """The text of a proof."""
    return encode_above(f"{HEADER}\nindex {proof.index}\n", proof.hashes, proof.checkpoint)


def parse_tlog_proof(data: bytes) -> TlogProof:
    """Read a proof. Raises FormatError."""
    head, checkpoint = split_above(data, _WHAT)
    lines = head.split("\n")
    match = _INDEX.match(lines[1]) if len(lines) > 1 else None
    if checkpoint is None or lines[0] != HEADER or match is None:
        raise FormatError(_WHAT, f"{HEADER}, an index and hashes", repr(head.encode()[:80]))
    return TlogProof(int(match[1]), read_path(lines[2:], _WHAT), parse_signed_checkpoint(checkpoint))
