"""The checkpoints of action logs that the verifier's public log names, held against each other and against the logs handed over.

The TPM of the host quoted each of them when it was carried. So what was in an action log then is in it for ever: a log that was cut,
forked, or put back to an earlier state does not lead to them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from writ.formats.anchor import ShownAnchors
from writ.formats.decision import AttestDecision
from writ.formats.reason import Reason
from writ.formats.tlog import merkle
from writ.verdict.anchor import INCONSISTENT, taken_of
from writ.verdict.appraisal import NOT_CONTINUED

FORKED: Final = frozenset({"action-log-inconsistent", INCONSISTENT})
"""The verifier's reasons against a checkpoint that does not extend the one before, or what was anchored since."""
FELL: Final = frozenset({"reset-count-fell", "clock-fell"})
"""Those against a TPM of another time."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What one attestation brought of one instance: its checkpoint, whether it was taken or refused as a fork, and the claims it got."""

    instance: bytes
    size: int
    root: bytes
    taken: bool
    forked: bool
    claims: bytes | None


@dataclass(frozen=True, slots=True)
class Carriage:
    """What one attestation of a host brought: asked for at `since`, when its nonce was given out, and decided at `at`, in seconds.

    `anchors` are those that the verifier took. `fell`: the TPM had counted further before, for which the host was contained.
    """

    at: int
    since: int
    host: str
    namespace: str
    brought: tuple[Brought, ...]
    anchors: ShownAnchors | None = None
    fell: bool = False


def carriage_of(decision: AttestDecision) -> Carriage:
    """What of a decision says where action logs stood."""
    brought = []
    for one in decision.outcomes:
        codes = {reason.code for reason in one.reasons}
        claims = None if one.claims is None else one.claims.value
        brought.append(Brought(one.instance, one.log_size, one.log_root, not codes & NOT_CONTINUED, bool(codes & FORKED), claims))
    fell = any(reason.code in FELL for reason in decision.reasons)
    return Carriage(
        decision.decided_at, decision.nonce_issued_at, decision.host, decision.namespace, tuple(brought), taken_of(decision), fell
    )  # fmt: skip


@dataclass(slots=True)
class Checkpoint:
    """A checkpoint that was taken. The log had reached it by `at`, and had not gone beyond it at `until`; the verifier's seconds."""

    size: int
    root: bytes
    at: int
    until: int


@dataclass(slots=True)
class Carried:
    """What a log says of one instance on one host: the checkpoints that were taken, by size, and what is wrong with them.

    `anchored` are the checkpoints that were anchored between those, each in the order in which a quote showed it. `permitted`: it got a
    token there.
    """

    host: str
    namespace: str
    permitted: bool = False
    checkpoints: list[Checkpoint] = field(default_factory=list)
    anchored: list[Checkpoint] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Of the last checkpoint."""
        return self.checkpoints[-1].size if self.checkpoints else 0


class CarriedLogs:
    """What the decisions of one log, told in its order, say of all action logs.

    1. A checkpoint that did not extend the one before was carried: a quote was made over a second history.
    2. Sizes never fall, and one size has one root.
    3. An instance is of one host. Ids are public, and another host may carry whatever it likes under one: that is kept apart, is no word
       about the instance of the first, and a finding about the other (`twins`).

    Anchors are kept of the instances at hand; that they replay is `anchor_audit`'s to say.

    What was not taken for other reasons is not looked at: an honest host sends it too, after a restore of the verifier.

    That the decisions are the log's, all of them and in its order, is the caller's to have verified.
    """

    def __init__(self, at_hand: Collection[bytes] | None = None, claims: Collection[bytes] = ()) -> None:
        """Of the instances in `at_hand` (None: of all) each checkpoint is kept, of others the last; of issued claims those in `claims`."""
        self.of: dict[bytes, Carried] = {}
        """Each instance on the host of which a checkpoint of it was taken first: its own, where the log is told from its beginning."""
        self.elsewhere: dict[tuple[bytes, str], Carried] = {}
        """What other hosts carried under the same id, by that and the host."""
        self.twins: list[Reason] = []
        self.issued: set[bytes] = set()
        """Digests of claims that were issued, to the instance that they name."""
        self._at_hand, self._claims = at_hand, claims

    def take(self, carriage: Carriage) -> None:
        """The next attestation."""
        for one in carriage.brought:
            known = self._known(one.instance, carriage)
            # 1
            if one.forked:
                expected = "a checkpoint that extends the one before, and what was anchored since"
                known.reasons.append(_wrong(one, carriage.at, expected, _said(one.size, one.root)))
            if one.claims is not None:
                known.permitted = True
                if one.claims in self._claims:
                    self.issued.add(one.claims)
            if one.taken:
                self._extend(known, one, carriage)
        for row in (row for batch in (carriage.anchors.batches if carriage.anchors else ()) for row in batch):
            if self._at_hand is not None and row.instance in self._at_hand:
                self._known(row.instance, carriage).anchored.append(Checkpoint(row.size, row.root, carriage.at, carriage.since))

    def on(self, namespace: str) -> dict[bytes, list[Carried]]:
        """All instances of hosts of the namespace, each on every host that named it."""
        found: dict[bytes, list[Carried]] = {}
        for instance, one in (*self.of.items(), *((instance, one) for (instance, _), one in self.elsewhere.items())):
            if one.namespace == namespace:
                found.setdefault(instance, []).append(one)
        return found

    def _known(self, instance: bytes, carriage: Carriage) -> Carried:
        known = self.of.setdefault(instance, Carried(carriage.host, carriage.namespace))
        if known.host == carriage.host:
            return known
        return self.elsewhere.setdefault((instance, carriage.host), Carried(carriage.host, carriage.namespace))

    def _extend(self, known: Carried, one: Brought, carriage: Carriage) -> None:
        last = known.checkpoints[-1] if known.checkpoints else None
        # 3
        if last is None and (first := self.of[one.instance]) is not known:
            if first.checkpoints:
                self.twins.append(_wrong(one, carriage.at, f"an instance of {first.host}", f"one of {known.host}"))
            else:  # what another host said of it, and was not believed, makes it no instance of that
                self.of[one.instance], self.elsewhere[one.instance, first.host] = known, first
                del self.elsewhere[one.instance, known.host]
        if last is not None and one.size == last.size and one.root == last.root:
            last.until = carriage.since
            return
        # 2
        if last is not None and one.size <= last.size:
            known.reasons.append(_wrong(one, carriage.at, f"what extends {_said(last.size, last.root)}", _said(one.size, one.root)))
            return
        if self._at_hand is not None and one.instance not in self._at_hand:
            known.checkpoints.clear()
        known.checkpoints.append(Checkpoint(one.size, one.root, carriage.at, carriage.since))


def judge_carried(checkpoints: Sequence[Checkpoint], hashes: Sequence[bytes], name: str) -> tuple[Reason, ...]:
    """What of `checkpoints` the action log of these leaf hashes does not lead to; nothing where each is of its first records.

    1. The log has as many records as the last says: else it was cut, or put back.
    2. The root at the size of each is the one carried: else a record before it is another, and the first such says before which.

    Does not prove anything of records behind the last checkpoint.
    """
    wrong: list[Reason] = []
    # 1
    if checkpoints and (most := checkpoints[-1].size) > len(hashes):
        wrong.append(Reason("action-log-cut", name, f"{most} records, carried at {checkpoints[-1].at}", f"{len(hashes)} records"))
    # 2
    frontier = merkle.EMPTY_FRONTIER
    for one in checkpoints:
        if one.size > len(hashes):
            break
        before = frontier.size
        frontier = merkle.append(frontier, *hashes[before : one.size])
        if (got := merkle.frontier_root(frontier)) != one.root:
            claim = f"{name}, records {before} to {one.size - 1}" if one.size else name
            wrong.append(Reason("action-log-altered", claim, f"root {one.root.hex()}, carried at {one.at}", f"root {got.hex()}"))
            break
    return tuple(wrong)


def judge_anchored(anchored: Sequence[Checkpoint], hashes: Sequence[bytes], name: str) -> tuple[Reason, ...]:
    """What of `anchored` the action log does not lead to, as `judge_carried` has it: the TPM saw it before it was carried."""
    wrong = judge_carried(sorted(anchored, key=lambda one: (one.size, one.root)), hashes, name)
    return tuple(Reason(INCONSISTENT, reason.claim, reason.expected, reason.got) for reason in wrong)


def _said(size: int, root: bytes) -> str:
    return f"{size} records with root {root.hex()}"


def _wrong(one: Brought, at: int, expected: str, got: str) -> Reason:
    return Reason("action-log-forked", f"{one.instance.hex()}, carried at {at}", expected, got)
