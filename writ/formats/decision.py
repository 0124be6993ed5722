"""The verifier's signed decisions: what was decided, by which engine, on which inputs.

A decision is recorded whole, as the bytes that are signed. Every input is
named by digest, the clock was read once and stands in `decided_at`, and the
engine is pinned: `auditor replay` runs it again and demands identical bytes.

Six kinds, one envelope (`Entry`): the beginning of the log, an attestation without and one with anchors, an enrolment, an exchange, an
operator's act. An entry is an
array whose first item is its kind; a change of what a kind means is another kind. What follows from the beginning of the log, the issuer
above all, stands in no later entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from writ.formats.anchor import ShownAnchors
from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError
from writ.formats.keys import PublicKey, parse_cose_key
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor

CONTENT_TYPE: Final = "application/vnd.writ.decision+cbor"
DOMAIN: Final = "domain"
"""The namespace under which an act on the whole domain is recorded."""
MAX_ENTRY: Final = 65_300
"""Bytes of an entry before it is signed: with signature and header it stays below the 65,535 of an entry bundle (C2SP tlog-tiles)."""
MAX_OUTCOMES: Final = 256
MAX_REASONS: Final = 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one instance: a token by the digest of its claims, or the reasons for none.

    `token_id` and `status_index` are what the shell gave for it, used or not. `log_size` and `log_root` are the checkpoint of its action
    log that the evidence carried, whatever was decided.
    """

    instance: bytes
    token_id: str
    status_index: int
    claims: Digest | None
    log_size: int
    log_root: bytes
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class AttestDecision:
    """One appraisal and what it issued.

    `engine` is the digest of the encoded engine. `inputs` names each input by digest: evidence, policy, host record, reference values,
    state before. `result` is the digest of the encoded EAR, `state_after` of the successor state.
    What the shell gave beside evidence and clock: `status_list`, the number of the list that the tokens are in, and `alive`, where an
    instance asked that descends from another: until when those parents held a token that did not ask here themselves, sorted; without the
    ones that held none. `anchors` are those that travelled; where the quote does not show them, a reason says so.
    """

    engine: Digest
    decided_at: int
    host: str
    namespace: str
    nonce: bytes
    nonce_issued_at: int
    inputs: tuple[tuple[str, Digest], ...]
    status_list: int
    result: Digest
    state_after: Digest
    outcomes: tuple[Outcome, ...]
    reasons: tuple[Reason, ...]
    alive: tuple[tuple[bytes, int], ...] | None = None
    anchors: ShownAnchors | None = None

    @property
    def verdict(self) -> str:
        """`accepted` where nothing stands against the host, else `refused`."""
        return "refused" if self.reasons else "accepted"

    @property
    def issued(self) -> tuple[tuple[str, int], ...]:
        """The token id and the status index given for each request."""
        return tuple((one.token_id, one.status_index) for one in self.outcomes)


@dataclass(frozen=True, slots=True)
class EnrolDecision:
    """A host enrolled: the record that came of it, and the digest of the activation evidence.

    `cleared` says that its TPM had counted further before: TPM2_Clear was run since.
    """

    engine: Digest
    decided_at: int
    host: str
    namespace: str
    record: Digest
    evidence: Digest
    trust: Digest
    cleared: bool


@dataclass(frozen=True, slots=True)
class OperatorAct:
    """Something an operator did: which act, by whom, on what; `detail` is the digest of the object, which is never an EK."""

    engine: Digest
    decided_at: int
    namespace: str
    operator: str
    act: str
    subject: str
    detail: Digest | None


@dataclass(frozen=True, slots=True)
class Genesis:
    """Entry 0 of a verifier's log: the log's name, the key of its checkpoints, and for whom the verifier speaks.

    `engine` is the one that began, whole.
    """

    engine: EngineId
    decided_at: int
    issuer: str
    domain: str
    origin: str
    log_key: PublicKey

    @property
    def namespace(self) -> str:
        """The one of what concerns the whole domain."""
        return DOMAIN


@dataclass(frozen=True, slots=True)
class ExchangeDecision:
    """What became of a request for an exchange token: the digest of its claims, or the reasons for none.

    `inputs` names each input by digest: keys of execution tokens, policy, host record, reference values, request,
    state. `issued` is the token id that the
    shell gave. Everything here was decided after the sender had shown to be the holder of the execution token in the request.
    """

    engine: Digest
    decided_at: int
    host: str
    namespace: str
    instance: bytes
    audience: str
    inputs: tuple[tuple[str, Digest], ...]
    issued: str
    claims: Digest | None
    reasons: tuple[Reason, ...]


Entry = AttestDecision | EnrolDecision | OperatorAct | ExchangeDecision | Genesis

INPUTS: Final = ("evidence", "policy", "record", "references", "state")
EXCHANGE_INPUTS: Final = ("keys", "policy", "record", "references", "request", "state")
ACTS: Final = (
    "host-admit", "host-release", "host-replace", "host-retire", "host-excuse",
    "reference-import", "policy-publish", "token-revoke", "key-rotate", "api-key-create", "api-key-revoke",
    "trust-import",
    "reference-propose", "reference-approve", "reference-publish", "reference-retire", "reference-delegate",
    "reference-withdraw", "exchange-key-rotate", "content-hold", "content-lift", "content-erase", "log-resume", "log-succeed",
)  # fmt: skip

_GENESIS, _ATTEST, _ENROL, _EXCHANGE, _OPERATOR, _ANCHORED = range(6)
_ATTEST_NAMES: Final = (
    "kind", "decided_at", "engine", "host", "namespace", "nonce", "nonce_issued_at", "inputs", "status_list", "result", "state_after",
    "outcomes", "reasons", "alive",
)  # fmt: skip
_NAMES: Final = {
    _GENESIS: ("kind", "decided_at", "engine", "issuer", "domain", "origin", "log_key"),
    _ATTEST: _ATTEST_NAMES,
    _ANCHORED: (*_ATTEST_NAMES, "anchors"),
    _ENROL: ("kind", "decided_at", "engine", "host", "namespace", "record", "evidence", "trust", "cleared"),
    _EXCHANGE: ("kind", "decided_at", "engine", "host", "namespace", "instance", "audience", "inputs", "issued", "claims", "reasons"),
    _OPERATOR: ("kind", "decided_at", "engine", "namespace", "operator", "act", "subject", "detail"),
}  # fmt: skip
"""The places of each kind, in order."""


def encode_entry(entry: Entry) -> bytes:
    """The bytes that are signed and appended to the log."""
    if isinstance(entry, AttestDecision):
        alive = None if entry.alive is None else [[instance, until] for instance, until in entry.alive]
        return encode_cbor(
            [
                _ATTEST if entry.anchors is None else _ANCHORED,
                entry.decided_at, entry.engine.value, entry.host, entry.namespace, entry.nonce, entry.nonce_issued_at,
                _digests(entry.inputs), entry.status_list, entry.result.value, entry.state_after.value,
                [_outcome_out(one) for one in entry.outcomes], _out(entry.reasons), alive,
                *(() if entry.anchors is None else (entry.anchors.to_cbor(),)),
            ]
        )  # fmt: skip
    if isinstance(entry, EnrolDecision):
        return encode_cbor(
            [
                _ENROL, entry.decided_at, entry.engine.value, entry.host, entry.namespace, entry.record.value, entry.evidence.value,
                entry.trust.value, entry.cleared,
            ]
        )  # fmt: skip
    if isinstance(entry, ExchangeDecision):
        return encode_cbor(
            [
                _EXCHANGE, entry.decided_at, entry.engine.value, entry.host, entry.namespace, entry.instance, entry.audience,
                _digests(entry.inputs), entry.issued, None if entry.claims is None else entry.claims.value, _out(entry.reasons),
            ]
        )  # fmt: skip
    if isinstance(entry, Genesis):
        return encode_cbor(
            [
                _GENESIS, entry.decided_at, entry.engine.to_cbor(), entry.issuer, entry.domain, entry.origin, entry.log_key.to_cose_key(),
            ]
        )  # fmt: skip
    return encode_cbor(
        [
            _OPERATOR, entry.decided_at, entry.engine.value, entry.namespace, entry.operator, entry.act, entry.subject,
            None if entry.detail is None else entry.detail.value,
        ]
    )  # fmt: skip


def parse_entry(data: bytes) -> Entry:
    """Read an entry of the verifier's log. Raises FormatError."""
    read = decode_cbor(data, "decision", max_size=MAX_ENTRY)
    names = _NAMES.get(read[0]) if isinstance(read, list) and read and type(read[0]) is int else None
    if names is None or len(names) != len(read):
        raise FormatError("decision", "a kind of entry, whole", "something else")
    f = Fields(dict(zip(names, read, strict=True)), "decision")
    return _READERS[f.uint("kind")](f)


def _attest(f: Fields) -> Entry:
    return AttestDecision(
        decided_at=f.uint("decided_at"),
        engine=f.digest("engine"),
        host=f.name("host"),
        namespace=f.name("namespace"),
        nonce=f.raw("nonce", size=32),
        nonce_issued_at=f.uint("nonce_issued_at"),
        inputs=_inputs(f, INPUTS),
        status_list=f.uint("status_list"),
        result=f.digest("result"),
        state_after=f.digest("state_after"),
        outcomes=tuple(_outcome(item) for item in f.items("outcomes", most=MAX_OUTCOMES)),
        reasons=_reasons(f.items("reasons", most=MAX_REASONS)),
        alive=None if f.is_null("alive") else _alive(f.items("alive", most=MAX_OUTCOMES)),
        anchors=ShownAnchors.from_cbor(f.any("anchors")) if f.has("anchors") else None,
    )


def _exchange(f: Fields) -> Entry:
    decision = ExchangeDecision(
        decided_at=f.uint("decided_at"),
        engine=f.digest("engine"),
        host=f.name("host"),
        namespace=f.name("namespace"),
        instance=f.raw("instance", size=16),
        audience=f.text("audience", least=1, most=256),
        inputs=_inputs(f, EXCHANGE_INPUTS),
        issued=f.text("issued", least=16, most=64),
        claims=f.optional_digest("claims"),
        reasons=_reasons(f.items("reasons", most=MAX_REASONS)),
    )
    if (decision.claims is None) != bool(decision.reasons):
        raise FormatError("decision", "claims, or reasons for none", f"{len(decision.reasons)} reasons")
    return decision


def _enrol(f: Fields) -> Entry:
    return EnrolDecision(
        decided_at=f.uint("decided_at"),
        engine=f.digest("engine"),
        host=f.name("host"),
        namespace=f.name("namespace"),
        record=f.digest("record"),
        evidence=f.digest("evidence"),
        trust=f.digest("trust"),
        cleared=f.flag("cleared"),
    )


def _genesis(f: Fields) -> Entry:
    return Genesis(
        decided_at=f.uint("decided_at"),
        engine=EngineId.from_cbor(f.any("engine")),
        issuer=f.text("issuer", least=1),
        domain=f.text("domain", least=1),
        origin=f.text("origin", least=1, most=255),
        log_key=parse_cose_key(f.any("log_key")),
    )


def _operator(f: Fields) -> Entry:
    act = OperatorAct(
        decided_at=f.uint("decided_at"),
        engine=f.digest("engine"),
        namespace=f.name("namespace"),
        operator=f.text("operator"),
        act=f.text("act"),
        subject=f.text("subject"),
        detail=f.optional_digest("detail"),
    )
    if act.act not in ACTS:
        raise FormatError("decision.act", f"one of {', '.join(ACTS)}", repr(act.act))
    return act


_READERS: Final = {
    _GENESIS: _genesis, _ATTEST: _attest, _ENROL: _enrol, _EXCHANGE: _exchange, _OPERATOR: _operator, _ANCHORED: _attest,
}  # fmt: skip


def _digests(inputs: tuple[tuple[str, Digest], ...]) -> list[bytes]:
    """The digests in the order of their names, which do not travel."""
    return [digest.value for _, digest in sorted(inputs)]


def _inputs(f: Fields, names: tuple[str, ...]) -> tuple[tuple[str, Digest], ...]:
    named = _places(f.any("inputs"), names, "decision.inputs")
    return tuple((name, named.digest(name)) for name in names)


def _places(value: object, names: tuple[str, ...], what: str) -> Fields:
    """The items of an array by the names of their places, each of which it has."""
    if not isinstance(value, list) or len(value) != len(names):
        got = f"{len(value)} items" if isinstance(value, list) else type(value).__name__
        raise FormatError(what, f"an array of {', '.join(names)}", got)
    items: list[Any] = value
    return Fields(dict(zip(names, items, strict=True)), what)


def _alive(items: list[object]) -> tuple[tuple[bytes, int], ...]:
    found: list[tuple[bytes, int]] = []
    for item in items:
        f = _places(item, ("instance", "until"), "decision.alive")
        found.append((f.raw("instance", size=16), f.uint("until")))
    names = [instance for instance, _ in found]
    if names != sorted(set(names)):
        raise FormatError("decision.alive", "instances sorted, each once", "another order")
    return tuple(found)


_OUTCOME: Final = ("instance", "token_id", "status_index", "claims", "log_size", "log_root", "reasons")


def _outcome_out(one: Outcome) -> list[object]:
    claims = None if one.claims is None else one.claims.value
    return [one.instance, one.token_id, one.status_index, claims, one.log_size, one.log_root, _out(one.reasons)]


def _outcome(value: object) -> Outcome:
    f = _places(value, _OUTCOME, "decision.outcomes")
    outcome = Outcome(
        instance=f.raw("instance", size=16),
        token_id=f.text("token_id", least=16, most=64),
        status_index=f.uint("status_index"),
        claims=f.optional_digest("claims"),
        log_size=f.uint("log_size"),
        log_root=f.raw("log_root", size=32),
        reasons=_reasons(f.items("reasons", most=MAX_REASONS)),
    )
    if (outcome.claims is None) != bool(outcome.reasons):
        raise FormatError("decision.outcomes", "claims, or reasons for none", f"{len(outcome.reasons)} reasons")
    return outcome


def _out(reasons: tuple[Reason, ...]) -> list[list[str]]:
    return [reason.to_cbor() for reason in reasons]


def _reasons(items: list[object]) -> tuple[Reason, ...]:
    reasons = tuple(Reason.from_cbor(item) for item in items)
    if list(reasons) != sorted(set(reasons)):
        raise FormatError("decision.reasons", "a sorted set", "another order")
    return reasons
