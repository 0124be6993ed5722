"""What this boot's log says of instances: which run, which are over, whose keys are used.

The verifier replays the same log by the same rules and keeps nothing of a log
that breaks one. So no event that breaks a rule is ever written: what one
launch asks wrongly is refused to it, and costs no other instance its token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.eventlog.runtime import DriftEvent, RuntimeEvent, StartEvent, StopEvent
from writ.formats.reason import Reason

MAX_INSTANCES: Final = 50_000
"""In one boot; the verifier refuses a log of more than twice as many."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One launch: `phase` is running, drifted or stopped; `drift` is the first one, where there was one."""

    start: StartEvent
    phase: str
    drift: DriftEvent | None


class Instances:
    """The instances of one boot, by id. Built from a log's events and moved with each further one."""

    def __init__(self, events: Iterable[RuntimeEvent] = ()) -> None:
        self._by_id: dict[bytes, Instance] = {}
        self._keys: set[bytes] = set()
        for event in events:
            self.note(event)

    def note(self, event: RuntimeEvent) -> None:
        """The event is in the log."""
        if isinstance(event, StartEvent):
            self._by_id[event.instance] = Instance(event, "running", None)
            self._keys.add(event.session_key)
        elif isinstance(event, StopEvent | DriftEvent) and (known := self._by_id.get(event.instance)) is not None:
            if isinstance(event, StopEvent):
                self._by_id[event.instance] = replace(known, phase="stopped")
            elif known.phase == "running":
                self._by_id[event.instance] = replace(known, phase="drifted", drift=event)

    def get(self, instance: bytes) -> Instance:
        """The instance. Raises Refused `instance-unknown`."""
        known = self._by_id.get(instance)
        if known is None:
            raise Refused(Reason("instance-unknown", f"instance.{instance.hex()}", "a start event in this boot's log", "none"))
        return known

    def knows(self, event: RuntimeEvent) -> bool:
        """Whether the event is of an instance of this boot that has not stopped."""
        known = self._by_id.get(event.instance) if isinstance(event, StopEvent | DriftEvent) else None
        return known is not None and known.phase != "stopped"

    def may_start(self, session_key: bytes, parent: bytes | None) -> None:
        """Return if a launch with this key and parent breaks no rule of the log. Raises Refused."""
        if len(self._by_id) >= MAX_INSTANCES:
            raise Refused(Reason("too-many-requests", "instances", f"at most {MAX_INSTANCES} launches in a boot", "one more"))
        if session_key in self._keys:
            raise Refused(Reason("instance-key-reused", "session_key", "a key of this launch alone", session_key.hex()))
        if parent is not None and (phase := self.get(parent).phase) != "running":
            raise Refused(Reason("instance-stopped", f"instance.{parent.hex()}", "a running parent", phase))

    def in_phase(self, *phases: str) -> tuple[Instance, ...]:
        """The instances in one of the phases, in the order of their starts."""
        return tuple(i for i in self._by_id.values() if i.phase in phases)

    def roots(self) -> frozenset[Digest]:
        """Manifest roots that an instance not yet stopped runs from."""
        return frozenset(i.start.manifest_root for i in self.in_phase("running", "drifted"))

    def __len__(self) -> int:
        """How many run."""
        return len(self.in_phase("running"))
