"""The ledger: what was decided, and the state that follows, in one transaction or not at all.

A verdict is a proposal until `Ledger.commit` has checked again, inside the
transaction, that everything it was made with still holds: the nonce, the
host's state version, policy, reference values and revocation epoch. If one of
them moved the verdict is void (`Void`) and is made again; if the nonce is
gone, or an operator decided otherwise, it is `Refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from verifier.ledger.schema import (
    AdmissionRow,
    AnswerRow,
    ApiKeyRow,
    ApprovalRow,
    DelegationRow,
    EntryRow,
    ExchangeKeyRow,
    ExemptionRow,
    HeardRow,
    HostRow,
    ImaRow,
    KeyRow,
    NonceRow,
    PolicyRow,
    ProofRow,
    ProposalRow,
    R,
    ReferenceRow,
    TokenRow,
    TrustRow,
)  # fmt: skip
from writ.formats.errors import Unavailable, WritError

ATTEMPTS: Final = 5
"""How often a decision is made again because what it was made with moved."""

T = TypeVar("T")


class Void(WritError):
    """The verdict was made with a `what` that has moved meanwhile; read again, decide again."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} moved while the verdict was made")


@dataclass(frozen=True, slots=True)
class Entry:
    """A signed decision, ready to append. `kind` is genesis, attest, enrol, exchange or operator; `host` may be empty."""

    kind: str
    namespace: str
    host: str
    at: int
    signed: bytes


@dataclass(frozen=True, slots=True)
class Basis:
    """What a verdict on a host was made with, beside the evidence."""

    record: bytes
    version: int
    policy: str
    references: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class Attested:
    """An attestation decided: the nonce it uses up, what it was made with, and all that follows from it.

    `heard` is what is to be said of the host from now on, for people; `listed` where its IMA list goes on, if it does.
    The live tokens of `doomed` instances, and of a host that is contained, are revoked with it.
    """

    entry: Entry
    basis: Basis
    heard: HeardRow
    nonce: bytes
    evidence: bytes
    state: bytes
    status: str
    version: int
    doomed: tuple[bytes, ...]
    tokens: tuple[TokenRow, ...]
    next_nonce: NonceRow
    answer: AnswerRow
    blobs: tuple[bytes, ...]
    listed: ImaRow | None = None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A host enrolled under an admission. `host.state` is what survives of an earlier enrolment; `cleared`: of a TPM cleared since."""

    entry: Entry
    admission: bytes
    before: HostRow | None
    host: HostRow
    nonce: NonceRow
    blobs: tuple[bytes, ...]
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class Began:
    """The log begins: its first entry says whose it is."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Noted:
    """What an operator did stands in the log, and nothing else follows from it. `blobs` are what the entry names."""

    entry: Entry
    blobs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Admitted:
    """An operator admitted a host."""

    entry: Entry
    admission: AdmissionRow


@dataclass(frozen=True, slots=True)
class HostChange:
    """A host moves from `before`, which must still stand, to `after`.

    `burn` retires the EK of `before` for ever; `void` ends outstanding nonces and live tokens; `gone`: it never enrolled, and nothing of it
    stays, so that its name is anybody's.
    """

    before: HostRow
    after: HostRow
    burn: bool = False
    void: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class HostMoved:
    """An operator released, replaced or retired a host; a replaced one may have a new admission."""

    entry: Entry
    change: HostChange
    admission: AdmissionRow | None = None


@dataclass(frozen=True, slots=True)
class Consent:
    """What approvals were counted for a change, and what becomes of them; all of it must still stand.

    `before` is the proposal as it was read, None for a new one; `seen` are the ids of the approvals it had; `approvals` come with this.
    `policy` and `delegation` are those that were asked.
    """

    before: ProposalRow | None
    after: ProposalRow
    seen: tuple[str, ...]
    approvals: tuple[ApprovalRow, ...]
    policy: str | None
    delegation: str | None


@dataclass(frozen=True, slots=True)
class Consented:
    """Something was proposed or approved, and is not in force yet. `rows` are CoRIMs to look at, not active."""

    entry: Entry
    consent: Consent
    rows: tuple[ReferenceRow, ...]
    blobs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ReferencesImported:
    """Reference values come into force, others go out. `before` names the set that must still stand, `digest` the one that results.

    `retired` are CoRIMs and exemptions by digest. `policy` is the one that was asked how many people it takes, where one was.
    """

    entry: Entry
    rows: tuple[ReferenceRow, ...]
    retired: tuple[str, ...]
    before: bytes
    digest: bytes
    blobs: tuple[bytes, ...]
    exemptions: tuple[ExemptionRow, ...] = ()
    policy: str | None = None
    consent: Consent | None = None


@dataclass(frozen=True, slots=True)
class PolicyPublished:
    """A policy in force from now on. `references` names the set that it was held against, `before` the policy, where that was asked."""

    entry: Entry
    row: PolicyRow
    blobs: tuple[bytes, ...]
    references: bytes
    before: str | None = None
    consent: Consent | None = None


@dataclass(frozen=True, slots=True)
class DelegationPublished:
    """A delegation in force from now on."""

    entry: Entry
    row: DelegationRow
    blobs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TokensRevoked:
    """Revoked: one token by its id, or those of `instances` of a host, or (by `change`) of a whole host.

    With `token_id`, `instances` are what descends from the token's, and lose what may rest on it: tokens that end no later.
    """

    entry: Entry
    token_id: str | None
    host: str
    instances: tuple[bytes, ...]
    change: HostChange | None


@dataclass(frozen=True, slots=True)
class ApiKeyMade:
    """An operator's key made or, with `revoked_at` set, revoked."""

    entry: Entry
    row: ApiKeyRow


@dataclass(frozen=True, slots=True)
class KeyRotated:
    """A new key of execution or of exchange tokens; the former one stays in its JWKS until its last token has died."""

    entry: Entry
    row: KeyRow | ExchangeKeyRow
    former: KeyRow | ExchangeKeyRow | None


@dataclass(frozen=True, slots=True)
class Exchanged:
    """An exchange decided, either way: the proof that it uses up, what it was made with, and the execution token, which must be live.

    `lineage` are the parents of its instance, which must each hold a live token, too.
    """

    entry: Entry
    basis: Basis
    proof: ProofRow
    token_id: str
    instance: bytes
    lineage: tuple[bytes, ...]
    blobs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TrustImported:
    """Another set of manufacturer roots. `before` is the one it was made of, by its digest, None for the first."""

    entry: Entry
    row: TrustRow
    blobs: tuple[bytes, ...]
    before: str | None


@dataclass(frozen=True, slots=True)
class ContentHeld:
    """A legal hold on what decisions of a namespace rest on was set, or lifted.

    `why` are the reason and what opens the entry's commitment to it.
    """

    entry: Entry
    held: bool
    why: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ContentErased:
    """What decisions of a namespace rest on is to be erased. `why` as of `ContentHeld`."""

    entry: Entry
    why: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NonceIssued:
    """A fresh nonce for a host; older ones of it are void. No decision, so no entry."""

    row: NonceRow


@dataclass(frozen=True, slots=True)
class EngineInstalled:
    """The engine that decides from now on, encoded: entries name it by digest. No decision, so no entry."""

    engine: bytes


Decided = (
    Attested | Enrolment | Admitted | HostMoved | ReferencesImported | PolicyPublished | TokensRevoked | ApiKeyMade | KeyRotated
    | TrustImported | Consented | DelegationPublished | Exchanged | Began | ContentHeld | ContentErased | Noted
)  # fmt: skip
Change = Decided | NonceIssued | EngineInstalled


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change came to, within its transaction: the entry that it makes, not yet in the log, and what is said to whoever asked.

    `erases` is the namespace whose key is destroyed once this is durable.
    """

    entry: Entry | None
    answer: bytes | None = None
    repeated: bool = False
    erases: str | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """Durable now. `entry` is None for a nonce; `answer` is an attestation's, `repeated` where it went out before.

    `erased`: there was a key, and it is destroyed.
    """

    entry: EntryRow | None
    answer: bytes | None = None
    repeated: bool = False
    erased: bool = False


class Tables(Protocol):
    """Rows as they are committed, within one transaction where it is a commit's or a snapshot's."""

    def get(self, table: type[R], key: object) -> R | None:
        """The row under its key."""
        ...

    def select(self, table: type[R], *, most: int = 0, after: object = None, **equal: object) -> list[R]:
        """The rows whose columns equal these, in the order of their keys: the first `most` of them, of keys behind `after`."""
        ...

    def entries(self, reference: str, *, most: int) -> list[EntryRow]:
        """The first `most` entries whose leaf hash begins so, in lower-case hex; of one hash in the order of the log."""
        ...

    def last(self, table: type[R]) -> R | None:
        """The row with the greatest key."""
        ...

    def put(self, row: R) -> None:
        """Insert the row, or replace the one under its key."""
        ...

    def append(self, rows: Sequence[EntryRow]) -> None:
        """Insert entries of the log, all of which are new."""
        ...

    def drop(self, table: type[R], key: object) -> None:
        """Drop the row under its key."""
        ...

    def prune(self, table: type[R], before: int) -> None:
        """Drop the rows that expired before that time."""
        ...


class Ledger(Protocol):
    """Where decisions become durable. `commit` returns after the transaction is on disk."""

    def commit(self, change: Change) -> Committed:
        """Check again, apply, append. Raises Refused, Void, or Unavailable; then nothing has changed."""
        ...

    def demand(self) -> None:
        """Something can be committed, as far as is known. Raises Unavailable."""
        ...

    def read(self) -> Tables:
        """What is committed so far, for reading; between two reads of it something else may be."""
        ...

    def snapshot(self) -> AbstractContextManager[Tables]:
        """What is committed now, and nothing else while the block reads it."""
        ...


def decide_and_commit(
    ledger: Ledger, decide: Callable[[Tables], tuple[Change | None, T]], *, what: str, of: str, attempts: int = ATTEMPTS
) -> T:
    """What `decide` makes of the tables as they stand, its change committed on exactly those; None changes nothing.

    A change that is void is decided again. Raises what `decide` and the commit do, and Unavailable about `what` where `of` kept moving.
    """
    for _ in range(attempts):
        with ledger.snapshot() as tables:
            change, result = decide(tables)
        try:
            if change is not None:
                ledger.commit(change)
        except Void:
            continue
        return result
    raise Unavailable(what, f"{of} moved {attempts} times")
