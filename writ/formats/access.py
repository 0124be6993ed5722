"""What a relying service made durable before it answered: one decision about one request, one line of JSON.

    {"action": "http.get", "agent": "spiffe://…", "at": 1700000000, …, "parent": "5f1c…", "permit": true, …, "traceparent": null}

`parent` names the record that led to the request, in the action log of `instance`: the holder of the session key says so in the proof that
was verified. That there is such a record, of this very request, only that log shows (`verdict.received`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_json, encode_json
from writ.formats.trace import parse_traceparent, traceparent

MAX_LINE: Final = 1 << 20
MAX_CONTEXT: Final = 16_384


@dataclass(frozen=True, slots=True)
class Access:
    """One decision about one request: a permit where there are no `reasons`.

    What was never verified is None: `agent`, `instance`, `token` and `proof`, the digest of the DPoP proof. `bundle` is the digest of the
    policy, `context` what it saw, `engine` the digest of the code that decided. `parent` is the leaf hash of the record that led here, as
    the proof says, `trace` what the asker said of its trace (`formats.trace`).
    """

    decided_at: int
    engine: Digest
    agent: str | None
    instance: bytes | None
    action: str
    resource: str
    token: Digest | None
    bundle: Digest | None
    proof: Digest | None
    context: bytes
    reasons: tuple[Reason, ...]
    reference: str
    parent: bytes | None = None
    trace: bytes | None = None

    @property
    def permit(self) -> bool:
        """Whether the request passed."""
        return not self.reasons


def encode_access(access: Access) -> bytes:
    """The line, without its end."""
    return encode_json(
        {
            "at": access.decided_at, "reference": access.reference, "agent": access.agent, "action": access.action,
            "instance": None if access.instance is None else access.instance.hex(), "resource": access.resource,
            "token": None if access.token is None else str(access.token),
            "policy": None if access.bundle is None else str(access.bundle),
            "proof": None if access.proof is None else str(access.proof), "context": access.context.hex(), "permit": access.permit,
            "reasons": [reason.to_json() for reason in access.reasons], "engine": str(access.engine),
            "parent": None if access.parent is None else access.parent.hex(),
            "traceparent": None if access.trace is None else traceparent(access.trace),
        }
    )  # fmt: skip


def parse_access(line: bytes) -> Access:
    """Read what `encode_access` writes, and nothing else. Raises FormatError."""
    f = Fields(decode_json(line, "access", max_size=MAX_LINE, one_spelling=True), "access")
    access = Access(
        decided_at=f.uint("at"),
        engine=Digest.parse(f.text("engine")),
        agent=_text(f, "agent"),
        instance=_hex(f, "instance", 16),
        action=f.text("action"),
        resource=f.text("resource"),
        token=_digest(f, "token"),
        bundle=_digest(f, "policy"),
        proof=_digest(f, "proof"),
        context=_bytes(f.text("context", most=2 * MAX_CONTEXT), "access.context"),
        reasons=tuple(_reason(item) for item in f.items("reasons", most=64)),
        reference=f.text("reference"),
        parent=_hex(f, "parent", 32),
        trace=_trace(f),
    )
    if f.flag("permit") != access.permit:
        raise FormatError("access.permit", str(access.permit).lower(), str(not access.permit).lower())
    f.done()
    if encode_access(access) != line:
        raise FormatError("access", "its one spelling", "another")
    return access


def _text(f: Fields, name: str) -> str | None:
    if f.is_null(name):
        f.null(name)
        return None
    return f.text(name)


def _digest(f: Fields, name: str) -> Digest | None:
    text = _text(f, name)
    return None if text is None else Digest.parse(text)


def _hex(f: Fields, name: str, size: int) -> bytes | None:
    text = _text(f, name)
    data = None if text is None else _bytes(text, f"access.{name}")
    if data is not None and len(data) != size:
        raise FormatError(f"access.{name}", f"{size} bytes", f"{len(data)} bytes")
    return data


def _bytes(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise FormatError(what, "hex", repr(text)[:40]) from None


def _trace(f: Fields) -> bytes | None:
    text = _text(f, "traceparent")
    trace = None if text is None else parse_traceparent(text)
    if trace is None and text is not None:
        raise FormatError("access.traceparent", "a traceparent", repr(text)[:60])
    return trace


def _reason(value: Any) -> Reason:
    f = Fields(value, "access.reasons")
    reason = Reason.from_cbor([f.any(name) for name in ("code", "claim", "expected", "got")])
    f.text("remedy")
    f.done()
    return reason
