"""Records of an action log against what bounds them: the token that each names, and the checkpoints around it.

No signature is verified for it. That the log issued a token's claims follows from their digest in a decision, and where a record stood
from the checkpoints that the TPM quoted; both were verified when the verifier's log was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest
from writ.formats.eat import SignedToken, encode_claims
from writ.formats.grants import Grant, covers
from writ.formats.policy_bundle import CLOCK_SKEW
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening
from writ.verdict.action_log import ReadLog
from writ.verdict.carried import Carried, Checkpoint

TRAVEL: Final = 300
"""Seconds that a checkpoint may be older than the nonce that it is quoted with: more than an attestor waits for a verifier."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a token at hand allows, by claims of which `claims` is the digest; `skew` is how far clocks may differ under its policy."""

    claims: Digest
    host: str
    instance: bytes
    agent: str
    policy: Digest
    issued_at: int
    expires_at: int
    grants: tuple[Grant, ...]
    lineage: tuple[bytes, ...]
    skew: int


def bound_of(token: SignedToken, skews: Mapping[Digest, int]) -> Bound:
    """Of a token of which nobody has verified anything. `skews` by digest of the policy; of others it is the least."""
    c = token.claims
    skew = max(CLOCK_SKEW, skews.get(c.policy, 0))
    return Bound(
        Digest.of(encode_claims(c)), c.host, c.instance, str(c.agent), c.policy, c.issued_at, c.expires_at, c.grants, c.lineage, skew
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bounded:
    """What is wrong, which actions name a token that is not at hand, and how many records no checkpoint has carried yet."""

    reasons: tuple[Reason, ...]
    without_token: tuple[str, ...]
    since: int


def judge_bounds(log: ReadLog, carried: Carried | None, bounds: Mapping[Digest, Bound], issued: Collection[bytes]) -> Bounded:
    """The actions of a log against their tokens (`bounds`, by digest) and against the checkpoints of it that were taken.

    1. A permit names a token, and a token is of the log's host, instance and agent, with claims that the verifier's log `issued` (digests).
    2. A permit is under the token's policy, after its issue and before its end, and within its grants.
    3. No record is older than a checkpoint that was asked for before it was there, nor of a time after it was carried.

    A token that is not at hand says nothing; nor does a checkpoint of records behind it.
    """
    wrong: list[Reason] = []
    without: list[str] = []
    seen: set[Digest] = set()
    checkpoints = [] if carried is None else carried.checkpoints
    for start, end, earliest, latest in _spans(checkpoints, len(log.records)):
        for at in range(start, end):
            record, skew = log.records[at], CLOCK_SKEW
            if isinstance(record, ActionRecord):
                said = record.decided_at
                # 1
                if record.token is None:
                    if record.permit:
                        wrong.append(Reason("decision-mismatch", f"{log.instance.hex()}-{at}.token", "a token for a permit", "none"))
                elif (bound := bounds.get(record.token)) is None:
                    without.append(f"{log.instance.hex()}-{at}")
                else:
                    skew = bound.skew
                    if record.token not in seen:
                        seen.add(record.token)
                        host = bound.host if carried is None else carried.host
                        wrong += _token(f"{log.instance.hex()}-{at}", bound, log, host, record.opening, issued)
                    # 2
                    if not record.reasons and not _within(record, bound):
                        wrong += out_of_bounds(f"{log.instance.hex()}-{at}", record, bound)
            else:
                said = record.opened_at if isinstance(record, Opening) else record.finished_at
            # 3
            if not earliest - skew <= said <= latest + skew:
                expected = f"from {earliest}, when it was not there yet, to {latest}, when it was carried"
                wrong.append(Reason("record-time", f"{log.instance.hex()}-{at}", expected, str(said)))
    return Bounded(tuple(wrong), tuple(without), max(0, len(log.records) - (checkpoints[-1].size if checkpoints else 0)))


def _spans(checkpoints: Sequence[Checkpoint], size: int) -> Iterator[tuple[int, int, int, int]]:
    """Records from one checkpoint to the next, and the times between which they came to be; behind the last there is no end."""
    start, earliest = 0, 0
    for one in checkpoints:
        yield start, min(one.size, size), earliest, one.at
        start, earliest = min(one.size, size), max(0, one.until - TRAVEL)
    yield start, size, earliest, 1 << 63


def _within(record: ActionRecord, bound: Bound) -> bool:
    """Whether `out_of_bounds` has nothing to say."""
    return (
        bound.issued_at - bound.skew <= record.decided_at < bound.expires_at
        and record.bundle == bound.policy
        and any(covers(grant, record.action, record.resource) for grant in bound.grants)
    )


def _token(claim: str, bound: Bound, log: ReadLog, host: str, opening: int, issued: Collection[bytes]) -> Iterator[Reason]:
    under = log.records[opening]
    agent = under.agent if isinstance(under, Opening) else ""
    yield from of_another(claim, bound, host, log.instance, agent)
    if bound.claims.value not in issued:
        yield Reason("token-unlogged", f"{claim}.token", f"a decision that issued the claims {bound.claims}", "none in the log")


def of_another(claim: str, bound: Bound, host: str, instance: bytes, agent: str) -> Iterator[Reason]:
    """Nothing where the token is of this instance, of this agent, on this host."""
    if (bound.host, bound.instance, bound.agent) != (host, instance, agent):
        expected, got = f"{instance.hex()} of {agent} on {host}", f"{bound.instance.hex()} of {bound.agent} on {bound.host}"
        yield Reason("digest-mismatch", f"{claim}.token", expected[:200], got[:200])


def out_of_bounds(claim: str, record: ActionRecord, bound: Bound) -> Iterator[Reason]:
    """What of a permit its token does not allow."""
    if record.bundle != bound.policy:
        yield Reason("digest-mismatch", f"{claim}.bundle", str(bound.policy), str(record.bundle))
    if not bound.issued_at - bound.skew <= record.decided_at < bound.expires_at:
        expected = f"from {bound.issued_at - bound.skew} until before {bound.expires_at}"
        yield Reason("decision-mismatch", f"{claim}.decided_at", expected, str(record.decided_at))
    if not any(covers(grant, record.action, record.resource) for grant in bound.grants):
        expected, got = "what a grant of the token covers", f"{record.action} on {record.resource}"
        yield Reason("decision-mismatch", f"{claim}.resource", expected, got[:200])
