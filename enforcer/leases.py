"""Leases: what the TPM says for the token in force, asked for again at half of each one's life.

The attestor passes on what the TPM signed, and is believed in none of it. Where the TPM refuses, as after every launch on the host, a fresh
token is asked for, since only that brings an approval; the lease in hand outlives that. Where it does not, the token is in force no more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from enforcer.credential import Credential, Held, leased
from enforcer.relay import Relay
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.local import LeaseAsk, LeaseGiven, Refusal, Unreachable
from writ.formats.reason import Reason
from writ.service import observe
from writ.service.clock import Clock

_LOG = observe.get_logger(__name__)
AGAIN: Final = 1.0
"""Seconds after which a lease is asked for again that could not be had."""


def with_lease(held: Held, relay: Relay, clock: Clock) -> Held:
    """`held` as it is where it takes no lease, else with one that the TPM made now. Raises Refused, FormatError, Unavailable."""
    if held.token.claims.lease is None:
        return held
    wall, boot = clock.now(), clock.boot()
    answer = relay.ask(LeaseAsk(held.token.claims.instance))
    if isinstance(answer, LeaseGiven):
        return leased(held, answer, wall=wall, boot=boot)
    if isinstance(answer, Refusal):
        raise Refused(*(answer.reasons or (Reason("lease-refused", "lease", "a lease", "a refusal without a reason"),)))
    if isinstance(answer, Unreachable):
        raise Unavailable("attestor", answer.detail)
    raise FormatError("lease answer", "a lease, a refusal or none", type(answer).__name__)


class Leases:
    """Keeps the token in force alive, in a thread that runs only once a token takes leases."""

    def __init__(self, credential: Credential, relay: Relay, clock: Clock, refused: Callable[[], None]) -> None:
        """`refused` is called, from that thread, where only a fresh token helps."""
        self._credential, self._relay, self._clock, self._refused = credential, relay, clock, refused
        self._started = False

    def keep(self) -> None:
        """From now on leases are renewed, if the token in force takes them. Called again it changes nothing."""
        held = self._credential.holding()
        if not self._started and held is not None and held.token.claims.lease is not None:
            self._started = True
            threading.Thread(target=self._run, name="leases", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(self.due())

    def due(self) -> float:
        """What is due was done; seconds until something is due again."""
        held = self._credential.holding()
        if held is None or held.token.claims.lease is None:
            return AGAIN
        if held.lease is not None:
            left = held.lease.remaining(self._clock.now(), self._clock.boot()) - held.lease.life / 2
            if left > 0:
                return left
        try:
            self._credential.renew(with_lease(held, self._relay, self._clock))
        except Refused as refused:
            _LOG.info("lease-refused", rules=[reason.code for reason in refused.reasons])
            self._refused()
        except (FormatError, Unavailable) as error:
            _LOG.warning("no-lease", detail=str(error))
        else:
            return 0.1
        return AGAIN
