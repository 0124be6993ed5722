"""A whole log judged: every tile, every entry, every checkpoint that was kept of it, in one pass and bounded memory.

The log committed to the hashes of level 0 where they lead to the signed root, and then an entry that has another hash is not the log's.
Where they do not, and the entries do, the tiles are wrong. Where neither does nothing is known but that this is not what was signed.

Entries are decisions by keys of the trust file, and their times are the verifier's word: a log can be whole and silent.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from writ.formats.decision import AttestDecision, EnrolDecision, Entry, ExchangeDecision, Genesis, OperatorAct
from writ.formats.errors import FormatError, Misuse, Refused
from writ.formats.keys import PublicKey
from writ.formats.reason import Reason
from writ.formats.tlog.checkpoint import Checkpoint, SignedCheckpoint
from writ.formats.tlog.cosignature import TlogPolicy
from writ.formats.tlog.edge import Edge
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.tlog.note import NoteKey
from writ.formats.tlog.tile import WIDTH, Tile, bundles_of, encode_bundle, path_of
from writ.formats.trust import Trust
from writ.verdict.anchor_audit import Told
from writ.verdict.carried import Carriage, carriage_of
from writ.verdict.log_tiles import Asking, bundle_of, entries_of, hashes_of
from writ.verdict.signed_entry import by_thumbprint, verify_entry
from writ.verdict.transparency import verify_checkpoint, verify_witnessed

MOST_FINDINGS: Final = 100
"""What is found beyond it is counted."""
_SHIFTED: Final = ("log-entry-removed", "log-entry-inserted")


@dataclass(frozen=True, slots=True)
class LogTrust:
    """By whose signature a checkpoint is a log's: one of `keys`, and the quorum of `policy` where there is one."""

    keys: tuple[NoteKey, ...]
    policy: TlogPolicy | None = None

    def verify(self, signed: SignedCheckpoint) -> Checkpoint:
        """The log signed it, and the quorum cosigned. Raises Refused."""
        checkpoint = self.verify_kept(signed)
        if self.policy is not None:
            verify_witnessed(signed, self.policy)
        return checkpoint

    def verify_kept(self, signed: SignedCheckpoint) -> Checkpoint:
        """The log signed it: of what was seen before no quorum is asked. Raises Refused."""
        return verify_checkpoint(signed, self.key_of(signed))

    def key_of(self, signed: SignedCheckpoint) -> NoteKey:
        """The key of the log that the checkpoint names. Raises Refused for a log that nobody named."""
        named = [key for key in self.keys if key.name == signed.checkpoint.origin]
        if not named:
            names = ", ".join(sorted({key.name for key in self.keys})) or "a log of the policy"
            raise Refused(Reason("checkpoint-invalid", "checkpoint.origin", names[:200], signed.checkpoint.origin[:200]))
        return next((key for key in named if signed.note.by(key) is not None), named[0])


class Findings:
    """What was found: the first `MOST_FINDINGS`, and how many more."""

    def __init__(self) -> None:
        self._found: list[Reason] = []
        self._more = 0

    def add(self, reason: Reason) -> None:
        """One more."""
        if len(self._found) < MOST_FINDINGS:
            self._found.append(reason)
        else:
            self._more += 1

    def reasons(self) -> tuple[Reason, ...]:
        """In the order in which they were found."""
        if not self._more:
            return tuple(self._found)
        return (*self._found, Reason("reasons-left-out", "log", f"at most {MOST_FINDINGS}", f"{self._more} more"))


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of the log, as it has to be: hashes that are in the tree, or entries."""

    tile: Tile
    data: bytes
    entries: tuple[bytes, ...] = ()


class LogAudit:
    """One pass over what a log of `target` has and one of `edge` does not; edge.size is a multiple of 256, and 0 for all of it.

    `kept` are checkpoints of the same log that were seen before, verified, and not smaller than the edge.
    """

    def __init__(self, target: Checkpoint, kept: Iterable[Checkpoint] = (), edge: Edge | None = None) -> None:
        self._target = target
        self._edge = Edge() if edge is None else edge
        if self._edge.size % WIDTH:
            raise Misuse("an audit begins with a whole tile")
        self._kept = sorted(kept, key=lambda one: one.size)
        self._findings = Findings()
        self._entries: list[tuple[Tile, Reason]] = []
        """What is wrong with entries, as long as the tiles are right."""
        self._uppers: list[Reason] = []
        self._forks: list[Reason] = []
        self._by_entries: Edge | None = None
        """The edge as the entries have it, from where they part from the tiles on."""
        self._lost = False
        """A bundle could not be read as so many entries: what its entries lead to is not known."""
        self._last: tuple[Edge, tuple[bytes, ...]] | None = None

    def pieces(self) -> Generator[Tile | Piece, bytes | None, None]:
        """Every file of the log, each judged by those below it; asks for each by its tile (`log_tiles.Asking`).

        Only after all of them `findings` says whether they lead to the root.
        """
        for bundle in bundles_of(self._target.size, since=self._edge.size):
            leaves = yield from self._leaves(bundle)
            if leaves is None:
                return
            hashes, entries = leaves
            self._last = (self._edge.copy(), hashes)
            if entries is not None:
                yield Piece(bundle, encode_bundle(entries), entries)
            if bundle.width < WIDTH:
                yield Piece(Tile(0, bundle.index, bundle.width), b"".join(hashes))
            for tile, above in self._grow(hashes):
                if tile.level:
                    yield from self._upper(tile, above)
                yield Piece(tile, b"".join(above))
        for tile, hashes in self._edge.partial():
            if tile.level:
                yield from self._upper(tile, hashes)
                yield Piece(tile, b"".join(hashes))

    def findings(self) -> tuple[Reason, ...]:
        """What is wrong with this log; nothing where it is as signed, and extends all that was kept.

        1. Tiles that lead to the root: faults of entries and upper tiles stand as they were found.
        2. Entries that do, where tiles do not: those tiles are wrong.
        3. Neither: the root is another log's, or this one's at another size.
        4. A kept checkpoint that is larger is a rollback; one whose root is not this log's at its size is a fork.
        """
        found, root = self._findings, self._edge.root()
        whole = self._edge.size == self._target.size
        # 1
        if whole and root == self._target.root:
            for reason in (*(reason for _, reason in self._unshifted()), *self._uppers, *self._forks):
                found.add(reason)
        # 2
        elif self._by_entries is not None and not self._lost and self._by_entries.root() == self._target.root:
            for tile, reason in self._entries:
                found.add(Reason("log-tile-mismatch", path_of(tile), reason.got, reason.expected))
        # 3
        else:
            for reason in (*(reason for _, reason in self._unshifted()), *self._uppers, *([self._other_root(root)] if whole else ())):
                found.add(reason)
        # 4
        for kept in self._kept:
            if kept.size > self._target.size:
                found.add(Reason("log-rollback", "checkpoint.size", f"at least {kept.size}", str(self._target.size)))
            elif kept.size == self._target.size and kept.root != self._target.root:
                found.add(fork(kept, self._target.root))
        return found.reasons()

    def _leaves(self, bundle: Tile) -> Asking[tuple[tuple[bytes, ...], tuple[bytes, ...] | None] | None]:
        """The hashes of level 0 beside a bundle, and its entries where they are those; None where neither can be read."""
        tile = Tile(0, bundle.index, bundle.width)
        try:
            hashes = yield from hashes_of(tile)
        except Refused as error:
            self._findings.add(error.reasons[0])
            try:
                entries = yield from bundle_of(bundle.index, bundle.width)
            except Refused as worse:
                self._findings.add(worse.reasons[0])
                return None
            return tuple(leaf_hash(entry) for entry in entries), entries
        try:
            return hashes, (yield from entries_of(bundle.index, hashes))
        except Refused as error:
            yield from self._part(tile, error.reasons[0])
            return hashes, None

    def _part(self, tile: Tile, reason: Reason) -> Asking[None]:
        """The entries of a bundle are not those of the tile: from here on both are followed."""
        if len(self._entries) < MOST_FINDINGS:
            self._entries.append((tile, reason))
        if self._by_entries is None:
            self._by_entries = self._edge.copy()
        try:
            entries = yield from bundle_of(tile.index, tile.width)
        except Refused:
            self._lost = True
            return
        self._by_entries.append([leaf_hash(entry) for entry in entries])

    def _grow(self, hashes: tuple[bytes, ...]) -> list[tuple[Tile, tuple[bytes, ...]]]:
        """The edge takes the hashes, and stops where a checkpoint was kept to compare roots."""
        filled = []
        start, at = self._edge.size, 0
        for kept in self._kept:
            if start < kept.size <= start + len(hashes) and kept.size < self._target.size:
                filled += self._edge.append(hashes[at : kept.size - start])
                at = kept.size - start
                if (root := self._edge.root()) != kept.root:
                    self._forks.append(fork(kept, root))
        filled += self._edge.append(hashes[at:])
        by = self._by_entries
        if by is not None and not self._lost and by.size < self._edge.size:
            by.append(hashes)
        return filled

    def _upper(self, tile: Tile, hashes: tuple[bytes, ...]) -> Asking[None]:
        try:
            served = yield from hashes_of(tile)
        except Refused as error:
            reason: Reason = error.reasons[0]
        else:
            at = next((at for at, (one, other) in enumerate(zip(served, hashes, strict=True)) if one != other), None)
            if at is None:
                return
            reason = Reason("log-tile-mismatch", f"{path_of(tile)}, hash {at}", hashes[at].hex(), served[at].hex())
        if len(self._uppers) < MOST_FINDINGS:
            self._uppers.append(reason)

    def _unshifted(self) -> Iterator[tuple[Tile, Reason]]:
        """An entry left out or put in moves all behind it: of bundles that begin so, one after the other, the first is named."""
        before: tuple[int, str] | None = None
        for (tile, said), follows in zip(self._entries, [*self._entries[1:], None], strict=False):
            reason = _over_the_end(tile, said, follows)
            now = (tile.index, reason.code)
            moved = before is not None and before == (tile.index - 1, reason.code) and reason.claim == f"entry.{tile.index * WIDTH}"
            if not (moved and reason.code in _SHIFTED):
                yield tile, reason
            before = now

    def _other_root(self, root: bytes) -> Reason:
        """Whether the signed root is that of a few entries less, which is a size that is not so; otherwise it is another log's."""
        if self._last is not None:
            edge, hashes = self._last
            for one in hashes:
                edge.append([one])
                if edge.root() == self._target.root:
                    return Reason("log-size-mismatch", "checkpoint.size", str(edge.size), str(self._target.size))
        return Reason("log-root-mismatch", f"checkpoint.{self._target.size}", self._target.root.hex(), root.hex())


def _over_the_end(tile: Tile, reason: Reason, follows: tuple[Tile, Reason] | None) -> Reason:
    """An entry left out or put in at the end of a bundle looks altered there, until one sees how the next begins."""
    last = tile.index * WIDTH + WIDTH - 1
    if follows is None or (reason.code, reason.claim) != ("log-entry-altered", f"entry.{last}"):
        return reason
    after, shift = follows
    if after.index != tile.index + 1 or shift.claim != f"entry.{last + 1}":
        return reason
    if shift.code == "log-entry-removed" and reason.got == shift.expected:
        return Reason(shift.code, reason.claim, reason.expected, shift.got)
    if shift.code == "log-entry-inserted" and shift.got == f"{reason.expected} before it":
        return Reason(shift.code, reason.claim, reason.expected, f"{reason.got} before it")
    return reason


def fork(kept: Checkpoint, root: bytes) -> Reason:
    """The log signed another root at the size of `kept` than it has there."""
    return Reason("log-fork", f"checkpoint.{kept.size}", f"root {kept.root.hex()}", f"root {root.hex()}")


# --- what the entries say --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """Entries of one bundle: what is wrong with some; of others place, time (seconds) and what is decided.

    `told` is what they tell of hosts, in their order: what attestations brought, enrolments, and operators' acts.
    """

    reasons: tuple[Reason, ...]
    times: tuple[tuple[int, int, bytes | None], ...]
    told: tuple[Told, ...] = ()

    @property
    def carriages(self) -> tuple[Carriage, ...]:
        """What attestations brought."""
        return tuple(one for one in self.told if isinstance(one, Carriage))


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks in a log: the verifier of the trust file, in the log of `origin`, whose checkpoints are by `log_key`."""

    decision_keys: tuple[PublicKey, ...]
    issuer: str
    domain: str
    origin: str
    log_key: PublicKey

    @classmethod
    def of(cls, trust: Trust, log: NoteKey) -> Speaker:
        """The verifier of the trust file in the log of this key."""
        return cls(trust.decision_keys, trust.issuer, trust.domain, log.name, log.key)

    def begins(self, genesis: Genesis) -> bool:
        """Whether the log that this entry begins is the one, and the verifier's."""
        named = genesis.issuer, genesis.domain, genesis.origin, genesis.log_key
        return named == (self.issuer, self.domain, self.origin, self.log_key)


def judge_entries(first: int, entries: Sequence[bytes], speaker: Speaker) -> Judged:
    """Entries, from the one at `first` on, are decisions that the speaker signed.

    Entry 0 is a genesis that names him, the log and its key, and no other entry is one: what follows is his word
    in this log, and names neither again.
    """
    keys = by_thumbprint(speaker.decision_keys)
    reasons: list[Reason] = []
    times: list[tuple[int, int, bytes | None]] = []
    told: list[Told] = []
    for index, signed in enumerate(entries, first):
        claim = f"entry.{index}"
        try:
            entry = verify_entry(signed, keys, claim)
        except FormatError as error:
            reasons.append(Reason("log-entry-malformed", f"{claim}, {error.what}"[:200], error.expected, error.got))
        except Refused as error:
            reasons += [Reason(one.code, claim, one.expected, one.got) for one in error.reasons]
        else:
            if isinstance(entry, Genesis) != (index == 0) or (isinstance(entry, Genesis) and not speaker.begins(entry)):
                wanted = f"the genesis of {speaker.origin}" if index == 0 else "a decision"
                got = f"the genesis of {entry.origin}" if isinstance(entry, Genesis) else type(entry).__name__
                reasons.append(Reason("log-genesis", claim, wanted[:200], got[:200]))
            times.append((index, entry.decided_at, _once(entry)))
            if isinstance(entry, AttestDecision):
                told.append(carriage_of(entry))
            elif isinstance(entry, EnrolDecision | OperatorAct):
                told.append(entry)
    return Judged(tuple(reasons), tuple(times), tuple(told))


def _once(entry: Entry) -> bytes | None:
    """What is decided on once: an attestation by its nonce, an enrolment by its evidence, an exchange by its id; acts may repeat."""
    if isinstance(entry, AttestDecision):
        return entry.nonce
    if isinstance(entry, EnrolDecision):
        return entry.evidence.value
    return entry.issued.encode() if isinstance(entry, ExchangeDecision) else None


class Timeline:
    """The times of entries, in their order: none goes back by more than `skew`, none is more than `silence` after those before it.

    Nor is anything decided twice. Where the second time is not within the skew, it goes back: so no more is kept than that time holds.
    """

    def __init__(self, skew: int, silence: int | None) -> None:
        self._skew, self._silence = skew, silence
        self._decided: dict[bytes, tuple[int, int]] = {}
        """Of what was decided within the skew: entry and time, oldest entry first."""
        self.first: int | None = None
        self.latest: tuple[int, int] | None = None
        """The entry with the latest time so far, and that time."""
        self.longest = 0
        """The longest time without an entry, in seconds."""

    def take(self, index: int, at: int, once: bytes | None = None) -> Reason | None:
        """The next entry, which decides on `once`. What is wrong with its time, if something is."""
        if once is not None and (twice := self._decide(index, at, once)) is not None:
            return twice
        if self.latest is None:
            self.first, self.latest = at, (index, at)
            return None
        before, latest = self.latest
        if at < latest - self._skew:
            return Reason("log-time-backwards", f"entry.{index}.decided_at", f"at least {latest - self._skew}", str(at))
        self.latest = max(self.latest, (index, at), key=lambda one: one[1])
        return self._gap(f"entry.{before} to entry.{index}", at - latest)

    def _decide(self, index: int, at: int, once: bytes) -> Reason | None:
        if once in self._decided:
            return Reason("log-entry-repeated", f"entry.{index}", "one decision of it", f"another, entry.{self._decided[once][0]}")
        self._decided[once] = (index, at)
        horizon = (at if self.latest is None else max(at, self.latest[1])) - self._skew
        for oldest in list(itertools.takewhile(lambda one: self._decided[one][1] < horizon, self._decided)):
            del self._decided[oldest]
        return None

    def end(self, now: int) -> Reason | None:
        """Nothing came after the last entry, until `now`, nor is that entry of a time to come: entries dated ahead would hide a silence."""
        if self.latest is None:
            return None
        index, at = self.latest
        if at > now + self._skew:
            return Reason("log-time-ahead", f"entry.{index}.decided_at", f"at most {now + self._skew}", str(at))
        return self._gap(f"entry.{index} to now", now - at)

    def _gap(self, claim: str, gap: int) -> Reason | None:
        self.longest = max(self.longest, gap)
        if self._silence is None or gap <= self._silence:
            return None
        return Reason("log-silent", claim, f"an entry within {self._silence} s", f"none for {gap} s")
