"""The action log of an instance anchored in the host's TPM between renewals: what was recorded shows sooner than it is carried.

Only what is durable is anchored, and not while a question to the verifier is
under way: so the next checkpoint carried extends every anchor, whatever is
lost or killed in between. All instances of a host anchor at the same moments
of its boot clock, and the attestor makes one extend of them.

An anchor is optional, and its failure stops nothing: records since the last
checkpoint carried are then the window, as they are without anchors.
"""

from __future__ import annotations

import threading
from typing import Final

from enforcer.relay import Relay
from enforcer.renewal import Renewal
from writ.formats.local import Anchor, Done, Refusal, Unreachable
from writ.service import observe
from writ.service.clock import Clock

_LOG: Final = observe.get_logger(__name__)


class Anchors:
    """Anchors of one instance, every `every` seconds; 0: never."""

    def __init__(self, every: int, instance: bytes, renewal: Renewal, relay: Relay, clock: Clock) -> None:
        self._every, self._instance, self._renewal, self._relay, self._clock = every, instance, renewal, relay, clock
        self._ended = threading.Event()
        self._started = False
        self._said = ""

    def keep(self) -> None:
        """From now on the log is anchored. Called again it changes nothing."""
        if self._every and not self._started:
            self._started = True
            threading.Thread(target=self._run, name="anchors", daemon=True).start()

    def end(self) -> None:
        """Nothing more is anchored."""
        self._ended.set()

    def due_in(self) -> float:
        """Seconds to the next moment at which all instances of the host anchor."""
        return self._every - self._clock.boot() % self._every

    def _run(self) -> None:
        while not self._ended.wait(self.due_in()):
            self.anchor()

    def anchor(self) -> bool:
        """Whether the log as it is durable now is in the register; it is not where nothing is new, somebody says no, or nobody answers."""
        checkpoint = self._renewal.to_anchor()
        if checkpoint is None:
            return False
        answer = self._relay.ask(Anchor(self._instance, checkpoint.size, checkpoint.root))
        why = ""
        if isinstance(answer, Refusal):
            self._renewal.not_anchored(checkpoint.size)  # else what was refused would count among the anchors that may wait
            why = ", ".join(sorted({reason.code for reason in answer.reasons}))
        elif isinstance(answer, Unreachable):
            why = "unreachable"
        elif not isinstance(answer, Done):
            why = "malformed"
        if why and why != self._said:
            _LOG.warning("not-anchored", instance=self._instance.hex(), rules=why)
        self._said = why
        return not why
