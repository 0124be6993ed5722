"""The runtime log replayed: from a known register to the quoted one, event by event.

The log is a state machine. What comes out is only what the quote covers: the
events up to the point where the register equals the quoted PCR. What lies
beyond is neither trusted nor an error; a register that is never met is.

What only the verifier knows (a tainted instance) never makes a log malformed:
the attestor cannot know it, and one instance must not cost the others (I11).
The appraisal refuses such an instance and its children.
"""

from __future__ import annotations

from typing import Final

from writ.formats.digest import Digest, extend
from writ.formats.errors import FormatError, Refused
from writ.formats.eventlog.cel import CONTENT_WRIT, CelRecord
from writ.formats.eventlog.runtime import (
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
from writ.formats.state import MOST_SETS, InstanceState, RuntimeState
from writ.formats.tlog.merkle import EMPTY_ROOT

MAX_INSTANCES: Final = 100_000


def replay(state: RuntimeState, records: tuple[CelRecord, ...], *, pcr: int, bank: str, quoted: bytes) -> RuntimeState:
    """The state after the events that lead from `state.register` to `quoted`.

    1. Each record is the next one, names the runtime PCR and is of our content type.
    2. What it extended is recomputed from its content; the digest in the record is not believed.
    3. The event follows the rules of the log (`_Machine`).
    4. The replay ends where the register equals the quoted value; it must be met.

    Raises Refused: `runtime-log-malformed`, `instance-key-reused` (1-3), `runtime-log-mismatch` (4).
    """
    machine = _Machine(state)
    events, register = state.events, state.register
    for record in records:
        if register == quoted:
            break
        # 1
        if record.record_number != events:
            raise _malformed("record_number", str(events), str(record.record_number))
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
        machine.step(event)
        events, register = events + 1, extend(bank, register, digest.value)
    # 4
    if register != quoted:
        raise Refused(Reason("runtime-log-mismatch", f"pcr{pcr}", quoted.hex(), register.hex()))
    return RuntimeState(events, register, machine.governance(), machine.instances(), machine.unapproved())


def _malformed(claim: str, expected: str, got: str) -> Refused:
    return Refused(Reason("runtime-log-malformed", f"runtime_log.{claim}", expected[:200], got[:200]))


class _Machine:
    """The rules of the log, over tables, so that a log of n events costs n steps."""

    def __init__(self, state: RuntimeState) -> None:
        self._governance = dict(state.governance)
        self._judged = state.governance
        self._unapproved = list(state.unapproved)
        self._instances = {i.instance: i for i in state.instances}
        self._keys = {i.session_key for i in state.instances}
        self._running = sum(i.phase == "running" for i in state.instances)

    def governance(self) -> tuple[tuple[str, Digest], ...]:
        """The components of the set that governs now, sorted by name."""
        return tuple(sorted(self._governance.items()))

    def unapproved(self) -> tuple[tuple[tuple[str, Digest], ...], ...]:
        """The sets that governed and were not approved, or not judged: the one of now only where it was judged."""
        return tuple(self._unapproved)

    def instances(self) -> tuple[InstanceState, ...]:
        """The instances so far, sorted by id."""
        return tuple(self._instances[key] for key in sorted(self._instances))

    def step(self, event: RuntimeEvent) -> None:
        """Take in one event, or raise Refused where it has no place here."""
        if isinstance(event, ComponentEvent):
            self._component(event)
        elif isinstance(event, StartEvent):
            self._start(event)
        elif not isinstance(event, UpdateEvent):  # a pending update changes nothing that runs
            known = self._find(event.instance)
            if isinstance(event, KeyEvent):
                self._key(known, event)
            elif isinstance(event, StopEvent):
                if known.phase == "stopped":
                    raise _malformed("stop", "an instance that has not stopped", known.phase)
                if known.phase == "running":
                    self._put(known.in_phase("stopped"))
            elif isinstance(event, DriftEvent) and known.phase != "tainted":
                self._put(known.in_phase("drifted"))
            # An anchor is for the auditor: an older one than the checkpoint carried since is no fault.

    def _component(self, event: ComponentEvent) -> None:
        """A name that the governing set has already begins the next set: the attestor was started anew, and found other code."""
        if event.scope != "governance":
            if self._running:
                raise _malformed("component", "components of the host before the first launch of a boot", event.name)
            return
        if event.name in self._governance:
            self._supersede()
        self._governance[event.name] = event.root

    def _supersede(self) -> None:
        """The set that governed is remembered, unless an appraisal found it approved. Of those there is room for the one of now, too."""
        former = self.governance()
        if former != self._judged and former not in self._unapproved:
            self._unapproved.append(former)
        if len(self._unapproved) > MOST_SETS:
            raise _malformed("component", f"at most {MOST_SETS} sets of governance in a boot that nobody approved", "one more")
        self._judged, self._governance = (), {}

    def _start(self, event: StartEvent) -> None:
        known = self._instances.get(event.instance)
        if known is not None and known.phase == "tainted":
            return  # remembered from an earlier enrolment or boot: it may be seen again, and is never trusted again (I6)
        if known is not None:
            raise _malformed("start", "an instance id used for the first time", event.instance.hex())
        if len(self._instances) >= MAX_INSTANCES:
            raise _malformed("start", f"at most {MAX_INSTANCES} instances a boot", "one more")
        self._claim(event.session_key)
        if event.parent is not None:
            self._find(event.parent)
        agent = AgentId.parse(event.agent)
        self._put(
            InstanceState(
                event.instance, agent, event.manifest_root, event.command, event.session_key, event.parent, "running", 0, EMPTY_ROOT, b""
            )
        )

    def _key(self, known: InstanceState, event: KeyEvent) -> None:
        if known.phase == "stopped":
            raise _malformed("key", "an instance that has not stopped", known.phase)
        self._claim(event.session_key)
        self._put(known.with_key(event.session_key))

    def _claim(self, session_key: bytes) -> None:
        if session_key in self._keys:
            raise Refused(Reason("instance-key-reused", "session_key", "a key of one instance", session_key.hex()))
        self._keys.add(session_key)

    def _find(self, instance: bytes) -> InstanceState:
        known = self._instances.get(instance)
        if known is None:
            raise _malformed("instance", "an instance that was started", instance.hex())
        return known

    def _put(self, instance: InstanceState) -> None:
        before = self._instances.get(instance.instance)
        self._running += (instance.phase == "running") - (before is not None and before.phase == "running")
        self._instances[instance.instance] = instance
