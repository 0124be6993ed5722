"""Keeps the log before its witnesses: what was published is cosigned within seconds, or it is known that it is not.

A thread asks the witnesses of a policy about the last checkpoint whenever it has entries that no quorum has seen. A checkpoint with its
quorum is what the log serves from then on. Where `within` is set and entries have waited longer than that, nothing is decided any more:
what no witness has seen can still be taken back by whoever holds the machine, and the verifier prefers to answer nobody.

Source: C2SP tlog-witness, tlog-policy.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from verifier.ledger import Ledger, Tables
from verifier.ledger.schema import HostRow
from verifier.ledger.translog import TransparencyLog
from verifier.proposals import settings_in_force
from verifier.witnesses import Collected, Prove, Witnesses
from writ.formats.errors import Misuse, Refused, Unavailable, WritError
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.cosignature import TlogPolicy
from writ.formats.tlog.note import encode_note
from writ.service import observe
from writ.service.clock import Clock
from writ.verdict.transparency import verify_witnessed

_LOG = observe.get_logger(__name__)
ASKS_FOR: Final = 5.0
"""Seconds for which the witnesses are waited for."""


@dataclass(frozen=True, slots=True)
class Lag:
    """Entries that no quorum has seen, and for how many seconds there have been some."""

    entries: int
    seconds: float


class Cosigning:
    """One log before the witnesses of one policy. Thread-safe."""

    def __init__(
        self, log: TransparencyLog, ledger: Ledger, policy: TlogPolicy, witnesses: Witnesses, clock: Clock, *, every: float, within: float
    ) -> None:  # fmt: skip
        """Asked every `every` seconds at most; `within` is 0 where nothing waits for them. Raises Misuse for a policy of other logs."""
        if all(key != log.key for key, _ in policy.logs):
            raise Misuse(f"a witness policy that names {log.key}")
        self._log, self._ledger, self._policy, self._witnesses, self._clock = log, ledger, policy, witnesses, clock
        self._every, self._within = every, within
        self._seen = 0
        self._since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cosigning", daemon=True)

    def start(self) -> None:
        """Witnesses are asked from now on, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Nobody is asked any more; what is under way comes to its end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._witnesses.close()

    def lag(self) -> Lag:
        """What no quorum has seen yet. Looks at the log as it is now."""
        current, now = self._log.current(), self._clock.boot()
        entries = (0 if current is None else current.size) - self._seen
        if entries <= 0:
            self._since = None
            return Lag(0, 0.0)
        since = self._since
        if since is None:
            since = self._since = now
        return Lag(entries, now - since)

    def demand(self, most: int | None = None) -> None:
        """Decisions may be made: there was a quorum since the start, and entries have not waited too long for the next. Raises Unavailable.

        Too long is what the configuration says, or `most` seconds where that is less. A quorum of nobody is none. A restart would begin the
        waiting anew: whoever holds the machine would restart it.
        """
        lag = self.lag()
        within = min((one for one in (self._within, most) if one), default=0)
        if within and self._policy.satisfied(frozenset()):
            raise Unavailable(
                "witnesses", f"expected a quorum within {within:g} s, got a witness policy that asks for no witness: name a quorum"
            )
        if within and not self._seen:
            raise Unavailable("witnesses", "expected a quorum since the start, got none yet")
        if within and lag.seconds > within:
            raise Unavailable("witnesses", f"expected a quorum within {within:g} s, got {lag.entries} entries after {lag.seconds:.0f} s")

    def ask(self) -> Collected | None:
        """The witnesses are asked once about the last checkpoint; None where a quorum has seen it."""
        signed = parse_signed_checkpoint(self._log.checkpoint) if self._log.checkpoint else None
        if signed is None or signed.checkpoint.size == self._seen:
            return None
        size = signed.checkpoint.size
        collected = self._witnesses.ask(signed, self._prove(size), seconds=ASKS_FOR)
        try:
            witnessed = verify_witnessed(collected.checkpoint, self._policy)
        except Refused as refused:
            _LOG.warning("quorum-missing", size=size, reasons=[str(reason) for reason in refused.reasons])
            return collected
        self._seen, self._since = witnessed.checkpoint.size, None
        self._log.show(encode_note(collected.checkpoint.note))
        return collected

    def _prove(self, size: int) -> Prove:
        return lambda old: self._log.consistency(self._ledger.read(), old, size)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self.lag()
                self.ask()
            except WritError as error:
                _LOG.warning("cosigning-failed", detail=str(error))
            except Exception as error:  # noqa: BLE001 - the thread goes on: that nobody cosigns is known by the lag
                _LOG.error("internal", exception=error)


def demand(cosigning: Cosigning | None, tables: Tables, host: str | None = None) -> None:
    """The log stands before its witnesses as configuration and, for a `host`, the policy of its namespace demand. Raises Unavailable."""
    row = None if host is None else tables.get(HostRow, host)
    settings = None if row is None else settings_in_force(tables, row.namespace)
    most = None if settings is None else settings.witness_lag_most
    if cosigning is not None:
        cosigning.demand(most)
    elif most is not None:
        raise Unavailable("witnesses", f"expected a quorum within {most} s, by the policy, got a verifier without witness_policy_file")
