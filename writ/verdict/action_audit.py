"""Action logs that were handed over, all of them judged against what the verifier's log says of them. Each leaf is read and hashed once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from writ.formats.digest import Digest
from writ.formats.reason import Reason
from writ.verdict.action_bounds import Bound, judge_bounds
from writ.verdict.action_log import ReadLog, read_log
from writ.verdict.carried import CarriedLogs, judge_anchored, judge_carried
from writ.verdict.lineage import judge_parents


class HandedLogs:
    """Action logs out of several archives. Two of one instance that part are a finding, and the longer is judged."""

    def __init__(self) -> None:
        self.leaves: dict[bytes, Sequence[bytes]] = {}
        self.forks: list[Reason] = []

    def add(self, instance: bytes, leaves: Sequence[bytes]) -> None:
        """One more."""
        known = self.leaves.get(instance, ())
        short, long = sorted((known, leaves), key=len)
        at = next((at for at, (one, other) in enumerate(zip(short, long, strict=False)) if one != other), None)
        if at is not None:
            claim = f"action log {instance.hex()}, record {at}"
            self.forks.append(Reason("action-log-forked", claim, "one record", "another in another archive"))
        self.leaves[instance] = long


@dataclass(frozen=True, slots=True)
class JudgedActions:
    """What is wrong; actions whose token is not at hand; how many records there are, and how many of them no checkpoint carried yet."""

    reasons: tuple[Reason, ...]
    without_token: tuple[str, ...]
    records: int
    since: int
    sound: Mapping[bytes, ReadLog]
    """The logs that are one, each in its order."""
    vouched: Mapping[bytes, int]
    """Of each log, how many records stand before the last checkpoint that was carried: beyond it all is the host's word."""
    unnamed: tuple[bytes, ...]
    """Instances whose log was handed over, and of which the verifier's log says nothing."""
    parents: bool
    """Whether parents were judged: not where a log is broken, for they may stand behind the break."""


def judge_actions(handed: HandedLogs, carried: CarriedLogs, bounds: Mapping[Digest, Bound], hosts: Collection[str] = ()) -> JudgedActions:
    """All logs that were handed over, of which the verifier's log says `carried`, with `bounds` of tokens by digest.

    1. Of each instance that carried a record there is the log; of those on `hosts`, if some are named.
    2. No two checkpoints, and no two logs, of one instance part, and none is of two hosts.
    3. Each log is one, in its order, and leads to each checkpoint that was taken, and to each that was anchored.
    4. Its actions are within their tokens, and its times within the checkpoints around them.
    5. What led to each stands where its hash says, and was a permit for it.

    Does not prove anything of records behind the last checkpoint, nor of an instance that never carried one.
    """
    # 1, 2
    parted = (reason for one in (*carried.of.values(), *carried.elsewhere.values()) for reason in one.reasons)
    found = [*_missing(handed.leaves, carried, hosts), *parted, *carried.twins, *handed.forks]
    without: list[str] = []
    sound: dict[bytes, ReadLog] = {}
    vouched: dict[bytes, int] = {}
    since = 0
    for instance, leaves in sorted(handed.leaves.items()):
        known = carried.of.get(instance)
        vouched[instance] = 0 if known is None else known.size
        # 3
        log, broken = read_log(instance, leaves)
        found += broken
        if not broken:
            sound[instance] = log
        if known is not None and (not broken or broken[0].code == "action-log-malformed"):
            found += judge_carried(known.checkpoints, log.hashes, log.name)
            found += judge_anchored(known.anchored, log.hashes, log.name)
        # 4
        bounded = judge_bounds(log, known, bounds, carried.issued)
        found += bounded.reasons
        without += bounded.without_token
        since += bounded.since
    # 5
    whole = len(sound) == len(handed.leaves)
    if whole:
        found += judge_parents(sound, {digest: bound.lineage for digest, bound in bounds.items()}).reasons
    unnamed = tuple(sorted(handed.leaves.keys() - carried.of.keys()))
    records = sum(map(len, handed.leaves.values()))
    return JudgedActions(tuple(found), tuple(without), records, since, sound, vouched, unnamed, whole)


def _missing(at_hand: Collection[bytes], carried: CarriedLogs, hosts: Collection[str]) -> Iterator[Reason]:
    for instance, one in sorted(carried.of.items()):
        if one.size and instance not in at_hand and (not hosts or one.host in hosts):
            yield Reason("action-log-missing", f"action log {instance.hex()} of {one.host}", f"{one.size} records", "none")
