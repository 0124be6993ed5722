"""Single use: a proof is taken once. A full cache refuses new work rather than forget old (facts/enforcement.md, AGT#3247)."""

from __future__ import annotations

import heapq
import threading
from typing import Final

from writ.formats.errors import Refused
from writ.formats.reason import Reason

CAPACITY: Final = 100_000


class ReplayCache:
    """Names that were used, each kept until its time. In memory: a restart must outwait a proof's life before it accepts any."""

    def __init__(self, capacity: int = CAPACITY, *, refuse_made_before: int = 0) -> None:
        """`refuse_made_before`: proofs made earlier (seconds) may have been seen by a process before this one."""
        self._capacity = capacity
        self._made_after = refuse_made_before
        self._used: set[str] = set()
        self._by_time: list[tuple[int, str]] = []
        self._lock = threading.Lock()

    def take(self, name: str, *, forget_after: int, made_at: int, now: int) -> None:
        """`name` is used from now on. Raises Refused where it was before, or where there is no room to remember it."""
        with self._lock:
            while self._by_time and self._by_time[0][0] < now:
                lapsed, forgotten = heapq.heappop(self._by_time)
                self._used.discard(forgotten)
                # a clock that is set back must not revive what was forgotten: nothing as old as it is taken any more
                self._made_after = max(self._made_after, lapsed + 1 - (forget_after - made_at))
            if made_at < self._made_after:
                raise Refused(Reason("proof-stale", "proof.iat", f"at least {self._made_after}", str(made_at)))
            if name in self._used:
                raise Refused(Reason("proof-replayed", "proof.jti", "a new proof", "one used before"))
            if len(self._used) >= self._capacity:
                raise Refused(Reason("too-many-requests", "proof", f"room for one of {self._capacity}", "none until older proofs lapse"))
            self._used.add(name)
            heapq.heappush(self._by_time, (forget_after, name))
