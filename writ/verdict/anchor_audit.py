"""Anchors of action logs replayed from the verifier's public log alone: no evidence, no state, no server.

An entry says what was extended between two quotes, from where it led on, and
what the second quote shows. So its anchors are recomputed to the quoted PCR,
and those of one boot to each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from writ.formats.anchor import ShownAnchors, led
from writ.formats.decision import AttestDecision
from writ.formats.reason import Reason
from writ.verdict.anchor import MISMATCH

RESET: Final = "anchor-reset"


def replay_anchors(decisions: Iterable[AttestDecision]) -> tuple[Reason, ...]:
    """What is wrong with the anchors in `decisions`, all of a log and in its order; nothing where each replays.

    1. The batches of an entry lead from its base to the value that it says was quoted.
    2. Of one host and boot, an entry goes on from where the one before ended, in the same PCR.
    3. Where a host's TPM was reset or restarted in between, which clears its registers, what was anchored since the entry before may
       be shown by no quote: `anchor-reset`. (A resume from suspend counts like a restart.) A counter that fell is the TPM of another time.

    An entry that the verifier refused for its anchors stands as such, and counts for nothing. That the decisions are the log's is the
    caller's to have verified.
    """
    last: dict[str, ShownAnchors] = {}
    wrong: list[Reason] = []
    for decision in decisions:
        one = decision.anchors
        if one is None or not _taken(decision):
            continue
        claim, before = f"{decision.host}.anchors at {decision.decided_at}", last.get(decision.host)
        # 1
        if (register := led(_BANKS[len(one.base)], one.base, one.batches)) != one.register:
            wrong.append(Reason(MISMATCH, claim, register.hex(), one.register.hex()))
        # 2
        if before is not None and before.reset_count == one.reset_count and (before.pcr, before.register) != (one.pcr, one.base):
            expected, got = (f"PCR {pcr} at {value.hex()}" for pcr, value in ((before.pcr, before.register), (one.pcr, one.base)))
            wrong.append(Reason(MISMATCH, claim, expected, got))
        # 3
        if before is not None and (counted := _counters(before)) != _counters(one):
            code = RESET if counted < _counters(one) else "reset-count-fell"
            wrong.append(Reason(code, claim, "reset %d, restart %d" % counted, "reset %d, restart %d" % _counters(one)))
        last[decision.host] = one
    return tuple(wrong)


def _counters(one: ShownAnchors) -> tuple[int, int]:
    return one.reset_count, one.restart_count


def anchored_of(decisions: Iterable[AttestDecision], instance: bytes) -> tuple[tuple[int, int, bytes], ...]:
    """The anchors of `instance` that the verifier took, as `carried.Checkpoint`s: its action log leads to each of them.

    `carried.judge_carried` holds a log against them. That they replay is `replay_anchors`' to say.
    """
    return tuple(
        (decision.decided_at, row.size, row.root)
        for decision in decisions
        if decision.anchors is not None and _taken(decision)
        for batch in decision.anchors.batches
        for row in batch
        if row.instance == instance
    )


_BANKS: Final = {32: "sha256", 48: "sha384", 64: "sha512"}
"""By the length of their values."""
_NOT_TAKEN: Final = frozenset(
    {
        MISMATCH, "anchor-base", "runtime-log-mismatch", "runtime-log-malformed", "runtime-log-rewound", "full-log-required",
        "instance-key-reused", "reset-count-fell", "clock-fell",
    }
)  # fmt: skip
"""Reasons against a host with which nothing of its anchors is kept."""


def _taken(decision: AttestDecision) -> bool:
    return not {reason.code for reason in decision.reasons} & _NOT_TAKEN
