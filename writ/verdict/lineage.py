"""Lineage of records: does what led to each recorded action stand where its hash says, and was it a permit for that?

A record names as its parent the leaf hash of the record that led to it: an earlier one of its own log, or, at the gate of a child instance,
the record of its parent's log that permitted to ask for the same. A hash cannot be of a record that names it in turn: there are no cycles.

That a log is the one that a TPM vouched for is not said here: `proof.prove` says so of each action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening, Record, parse_log
from writ.formats.tlog.merkle import leaf_hash
from writ.verdict.action_log import ReadLog

CHILD_GATE: Final = "instance"
"""The gate of a child instance, at which only its parent asks."""


@dataclass(frozen=True, slots=True)
class JudgedLineage:
    """What is wrong, and of which records nobody can say whether they descend from where they say, as `INSTANCE-NUMBER`."""

    reasons: tuple[Reason, ...]
    without_token: tuple[str, ...]


def judge_lineage(logs: Mapping[bytes, Sequence[bytes]], lineages: Mapping[Digest, tuple[bytes, ...]]) -> JudgedLineage:
    """`judge_parents` of the logs with these leaves, by instance. Raises FormatError for a leaf that is no record."""
    read = (ReadLog(instance, [leaf_hash(leaf) for leaf in leaves], parse_log(leaves)) for instance, leaves in logs.items())
    return judge_parents({log.instance: log for log in read}, lineages)


def judge_parents(logs: Mapping[bytes, ReadLog], lineages: Mapping[Digest, tuple[bytes, ...]]) -> JudgedLineage:
    """What is wrong with the parents of the records in `logs`, by instance. `lineages` is that of each token at hand, by digest.

    1. A log is of the instance under which it stands. One at the gate of a child names a parent, which is in another log and no other such
       record's; any other names none, or one before it in its own log.
    2. The parent is an action, for the same on the same resource where it is in another log, which was permitted.
    3. It was decided no later, give or take the skew.
    4. The parent's instance is that from which the child's token says that it descends, where the record names a token. Of a record whose
       token is not at hand, and that is not broken otherwise, this is not known.
    """
    records = {instance: log.records for instance, log in logs.items()}
    parents = {one.parent for log in records.values() for one in log if isinstance(one, ActionRecord) and one.parent is not None}
    places = {leaf: (instance, at) for instance, log in logs.items() for at, leaf in enumerate(log.hashes) if leaf in parents}
    found, without_token = list[Reason](), list[str]()
    answered: set[bytes] = set()
    for instance in sorted(records):
        for at, record in enumerate(records[instance]):
            if isinstance(record, Opening) and record.instance != instance:
                found.append(Reason("lineage-broken", f"{instance.hex()}-{at}.instance", instance.hex(), record.instance.hex()))
            if isinstance(record, ActionRecord) and (record.parent is not None or record.gate == CHILD_GATE):
                place = None if record.parent is None else places.get(record.parent)
                expected, got = _fault(instance, record, at, place, records, lineages)
                if not expected and record.gate == CHILD_GATE and record.parent is not None:
                    if record.parent in answered:
                        expected, got = "one record of a child for each of its parent's", "another"
                    answered.add(record.parent)
                if expected:
                    found.append(Reason("lineage-broken", f"{instance.hex()}-{at}.parent", expected, got))
                elif record.gate == CHILD_GATE and record.token is not None and record.token not in lineages:
                    without_token.append(f"{instance.hex()}-{at}")
    return JudgedLineage(tuple(found), tuple(without_token))


def _fault(
    own: bytes, record: ActionRecord, at: int, place: tuple[bytes, int] | None, records: Mapping[bytes, Sequence[Record]],
    lineages: Mapping[Digest, tuple[bytes, ...]],
) -> tuple[str, str]:  # fmt: skip
    # 1
    child = record.gate == CHILD_GATE
    if record.parent is None:
        return "a record of its parent's log", "none"
    if place is None:
        return "a record that is at hand", record.parent.hex()
    instance, number = place
    if child == (instance == own):
        return ("a record of another log" if child else "a record of its own log"), f"{instance.hex()}-{number}"
    parent = records[instance][number]
    if not child and number >= at:
        return f"a record before {at}", str(number)
    # 2
    if not isinstance(parent, ActionRecord):
        return "an action", "no action"
    if not child:
        return "", ""
    if (parent.action, parent.resource) != (record.action, record.resource):
        return f"{record.action} on {record.resource}"[:200], f"{parent.action} on {parent.resource}"[:200]
    if not parent.permit:
        return "a permit", "a refusal"
    # 3
    if parent.decided_at > record.decided_at + CLOCK_SKEW:
        return f"one decided at {record.decided_at} or before", str(parent.decided_at)
    # 4
    above = None if record.token is None else lineages.get(record.token)
    if above is not None and above[:1] != (instance,):
        return (above[0].hex() if above else "no parent"), instance.hex()
    return "", ""
