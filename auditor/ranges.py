"""Range bundles: all records of one agent between two times, out of archives and the verifier's log; and what one shows."""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from auditor.files import read, write
from auditor.log.source import Source, answer, open_source, read_checkpoint
from auditor.objects import tokens_of
from writ.formats.archive import MAX_ARCHIVE, Archive, parse_archive
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import SignedToken, encode_claims
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.range_bundle import LogPart, ProvenLeaf, RangeBundle, Stranger, encode_range_bundle, parse_range_bundle
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening, parse_record
from writ.formats.spiffe import AgentId
from writ.formats.tlog.cosignature import MAX_POLICY, parse_policy
from writ.formats.tlog.merkle import EMPTY_FRONTIER, append, beside, inclusion_proof, leaf_hash, root
from writ.formats.tlog.note import encode_note
from writ.formats.tlog.tile import WIDTH, Tile, root_of
from writ.formats.trust import MAX_TRUST, Trust, parse_trust
from writ.service import cli
from writ.verdict.carried import Carried, CarriedLogs, carriage_of
from writ.verdict.log_audit import LogTrust
from writ.verdict.log_tiles import ProvingTiles, entries_of, prove_tiles
from writ.verdict.range_proof import LOOK_AHEAD, LOOK_BACK, ProvenRange, prove_range

_MARGIN: Final = 60
"""Seconds that entries may be out of order in time, and more."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Entries of a log, from `first` on, and what proves that they are all of them there."""

    checkpoint: bytes
    first: int
    entries: tuple[bytes, ...]
    proof: tuple[bytes, ...]


def stretch(source: Source, trust: Trust, earliest: int, latest: int) -> Stretch:
    """What the log says from a token's life before `earliest` until a checkpoint's way behind `latest`. Raises Refused, Unavailable."""
    signed = read_checkpoint(source)
    checkpoint = LogTrust(trust.log_keys).verify(signed)
    tiles = answer(source, prove_tiles(checkpoint))
    size = checkpoint.size
    bundles = range(-(-size // WIDTH))
    after = bisect_left(bundles, True, key=lambda index: _time(_bundle(source, tiles, index)[0]) > earliest - LOOK_BACK - _MARGIN)
    begin = max(0, after - 1)
    entries: list[bytes] = []
    for index in range(begin, len(bundles)):
        entries += _bundle(source, tiles, index)
        if _time(entries[-1]) > latest + LOOK_AHEAD + _MARGIN:
            break
    first = begin * WIDTH
    if not entries:
        raise Unavailable("log", "expected entries, got a log of none")

    def hashes(tile: Tile) -> tuple[bytes, ...]:
        return answer(source, tiles.hashes(tile.level, tile.index))

    proof = tuple(root_of(hashes, size, *place) for place in beside(first, first + len(entries), size))
    return Stretch(encode_note(signed.note), first, tuple(entries), proof)


def _bundle(source: Source, tiles: ProvingTiles, index: int) -> tuple[bytes, ...]:
    return answer(source, entries_of(index, answer(source, tiles.hashes(0, index))))


def _time(entry: bytes) -> int:
    return parse_entry(parse_sign1(entry).payload or b"").decided_at


class Ranges:
    """The parts of action logs that entries of a verifier's log speak of, out of archives."""

    def __init__(self, archives: Sequence[Archive], entries: tuple[bytes, ...]) -> None:
        self._leaves: dict[bytes, list[tuple[bytes, ...]]] = {}
        for log in sorted((log for one in archives for log in one.logs), key=lambda log: -len(log.leaves)):
            self._leaves.setdefault(log.instance, []).append(log.leaves)
        self._objects = {digest: item for one in archives for digest, item in one.by_digest().items()}
        self._tokens = list(tokens_of(sorted({compact for one in archives for compact in one.tokens})))
        self._carried = CarriedLogs()
        issued: set[tuple[bytes, str, bytes]] = set()
        for signed in entries:
            entry = parse_entry(parse_sign1(signed).payload or b"")
            if isinstance(entry, AttestDecision):
                carriage = carriage_of(entry)
                self._carried.take(carriage)
                issued.update((one.instance, carriage.host, one.claims) for one in carriage.brought if one.claims is not None)
        self._shown: dict[tuple[bytes, str], SignedToken] = {}
        for token in self._tokens:
            c = token.claims
            if (c.instance, c.host, Digest.of(encode_claims(c)).value) in issued:
                self._shown[c.instance, c.host] = token

    def bundle(self, agent: str, earliest: int, latest: int, found: Stretch) -> RangeBundle:
        """What there is for the range; what is missing shows when it is judged."""
        parts: list[LogPart] = []
        strangers: list[Stranger] = []
        for instance, hosts in sorted(self._carried.on(AgentId.parse(agent).namespace).items()):
            own: list[LogPart] = []
            for one in sorted(hosts, key=lambda one: (not one.permitted, self._leading(instance, one) is None)):
                leaves = self._log(instance, one, alone=len(hosts) == 1)
                whose = self._agent(instance, one, leaves)
                if whose == agent and (part := _part(instance, one, leaves, earliest)) is not None:
                    own.append(part)
                elif whose != agent and (stranger := self._stranger(instance, one, leaves)) is not None:
                    strangers.append(stranger)
            parts += own[:1]
        named = {record.token for part in parts for record in map(parse_record, part.leaves) if isinstance(record, ActionRecord)}
        tokens = [token for token in self._tokens if token.digest in named]
        policies = {self._objects[token.claims.policy] for token in tokens if token.claims.policy in self._objects}
        return RangeBundle(
            agent, earliest, latest, found.checkpoint, found.first, found.entries, found.proof,
            tuple(sorted(token.jws.compact for token in tokens)), tuple(sorted(policies)), tuple(parts), tuple(dict.fromkeys(strangers)),
        )  # fmt: skip

    def _log(self, instance: bytes, one: Carried, *, alone: bool) -> tuple[bytes, ...]:
        """The log that leads to what this host carried last, out of the archives; else the longest, where it can be no other host's."""
        longest = self._leaves.get(instance, [()])[0]
        return self._leading(instance, one) or (longest if alone or (instance, one.host) in self._shown else ())

    def _leading(self, instance: bytes, one: Carried) -> tuple[bytes, ...] | None:
        last = one.checkpoints[-1].root if one.size else None
        return next((log for log in self._leaves.get(instance, ()) if root([leaf_hash(leaf) for leaf in log[: one.size]]) == last), None)

    def _agent(self, instance: bytes, one: Carried, leaves: Sequence[bytes]) -> str | None:
        if (token := self._shown.get((instance, one.host))) is not None:
            return str(token.claims.agent)
        opening = parse_record(leaves[0]) if leaves else None
        return opening.agent if isinstance(opening, Opening) else None

    def _stranger(self, instance: bytes, one: Carried, leaves: Sequence[bytes]) -> Stranger | None:
        if (token := self._shown.get((instance, one.host))) is not None:
            return Stranger(instance, encode_claims(token.claims), None)
        if not one.size or len(leaves) < one.size:
            return None
        hashes = [leaf_hash(leaf) for leaf in leaves[: one.size]]
        return Stranger(instance, None, ProvenLeaf(leaves[0], 0, one.size, inclusion_proof(hashes, 0)))


def _part(instance: bytes, one: Carried, leaves: Sequence[bytes], earliest: int) -> LogPart | None:
    """From the last checkpoint before the range on, to the last that was carried; None where the log is not there so far."""
    end = one.size
    if not one.checkpoints or len(leaves) < end:
        return None
    first = max((known.size for known in one.checkpoints if known.at + _MARGIN < earliest), default=0)
    hashes = [leaf_hash(leaf) for leaf in leaves[:end]]
    under = {
        record.opening for record in map(parse_record, leaves[first:end]) if isinstance(record, ActionRecord) and record.opening < first
    }
    openings = tuple(ProvenLeaf(leaves[at], at, end, inclusion_proof(hashes, at)) for at in sorted(under))
    return LogPart(instance, first, append(EMPTY_FRONTIER, *hashes[:first]).roots, tuple(leaves[first:end]), openings)


# --- the verbs ------------------------------------------------------------------------------------------------------------


def export(args: argparse.Namespace) -> int:
    """`export --range FILE`: the bundle is written, and judged. 0: complete; 1: with gaps, which are said; 3: the log ends too early."""
    for name, value in (("--agent", args.agent), ("--log", args.log), ("--trust", args.trust)):
        if value is None:
            raise FormatError(name, "with --range: the agent, the verifier's log and the trust file", "none")
    AgentId.parse(args.agent)
    trust = parse_trust(read(args.trust, MAX_TRUST))
    with open_source(args.log, args.ca_file) as source:
        found = stretch(source, trust, args.earliest, args.latest)
    archives = [parse_archive(read(one, MAX_ARCHIVE)) for one in args.source]
    bundle = Ranges(archives, found.entries).bundle(args.agent, args.earliest, args.latest, found)
    write(args.range, encode_range_bundle(bundle))
    return show(bundle, prove_range(bundle, trust), as_json=args.json, explain=False)


def verify(data: bytes, trust: Path, policy: Path | None, *, as_json: bool, explain: bool) -> int:
    """`verify` of a range bundle."""
    try:
        bundle = parse_range_bundle(data)
        witnesses = None if policy is None else parse_policy(read(policy, MAX_POLICY))
        proven = prove_range(bundle, parse_trust(read(trust, MAX_TRUST)), witnesses)
    except FormatError as error:
        raise Refused(Reason("malformed", error.what[:200], error.expected, error.got)) from None
    return show(bundle, proven, as_json=as_json, explain=explain)


def show(bundle: RangeBundle, proven: ProvenRange, *, as_json: bool, explain: bool) -> int:
    """What is proven of the range is printed. The exit status."""
    if as_json:
        verdict = cli.refusal(proven.reasons) if proven.reasons else {"verdict": "incomplete" if proven.open else "accepted", "reasons": []}
        cli.emit({**verdict, **_json(bundle, proven)}, as_json=True)
        return cli.REFUSED if proven.reasons else cli.COULD_NOT if proven.open else cli.ACCEPTED
    for number, step in enumerate(proven.steps if explain else (), 1):
        print(f"  {number}. {cli.printable(step)}")
    for line in _lines(bundle, proven):
        print(cli.printable(line))
    if proven.reasons:
        raise Refused(*proven.reasons)
    if proven.open:
        raise Unavailable(
            "log", f"expected entries until {LOOK_AHEAD} s behind the range, got a log that ends before: export it again later"
        )
    print("complete: no record of this agent that was carried is left out, and no instance of it")
    return cli.ACCEPTED


def _lines(bundle: RangeBundle, proven: ProvenRange) -> Iterator[str]:
    count = sum(len(log.records) for log in proven.logs)
    yield f"{bundle.agent}: {count} records from {_moment(bundle.earliest)} to {_moment(bundle.latest)}"
    for log in proven.logs:
        behind = "" if log.open_since is None else f"; nothing carried since {_moment(log.open_since)}, and what it did then is not known"
        yield f"  {log.instance.hex()} on {log.host}: {len(log.records)}{behind}"


def _moment(at: int) -> str:
    return "ever" if at >= 1 << 37 else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _json(bundle: RangeBundle, proven: ProvenRange) -> dict[str, Any]:
    logs: list[dict[str, Any]] = []
    for log in proven.logs:
        rows = [
            {
                "sequence": one.record.sequence, "kind": type(one.record).__name__.removesuffix("Record").lower(),
                "action": getattr(one.record, "action", None), "resource": getattr(one.record, "resource", None),
                "permit": getattr(one.record, "permit", None), "not_there_at": one.since, "carried_at": one.carried_at,
            }
            for one in log.records
        ]  # fmt: skip
        logs.append({"instance": log.instance.hex(), "host": log.host, "open_since": log.open_since, "records": rows})
    return {
        "agent": bundle.agent, "earliest": bundle.earliest, "latest": bundle.latest, "logs": logs, "strangers": proven.strangers,
        "steps": list(proven.steps),
    }  # fmt: skip
