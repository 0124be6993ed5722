"""Anchors: checkpoints of action logs that were extended into a PCR between two quotes.

A **batch** is what is extended at once: the checkpoints of some instances'
action logs, one row each. What goes into each bank is the hash of

    ["writ/anchor/v1", [[instance, size, root], …]]

in deterministic CBOR, so a register is reached by one list of batches only.
Evidence carries the batches since the register that the verifier knows, and
how many those may be is bounded: what an interval costs does not grow with
the rate of actions.

What is only parsed is not yet believed (`verdict.anchor` does that).

>>> batch = (AnchorRow(bytes(16), 3, bytes(32)),)
>>> led("sha256", bytes(32), (batch,)) == led("sha256", bytes(32), (batch, batch))
False
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest, extend
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_cbor, encode_cbor
from writ.formats.tpm.pcr import RUNTIME_PCRS

BATCH_TAG: Final = "writ/anchor/v1"
MAX_BATCHES: Final = 16
"""Batches between two quotes."""
MAX_ROWS: Final = 128
"""Rows in all batches between two quotes: beside the longest 256 outcomes, each refused, an entry of the verifier's log holds them."""
MAX_ANCHORED: Final = 64
"""Anchors of one instance that wait for the checkpoint that extends them. The enforcer makes 16 at most."""
ANCHOR_PCRS: Final = RUNTIME_PCRS
"""That of the runtime log is not free."""
_WHAT: Final = "anchors"


@dataclass(frozen=True, slots=True, order=True)
class AnchorRow:
    """The action log of `instance` had `size` records, at least one, under the Merkle root `root`."""

    instance: bytes
    size: int
    root: bytes


Batch = tuple[AnchorRow, ...]
"""What is extended at once: at least one row, sorted by instance, each instance once."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """What was extended into `pcr` after its value, in the quoted bank, was `base`. No batch: the register is named, to go on from."""

    pcr: int
    base: bytes
    batches: tuple[Batch, ...]

    def to_cbor(self) -> dict[str, object]:
        """The map."""
        return {"v": 1, "pcr": self.pcr, "base": self.base, "batches": batches_out(self.batches)}


@dataclass(frozen=True, slots=True)
class ShownAnchors:
    """The anchors that one quote was to show: from `base` over `batches`, and `register`, the value that the quote has.

    `reset_count` and `restart_count` are the quote's, and name the boot.
    """

    pcr: int
    reset_count: int
    restart_count: int
    base: bytes
    register: bytes
    batches: tuple[Batch, ...]

    def to_cbor(self) -> list[object]:
        """The array."""
        return [self.pcr, self.reset_count, self.restart_count, self.base, self.register, batches_out(self.batches)]

    @classmethod
    def from_cbor(cls, value: object) -> ShownAnchors:
        """Read the array. Raises FormatError."""
        if not isinstance(value, list) or len(value) != 6:
            raise FormatError(_WHAT, "an array of six", type(value).__name__)
        f = Fields(dict(enumerate(value)), _WHAT)
        counters = [f.uint(at, most=(1 << 32) - 1) for at in (1, 2)]
        return cls(_pcr(f, 0), counters[0], counters[1], _register(f, 3), _register(f, 4), read_batches(f.any(5)))


def encode_batch(batch: Batch) -> bytes:
    """The bytes whose hash is extended into each bank."""
    return encode_cbor([BATCH_TAG, [_row_out(row) for row in batch]])


def led(bank: str, base: bytes, batches: Sequence[Batch]) -> bytes:
    """Where `batches` lead from `base` in a register of `bank`."""
    register = base
    for batch in batches:
        register = extend(bank, register, Digest.of(encode_batch(batch), bank).value)
    return register


def parse_anchors(data: bytes) -> Anchors:
    """Read the member of the evidence. Raises FormatError."""
    f = Fields(decode_cbor(data, _WHAT), _WHAT)
    f.version(1)
    anchors = Anchors(_pcr(f, "pcr"), _register(f, "base"), read_batches(f.any("batches")))
    f.done()
    return anchors


def batches_out(batches: Sequence[Batch]) -> list[list[list[object]]]:
    """As they are spelt."""
    return [[_row_out(row) for row in batch] for batch in batches]


def read_batches(value: object, *, most: int = MAX_BATCHES, rows: int = MAX_ROWS) -> tuple[Batch, ...]:
    """At most `most` batches with at most `rows` rows in all. Raises FormatError."""
    if not isinstance(value, list) or len(value) > most:
        raise FormatError(_WHAT, f"at most {most} batches", type(value).__name__)
    batches = tuple(_batch(one) for one in value)
    if sum(map(len, batches)) > rows:
        raise FormatError(_WHAT, f"at most {rows} checkpoints", str(sum(map(len, batches))))
    return batches


def _batch(value: object) -> Batch:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ROWS:
        raise FormatError(_WHAT, f"batches of 1 to {MAX_ROWS} checkpoints", type(value).__name__)
    batch = tuple(_row(one) for one in value)
    instances = [row.instance for row in batch]
    if instances != sorted(set(instances)):
        raise FormatError(_WHAT, "a batch sorted by instance, each once", "another order")
    return batch


def _row_out(row: AnchorRow) -> list[object]:
    return [row.instance, row.size, row.root]


def _row(value: object) -> AnchorRow:
    if not isinstance(value, list) or len(value) != 3:
        raise FormatError(_WHAT, "[instance, size, root]", type(value).__name__)
    f = Fields(dict(enumerate(value)), _WHAT)
    row = AnchorRow(f.raw(0, size=16), f.uint(1), f.raw(2, size=32))
    if row.size == 0:
        raise FormatError(_WHAT, "a log of at least one record", "0")
    return row


def _pcr(f: Fields, key: str | int) -> int:
    pcr = f.uint(key, most=23)
    if pcr not in ANCHOR_PCRS:
        raise FormatError(f"{_WHAT}.pcr", f"one of {', '.join(map(str, ANCHOR_PCRS))}", str(pcr))
    return pcr


def _register(f: Fields, key: str | int) -> bytes:
    value = f.raw(key, most=64)
    if len(value) not in (32, 48, 64):
        raise FormatError(f"{_WHAT}.register", "a value of a SHA-2 bank", f"{len(value)} bytes")
    return value
