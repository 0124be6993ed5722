"""What waits for a person, and what people gave: both of one instance, in its holder's memory, and gone with it.

Single use needs no memory of what was used. An approval is for a refused record that waits here; when it is given, that record waits no
more, so no second one is taken for it, nor the same one again; and who takes an approval takes it out. A holder that came later (a
restart, other code) has nothing waiting, so what was given before it is useless there: the agent asks again, and a person approves again.

An action at a gate takes one place, however often it is asked. Two of its records wait there: the first, which a person may be reading
while the agent goes on asking, and the last, which is what the agent was told. Full, no other action gets a place, and none loses its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from enforcer.credential import Held
from writ.formats.action import Action
from writ.formats.approval import parse_signed_approval
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.reason import NO_TOKEN, Reason
from writ.service.clock import Clock
from writ.verdict.approval import Asked, Given, is_about, verify_approval

MOST_WAITING: Final = 1024
"""Actions, each with the first and the last of its records."""
MOST_GIVEN: Final = 64
WAITS: Final = 3600.0
"""Seconds since boot for which a refused action can be approved."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """`asked` waits since these moments of both clocks."""

    asked: Asked
    wall: int
    boot: float


_WANTED: Final = "a refusal that waits: the first of its action, or the last"

_Place = tuple[Action, str]
"""An action, arguments and all, and the gate."""


@dataclass(frozen=True, slots=True)
class _Held:
    """`given` is dead by the clock since boot at `until`, and by the wall clock at its `not_after`."""

    given: Given
    until: float


class Approvals:
    """Of one instance. Thread-safe."""

    def __init__(self, instance: bytes, clock: Clock, keep: Callable[[bytes], None]) -> None:
        """`keep` makes a signed approval durable for those who prove the action later; it raises Unavailable."""
        self._instance, self._clock, self._keep = instance, clock, keep
        self._waiting: dict[_Place, tuple[_Waiting, ...]] = {}
        self._given: list[_Held] = []
        self._lock = threading.Lock()

    def wait(self, asked: Asked) -> None:
        """`asked` can be approved for an hour, or until it is asked again, unless it is the first of those that wait for the same action.

        Where too many other actions wait already, it cannot.
        """
        now, boot = self._clock.now(), self._clock.boot()
        place = (asked.action, asked.gate)
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                alive = ((at, tuple(one for one in waiting if boot < one.boot + WAITS)) for at, waiting in self._waiting.items())
                self._waiting = {at: waiting for at, waiting in alive if waiting}
            if place in self._waiting or len(self._waiting) < MOST_WAITING:
                first = tuple(one for one in self._waiting.get(place, ()) if boot < one.boot + WAITS)[:1]
                self._waiting[place] = (*first, _Waiting(asked, now, boot))

    def give(self, signed: bytes, held: Held | None) -> tuple[Reason, ...]:
        """Why this approval is not taken; none: the action that it is for passes once, if it is asked again in time.

        1. It is an approval, and a token is in force, whose bundle says who approves.
        2. The refused record waits here, and it is about that.
        3. One whom the bundle names signed it, for this instance and bundle, and it is not dead, whichever clock has gone on further since
           the refusal.
        4. There is room, and it is durable.
        """
        now, boot = self._clock.now(), self._clock.boot()
        # 1
        try:
            parsed = parse_signed_approval(signed)
        except FormatError as error:
            return (Reason("malformed", error.what[:100], error.expected, error.got),)
        if held is None:
            return (NO_TOKEN,)
        approval = parsed.approval
        with self._lock:
            # 2
            waiting = next((one for place in self._waiting.values() for one in place if one.asked.leaf == approval.refused), None)
            if waiting is None or boot >= waiting.boot + WAITS:
                return (Reason("approval-unknown", "approval.refused", _WANTED, approval.refused.hex()),)
            asked, latest = waiting.asked, max(now, waiting.wall + int(boot - waiting.boot))
            try:
                is_about(approval, asked)
                # 3
                verify_approval(
                    parsed, action=asked.action, gate=asked.gate, instance=self._instance, bundle=held.bundle, now=latest
                )  # fmt: skip
            except Refused as refused:
                return refused.reasons
            # 4
            self._given = [one for one in self._given if self._alive(one, now, boot)]
            if len(self._given) >= MOST_GIVEN:
                return (Reason("too-many-requests", "approval", f"room for one of {MOST_GIVEN}", "none until some are used or dead"),)
            try:
                self._keep(signed)
            except Unavailable as error:
                return (Reason("record-not-durable", "approval", "a durable approval", error.detail[:200]),)
            self._leave(asked)
            self._given.append(_Held(Given(parsed, asked), boot + (approval.not_after - latest)))
        return ()

    def _leave(self, asked: Asked) -> None:
        """`asked` waits no more; the other record of its action, if there is one, does."""
        place = (asked.action, asked.gate)
        left = tuple(one for one in self._waiting[place] if one.asked.leaf != asked.leaf)
        if left:
            self._waiting[place] = left
        else:
            del self._waiting[place]

    def take(self, action: Action, gate: str) -> Given | None:
        """An approval that was given for exactly this action at this gate, and is dead by neither clock; nobody gets it again."""
        now, boot = self._clock.now(), self._clock.boot()
        with self._lock:
            for at, one in enumerate(self._given):
                if (one.given.asked.action, one.given.asked.gate) == (action, gate) and self._alive(one, now, boot):
                    del self._given[at]
                    return one.given
        return None

    @staticmethod
    def _alive(one: _Held, now: int, boot: float) -> bool:
        return now < one.given.signed.approval.not_after and boot < one.until
