"""An action log as it was handed over, read once: its records, their hashes, and whether they are one log's, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.record import LogShape, Record, parse_record
from writ.formats.tlog.merkle import leaf_hash


@dataclass(frozen=True, slots=True)
class ReadLog:
    """The log of `instance`: of each leaf its hash and the record in it."""

    instance: bytes
    hashes: list[bytes]
    records: list[Record]

    @property
    def name(self) -> str:
        """How findings name it."""
        return f"action log {self.instance.hex()}"


def read_log(instance: bytes, leaves: Sequence[bytes]) -> tuple[ReadLog, tuple[Reason, ...]]:
    """The log, and the first thing that is wrong with it as a log; its records end before what is none.

    1. Each leaf is a record.
    2. Each has its own place for its number: else they stand in another order, one is left out, or one is put in.
    3. They are to each other what records of one log are.
    """
    log = ReadLog(instance, [leaf_hash(leaf) for leaf in leaves], [])
    shape = LogShape()
    for at, leaf in enumerate(leaves):
        try:
            # 1
            record = parse_record(leaf)
            # 2
            if record.sequence != at:
                return log, (_misplaced(log, at, leaves),)
            # 3
            shape.add(record)
        except FormatError as error:
            return log, (Reason("action-log-malformed", f"{log.name}, record {at}", f"{error.what}: {error.expected}"[:200], error.got),)
        log.records.append(record)
    return log, ()


def _misplaced(log: ReadLog, at: int, leaves: Sequence[bytes]) -> Reason:
    """What became of the record that is not at its place; whatever is moved by it is not told again."""
    numbers = []
    for leaf in leaves:
        try:
            numbers.append(parse_record(leaf).sequence)
        except FormatError:
            numbers.append(-1)
    if sorted(numbers) == list(range(len(numbers))):
        code = "action-log-reordered"
    else:
        code = "action-log-removed" if numbers[at] > at else "action-log-inserted"
    return Reason(code, f"{log.name}, record {at}", f"record {at}", f"record {numbers[at]}")
