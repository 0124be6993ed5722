"""`auditor log diff`: what two places show of one log. Where they part, both signed checkpoints are the proof that it forked."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.log.source import Source, answer, read_checkpoint, read_tile
from writ.formats.errors import Refused
from writ.formats.reason import Reason
from writ.formats.tlog.checkpoint import SignedCheckpoint
from writ.formats.tlog.note import encode_note
from writ.verdict.log_audit import LogTrust
from writ.verdict.log_tiles import ProvingTiles, parting, prove_tiles


@dataclass(frozen=True, slots=True)
class Compared:
    """Two checkpoints of one log, and the first entry (index, leaf hash in each) in which their logs differ, if they do."""

    a: SignedCheckpoint
    b: SignedCheckpoint
    parts_at: tuple[int, bytes, bytes] | None

    @property
    def relation(self) -> str:
        """`same`, `a extends b`, `b extends a`, or `fork`."""
        if self.parts_at is not None:
            return "fork"
        a, b = self.a.checkpoint.size, self.b.checkpoint.size
        return "same" if a == b else "a extends b" if a > b else "b extends a"

    @property
    def steps(self) -> tuple[str, ...]:
        """What was checked against what."""
        a, b = self.a.checkpoint, self.b.checkpoint
        return (
            f"checkpoints: a of {a.origin}, size {a.size}, and b, size {b.size}, signed by the log's key",
            "roots: the tiles at the right edge of each against the root that each signed",
            f"history: the first {min(a.size, b.size)} entries of each by the roots over them, and below those that differ by the tiles",
        )

    def fork(self) -> Reason:
        """The finding, where they part."""
        index, a, b = self.parts_at or (0, b"", b"")
        sizes = self.a.checkpoint.size, self.b.checkpoint.size
        return Reason("log-fork", f"entry.{index}", f"leaf {a.hex()} at size {sizes[0]}", f"leaf {b.hex()} at size {sizes[1]}")

    def to_json(self) -> dict[str, object]:
        """For `--json`: the relation, and both checkpoints as they were signed."""
        shown: dict[str, object] = {"relation": self.relation, "checkpoints": {"a": _text(self.a), "b": _text(self.b)}}
        if self.parts_at is not None:
            index, a, b = self.parts_at
            shown["parts_at"] = {"entry": index, "leaf": {"a": a.hex(), "b": b.hex()}}
        return shown


def _text(signed: SignedCheckpoint) -> str:
    return encode_note(signed.note).decode()


def diff(a: Source, b: Source, trust: LogTrust) -> Compared:
    """What the two say, by tiles that lead to what each signed. Raises Refused where one of them does not hold, or Unavailable."""
    signed = read_checkpoint(a), read_checkpoint(b)
    one, other = (trust.verify(each) for each in signed)
    if one.origin != other.origin:
        raise Refused(Reason("checkpoint-invalid", "checkpoint.origin", one.origin, other.origin))
    return Compared(*signed, first_difference((a, answer(a, prove_tiles(one))), (b, answer(b, prove_tiles(other)))))


def first_difference(a: tuple[Source, ProvingTiles], b: tuple[Source, ProvingTiles]) -> tuple[int, bytes, bytes] | None:
    """The first entry that differs, with its leaf hash in each. Raises Refused or Unavailable."""
    asking = parting(a[1], b[1])
    try:
        whose, tile = next(asking)
        while True:
            whose, tile = asking.send(read_tile(a[0] if whose is a[1] else b[0], tile))
    except StopIteration as done:
        found: tuple[int, bytes, bytes] | None = done.value
        return found
