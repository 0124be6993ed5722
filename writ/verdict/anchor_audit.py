"""Anchors of action logs replayed from the verifier's public log alone: no evidence, no state, no server.

An entry says what was extended between two quotes, from where it led on, and
what the second quote shows. So its anchors are recomputed to the quoted PCR,
and those of one boot to each other. What they say of an action log is owed by
it like a checkpoint that was carried (`carried.CarriedLogs`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from writ.formats.anchor import ShownAnchors, led
from writ.formats.decision import AttestDecision
from writ.formats.reason import Reason
from writ.verdict.anchor import MISMATCH
from writ.verdict.carried import Carriage, carriage_of

RESET: Final = "anchor-reset"
_BANKS: Final = {32: "sha256", 48: "sha384", 64: "sha512"}
"""By the length of their values."""


class AnchorReplay:
    """The registers of all hosts, followed through the attestations of one log in its order.

    1. The batches of an entry lead from its base to the value that it says was quoted.
    2. Of one host and boot, an entry goes on from where the one before ended, in the same PCR.
    3. Where a host's TPM was reset or restarted in between, which clears its registers, what was anchored since the entry before may be
       shown by no quote: `anchor-reset`, which is a window and no fault. (A resume from suspend counts like a restart.) A counter that
       fell is the TPM of another time.

    An entry that the verifier refused for its anchors stands as such, and counts for nothing. That the decisions are the log's is the
    caller's to have verified.
    """

    def __init__(self) -> None:
        self.last: dict[str, ShownAnchors] = {}
        """Of each host."""
        self.entries = 0
        self.resets: list[Reason] = []

    def take(self, carriage: Carriage) -> tuple[Reason, ...]:
        """The next attestation; what is wrong with its anchors."""
        one, wrong = carriage.anchors, list[Reason]()
        if one is None:
            return ()
        claim, before = f"{carriage.host}.anchors at {carriage.at}", self.last.get(carriage.host)
        self.last[carriage.host], self.entries = one, self.entries + 1
        # 1
        if (register := led(_BANKS[len(one.base)], one.base, one.batches)) != one.register:
            wrong.append(Reason(MISMATCH, claim, register.hex(), one.register.hex()))
        # 2
        if before is not None and before.reset_count == one.reset_count and (before.pcr, before.register) != (one.pcr, one.base):
            expected, got = (f"PCR {pcr} at {value.hex()}" for pcr, value in ((before.pcr, before.register), (one.pcr, one.base)))
            wrong.append(Reason(MISMATCH, claim, expected, got))
        # 3
        if before is not None and _counters(before) != _counters(one):
            said = [f"reset {n.reset_count}, restart {n.restart_count}" for n in (before, one)]
            if _counters(before) < _counters(one):
                self.resets.append(Reason(RESET, claim, *said))
            else:
                wrong.append(Reason("reset-count-fell", claim, *said))
        return tuple(wrong)


def replay_anchors(decisions: Iterable[AttestDecision]) -> tuple[Reason, ...]:
    """All that `AnchorReplay` finds in these decisions, resets too."""
    replay = AnchorReplay()
    wrong = [reason for decision in decisions for reason in replay.take(carriage_of(decision))]
    return (*wrong, *replay.resets)


def _counters(one: ShownAnchors) -> tuple[int, int]:
    return one.reset_count, one.restart_count
