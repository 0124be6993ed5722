"""The runtime events of a host: what the attestor writes into the Canonical Event Log and extends.

An event is the content of one CEL record of type `CONTENT_WRIT`: one
deterministic CBOR map `{"v": 1, "kind": …, …}`. What is extended into each
bank is the hash of exactly these bytes. The kinds, and whom each concerns:

    component   governance or host   a component is in place, with its root
    start       one instance         launched, from this manifest root, with this session key
    key         one instance         another session key, from here on the only one
    stop        one instance         ended
    update      host                 a source changed: a pending update, no drift
    drift       one instance         what runs is no longer what was measured
    anchor      one instance         its action log had this size and root

An unknown kind, key or version is refused: a log with an event that is not
understood proves nothing. That the order of events makes sense (a `stop` after
its `start`) is judged by the appraisal, not here.

>>> event = StopEvent(bytes(16), "exited")
>>> parse_event(encode_event(event)) == event
True
>>> [d.algorithm for d in event_digests(encode_event(event), ["sha384", "sha256"])]
['sha256', 'sha384']
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from writ.formats.digest import SIZES, Digest
from writ.formats.errors import FormatError, Misuse
from writ.formats.eventlog.cel import ALGORITHM_IDS, CONTENT_WRIT, CelRecord
from writ.formats.spiffe import MAX_LENGTH, AgentId
from writ.formats.strict import Fields, decode_cbor, encode_cbor, name
from writ.formats.tree import MAX_SPELT_PATH, check_path

MAX_EVENT: Final = 1 << 16
"""Bytes of one event."""
MAX_MUTABLE: Final = 64

Scope = Literal["governance", "host"]
Outcome = Literal["exited", "killed", "lost"]

_WHAT: Final = "runtime event"


@dataclass(frozen=True, slots=True)
class ComponentEvent:
    """A component of the host, or of what governs it (attestor, enforcer, policy, keys), is in place."""

    scope: Scope
    name: str
    root: Digest


@dataclass(frozen=True, slots=True)
class StartEvent:
    """An instance was launched.

    `agent` is a SPIFFE id as text; `command` the SHA-256 over the CBOR array of
    the argument vector; `session_key` a thumbprint of 32 bytes; `parent` the
    instance that launched it, if one did; `mutable` the components that were
    not held in the measured store, sorted.
    """

    instance: bytes
    agent: str
    manifest_root: Digest
    command: Digest
    session_key: bytes
    parent: bytes | None
    mutable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """From here on the instance's session key is this one (thumbprint, 32 bytes), and no other."""

    instance: bytes
    session_key: bytes


@dataclass(frozen=True, slots=True)
class StopEvent:
    """An instance ended: by itself, by us, or found gone."""

    instance: bytes
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class UpdateEvent:
    """A source of an agent's component changed to `root`: a pending update, which no running instance sees."""

    agent: str
    component: str
    root: Digest


@dataclass(frozen=True, slots=True)
class DriftEvent:
    """A measured path is not what it was; `got` is None where it vanished or cannot be read."""

    instance: bytes
    component: str
    path: str
    expected: Digest
    got: Digest | None


@dataclass(frozen=True, slots=True)
class AnchorEvent:
    """The instance's action log had `size` records under the Merkle root `root` (32 bytes)."""

    instance: bytes
    size: int
    root: bytes


RuntimeEvent = ComponentEvent | StartEvent | KeyEvent | StopEvent | UpdateEvent | DriftEvent | AnchorEvent


# --- reading ---------------------------------------------------------------------------------------------------------


def _instance(f: Fields) -> bytes:
    return f.raw("instance", size=16)


def _agent(f: Fields) -> str:
    return str(AgentId.parse(f.text("agent", most=MAX_LENGTH)))


def _read_component(f: Fields) -> ComponentEvent:
    scope = f.text("scope")
    if scope not in get_args(Scope):
        raise FormatError(f"{_WHAT}.scope", "governance or host", repr(scope[:80]))
    return ComponentEvent(cast(Scope, scope), f.name("name"), f.digest("root"))


def _read_start(f: Fields) -> StartEvent:
    mutable = [name(item, f"{_WHAT}.mutable") if isinstance(item, str) else "" for item in f.items("mutable", most=MAX_MUTABLE)]
    if "" in mutable or mutable != sorted(set(mutable)):
        raise FormatError(f"{_WHAT}.mutable", "sorted names without repeats", f"{mutable}")
    return StartEvent(
        instance=_instance(f),
        agent=_agent(f),
        manifest_root=f.digest("manifest_root"),
        command=f.digest("command"),
        session_key=f.raw("session_key", size=32),
        parent=f.raw("parent", size=16) if f.has("parent") else None,
        mutable=tuple(mutable),
    )


def _read_key(f: Fields) -> KeyEvent:
    return KeyEvent(_instance(f), f.raw("session_key", size=32))


def _read_stop(f: Fields) -> StopEvent:
    outcome = f.text("outcome")
    if outcome not in get_args(Outcome):
        raise FormatError(f"{_WHAT}.outcome", "exited, killed or lost", repr(outcome[:80]))
    return StopEvent(_instance(f), cast(Outcome, outcome))


def _read_update(f: Fields) -> UpdateEvent:
    return UpdateEvent(_agent(f), f.name("component"), f.digest("root"))


def _read_drift(f: Fields) -> DriftEvent:
    path = f.text("path", most=MAX_SPELT_PATH)
    check_path(path)
    return DriftEvent(_instance(f), f.name("component"), path, f.digest("expected"), f.digest("got") if f.has("got") else None)


def _read_anchor(f: Fields) -> AnchorEvent:
    return AnchorEvent(_instance(f), f.uint("size"), f.raw("root", size=32))


_READERS: Final[dict[str, Callable[[Fields], RuntimeEvent]]] = {
    "component": _read_component,
    "start": _read_start,
    "key": _read_key,
    "stop": _read_stop,
    "update": _read_update,
    "drift": _read_drift,
    "anchor": _read_anchor,
}


def parse_event(content: bytes) -> RuntimeEvent:
    """Read the content of one record. Raises FormatError, and nothing else, on any bytes."""
    f = Fields(decode_cbor(content, _WHAT, max_size=MAX_EVENT), _WHAT)
    f.version(1)
    kind = f.text("kind")
    if kind not in _READERS:
        raise FormatError(_WHAT, f"one of {', '.join(_READERS)}", repr(kind[:80]))
    event = _READERS[kind](f)
    f.done()
    return event


# --- writing ---------------------------------------------------------------------------------------------------------


def _fields(event: RuntimeEvent) -> dict[str, object]:
    """The map of `event`; a None is a key left out."""
    fields: dict[str, object]
    match event:
        case ComponentEvent():
            fields = {"kind": "component", "scope": event.scope, "name": event.name, "root": event.root}
        case StartEvent():
            fields = {
                "kind": "start",
                "instance": event.instance,
                "agent": event.agent,
                "manifest_root": event.manifest_root,
                "command": event.command,
                "session_key": event.session_key,
                "parent": event.parent,
                "mutable": event.mutable,
            }
        case KeyEvent():
            fields = {"kind": "key", "instance": event.instance, "session_key": event.session_key}
        case StopEvent():
            fields = {"kind": "stop", "instance": event.instance, "outcome": event.outcome}
        case UpdateEvent():
            fields = {"kind": "update", "agent": event.agent, "component": event.component, "root": event.root}
        case DriftEvent():
            fields = {
                "kind": "drift",
                "instance": event.instance,
                "component": event.component,
                "path": event.path,
                "expected": event.expected,
                "got": event.got,
            }
        case AnchorEvent():
            fields = {"kind": "anchor", "instance": event.instance, "size": event.size, "root": event.root}
    return {key: value.value if isinstance(value, Digest) else value for key, value in fields.items() if value is not None}


def encode_event(event: RuntimeEvent) -> bytes:
    """The content of the record for `event`; `parse_event` gives `event` back. Raises FormatError for a value out of bounds."""
    content = encode_cbor({"v": 1} | _fields(event))
    if parse_event(content) != event:
        raise Misuse("an event that its own bytes do not give back")
    return content


def command_digest(command: Sequence[str]) -> Digest:
    """What a start event says of an argument vector: SHA-256 over its CBOR array."""
    return Digest.of(encode_cbor(list(command)))


# --- records ---------------------------------------------------------------------------------------------------------


def event_digests(content: bytes, banks: Sequence[str]) -> tuple[Digest, ...]:
    """What is extended for `content`: its hash for each of `banks`, ascending by algorithm id. Raises Misuse."""
    if not banks or len(set(banks)) != len(banks) or not set(banks) <= SIZES.keys():
        raise Misuse(f"banks are distinct names of {', '.join(SIZES)}, not {list(banks)}")
    return tuple(Digest.of(content, bank) for bank in sorted(banks, key=ALGORITHM_IDS.__getitem__))


def record_event(event: RuntimeEvent, *, record_number: int, pcr: int, banks: Sequence[str]) -> CelRecord:
    """The record of `event`, with a digest for each of `banks`."""
    content = encode_event(event)
    return CelRecord(record_number, pcr, event_digests(content, banks), CONTENT_WRIT, content)


def parse_record(record: CelRecord) -> RuntimeEvent:
    """The event of a record whose digests are those of its content.

    Raises FormatError for content of another type, an event that does not
    parse, and a digest that is not the hash of the content: without that check
    a log could replay to the quoted PCR and say something else.
    """
    if record.content_type != CONTENT_WRIT:
        raise FormatError(_WHAT, f"content type {CONTENT_WRIT:#04x}", f"{record.content_type:#04x}")
    event = parse_event(record.content)
    for digest in record.digests:
        if digest != Digest.of(record.content, digest.algorithm):
            raise FormatError(_WHAT, f"the {digest.algorithm} digest of its content", digest.hex())
    return event
