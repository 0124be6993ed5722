"""An action, and its record in the enforcer's log.

What an agent asks for is an `Action`. What was decided about it is an
`ActionRecord`, one leaf of the instance's Merkle log, durable before the action
passes; what became of it is an `OutcomeRecord`, a later leaf. Arguments and
results never enter the log: a leaf holds `commit(salt, content)`, so that a
person can be shown the content and the log still proves it, and destroying
the salt makes the leaf say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Self

from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError, Misuse
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor, encode_written

MAX_RECORD: Final = 60_000
"""Below the 64 KiB an entry bundle of tlog-tiles can hold (C2SP tlog-tiles)."""

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Of HTTP: each is an action of its own, `http.` and itself in small letters."""
WEBSOCKET: Final = "http.websocket"
EXCHANGE: Final = "token.exchange"
"""To have a bearer token for an audience elsewhere, which is the resource."""

_ACTION = re.compile(r"[a-z][a-z0-9]*(?:\.[a-z][a-z0-9]*){0,3}\Z", re.ASCII)
_RESOURCE = re.compile(r"[!-~]{1,512}\Z")
_DOTS = re.compile(r"(?:^|/)\.\.?(?:/|\Z)")


@dataclass(frozen=True, slots=True)
class Action:
    """What an agent asks for: an action kind (`tool.call`), the exact resource, and the digest of its arguments.

    `arguments` is SHA-256 over the argument bytes as the gate forwards them.
    """

    name: str
    resource: str
    arguments: Digest

    def __post_init__(self) -> None:
        if not _ACTION.match(self.name) or len(self.name) > 64:
            raise FormatError("action.name", "lower-case words joined by dots", repr(self.name[:80]))
        if not _RESOURCE.match(self.resource):
            raise FormatError("action.resource", "1 to 512 printable ASCII characters without spaces", repr(self.resource[:80]))
        path = self.resource.partition("://")[2] or self.resource
        if "//" in path or _DOTS.search(self.resource):
            raise FormatError("action.resource", "a normalised path", repr(self.resource[:80]))


def exchange_action(audience: str) -> Action:
    """What a proof is made for where an exchange token for `audience` is asked for. Raises FormatError."""
    return Action(EXCHANGE, audience, Digest.of(b""))


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """One decision of an enforcer about one action.

    `token` is the digest of the compact token (None where there was none),
    `bundle` of the policy, `context` the exact CBOR map that the decision saw,
    `arguments` the salted commitment, `parent` the leaf hash of the record
    that led to this one.
    """

    sequence: int
    decided_at: int
    engine: EngineId
    instance: bytes
    agent: str
    action: str
    resource: str
    arguments: bytes
    token: Digest | None
    bundle: Digest | None
    context: bytes
    permit: bool
    reasons: tuple[Reason, ...]
    parent: bytes | None
    gate: str


@dataclass(frozen=True, slots=True)
class OutcomeRecord:
    """What became of the action recorded at `of`: `done` or `failed`, with a commitment to the result."""

    sequence: int
    finished_at: int
    instance: bytes
    of: int
    outcome: str
    result: bytes


Record = ActionRecord | OutcomeRecord


def commit(salt: bytes, content: bytes) -> bytes:
    """A hiding commitment to `content`: SHA-256 over CBOR of tag, 32-byte salt and content digest."""
    if len(salt) != 32:
        raise FormatError("salt", "32 bytes", f"{len(salt)} bytes")
    return sha256(_COMMITMENT + salt + _BYTES_32 + sha256(content).digest()).digest()


_BYTES_32: Final = b"\x58\x20"
"""The head of a CBOR byte string of 32 bytes."""
_COMMITMENT: Final = b"\x83" + encode_cbor("writ/commit/v1") + _BYTES_32
"""The head of an array of three, the tag, and the head of the salt."""


def encode_context(context: Mapping[str, Any]) -> bytes:
    """The exact bytes of a decision context: text keys, and values Cedar can hold."""
    return encode_cbor(dict(context))


@dataclass(frozen=True, slots=True)
class OpenContext:
    """An encoded decision context in which some integers are still to be filled in: the bytes before, between and behind them."""

    names: tuple[str, ...]
    parts: tuple[bytes, ...]

    @classmethod
    def of(cls, context: Mapping[str, Any], *names: str) -> Self:
        """`context` with the values of `names` open, of at most 23 attributes. Raises Misuse for more, and for a name that is not there."""
        if len(context) > 23 or not context.keys() >= set(names):
            raise Misuse("an open context of at most 23 attributes, each open one among them")
        parts, ordered = [bytes([0xA0 | len(context)])], []
        for encoded, name in sorted((encode_cbor(name), name) for name in context):
            parts[-1] += encoded
            if name in names:
                ordered.append(name)
                parts.append(b"")
            else:
                parts[-1] += encode_cbor(context[name])
        return cls(tuple(ordered), tuple(parts))

    def filled(self, values: Mapping[str, int]) -> bytes:
        """What `encode_context` makes of the whole."""
        text = self.parts[0]
        for name, part in zip(self.names, self.parts[1:], strict=True):
            text += encode_cbor(values[name]) + part
        return text


def encode_record(record: Record) -> bytes:
    """The leaf: its RFC 9162 hash is `merkle.leaf_hash` of these bytes."""
    if isinstance(record, OutcomeRecord):
        return encode_written(
            {
                "v": 1,
                "of": record.of,
                "kind": "outcome",
                "result": record.result,
                "outcome": record.outcome,
                "instance": record.instance,
                "sequence": record.sequence,
                "finished_at": record.finished_at,
            }
        )
    return encode_written(
        {
            "v": 1,
            "gate": record.gate,
            "kind": "action",
            "agent": record.agent,
            "token": None if record.token is None else record.token.value,
            "action": record.action,
            "bundle": None if record.bundle is None else record.bundle.value,
            "engine": _written(record.engine),
            "parent": record.parent,
            "permit": record.permit,
            "context": record.context,
            "reasons": [r.to_cbor() for r in record.reasons],
            "instance": record.instance,
            "resource": record.resource,
            "sequence": record.sequence,
            "arguments": record.arguments,
            "decided_at": record.decided_at,
        }
    )


@lru_cache(maxsize=8)
def _written(engine: EngineId) -> dict[str, object]:
    """The map of an engine in the order of its keys' encodings; not to be changed."""
    return {
        "tree": engine.tree.value,
        "number": engine.number,
        "libraries": {name: version for _, name, version in sorted((encode_cbor(name), name, text) for name, text in engine.libraries)},
    }


def parse_record(data: bytes) -> Record:
    """Read a leaf. Raises FormatError."""
    f = Fields(decode_cbor(data, "record", max_size=MAX_RECORD), "record")
    f.version(1)
    kind = f.text("kind")
    if kind == "outcome":
        outcome = OutcomeRecord(
            sequence=f.uint("sequence"),
            finished_at=f.uint("finished_at"),
            instance=f.raw("instance", size=16),
            of=f.uint("of"),
            outcome=f.text("outcome"),
            result=f.raw("result", size=32),
        )
        f.done()
        if outcome.outcome not in ("done", "failed"):
            raise FormatError("record.outcome", "done or failed", repr(outcome.outcome))
        if outcome.of >= outcome.sequence:
            raise FormatError("record.of", "an earlier record", str(outcome.of))
        return outcome
    if kind != "action":
        raise FormatError("record.kind", "action or outcome", repr(kind))
    record = ActionRecord(
        sequence=f.uint("sequence"),
        decided_at=f.uint("decided_at"),
        engine=EngineId.from_cbor(f.any("engine")),
        instance=f.raw("instance", size=16),
        agent=f.text("agent"),
        action=f.text("action"),
        resource=f.text("resource"),
        arguments=f.raw("arguments", size=32),
        token=f.optional_digest("token"),
        bundle=f.optional_digest("bundle"),
        context=f.raw("context", most=16_384),
        permit=f.flag("permit"),
        reasons=tuple(Reason.from_cbor(item) for item in f.items("reasons", most=64)),
        parent=f.optional_raw("parent", size=32),
        gate=f.name("gate"),
    )
    f.done()
    if record.permit != (not record.reasons):
        raise FormatError(
            "record", "reasons exactly where the action was refused", f"permit {record.permit}, {len(record.reasons)} reasons"
        )
    return record
