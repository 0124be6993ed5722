"""The checkpoints of action logs that the verifier's public log names, held against each other and against the logs handed over.

The TPM of the host quoted each of them when it was carried. So what was in an action log then is in it for ever: a log that was cut,
forked, or put back to an earlier state does not lead to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from writ.formats.decision import AttestDecision, Outcome
from writ.formats.reason import Reason
from writ.formats.tlog import merkle
from writ.verdict.anchor import INCONSISTENT
from writ.verdict.appraisal import NOT_CONTINUED

FORKED: Final = frozenset({"action-log-inconsistent", INCONSISTENT})
Checkpoint = tuple[int, int, bytes]
"""When the verifier decided (seconds), and size and root of the action log."""


def carried_of(decisions: Iterable[AttestDecision], instance: bytes) -> tuple[tuple[Checkpoint, ...], tuple[Reason, ...]]:
    """The checkpoints of `instance` that the verifier took, in the order of `decisions`, and what is wrong with those and with the others.

    1. A checkpoint that did not extend the one before was carried: a quote was made over a second history.
    2. Sizes never fall, and one size has one root.

    What was not taken for other reasons is not looked at: an honest host sends it too, after a restore of the verifier.

    That the decisions are the log's, all of them and in its order, is the caller's to have verified.
    """
    taken: list[Checkpoint] = []
    wrong: list[Reason] = []
    for decision in decisions:
        for one in decision.outcomes:
            if one.instance != instance:
                continue
            # 1
            codes = {reason.code for reason in one.reasons}
            expected = "a checkpoint that extends the one before, and what was anchored since"
            wrong.extend(_wrong(one, decision.decided_at, expected, code) for code in sorted(codes & FORKED))
            if codes & NOT_CONTINUED:
                continue
            # 2
            _, size, root = taken[-1] if taken else (0, 0, one.log_root)
            if one.log_size < size or (one.log_size == size and taken and one.log_root != root):
                wrong.append(_wrong(one, decision.decided_at, f"what extends {size} records with root {root.hex()}", _said(one)))
            taken.append((decision.decided_at, one.log_size, one.log_root))
    return tuple(taken), tuple(wrong)


def judge_carried(checkpoints: Sequence[Checkpoint], leaves: Sequence[bytes]) -> tuple[Reason, ...]:
    """What of `checkpoints` the action log does not lead to; nothing where each is of its first records.

    Does not prove anything of records behind the last checkpoint.
    """
    wrong: list[Reason] = []
    hashes, frontier = [merkle.leaf_hash(leaf) for leaf in leaves], merkle.EMPTY_FRONTIER
    for at, size, root in sorted(checkpoints, key=lambda one: one[1]):
        if size > len(hashes):
            wrong.append(Reason("consistency-invalid", f"carried.{at}", f"{size} records", f"{len(hashes)} records"))
            continue
        frontier = merkle.append(frontier, *hashes[frontier.size : size])
        if merkle.frontier_root(frontier) != root:
            got = merkle.frontier_root(frontier).hex()
            wrong.append(Reason("consistency-invalid", f"carried.{at}", f"{root.hex()} at size {size}", got))
    return tuple(wrong)


def _said(one: Outcome) -> str:
    return f"{one.log_size} records with root {one.log_root.hex()}"


def _wrong(one: Outcome, at: int, expected: str, got: str) -> Reason:
    return Reason("consistency-invalid", f"instance.{one.instance.hex()}.log at {at}", expected, got)
