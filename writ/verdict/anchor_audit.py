"""Anchors of action logs replayed from the verifier's public log alone: no evidence, no state, no server.

An entry says what was extended between two quotes, from where it led on, and
what the second quote shows. So its anchors are recomputed to the quoted PCR,
and those of one boot to each other. What they say of an action log is owed by
it like a checkpoint that was carried (`carried.CarriedLogs`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from writ.formats.anchor import ShownAnchors, led
from writ.formats.decision import AttestDecision, EnrolDecision, OperatorAct
from writ.formats.reason import Reason
from writ.verdict.anchor import MISMATCH
from writ.verdict.carried import Carriage, carriage_of

RESET: Final = "anchor-reset"
ANEW: Final = "anchor-anew"
_ADMITTING: Final = frozenset({"host-admit", "host-replace"})
Told = Carriage | EnrolDecision | OperatorAct
"""What of a log's entries concerns the registers of its hosts."""
_BANKS: Final = {32: "sha256", 48: "sha384", 64: "sha512"}
"""By the length of their values."""


class AnchorReplay:
    """The registers of all hosts, followed through what one log tells of them, in its order.

    1. The batches of an entry lead from its base to the value that it says was quoted.
    2. Of one host and boot, an entry goes on from where the one before ended, in the same PCR.
    3. Where a host's TPM was reset or restarted in between, which clears its registers, what was anchored since the entry before may be
       shown by no quote: `anchor-reset`, which is a window and no fault. (A resume from suspend counts like a restart.) A counter that
       fell is the TPM of another time.
    4. An enrolment begins anew (`anchor-anew`): another AK, of another TPM or of one that was cleared, whose counters say nothing of those
       before. That takes an operator's admission, of which each is for one enrolment; without one in the log it is a finding.
    5. So does an operator's release of a host that was contained because its TPM counted backwards; no other release does.

    An entry that the verifier refused for its anchors stands as such, and counts for nothing. That the decisions are the log's is the
    caller's to have verified.
    """

    def __init__(self) -> None:
        self.last: dict[str, ShownAnchors] = {}
        """Of each host that has anchors in its boot."""
        self.hosts: set[str] = set()
        """Those that ever had some."""
        self.entries = 0
        self.resets: list[Reason] = []
        self.anew: list[Reason] = []
        self._admitted: dict[str, str] = {}
        """Of a host whose admissions are more than its enrolments, who admitted it last."""
        self._open: Counter[str] = Counter()
        self._fallen: set[str] = set()
        """Hosts whose TPM counted backwards, and that nobody released since."""
        self._succeeded = False

    def take(self, told: Told) -> tuple[Reason, ...]:
        """The next of them; what is wrong with its anchors, or with their end."""
        if isinstance(told, EnrolDecision):
            return self._enrolled(told)
        if isinstance(told, OperatorAct):
            return self._acted(told)
        if told.fell:
            self._fallen.add(told.host)
        return () if told.anchors is None else self._followed(told, told.anchors)

    def _followed(self, carriage: Carriage, one: ShownAnchors) -> tuple[Reason, ...]:
        wrong = list[Reason]()
        claim, before = f"{carriage.host}.anchors at {carriage.at}", self.last.get(carriage.host)
        self.last[carriage.host], self.entries = one, self.entries + 1
        self.hosts.add(carriage.host)
        # 1
        if (register := led(_BANKS[len(one.base)], one.base, one.batches)) != one.register:
            wrong.append(Reason(MISMATCH, claim, register.hex(), one.register.hex()))
        # 2
        if before is not None and before.reset_count == one.reset_count and (before.pcr, before.register) != (one.pcr, one.base):
            expected, got = (f"PCR {pcr} at {value.hex()}" for pcr, value in ((before.pcr, before.register), (one.pcr, one.base)))
            wrong.append(Reason(MISMATCH, claim, expected, got))
        # 3
        if before is not None and _counters(before) != _counters(one):
            said = _said(before), _said(one)
            if _counters(before) < _counters(one):
                self.resets.append(Reason(RESET, claim, *said))
            else:
                wrong.append(Reason("reset-count-fell", claim, *said))
        return tuple(wrong)

    def _enrolled(self, entry: EnrolDecision) -> tuple[Reason, ...]:
        """4."""
        by, before = self._admitted.get(entry.host), self.last.pop(entry.host, None)
        self._fallen.discard(entry.host)
        if self._open[entry.host] > 1:
            self._open[entry.host] -= 1
        else:
            del self._open[entry.host]
            self._admitted.pop(entry.host, None)
        if before is None:
            return ()
        claim = f"{entry.host}.anchors, enrolled again at {entry.decided_at}"
        if by is None and not self._succeeded:  # a log that succeeds a lost one does not have its admissions
            return (Reason("enrolment-unadmitted", claim, "an operator's admission in the log", "none that was not used before"),)
        who = f"admitted by {'an operator of the log before' if by is None else by}{', its TPM was cleared' if entry.cleared else ''}"
        self.anew.append(Reason(ANEW, claim, _said(before), who[:200]))
        return ()

    def _acted(self, act: OperatorAct) -> tuple[Reason, ...]:
        if act.act in _ADMITTING:
            self._admitted[act.subject] = act.operator
            self._open[act.subject] += 1
        self._succeeded |= act.act == "log-succeed"
        # 5
        if act.act == "host-release" and act.subject in self._fallen:
            self._fallen.discard(act.subject)
            if (before := self.last.pop(act.subject, None)) is not None:
                claim = f"{act.subject}.anchors, released at {act.decided_at}"
                self.anew.append(Reason(ANEW, claim, _said(before), f"released by {act.operator}, its TPM counted backwards"[:200]))
        return ()


def replay_anchors(entries: Iterable[AttestDecision | EnrolDecision | OperatorAct]) -> tuple[Reason, ...]:
    """All that `AnchorReplay` finds in these entries, resets and what began anew too."""
    replay = AnchorReplay()
    wrong = [reason for one in entries for reason in replay.take(carriage_of(one) if isinstance(one, AttestDecision) else one)]
    return (*wrong, *replay.resets, *replay.anew)


def _said(one: ShownAnchors) -> str:
    return f"reset {one.reset_count}, restart {one.restart_count}"


def _counters(one: ShownAnchors) -> tuple[int, int]:
    return one.reset_count, one.restart_count
