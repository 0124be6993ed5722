"""The leaves of an instance's action log, which is one RFC 6962 tree.

A log begins with an `Opening`, which says whose it is and which engine decides; another follows where another engine goes on. What was
decided about an action is an `ActionRecord`, durable before the action passes; what became of it is an `OutcomeRecord`, a later leaf, and
where there is none the outcome is unknown.

Arguments, results and the context of the decision never enter the log: a leaf holds `commit(salt, content)`, so that a person can be shown
the content and the log still proves it, and destroying the salt makes the leaf say nothing.

A leaf is an array whose first item is its kind: the three are told apart by it. Source: docs/formats.md.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final, TypeGuard

from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.strict import Fields, decode_cbor, decode_written, encode_cbor, encode_written
from writ.formats.strict import name as checked_name

MAX_RECORD: Final = 60_000
"""Below the 64 KiB an entry bundle of tlog-tiles can hold (C2SP tlog-tiles)."""

MAX_CONTEXT: Final = 16_384
MAX_STATUS: Final = 1 << 31
"""What the status of an outcome is below, with either sign."""
MOST_REASONS: Final = 64
_MOST_TIME: Final = (1 << 63) - 1
_SURROGATE = re.compile("[\ud800-\udfff]")

_NO_ARGUMENTS: Final = Digest.of(b"")
_OPENING, _ACTION, _OUTCOME = 1, 2, 3
_NAMES: Final = {
    _OPENING: ("kind", "sequence", "opened_at", "instance", "agent", "engine"),
    _ACTION: (
        "kind", "sequence", "decided_at", "opening", "action", "resource", "arguments", "token", "bundle", "context", "reasons", "parent",
        "gate", "trace",
    ),
    _OUTCOME: ("kind", "sequence", "finished_at", "of", "outcome", "status", "size", "result"),
}  # fmt: skip
"""The items of each kind, in order."""


@dataclass(frozen=True, slots=True)
class Opening:
    """From here on the records are of `instance` of `agent`, decided by `engine`."""

    sequence: int
    opened_at: int
    instance: bytes
    agent: str
    engine: EngineId


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """One decision of an enforcer about one action: a permit where there are no `reasons`.

    `opening` is the sequence of the opening it stands under. `token` is the digest of the compact token (None where there was none),
    `bundle` of the policy; `arguments` and `context` are salted commitments, to the arguments and to the exact CBOR map that the decision
    saw. `parent` is the leaf hash of the record that led to this one, `trace` what the asker said of the trace that it belongs to
    (`formats.trace`), which nobody has checked.
    """

    sequence: int
    decided_at: int
    opening: int
    action: str
    resource: str
    arguments: bytes
    token: Digest | None
    bundle: Digest | None
    context: bytes
    reasons: tuple[Reason, ...]
    parent: bytes | None
    gate: str
    trace: bytes | None = None

    @property
    def permit(self) -> bool:
        """Whether the action was permitted."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """What became of the action recorded at `of`: `done` or `failed`, and a salted commitment to the result of `size` bytes.

    `status` is what came of it in the words of the wire, as the asker was told it: of HTTP the status, of gRPC its own (0 to 16, which no
    status of HTTP is), of JSON-RPC the error's code and 0 for a result, of a command its exit status. None where the wire has no such word,
    and where none came: nobody knows then what the other side did. It is never an answer of a gate's own.
    """

    sequence: int
    finished_at: int
    of: int
    outcome: str
    status: int | None
    size: int
    result: bytes


Record = Opening | ActionRecord | OutcomeRecord


def commit(salt: bytes, content: bytes) -> bytes:
    """A hiding commitment to `content`: SHA-256 over CBOR of tag, 32-byte salt and content digest."""
    if len(salt) != 32:
        raise FormatError("salt", "32 bytes", f"{len(salt)} bytes")
    return sha256(_COMMITMENT + salt + _BYTES_32 + sha256(content).digest()).digest()


def preimage_of(salt: bytes, content: bytes) -> bytes:
    """What `commit` hashes: whoever has it has the salt, and the digest of the content."""
    return _COMMITMENT + salt + _BYTES_32 + sha256(content).digest()


def parse_preimage(data: bytes) -> tuple[bytes, Digest]:
    """The salt, and the digest of the content. Raises FormatError."""
    head, salt, middle, digest = data[: len(_COMMITMENT)], data[len(_COMMITMENT) :][:32], data[-34:-32], data[-32:]
    if len(data) != len(_COMMITMENT) + 66 or head != _COMMITMENT or middle != _BYTES_32:
        raise FormatError("preimage", "a tag, a salt and a digest", f"{len(data)} other bytes")
    return salt, Digest("sha256", digest)


_BYTES_32: Final = b"\x58\x20"
"""The head of a CBOR byte string of 32 bytes."""
_COMMITMENT: Final = b"\x83" + encode_cbor("writ/commit/v1") + _BYTES_32
"""The head of an array of three, the tag, and the head of the salt."""


@dataclass(slots=True)
class ActionDraft:
    """An action as it was decided, whose record has no place in a log yet; `context` is the map itself."""

    decided_at: int
    action: Action
    token: Digest | None
    bundle: Digest | None
    context: bytes
    reasons: tuple[Reason, ...]
    parent: bytes | None
    gate: str
    trace: bytes | None = None

    def check(self) -> None:
        """Its leaf, if it is not too long, is one that `parse_record` reads. Costs next to nothing where there are no reasons.

        Raises FormatError.
        """
        if not 0 <= self.decided_at <= _MOST_TIME:
            raise FormatError("record.decided_at", f"0 to {_MOST_TIME}", str(self.decided_at)[:40])
        if len(self.context) > MAX_CONTEXT:
            raise FormatError("context", f"at most {MAX_CONTEXT} bytes", f"{len(self.context)} bytes")
        if any(one is not None and one.algorithm != "sha256" for one in (self.token, self.bundle)):
            raise FormatError("record.token, record.bundle", "SHA-256", "another digest")
        for part, value, size in (("parent", self.parent, 32), ("trace", self.trace, 25)):
            if value is not None and len(value) != size:
                raise FormatError(f"record.{part}", f"{size} bytes", f"{len(value)} bytes")
        if len(self.reasons) > MOST_REASONS:
            raise FormatError("record.reasons", f"at most {MOST_REASONS}", str(len(self.reasons)))
        for reason in self.reasons:
            Reason.from_cbor(reason.to_cbor())
            if any(_SURROGATE.search(text) for text in reason.to_cbor()):
                raise FormatError("record.reasons", "text that UTF-8 can spell", "half a character")
        _gate(self.gate)

    def leaf(self, sequence: int, opening: int, arguments: bytes, context: bytes) -> bytes:
        """The leaf at `sequence` under `opening`, with these commitments: `encode_record` of its record, without making that."""
        token, bundle, action = self.token, self.bundle, self.action
        return encode_written(
            [
                _ACTION, sequence, self.decided_at, opening, action.name, action.resource, arguments,
                None if token is None else token.value, None if bundle is None else bundle.value, context,
                [reason.to_cbor() for reason in self.reasons], self.parent, self.gate, self.trace,
            ]
        )  # fmt: skip


@dataclass(slots=True)
class OutcomeDraft:
    """What became of the action at `of`, whose record has no place in a log yet."""

    finished_at: int
    of: int
    done: bool
    status: int | None = None

    def check(self) -> None:
        """Its leaf is one that `parse_record` reads, if the action at `of` is there. Raises FormatError."""
        if not 0 <= self.finished_at <= _MOST_TIME or self.of < 0:
            raise FormatError("record.finished_at, record.of", f"0 to {_MOST_TIME}", f"{self.finished_at}, {self.of}"[:40])
        _wire_status(self.status)

    def leaf(self, sequence: int, size: int, result: bytes) -> bytes:
        """The leaf at `sequence`, with the commitment to a result of `size` bytes."""
        return encode_written([_OUTCOME, sequence, self.finished_at, self.of, self.done, self.status, size, result])


def encode_record(record: Record) -> bytes:
    """The leaf: its RFC 9162 hash is `merkle.leaf_hash` of these bytes."""
    if isinstance(record, ActionRecord):
        r, action = record, Action(record.action, record.resource, _NO_ARGUMENTS)
        draft = ActionDraft(r.decided_at, action, r.token, r.bundle, b"", r.reasons, r.parent, r.gate, r.trace)
        return draft.leaf(r.sequence, r.opening, r.arguments, r.context)
    if isinstance(record, OutcomeRecord):
        ending = OutcomeDraft(record.finished_at, record.of, record.outcome == "done", record.status)
        return ending.leaf(record.sequence, record.size, record.result)
    return encode_cbor([_OPENING, record.sequence, record.opened_at, record.instance, record.agent, record.engine.to_cbor()])


def parse_record(data: bytes) -> Record:
    """Read a leaf. Raises FormatError."""
    return read_ordinary(data) or read_record(data)


def read_ordinary(data: bytes) -> Record | None:
    """`read_record(data)` at a quarter of its price, for permits and outcomes as enforcers write them; None for whatever else."""
    read = decode_written(data) if len(data) <= MAX_RECORD else None
    if type(read) is not list or not read or type(read[0]) is not int:
        return None
    try:
        record = (
            _permit(*read) if read[0] == _ACTION and len(read) == 14 else _ending(*read) if read[0] == _OUTCOME and len(read) == 8 else None
        )
    except FormatError:
        return None
    return record if record is not None and encode_written(read) == data else None


def _permit(
    _: int, sequence: object, decided_at: object, opening: object, action: object, resource: object, arguments: object, token: object,
    bundle: object, context: object, reasons: object, parent: object, gate: object, trace: object,
) -> ActionRecord | None:  # fmt: skip
    if not (_counts(sequence) and _counts(decided_at) and _counts(opening) and _sized(arguments, 32) and _sized(context, 32)):
        return None
    if type(action) is not str or type(resource) is not str or type(gate) is not str or reasons != [] or not opening < sequence:
        return None
    if not (parent is None or _sized(parent, 32)) or not (trace is None or _sized(trace, 25)):
        return None
    if not (token is None or _sized(token, 32)) or not (bundle is None or _sized(bundle, 32)):
        return None
    _gate(gate)
    Action(action, resource, _NO_ARGUMENTS)
    return ActionRecord(
        sequence, decided_at, opening, action, resource, arguments, _sha256(token), _sha256(bundle), context, (), parent, gate, trace
    )  # fmt: skip


def _ending(
    _: int, sequence: object, finished_at: object, of: object, done: object, status: object, size: object, result: object
) -> OutcomeRecord | None:  # fmt: skip
    if not (_counts(sequence) and _counts(finished_at) and _counts(of) and _counts(size) and _sized(result, 32) and type(done) is bool):
        return None
    if not of < sequence or not (status is None or (type(status) is int and abs(status) < MAX_STATUS)):
        return None
    return OutcomeRecord(sequence, finished_at, of, "done" if done else "failed", status, size, result)


def _counts(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 63


def _sized(value: object, size: int) -> TypeGuard[bytes]:
    return type(value) is bytes and len(value) == size


@lru_cache(maxsize=256)
def _sha256(value: bytes | None) -> Digest | None:
    return None if value is None else Digest("sha256", value)


@lru_cache(maxsize=256)
def _gate(gate: str) -> str:
    return checked_name(gate, "record.gate")


def read_record(data: bytes) -> Record:
    """What `parse_record` says, item by item: it is that for all bytes. Raises FormatError."""
    read = decode_cbor(data, "record", max_size=MAX_RECORD)
    names = _NAMES.get(read[0]) if isinstance(read, list) and read and type(read[0]) is int else None
    if names is None or len(names) != len(read):
        raise FormatError("record", "an opening, an action or an outcome, whole", "something else")
    f = Fields(dict(zip(names, read, strict=True)), "record")
    kind = f.uint("kind")
    if kind == _ACTION:
        return _action(f)
    return _outcome(f) if kind == _OUTCOME else _opening(f)


def _opening(f: Fields) -> Opening:
    opening = Opening(
        f.uint("sequence"), f.uint("opened_at"), f.raw("instance", size=16), f.text("agent"), EngineId.from_cbor(f.any("engine"))
    )  # fmt: skip
    AgentId.parse(opening.agent)
    return opening


def _action(f: Fields) -> ActionRecord:
    record = ActionRecord(
        sequence=f.uint("sequence"),
        decided_at=f.uint("decided_at"),
        opening=f.uint("opening"),
        action=f.text("action"),
        resource=f.text("resource"),
        arguments=f.raw("arguments", size=32),
        token=f.optional_digest("token"),
        bundle=f.optional_digest("bundle"),
        context=f.raw("context", size=32),
        reasons=tuple(Reason.from_cbor(item) for item in f.items("reasons", most=MOST_REASONS)),
        parent=f.optional_raw("parent", size=32),
        gate=f.name("gate"),
        trace=f.optional_raw("trace", size=25),
    )
    Action(record.action, record.resource, _NO_ARGUMENTS)
    if record.opening >= record.sequence:
        raise FormatError("record.opening", "an earlier record", str(record.opening))
    return record


def _outcome(f: Fields) -> OutcomeRecord:
    outcome = OutcomeRecord(
        sequence=f.uint("sequence"),
        finished_at=f.uint("finished_at"),
        of=f.uint("of"),
        outcome="done" if f.flag("outcome") else "failed",
        status=_status(f),
        size=f.uint("size"),
        result=f.raw("result", size=32),
    )
    if outcome.of >= outcome.sequence:
        raise FormatError("record.of", "an earlier record", str(outcome.of))
    return outcome


def _status(f: Fields) -> int | None:
    return _wire_status(f.any("status"))


def _wire_status(value: object) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or abs(value) >= MAX_STATUS):
        raise FormatError("record.status", "an integer of 32 bits, or null", type(value).__name__)
    return value


class LogShape:
    """What the records of one log must be to each other, told one after another from the first.

    1. Each has its own place for its sequence number.
    2. The first is an opening, and every other opening is of the same instance and agent.
    3. An action stands under the last opening before it.
    4. An outcome is of an action, and of one that has none yet.
    """

    def __init__(self) -> None:
        self.opening: Opening | None = None
        """The last one; None before the first record."""
        self._size = 0
        self.unfinished: set[int] = set()
        """Actions without an outcome."""

    def add(self, record: Record) -> None:
        """`record` is the next. Raises FormatError."""
        # 1
        if record.sequence != self._size:
            raise FormatError("action log", f"record {self._size}", f"record {record.sequence}")
        # 2
        if isinstance(record, Opening):
            one = self.opening or record
            if (one.instance, one.agent) != (record.instance, record.agent):
                expected, got = (f"{this.instance.hex()} of {this.agent}" for this in (one, record))
                raise FormatError("action log", f"an opening of {expected}", got)
            self.opening = record
        elif self.opening is None:
            raise FormatError("action log", "an opening first", type(record).__name__)
        # 3
        elif isinstance(record, ActionRecord):
            if record.opening != self.opening.sequence:
                raise FormatError("record.opening", str(self.opening.sequence), str(record.opening))
            self.unfinished.add(record.sequence)
        # 4
        elif record.of in self.unfinished:
            self.unfinished.remove(record.of)
        else:
            raise FormatError("record.of", "an action without an outcome", str(record.of))
        self._size += 1


def parse_log(leaves: Sequence[bytes]) -> list[Record]:
    """The records of a whole log, in order. Raises FormatError."""
    shape, records = LogShape(), []
    for leaf in leaves:
        record = parse_record(leaf)
        shape.add(record)
        records.append(record)
    return records


def opening_of(records: Sequence[Record], record: ActionRecord) -> Opening:
    """The opening under which `record` of a whole log stands."""
    opening = records[record.opening]
    if not isinstance(opening, Opening):
        raise FormatError("record.opening", "an opening", type(opening).__name__)
    return opening
