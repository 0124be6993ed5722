"""What relying services received, held against the action logs of who sent it: does the record that a request names have led to it?

Agents on several hosts call each other through services that take their tokens. The proof of a request names the record of its permit, and
the service's own record of the request (`formats.access`) keeps that. The key that signed the proof is its enforcer's, and no agent has it:
an agent names no record of its own choice. Root of its host can, and is found out by the log, which the host's TPM vouches for; without
that log the claim stands unproven.

That a log is the one that a TPM vouched for is not said here, nor that a service wrote down all that it received.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.access import Access
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, Record, parse_log
from writ.formats.tlog.merkle import leaf_hash

BROKEN: Final = "lineage-broken"


@dataclass(frozen=True, slots=True)
class JudgedReceived:
    """Requests that descend from the record they name, those of which nobody can say, and what is wrong; by the services' references."""

    proven: tuple[str, ...]
    unproven: tuple[str, ...]
    reasons: tuple[Reason, ...]


def judge_received(accesses: Iterable[Access], logs: Mapping[bytes, Sequence[bytes]]) -> JudgedReceived:
    """Whether each request was led to by the record that it names; `logs` are leaves by instance. Requests that name none are left out.

    1. The log of the instance whose token was shown is at hand, and reaches beyond the request: else nothing is known of a record that is
       not in it.
    2. The record is in that log: an action, the same on the same resource, permitted, under the token that was shown.
    3. It was decided no later than the request, give or take the skew.
    4. No other request names it.

    Raises FormatError for leaves that are no log.
    """
    parsed = {instance: parse_log(leaves) for instance, leaves in logs.items()}
    places = {instance: {leaf_hash(leaf): at for at, leaf in enumerate(leaves)} for instance, leaves in logs.items()}
    proven, unproven, found = list[str](), list[str](), list[Reason]()
    answered: set[bytes] = set()
    for access in accesses:
        if access.parent is None or access.instance is None:
            continue
        # 1
        records = parsed.get(access.instance, [])
        at = places.get(access.instance, {}).get(access.parent)
        if at is None and not any(_time(record) > access.decided_at + CLOCK_SKEW for record in records):
            unproven.append(access.reference)
            continue
        # 2, 3
        expected, got = _fault(access, None if at is None else records[at])
        # 4
        if not expected and access.parent in answered:
            expected, got = "one request for each record", "another"
        answered.add(access.parent)
        if expected:
            found.append(Reason(BROKEN, f"access.{access.reference}.parent"[:200], expected[:200], got[:200]))
        else:
            proven.append(access.reference)
    return JudgedReceived(tuple(proven), tuple(unproven), tuple(found))


def _fault(access: Access, record: Record | None) -> tuple[str, str]:
    if not isinstance(record, ActionRecord):
        return "an action in the log of its instance", "none" if record is None else "no action"
    if (record.action, record.resource) != (access.action, access.resource):
        return f"{access.action} on {access.resource}", f"{record.action} on {record.resource}"
    if not record.permit:
        return "a permit", "a refusal"
    if record.token != access.token:
        return f"one under token {access.token}", str(record.token)
    if record.decided_at > access.decided_at + CLOCK_SKEW:
        return f"one decided at {access.decided_at} or before", str(record.decided_at)
    return "", ""


def _time(record: Record) -> int:
    match record:
        case Opening():
            return record.opened_at
        case OutcomeRecord():
            return record.finished_at
        case _:
            return record.decided_at
