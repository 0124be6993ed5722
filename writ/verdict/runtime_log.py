"""The runtime log replayed: from a known register to the quoted one, event by event.

The log is a state machine. What comes out is only what the quote covers: the
events up to the point where the register equals the quoted PCR. What lies
beyond is neither trusted nor an error; a register that is never met is.
"""

from __future__ import annotations

from typing import Final

from writ.formats.digest import extend
from writ.formats.errors import FormatError, Refused
from writ.formats.eventlog.cel import CONTENT_WRIT, CelRecord
from writ.formats.eventlog.runtime import (
    AnchorEvent,
    ComponentEvent,
    DriftEvent,
    KeyEvent,
    RuntimeEvent,
    StartEvent,
    StopEvent,
    UpdateEvent,
    event_digests,
    parse_event,
)
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId
from writ.formats.state import InstanceState, RuntimeState
from writ.formats.tlog.merkle import EMPTY_ROOT

MAX_INSTANCES: Final = 100_000


def replay(state: RuntimeState, records: tuple[CelRecord, ...], *, pcr: int, bank: str, quoted: bytes) -> RuntimeState:
    """The state after the events that lead from `state.register` to `quoted`.

    1. Each record is the next one, names the runtime PCR and is of our content type.
    2. What it extended is recomputed from its content; the digest in the record is not believed.
    3. The event follows the rules of the log (`_step`).
    4. The replay ends where the register equals the quoted value; it must be met.

    Raises Refused: `runtime-log-malformed` (1-3), `runtime-log-mismatch` (4).
    """
    moved = state
    for record in records:
        if moved.register == quoted:
            return moved
        # 1
        if record.record_number != moved.events:
            raise _malformed("record_number", str(moved.events), str(record.record_number))
        if record.pcr != pcr or record.content_type != CONTENT_WRIT:
            raise _malformed("record", f"PCR {pcr}, content type {CONTENT_WRIT}", f"PCR {record.pcr}, content type {record.content_type}")
        # 2
        digest = event_digests(record.content, (bank,))[0]
        if digest not in record.digests:
            raise _malformed("digest", str(digest), ", ".join(map(str, record.digests)))
        # 3
        try:
            event = parse_event(record.content)
        except FormatError as error:
            raise _malformed("event", error.expected, error.got) from None
        moved = _step(moved, event)
        moved = moved.extended(extend(bank, moved.register, digest.value))
    # 4
    if moved.register != quoted:
        raise Refused(Reason("runtime-log-mismatch", f"pcr{pcr}", quoted.hex(), moved.register.hex()))
    return moved


def _malformed(claim: str, expected: str, got: str) -> Refused:
    return Refused(Reason("runtime-log-malformed", f"runtime_log.{claim}", expected[:200], got[:200]))


def _step(state: RuntimeState, event: RuntimeEvent) -> RuntimeState:
    """The state after one event, or Refused where the event has no place here."""
    if isinstance(event, ComponentEvent):
        return _component(state, event)
    if isinstance(event, StartEvent):
        return _start(state, event)
    if isinstance(event, UpdateEvent):
        return state
    known = _find(state, event.instance)
    if isinstance(event, KeyEvent):
        if known.phase != "running":
            raise _malformed("key", "a running instance", known.phase)
        _key_unused(state, event.session_key)
        return state.with_instance(known.with_key(event.session_key))
    if isinstance(event, StopEvent):
        if known.phase == "stopped":
            raise _malformed("stop", "an instance that has not stopped", known.phase)
        return state.with_instance(known.in_phase("stopped")) if known.phase == "running" else state
    if isinstance(event, DriftEvent):
        return state if known.phase == "tainted" else state.with_instance(known.in_phase("drifted"))
    return _anchor(state, known, event)


def _component(state: RuntimeState, event: ComponentEvent) -> RuntimeState:
    if any(i.phase == "running" for i in state.instances):
        raise _malformed("component", "components before the first launch of a boot", event.name)
    if event.scope != "governance":
        return state
    if any(name == event.name for name, _ in state.governance):
        raise _malformed("component", "each governance component once a boot", event.name)
    return state.with_governance(event.name, event.root)


def _start(state: RuntimeState, event: StartEvent) -> RuntimeState:
    if state.find(event.instance) is not None:
        raise _malformed("start", "an instance id used for the first time", event.instance.hex())
    if len(state.instances) >= MAX_INSTANCES:
        raise _malformed("start", f"at most {MAX_INSTANCES} instances a boot", "one more")
    _key_unused(state, event.session_key)
    if event.parent is not None and _find(state, event.parent).phase != "running":
        raise _malformed("start.parent", "a running instance", event.parent.hex())
    started = InstanceState(
        event.instance,
        AgentId.parse(event.agent),
        event.manifest_root,
        event.command,
        event.session_key,
        event.parent,
        "running",
        0,
        EMPTY_ROOT,
        b"",
    )
    return state.with_instance(started)


def _anchor(state: RuntimeState, known: InstanceState, event: AnchorEvent) -> RuntimeState:
    if event.size < known.log_size:
        raise _malformed("anchor", f"a log of at least {known.log_size}", str(event.size))
    return state


def _key_unused(state: RuntimeState, session_key: bytes) -> None:
    if any(i.session_key == session_key for i in state.instances):
        raise Refused(Reason("instance-key-reused", "session_key", "a key of one instance", session_key.hex()))


def _find(state: RuntimeState, instance: bytes) -> InstanceState:
    known = state.find(instance)
    if known is not None:
        return known
    raise _malformed("instance", "an instance that was started", instance.hex())
