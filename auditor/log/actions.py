"""`auditor log verify --actions`: the action logs of hosts, against what the verifier's log carried of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from auditor.files import read
from auditor.objects import tokens_of
from writ.formats.archive import MAX_ARCHIVE, Archive, parse_archive
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.policy_bundle import parse_bundle
from writ.formats.reason import Reason
from writ.formats.tlog.merkle import leaf_hash
from writ.verdict.action_audit import HandedLogs, JudgedActions, judge_actions
from writ.verdict.action_bounds import Bound, bound_of
from writ.verdict.carried import Carriage, CarriedLogs
from writ.verdict.log_audit import Piece


@dataclass(slots=True)
class Handed:
    """The action logs that hosts handed over, and what their tokens allow; and what a verifier's log says of them, told as it is read."""

    logs: HandedLogs = field(default_factory=HandedLogs)
    bounds: dict[Digest, Bound] = field(default_factory=dict)
    hosts: Sequence[str] = ()
    carried: CarriedLogs = field(default_factory=CarriedLogs)
    judged: JudgedActions | None = None
    heard: Callable[[Carriage], None] | None = None
    """Is told of each attestation too."""
    entries: frozenset[bytes] | None = None
    """The leaf hashes of the entries that were handed over, where it is asked which of the log were not."""
    absent: int = 0

    def take(self, carriages: Iterable[Carriage]) -> None:
        """The next attestations of the verifier's log."""
        for one in carriages:
            self.carried.take(one)
            if self.heard is not None:
                self.heard(one)

    def compare(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces, as they come; what stands in the log behind its genesis and was not handed over is counted."""
        for piece in pieces:
            if self.entries is not None:
                first = piece.tile.index == 0
                self.absent += sum(leaf_hash(one) not in self.entries for one in piece.entries[first:])
            yield piece

    def judge(self) -> tuple[Reason, ...]:
        """What is wrong, once the verifier's log is read."""
        self.judged = judge_actions(self.logs, self.carried, self.bounds, self.hosts)
        return self.judged.reasons

    def unknown(self) -> Unavailable | None:
        """What nobody can say with what is at hand."""
        if self.judged is None:
            return None
        if unnamed := self.judged.unnamed:
            listed = f"{', '.join(one.hex() for one in unnamed[:3])}{' …' if unnamed[3:] else ''}"
            got = f"{len(unnamed)} others ({listed})"
            return Unavailable("action logs", f"expected logs of instances that the verifier's log names; got {got}")
        if not (without := self.judged.without_token):
            return None
        named = f"{', '.join(without[:3])}{' …' if without[3:] else ''}"
        return Unavailable("tokens", f"expected the token of each action among the archives; got none for {len(without)} ({named})")

    def steps(self) -> Iterator[str]:
        """What was checked against what."""
        if self.judged is None:
            return
        sizes = sum(len(one.checkpoints) for instance, one in self.carried.of.items() if instance in self.logs.leaves)
        hosts = f" on {', '.join(self.hosts)}" if self.hosts else ""
        yield f"action logs: of each of {len(self.carried.of)} instances that the log names{hosts}; {len(self.logs.leaves)} are at hand"
        since = f"{self.judged.since} came after the last"
        yield f"lineage: {self.judged.records} records against {sizes} checkpoints that were carried; {since}"
        parents = "" if self.judged.parents else "; parents not judged, for a log is broken"
        yield f"records: against {len(self.bounds)} tokens and their claims in the log, times, and what led to each{parents}"


def handed(sources: Sequence[Path], hosts: Sequence[str]) -> Handed:
    """What is in these archives. Raises FormatError or Unavailable."""
    made = Handed(hosts=hosts)
    skews: dict[Digest, int] = {}
    compact: set[str] = set()
    archives = [parse_archive(read(source, MAX_ARCHIVE)) for source in sources]
    for archive in archives:
        for log in archive.logs:
            made.logs.add(log.instance, log.leaves)
        compact.update(archive.tokens)
    tokens = list(tokens_of(compact))
    for digest in {token.claims.policy for token in tokens}:
        skews |= _skew(archives, digest)
    made.bounds = {token.digest: bound_of(token, skews) for token in tokens}
    made.carried = CarriedLogs(made.logs.leaves.keys(), {bound.claims.value for bound in made.bounds.values()})
    return made


def _skew(archives: Sequence[Archive], policy: Digest) -> dict[Digest, int]:
    """How far clocks may differ under a policy, where it is at hand."""
    for archive in archives:
        if (data := archive.by_digest().get(policy)) is not None:
            try:
                return {policy: parse_bundle(data).settings.clock_skew}
            except FormatError:
                return {}
    return {}
