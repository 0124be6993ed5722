"""What the verifier stores: one frozen type a table, and the SQLite spelling of them.

The first field of a row is its key. Recorded state is stored in its one
spelling of `writ.formats`, never as a proof type. Times are seconds since the
epoch. `EntryRow` is append-only: the database itself refuses to change one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import UnionType
from typing import Final, TypeVar, Union, get_args, get_origin, get_type_hints

VERSION: Final = 8


@dataclass(frozen=True, slots=True)
class Row:
    """A row of some table."""


R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class HostRow(Row):
    """A host: `admitted` (never enrolled, or replaced), `active`, `contained` (by `fork` or `operator`) or `retired`.

    `record` and `state` are encoded `HostRecord` and `HostState`, None before
    enrolment and before the first attestation; `version` is the state's, -1 without one.
    """

    host: str
    namespace: str
    generation: int
    status: str
    contained_by: str | None
    ek: str | None
    record: bytes | None
    state: bytes | None
    version: int


@dataclass(frozen=True, slots=True)
class HeardRow(Row):
    """What was last heard of a host, beside `HostRow`: for people to see, and for exchanges, which a host refused last gets none of.

    `moved_at` is when its status changed or it enrolled, `contacted_at` when its newest nonce was issued. The last decision since it
    enrolled: when (`decided_at`, None without one), whether it accepted, its reasons (a CBOR array), `since` when decisions say the
    same, and whether an operator has moved the host since (`overtaken`). `epoch` is how the TPM came to count as it does (first,
    rebooted, resumed; empty without a decision), seen at `epoch_at`. `cleared` stands from an enrolment after TPM2_Clear until the
    next acceptance. `governing` is the namespace's at the last decision.
    """

    host: str
    namespace: str
    moved_at: int
    contacted_at: int | None
    cleared: int
    decided_at: int | None
    accepted: int
    reasons: bytes
    since: int
    overtaken: int
    epoch: str
    epoch_at: int
    governing: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class AdmissionRow(Row):
    """What lets one TPM enrol once: the SHA-256 of a ticket, or of a chosen EK digest and a salt. `expires_at` 0 means never."""

    id: bytes
    host: str
    namespace: str
    ek: str | None
    unendorsed: int
    ticket: int
    expires_at: int
    spent: int


@dataclass(frozen=True, slots=True)
class EkRow(Row):
    """An EK that enrolled once: bound to its host for ever; `burnt` ones enrol nowhere."""

    ek: str
    host: str
    burnt: int


@dataclass(frozen=True, slots=True)
class NonceRow(Row):
    """A nonce: valid in [issued_at, expires_at), unspent, and the newest of its host. `spent_by` is the SHA-256 of what spent it."""

    nonce: bytes
    host: str
    issued_at: int
    expires_at: int
    newest: int
    spent_by: bytes | None


@dataclass(frozen=True, slots=True)
class AnswerRow(Row):
    """The answer that went out for the evidence that spent a nonce, for a byte-identical retry."""

    nonce: bytes
    evidence: bytes
    answer: bytes
    expires_at: int


@dataclass(frozen=True, slots=True)
class EntryRow(Row):
    """One signed decision (COSE_Sign1) in the log, with its RFC 6962 leaf hash."""

    sequence: int
    kind: str
    namespace: str
    host: str
    at: int
    leaf: bytes
    entry: bytes

    @property
    def reference(self) -> str:
        """The leaf hash in hex, by which people and other entries name it."""
        return self.leaf.hex()


@dataclass(frozen=True, slots=True)
class TileRow(Row):
    """A tile of the transparency log: its level in the upper bits of `id`, its index below, and 1 to 256 hashes."""

    id: int
    hashes: bytes


@dataclass(frozen=True, slots=True)
class CheckpointRow(Row):
    """A checkpoint of the transparency log as it was signed, by its size: the last one, and the last one within each 256 entries."""

    size: int
    note: bytes


@dataclass(frozen=True, slots=True)
class BlobRow(Row):
    """The inputs and outputs that decisions name, so that they can be made again: by their SHA-256, of a namespace's by `blobs.blob_id`."""

    id: bytes
    data: bytes
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class SpaceRow(Row):
    """A namespace: the digests that a verdict must have been made with, its revocation epoch, and the delegation in force.

    `governing` counts the changes of what a host itself is judged by: reference values that are of no agent, and exemptions that went.
    `held`: a legal hold is on what its decisions rest on.
    """

    namespace: str
    policy: str | None
    policy_version: int
    references_digest: bytes
    epoch: int
    delegation: str | None = None
    delegation_version: int = 0
    governing: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class PolicyRow(Row):
    """A policy bundle by its digest, signed."""

    digest: str
    namespace: str
    version: int
    signed: bytes


@dataclass(frozen=True, slots=True)
class ReferenceRow(Row):
    """A CoRIM by its digest, signed. Only active ones enter an appraisal; the others are proposed, or were retired.

    `imported_at` is since when it is active. `valid_until` repeats what the CoRIM says. `retired_at` is when it went out of force, None
    for one that is in force or never was.
    """

    digest: str
    namespace: str
    environment: str
    id: str
    signed: bytes
    active: int
    imported_at: int
    valid_until: int | None = None
    retired_at: int | None = None


@dataclass(frozen=True, slots=True)
class ExemptionRow(Row):
    """An exemption by its digest, as it was approved. Only active ones enter an appraisal, which asks for the time itself."""

    digest: str
    namespace: str
    data: bytes
    active: int
    not_after: int


@dataclass(frozen=True, slots=True)
class ProposalRow(Row):
    """A proposal by its digest. Open until `settled_at`, or until it lapses behind `expires_at`. `by` is the API key that made it."""

    digest: str
    namespace: str
    kind: str
    data: bytes
    by: str
    expires_at: int
    settled_at: int | None


@dataclass(frozen=True, slots=True)
class ApprovalRow(Row):
    """One approval of a proposal. `id` is the proposal's digest and `who`: a person, or a publisher's key by its id.

    `by` is the API key that sent it; `signed` is the publisher's signed CoRIM, None for an operator's approval.
    """

    id: str
    proposal: str
    who: str
    by: str
    at: int
    signed: bytes | None


@dataclass(frozen=True, slots=True)
class DelegationRow(Row):
    """A delegation by its digest, signed."""

    digest: str
    namespace: str
    version: int
    signed: bytes


@dataclass(frozen=True, slots=True)
class ImaRow(Row):
    """A part of a host's IMA list: entries `first` to `last`, which the evidence of that SHA-256 brought, and the register around it.

    `id` is host and first entry, so that a list sent in full begins anew; what it leaves of the list before joins to nothing. An index
    into the blobs and nothing more: what is lost of it is lost for dry runs only.
    """

    id: str
    host: str
    first: int
    last: int
    before: bytes
    after: bytes
    evidence: bytes


@dataclass(frozen=True, slots=True)
class TokenRow(Row):
    """A token that was issued, under its index in the status lists. `exchanges` were decided under it, either way."""

    status_index: int
    token_id: str
    namespace: str
    host: str
    instance: bytes
    expires_at: int
    revoked: int
    exchanges: int = 0


@dataclass(frozen=True, slots=True)
class ApiKeyRow(Row):
    """An API key: only the SHA-256 of its secret. `namespace` is `*` for the whole domain; `audience` is empty but for a relying service.

    `person` is the id of the key that stands for its holder: its own where a key of the whole domain made it, else its maker's.
    """

    hash: bytes
    id: str
    namespace: str
    role: str
    label: str
    created_at: int
    revoked_at: int | None
    person: str
    audience: str


@dataclass(frozen=True, slots=True)
class KeyRow(Row):
    """A token key by its id: current while `retired_at` is None."""

    kid: str
    public: bytes
    created_at: int
    retired_at: int | None


@dataclass(frozen=True, slots=True)
class ExchangeKeyRow(Row):
    """A key of exchange tokens by its id: the newest while `retired_at` is None, which is not yet the one that signs."""

    kid: str
    public: bytes
    created_at: int
    retired_at: int | None


@dataclass(frozen=True, slots=True)
class ProofRow(Row):
    """A proof of a session key that was used up, by the SHA-256 of its key and id. `expires_at` is when nobody would take it any more."""

    proof: bytes
    host: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class TrustRow(Row):
    """A set of manufacturer roots by its digest, `current` or a former one."""

    digest: str
    data: bytes
    current: int
    imported_at: int


TABLES: Final[dict[type[Row], str]] = {
    HostRow: "host", HeardRow: "heard", AdmissionRow: "admission", EkRow: "ek", NonceRow: "nonce", AnswerRow: "answer",
    EntryRow: "entry", BlobRow: "blob",
    SpaceRow: "space", PolicyRow: "policy", ReferenceRow: "reference", TokenRow: "token", ApiKeyRow: "api_key", KeyRow: "token_key",
    TrustRow: "trust", ExemptionRow: "exemption", ProposalRow: "proposal", ApprovalRow: "approval", DelegationRow: "delegation",
    ImaRow: "ima_part", ExchangeKeyRow: "exchange_key", ProofRow: "proof", TileRow: "tile", CheckpointRow: "checkpoint",
}  # fmt: skip

_INDEXES: Final = (
    ("admission", "host"), ("nonce", "host"), ("entry", "namespace"), ("token", "token_id"),
    ("token", "host"), ("token", "instance"), ("reference", "namespace"), ("nonce", "expires_at"), ("answer", "expires_at"),
    ("token", "expires_at"), ("token", "revoked"), ("exemption", "namespace"), ("proposal", "namespace"), ("approval", "proposal"),
    ("api_key", "id"), ("ima_part", "host"), ("proof", "expires_at"),
)  # fmt: skip

LEAF_KEY: Final = 8
"""Bytes of a leaf hash that are indexed. Hashes come in no order, so each moves a page of its own; of a short key there are few."""

_SQL: Final[dict[object, str]] = {int: "INTEGER", str: "TEXT", bytes: "BLOB"}


def columns(table: type) -> tuple[str, ...]:
    """The columns of a row type, its key first."""
    return tuple(field.name for field in fields(table))


def statements() -> tuple[str, ...]:
    """The SQL that makes an empty database."""
    made = [_create(table, name) for table, name in TABLES.items()]
    made += [f"CREATE INDEX {table}_{column} ON {table} ({column})" for table, column in _INDEXES]
    made.append(f"CREATE INDEX entry_leaf ON entry (substr(leaf, 1, {LEAF_KEY}))")
    made += [
        f"CREATE TRIGGER entry_{verb.lower()} BEFORE {verb} ON entry BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ]
    made += ["CREATE TRIGGER checkpoint_update BEFORE UPDATE ON checkpoint BEGIN SELECT RAISE(ABORT, 'one checkpoint of a size'); END"]
    return (*made, f"PRAGMA user_version = {VERSION}")


def _create(table: type, name: str) -> str:
    hints = get_type_hints(table)
    spelt = []
    for at, column in enumerate(columns(table)):
        hint = hints[column]
        nullable = get_origin(hint) in (UnionType, Union)
        kind = next(k for k in get_args(hint) if k is not type(None)) if nullable else hint
        spelt.append(f"{column} {_SQL[kind]}{' PRIMARY KEY' if at == 0 else ''}{'' if nullable else ' NOT NULL'}")
    return f"CREATE TABLE {name} ({', '.join(spelt)}) STRICT"
