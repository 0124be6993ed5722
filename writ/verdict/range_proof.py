"""All records of one agent between two times: is any of them left out? Judged from one bundle and the trust file alone.

That there is no other instance of the agent follows from the verifier's log: a permit takes a token, a token is in the log before it is
given out and lives `LOOK_BACK` seconds at most, and the entries of that time are all here. Each instance that they name is the agent's, and
then its log is here, or it is shown to be another's. That the log of an instance is whole follows from checkpoints, which the TPM quoted.

It rests on the decisions that the verifier signed, and not on the quotes themselves: of a single action `proof.prove` goes to the TPM.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.decision import OperatorAct
from writ.formats.digest import Digest
from writ.formats.eat import parse_claims, parse_token
from writ.formats.errors import FormatError, Refused
from writ.formats.policy_bundle import CLOCK_SKEW, MOST_CLOCK_SKEW, TOKEN_LIFE_CEILING, parse_bundle
from writ.formats.range_bundle import LogPart, ProvenLeaf, RangeBundle, Stranger
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, Record, parse_record
from writ.formats.spiffe import AgentId
from writ.formats.tlog.checkpoint import parse_signed_checkpoint
from writ.formats.tlog.cosignature import TlogPolicy
from writ.formats.tlog.merkle import Frontier, append, frontier_root, leaf_hash, root_from_range, verify_inclusion
from writ.formats.trust import Trust
from writ.verdict.action_bounds import TRAVEL, Bound, bound_of, of_another, out_of_bounds
from writ.verdict.anchor_audit import Told
from writ.verdict.carried import Carried, CarriedLogs, Checkpoint
from writ.verdict.log_audit import LogTrust, Speaker, Timeline, judge_entries

LOOK_BACK: Final = TOKEN_LIFE_CEILING + MOST_CLOCK_SKEW
"""Seconds before the range from which on the log's entries are needed: no older token was good in it."""
LOOK_AHEAD: Final = TRAVEL + MOST_CLOCK_SKEW
"""Seconds behind it: a checkpoint that was asked for later has all its records."""


@dataclass(frozen=True, slots=True)
class BoundedRecord:
    """A record of the range: the log stood before it at `since`, and beyond it at `carried_at` (the verifier's seconds; 0: unknown)."""

    instance: bytes
    record: Record
    since: int
    carried_at: int


@dataclass(frozen=True, slots=True)
class RangeLog:
    """What is shown of one instance: its records in the range, and if not until the range's end, from when on nothing was carried."""

    instance: bytes
    host: str
    records: tuple[BoundedRecord, ...]
    open_since: int | None


@dataclass(frozen=True, slots=True)
class ProvenRange:
    """What was checked against what, and what it shows; with `reasons` it is not complete. `open`: the log ends too early to tell."""

    reasons: tuple[Reason, ...]
    steps: tuple[str, ...]
    logs: tuple[RangeLog, ...]
    strangers: int
    open: bool


def prove_range(bundle: RangeBundle, trust: Trust, witnesses: TlogPolicy | None = None) -> ProvenRange:
    """Whether these are all records of the agent in the range.

    1. The checkpoint is by a key of the log, and where there is a policy its quorum of `witnesses` cosigned it.
    2. The entries are the log's, each in its place and none left out between them.
    3. Each is a decision of the verifier; they begin a token's life before the range, and go on behind it.
    4. Each instance that they name is the agent's and its log here, or it is shown to be another agent's.
    5. Each log goes on from a checkpoint before the range, and has the root of each that was taken since.
    6. Each action is within its token, and each time within the checkpoints around it.

    Raises Refused where 1 or 2 do not hold: then nothing is known. Raises FormatError for parts that are none.
    """
    steps: list[str] = []
    # 1
    signed = parse_signed_checkpoint(bundle.checkpoint)
    believed = LogTrust(trust.log_keys, witnesses)
    checkpoint = believed.verify(signed)
    steps.append(f"checkpoint: {checkpoint.origin}, size {checkpoint.size}, signed by the log's key")
    # 2
    last = bundle.first + len(bundle.entries)
    got = root_from_range([leaf_hash(entry) for entry in bundle.entries], bundle.first, checkpoint.size, bundle.proof)
    if got != checkpoint.root:
        told = "none" if got is None else got.hex()
        raise Refused(Reason("inclusion-invalid", f"entries {bundle.first} to {last - 1}", f"root {checkpoint.root.hex()}", told))
    steps.append(f"entries: {bundle.first} to {last - 1} against the signed root, none left out")
    # 3
    carried, ends, reasons = _entries(bundle, Speaker.of(trust, believed.key_of(signed)))
    steps.append(f"decisions: from {ends[0]} to {ends[1]}, each signed; the range is from {bundle.earliest} to {bundle.latest}")
    short = ends[1] < bundle.latest + LOOK_AHEAD
    # 4
    skews = {Digest.of(policy): parse_bundle(policy).settings.clock_skew for policy in bundle.policies}
    bounds = {token.digest: bound_of(token, skews) for token in map(parse_token, bundle.tokens)}
    issued = carried.issued & {bound.claims.value for bound in bounds.values()}
    named = carried.on(AgentId.parse(bundle.agent).namespace)
    shown = _Shown(bundle, carried.issued)
    own: list[_Part] = []
    for instance in sorted(named):
        parts = [_Part(part, one, bundle, bounds, issued) for one in named[instance] for part in shown.parts.get(instance, ())]
        mine = parts[0] if len(parts) == 1 else max(parts, key=lambda part: part.rank(shown), default=None)
        own += [] if mine is None else [mine]
        reasons += shown.judge(instance, named[instance], None if mine is None else mine.carried)
    for instance in sorted((shown.parts.keys() | shown.strangers.keys()) - named.keys()):
        reasons.append(Reason("range-gap", f"instance {instance.hex()}", "one that the entries name", "another"))
    steps.append(
        f"instances: {len(named)} that the entries name, {len(bundle.logs)} of the agent and {len(shown.strangers)} shown to be another's"
    )
    # 5, 6
    logs: list[RangeLog] = []
    for part in own:
        log, wrong = part.judged()
        logs.append(log)
        reasons += wrong
    count = sum(len(log.records) for log in logs)
    steps.append(
        f"logs: each from a checkpoint before the range, or its beginning, with the root of each that was taken since; {len(logs)} logs"
    )
    steps.append(f"records: {count} in the range, against {len(bounds)} tokens, and times against the checkpoints around each")
    return ProvenRange(tuple(reasons), tuple(steps), tuple(logs), len(shown.strangers), short)


def _entries(bundle: RangeBundle, speaker: Speaker) -> tuple[CarriedLogs, tuple[int, int], list[Reason]]:
    judged = judge_entries(bundle.first, bundle.entries, speaker)
    reasons, timeline = list(judged.reasons), Timeline(CLOCK_SKEW, None)
    for index, at, once in judged.times:
        if (wrong := timeline.take(index, at, once)) is not None:
            reasons.append(wrong)
    first = judged.times[0][1] if judged.times else 0
    latest = 0 if timeline.latest is None else timeline.latest[1]
    if bundle.first and first > bundle.earliest - LOOK_BACK - CLOCK_SKEW:
        expected = f"entries from {bundle.earliest - LOOK_BACK - CLOCK_SKEW} on, or from the log's first"
        reasons.append(Reason("range-gap", f"entry.{bundle.first}", expected, f"from {first} on"))
    claims = {outcome for carriage in judged.carriages for one in carriage.brought if (outcome := one.claims) is not None}
    carried = CarriedLogs(None, claims)
    if not bundle.first:
        reasons += _succeeded(judged.told, bundle.earliest)
    for carriage in judged.carriages:
        carried.take(carriage)
    return carried, (first, latest), reasons


def _succeeded(told: Iterable[Told], earliest: int) -> Iterator[Reason]:
    """Where this log took the place of a lost one in the time that is needed, the entries of before are in that one."""
    needed = earliest - LOOK_BACK - CLOCK_SKEW
    for one in told:
        if isinstance(one, OperatorAct) and one.act == "log-succeed" and one.decided_at > needed:
            got = f"from {one.decided_at} on, after the lost log {one.subject}"
            yield Reason("range-gap", "entry.0", f"entries from {needed} on", got[:200])


class _Shown:
    """What the bundle shows of instances: logs of the agent's, and whose the others are."""

    def __init__(self, bundle: RangeBundle, issued: Collection[bytes]) -> None:
        self.parts = {part.instance: (part,) for part in bundle.logs}
        self.strangers: dict[bytes, list[Stranger]] = {}
        for shown in bundle.strangers:
            self.strangers.setdefault(shown.instance, []).append(shown)
        self._agent, self._issued = bundle.agent, issued

    def judge(self, instance: bytes, hosts: Sequence[Carried], own: Carried | None) -> Iterator[Reason]:
        """What stands against the range for an instance, on each of the hosts that carried it; on `own` its log is the one here.

        1. Of the agent's own all that is wrong with its checkpoints. What is wrong with those of another agent is no fault of this one's.
        2. Ids are public. Where it is clear whose the instance is that got tokens on one host, another host that carries what it likes
           under its id, and got none, did nothing; one that got a token did it as the same instance, or is shown to be another agent's.
        3. Any other is shown to be another agent's, or carried no record and had no token that could permit one.
        """
        clear = any(one.permitted and (one is own or self.another(instance, one)) for one in hosts)
        for one in hosts:
            claim, shown = f"instance {instance.hex()} of {one.host}", self.strangers.get(instance, ())
            # 1
            if one is own:
                yield from one.reasons
                continue
            # 2
            if clear and not one.permitted:
                continue
            whose, fault = self._whose(instance, one)
            if own is not None and whose in (None, self._agent):
                yield Reason("action-log-forked", claim, f"an instance of {own.host}, or another agent's", "another log of it")
            # 3
            elif not shown:
                yield from one.reasons
                if one.size or one.permitted:
                    yield Reason("range-gap", claim, "its log, or whose it is", "neither")
            elif fault is not None:
                yield fault
            elif whose is None:
                yield Reason("range-gap", claim, "claims or an opening of it that the entries vouch for", "others")
            elif whose == self._agent:
                yield Reason("range-gap", claim, f"the log of an instance of {self._agent}"[:200], "none")

    def another(self, instance: bytes, one: Carried) -> bool:
        """Whether the instance on that host is shown to be another agent's."""
        return self._whose(instance, one)[0] not in (None, self._agent)

    def _whose(self, instance: bytes, one: Carried) -> tuple[str | None, Reason | None]:
        """Whose the instance on that host is, by something that the entries vouch for; and what of it cannot be read."""
        fault: Reason | None = None
        for shown in self.strangers.get(instance, ()):
            try:
                if shown.claims is not None:
                    claims = parse_claims(shown.claims)
                    named = claims.instance == instance and claims.host == one.host
                    if named and Digest.of(shown.claims).value in self._issued:
                        return str(claims.agent), None
                elif shown.opening is not None and not one.permitted:  # an opening is the host's word, a token the verifier's
                    opening = parse_record(shown.opening.record)
                    named = isinstance(opening, Opening) and opening.instance == instance and bool(opening.agent)
                    if isinstance(opening, Opening) and named and shown.opening.index == 0 and _included(shown.opening, one):
                        return opening.agent, None
            except FormatError as error:
                claim = f"instance {instance.hex()} of {one.host}"
                fault = Reason("malformed", claim, f"{error.what}: {error.expected}"[:200], error.got)
        return None, fault


def _included(leaf: ProvenLeaf, one: Carried) -> bool:
    checkpoint = next((known for known in one.checkpoints if known.size == leaf.size), None)
    return checkpoint is not None and verify_inclusion(leaf_hash(leaf.record), leaf.index, leaf.size, leaf.proof, checkpoint.root)


class _Part:
    """The part of one log, against the checkpoints that the entries name."""

    def __init__(
        self, part: LogPart, carried: Carried, bundle: RangeBundle, bounds: Mapping[Digest, Bound], issued: set[bytes]
    ) -> None:  # fmt: skip
        self._part, self.carried, self._bundle, self._bounds, self._issued = part, carried, bundle, bounds, issued
        self._name = f"action log {part.instance.hex()}"
        self._openings: dict[int, Opening] = {}
        self._sizes = [one.size for one in carried.checkpoints]

    def rank(self, shown: _Shown) -> tuple[bool, bool, bool]:
        """How far this part is of the instance on this host, where several hosts carried the instance."""
        return not shown.another(self._part.instance, self.carried), self.carried.permitted, not list(self._roots())

    def judged(self) -> tuple[RangeLog, list[Reason]]:
        """The records, and what is wrong."""
        part, carried = self._part, self.carried
        wrong = list(self._roots())
        records: list[BoundedRecord] = []
        last = carried.checkpoints[-1] if carried.checkpoints else None
        open_since = None if last is not None and last.until >= self._bundle.latest + LOOK_AHEAD else 0 if last is None else last.until
        if wrong:
            return RangeLog(part.instance, carried.host, (), open_since), wrong
        wrong += self._openings_in_front()
        for at, leaf in enumerate(part.leaves, part.first):
            record = parse_record(leaf)
            if isinstance(record, Opening):
                self._openings[at] = record
            if record.sequence != at:
                wrong.append(Reason("action-log-malformed", f"{self._name}, record {at}", f"record {at}", f"record {record.sequence}"))
            since, carried_at = self._between(at)
            wrong += self._record(at, record, since, carried_at)
            if self._bundle.earliest <= _time(record) <= self._bundle.latest:
                records.append(BoundedRecord(part.instance, record, since, carried_at))
        return RangeLog(part.instance, carried.host, tuple(records), open_since), wrong

    def _roots(self) -> Iterator[Reason]:
        """5."""
        part, checkpoints = self._part, self.carried.checkpoints
        try:
            frontier = Frontier(part.first, part.before)
        except FormatError as error:
            yield Reason("malformed", self._name, error.expected, error.got)
            return
        start = self._start()
        if part.first and (start is None or start.at + MOST_CLOCK_SKEW >= self._bundle.earliest or frontier_root(frontier) != start.root):
            yield Reason(
                "range-gap", self._name, "a log from a checkpoint before the range on, or from its beginning", f"from {part.first} on"
            )
            return
        hashes = [leaf_hash(leaf) for leaf in part.leaves]
        end = part.first + len(hashes)
        if not checkpoints or checkpoints[-1].size != end:
            got = checkpoints[-1].size if checkpoints else 0
            yield Reason("range-gap", self._name, f"{got} records, as were carried", f"{end} records")
            return
        for one in checkpoints:
            if one.size < part.first:
                continue
            before = frontier.size
            frontier = append(frontier, *hashes[before - part.first : one.size - part.first])
            if (root := frontier_root(frontier)) != one.root:
                claim = f"{self._name}, records {before} to {one.size - 1}"
                yield Reason("action-log-altered", claim, f"root {one.root.hex()}, carried at {one.at}", f"root {root.hex()}")
                return

    def _start(self) -> Checkpoint | None:
        return next((one for one in self.carried.checkpoints if one.size == self._part.first), None)

    def _openings_in_front(self) -> Iterator[Reason]:
        for leaf in self._part.openings:
            record = parse_record(leaf.record)
            if not isinstance(record, Opening) or record.sequence != leaf.index or not _included(leaf, self.carried):
                yield Reason("inclusion-invalid", f"{self._name}, record {leaf.index}", "an opening in its place", "another")
            else:
                self._openings[leaf.index] = record

    def _record(self, at: int, record: Record, since: int, carried_at: int) -> Iterator[Reason]:
        """6."""
        claim, opening = f"{self._part.instance.hex()}-{at}", None
        if isinstance(record, OutcomeRecord):
            skew = CLOCK_SKEW
        elif isinstance(record, Opening):
            skew, opening = CLOCK_SKEW, record
        else:
            opening = self._openings.get(record.opening)
            bound = None if record.token is None else self._bounds.get(record.token)
            skew = CLOCK_SKEW if bound is None else bound.skew
            yield from self._action(claim, record, bound)
        whose = (self._part.instance, self._bundle.agent)
        if not isinstance(record, OutcomeRecord) and (opening is None or (opening.instance, opening.agent) != whose):
            got = "none" if opening is None else f"{opening.instance.hex()} of {opening.agent}"
            yield Reason("digest-mismatch", f"{claim}.opening", f"{whose[0].hex()} of {whose[1]}"[:200], got[:200])
        if not (since and since - TRAVEL) - skew <= _time(record) <= carried_at + skew:
            yield Reason("record-time", claim, f"from {since and since - TRAVEL} to {carried_at}", str(_time(record)))

    def _action(self, claim: str, record: ActionRecord, bound: Bound | None) -> Iterator[Reason]:
        if record.token is not None and bound is None:
            yield Reason("proof-bundle-incomplete", f"{claim}.token", str(record.token), "none in the bundle")
        elif bound is None:
            if record.permit:
                yield Reason("decision-mismatch", f"{claim}.token", "a token for a permit", "none")
        else:
            yield from of_another(claim, bound, self.carried.host, self._part.instance, self._bundle.agent)
            if bound.claims.value not in self._issued and record.decided_at >= self._bundle.earliest:
                yield Reason("token-unlogged", f"{claim}.token", f"a decision that issued the claims {bound.claims}", "none in the entries")
            if record.permit:
                yield from out_of_bounds(claim, record, bound)

    def _between(self, at: int) -> tuple[int, int]:
        """When the log stood before the record `at`, and when beyond it."""
        checkpoints = self.carried.checkpoints
        after = bisect_right(self._sizes, at)
        since = checkpoints[after - 1].until if after else 0
        return since, checkpoints[after].at if after < len(checkpoints) else 0


def _time(record: Record) -> int:
    if isinstance(record, ActionRecord):
        return record.decided_at
    return record.opened_at if isinstance(record, Opening) else record.finished_at
