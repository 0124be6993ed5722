"""How long an instance may go on: what an answer, or none, means for it, and what time alone brings.

a token              in force; it thaws
a no                 hold
no answer            nothing, until the token in force dies: then hold
hold_max in a hold   kill
never again          kill
"""

from __future__ import annotations

import time

from enforcer.contain import Containment
from enforcer.credential import Credential, Held
from enforcer.renewal import Granted, Never, NotNow, Verdict
from writ.formats.errors import Refused
from writ.formats.reason import Reason
from writ.service.clock import Clock


class Tenure:
    """Holds and thaws one instance, and says when it must be killed. For one thread."""

    def __init__(self, containment: Containment, credential: Credential, clock: Clock) -> None:
        self._containment, self._credential, self._clock = containment, credential, clock
        self._held_since: float | None = None
        self._hold_max = 0

    def begin(self, held: Held) -> None:
        """The first token is in force."""
        self._containment.run(held)
        self._renewed(held)

    def resume(self, held_since: float, hold_max: int, reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """An instance that has been on hold since this boot time goes on being so. As `hold`."""
        self._held_since, self._hold_max = held_since, hold_max
        return self.hold(reasons, time.monotonic_ns())

    @property
    def since(self) -> tuple[float | None, int]:
        """The boot time since which it is on hold, and for how many seconds at most."""
        return self._held_since, self._hold_max

    def heard(self, verdict: Verdict) -> tuple[Reason, ...]:
        """What the answer means is done; the reasons for which the instance must be killed, or none."""
        if isinstance(verdict, Never):
            return verdict.reasons
        if isinstance(verdict, Granted):
            try:
                self._containment.run(verdict.held)
            except Refused as refused:
                return self.hold(refused.reasons, time.monotonic_ns())
            self._renewed(verdict.held)
        elif isinstance(verdict, NotNow) and verdict.answered:
            return self.hold(verdict.reasons, time.monotonic_ns())
        return ()

    def _renewed(self, held: Held) -> None:
        self._held_since, self._hold_max = None, held.bundle.settings.hold_max

    def hold(self, reasons: tuple[Reason, ...], noticed: int) -> tuple[Reason, ...]:
        """Nothing passes and nothing runs; the reasons to kill it where it would not freeze. `noticed` in monotonic nanoseconds."""
        if self._held_since is None:
            self._held_since = self._clock.boot()
        if self._containment.hold(reasons, noticed):
            return ()
        return (*reasons, Reason("internal", "cgroup.freeze", "frozen", "still running"))

    def overdue(self, noticed: int) -> tuple[Reason, ...]:
        """What time alone brings: the token's death holds; the reasons to kill it, after a hold too long, or none."""
        fatal: tuple[Reason, ...] = ()
        if self._containment.standing.state == "running" and self._credential.current() is None:
            fatal = self.hold((self._credential.over(),), noticed)
        if not fatal and self._held_since is not None and self._clock.boot() - self._held_since > self._hold_max:
            reason = Reason("hold", "hold_max", f"a fresh token within {self._hold_max} s", "none")
            fatal = (*self._containment.standing.reasons, reason)
        return fatal
