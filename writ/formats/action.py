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
from typing import Any, Final

from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor

MAX_RECORD: Final = 60_000
"""Below the 64 KiB an entry bundle of tlog-tiles can hold (C2SP tlog-tiles)."""

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Of HTTP: each is an action of its own, `http.` and itself in small letters."""
WEBSOCKET: Final = "http.websocket"

_ACTION = re.compile(r"[a-z][a-z0-9]*(?:\.[a-z][a-z0-9]*){0,3}\Z", re.ASCII)


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
        if not 1 <= len(self.resource) <= 512 or any(ord(c) < 33 or ord(c) > 126 for c in self.resource):
            raise FormatError("action.resource", "1 to 512 printable ASCII characters without spaces", repr(self.resource[:80]))
        path = self.resource.partition("://")[2] or self.resource
        if "//" in path or any(part in (".", "..") for part in self.resource.split("/")):
            raise FormatError("action.resource", "a normalised path", repr(self.resource[:80]))


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
    return Digest.of(encode_cbor(["writ/commit/v1", salt, Digest.of(content).value])).value


def encode_context(context: Mapping[str, Any]) -> bytes:
    """The exact bytes of a decision context: text keys, and values Cedar can hold."""
    return encode_cbor(dict(context))


def encode_record(record: Record) -> bytes:
    """The leaf: its RFC 9162 hash is `merkle.leaf_hash` of these bytes."""
    if isinstance(record, OutcomeRecord):
        return encode_cbor(
            {
                "v": 1,
                "kind": "outcome",
                "sequence": record.sequence,
                "finished_at": record.finished_at,
                "instance": record.instance,
                "of": record.of,
                "outcome": record.outcome,
                "result": record.result,
            }
        )
    return encode_cbor(
        {
            "v": 1,
            "kind": "action",
            "sequence": record.sequence,
            "decided_at": record.decided_at,
            "engine": record.engine.to_cbor(),
            "instance": record.instance,
            "agent": record.agent,
            "action": record.action,
            "resource": record.resource,
            "arguments": record.arguments,
            "token": None if record.token is None else record.token.value,
            "bundle": None if record.bundle is None else record.bundle.value,
            "context": record.context,
            "permit": record.permit,
            "reasons": [r.to_cbor() for r in record.reasons],
            "parent": record.parent,
            "gate": record.gate,
        }
    )


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
