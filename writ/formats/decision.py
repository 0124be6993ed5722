"""The verifier's signed decisions: what was decided, by which engine, on which inputs.

A decision is recorded whole, as the bytes that are signed. Every input is
named by digest, the clock was read once and stands in `decided_at`, and the
engine is pinned: `auditor replay` runs it again and demands identical bytes.

Five kinds, one envelope (`Entry`): the beginning of the log, an attestation, an enrolment, an exchange, an operator's act.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.digest import Digest
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError
from writ.formats.keys import PublicKey, parse_cose_key
from writ.formats.reason import Reason
from writ.formats.strict import Fields, decode_cbor, encode_cbor

CONTENT_TYPE: Final = "application/vnd.writ.decision+cbor"
DOMAIN: Final = "domain"
"""The namespace under which an act on the whole domain is recorded."""
MAX_OUTCOMES: Final = 256
MAX_REASONS: Final = 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one instance: a token by the digest of its claims, or the reasons for none."""

    instance: bytes
    claims: Digest | None
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class AttestDecision:
    """One appraisal and what it issued.

    `inputs` names each input by digest: evidence, host record, state before,
    reference values, policy. `result` is the digest of the encoded EAR,
    `state_after` of the successor state.
    `issued` is what the shell gave beside evidence and clock: for each request
    the token id and the status index. So is `alive`, where an instance asked
    that descends from another: until when those parents held a token that did
    not ask here themselves, sorted; without the ones that held none.
    """

    engine: EngineId
    decided_at: int
    issuer: str
    host: str
    namespace: str
    nonce: bytes
    nonce_issued_at: int
    inputs: tuple[tuple[str, Digest], ...]
    issued: tuple[tuple[str, int], ...]
    status_uri: str
    verdict: str
    result: Digest
    state_after: Digest
    outcomes: tuple[Outcome, ...]
    reasons: tuple[Reason, ...]
    alive: tuple[tuple[bytes, int], ...] | None = None


@dataclass(frozen=True, slots=True)
class EnrolDecision:
    """A host enrolled: the record that came of it, and the digest of the activation evidence.

    `cleared` says that its TPM had counted further before: TPM2_Clear was run since.
    """

    engine: EngineId
    decided_at: int
    host: str
    namespace: str
    record: Digest
    evidence: Digest
    trust: Digest
    cleared: bool


@dataclass(frozen=True, slots=True)
class OperatorAct:
    """Something an operator did: which act, by whom, on what; `detail` is the digest of the object."""

    engine: EngineId
    decided_at: int
    namespace: str
    operator: str
    act: str
    subject: str
    detail: Digest | None


@dataclass(frozen=True, slots=True)
class Genesis:
    """Entry 0 of a verifier's log: the log's name, the key of its checkpoints, and for whom the verifier speaks."""

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

    engine: EngineId
    decided_at: int
    issuer: str
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
    "reference-withdraw", "exchange-key-rotate",
)  # fmt: skip


def encode_entry(entry: Entry) -> bytes:
    """The bytes that are signed and appended to the log."""
    if isinstance(entry, AttestDecision):
        return encode_cbor(
            {
                "v": 1,
                "kind": "attest",
                "engine": entry.engine.to_cbor(),
                "decided_at": entry.decided_at,
                "issuer": entry.issuer,
                "host": entry.host,
                "namespace": entry.namespace,
                "nonce": entry.nonce,
                "nonce_issued_at": entry.nonce_issued_at,
                "inputs": {name: digest.value for name, digest in entry.inputs},
                "issued": [[token_id, index] for token_id, index in entry.issued],
                "status_uri": entry.status_uri,
                "verdict": entry.verdict,
                "result": entry.result.value,
                "state_after": entry.state_after.value,
                "outcomes": [
                    [o.instance, None if o.claims is None else o.claims.value, [r.to_cbor() for r in o.reasons]] for o in entry.outcomes
                ],
                "reasons": [r.to_cbor() for r in entry.reasons],
                **({} if entry.alive is None else {"alive": [[instance, until] for instance, until in entry.alive]}),
            }
        )
    if isinstance(entry, EnrolDecision):
        return encode_cbor(
            {
                "v": 1,
                "kind": "enrol",
                "engine": entry.engine.to_cbor(),
                "decided_at": entry.decided_at,
                "host": entry.host,
                "namespace": entry.namespace,
                "record": entry.record.value,
                "evidence": entry.evidence.value,
                "trust": entry.trust.value,
                "cleared": entry.cleared,
            }
        )
    if isinstance(entry, ExchangeDecision):
        return encode_cbor(
            {
                "v": 1,
                "kind": "exchange",
                "engine": entry.engine.to_cbor(),
                "decided_at": entry.decided_at,
                "issuer": entry.issuer,
                "host": entry.host,
                "namespace": entry.namespace,
                "instance": entry.instance,
                "audience": entry.audience,
                "inputs": {name: digest.value for name, digest in entry.inputs},
                "issued": entry.issued,
                "claims": None if entry.claims is None else entry.claims.value,
                "reasons": [r.to_cbor() for r in entry.reasons],
            }
        )
    if isinstance(entry, Genesis):
        return encode_cbor(
            {
                "v": 1,
                "kind": "genesis",
                "engine": entry.engine.to_cbor(),
                "decided_at": entry.decided_at,
                "issuer": entry.issuer,
                "domain": entry.domain,
                "origin": entry.origin,
                "log_key": entry.log_key.to_cose_key(),
            }
        )
    return encode_cbor(
        {
            "v": 1,
            "kind": "operator",
            "engine": entry.engine.to_cbor(),
            "decided_at": entry.decided_at,
            "namespace": entry.namespace,
            "operator": entry.operator,
            "act": entry.act,
            "subject": entry.subject,
            "detail": None if entry.detail is None else entry.detail.value,
        }
    )


def parse_entry(data: bytes) -> Entry:
    """Read an entry of the verifier's log. Raises FormatError."""
    f = Fields(decode_cbor(data, "decision"), "decision")
    f.version(1)
    kind = f.text("kind")
    readers = {"attest": _attest, "enrol": _enrol, "operator": _operator, "exchange": _exchange, "genesis": _genesis}
    if kind not in readers:
        raise FormatError("decision.kind", f"one of {', '.join(readers)}", repr(kind))
    entry = readers[kind](f)
    f.done()
    return entry


def _attest(f: Fields) -> Entry:
    return AttestDecision(
        engine=EngineId.from_cbor(f.any("engine")),
        decided_at=f.uint("decided_at"),
        issuer=f.text("issuer", least=1),
        host=f.name("host"),
        namespace=f.name("namespace"),
        nonce=f.raw("nonce", size=32),
        nonce_issued_at=f.uint("nonce_issued_at"),
        inputs=_inputs(f, INPUTS),
        issued=tuple(_issued(item) for item in f.items("issued", most=MAX_OUTCOMES)),
        status_uri=f.text("status_uri"),
        verdict=_verdict(f.text("verdict")),
        result=f.digest("result"),
        state_after=f.digest("state_after"),
        outcomes=tuple(_outcome(item) for item in f.items("outcomes", most=MAX_OUTCOMES)),
        reasons=_reasons(f.items("reasons", most=MAX_REASONS)),
        alive=_alive(f.items("alive", most=MAX_OUTCOMES)) if f.has("alive") else None,
    )


def _inputs(f: Fields, names: tuple[str, ...]) -> tuple[tuple[str, Digest], ...]:
    inputs = f.mapping("inputs", most=len(names))
    if set(inputs) != set(names):
        raise FormatError("decision.inputs", ", ".join(names), ", ".join(map(str, sorted(map(str, inputs))))[:100])
    named = Fields(inputs, "decision.inputs")
    return tuple((name, named.digest(name)) for name in names)


def _exchange(f: Fields) -> Entry:
    decision = ExchangeDecision(
        engine=EngineId.from_cbor(f.any("engine")),
        decided_at=f.uint("decided_at"),
        issuer=f.text("issuer", least=1),
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
        EngineId.from_cbor(f.any("engine")),
        f.uint("decided_at"),
        f.name("host"),
        f.name("namespace"),
        f.digest("record"),
        f.digest("evidence"),
        f.digest("trust"),
        f.flag("cleared"),
    )


def _genesis(f: Fields) -> Entry:
    return Genesis(
        EngineId.from_cbor(f.any("engine")), f.uint("decided_at"), f.text("issuer", least=1), f.text("domain", least=1),
        f.text("origin", least=1, most=255), parse_cose_key(f.any("log_key")),
    )  # fmt: skip


def _operator(f: Fields) -> Entry:
    engine, decided_at, namespace = EngineId.from_cbor(f.any("engine")), f.uint("decided_at"), f.name("namespace")
    operator, act, subject = f.text("operator"), f.text("act"), f.text("subject")
    if act not in ACTS:
        raise FormatError("decision.act", f"one of {', '.join(ACTS)}", repr(act))
    return OperatorAct(engine, decided_at, namespace, operator, act, subject, f.optional_digest("detail"))


def _verdict(text: str) -> str:
    if text not in ("accepted", "refused"):
        raise FormatError("decision.verdict", "accepted or refused", repr(text))
    return text


def _issued(value: object) -> tuple[str, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError("decision.issued", "[token id, status index]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "decision.issued")
    return f.text(0, least=16, most=64), f.uint(1)


def _alive(items: list[object]) -> tuple[tuple[bytes, int], ...]:
    found: list[tuple[bytes, int]] = []
    for item in items:
        if not isinstance(item, list) or len(item) != 2:
            raise FormatError("decision.alive", "[instance, seconds]", type(item).__name__)
        f = Fields(dict(enumerate(item)), "decision.alive")
        found.append((f.raw(0, size=16), f.uint(1)))
    names = [instance for instance, _ in found]
    if names != sorted(set(names)):
        raise FormatError("decision.alive", "instances sorted, each once", "another order")
    return tuple(found)


def _outcome(value: object) -> Outcome:
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[2], list):
        raise FormatError("decision.outcomes", "[instance, claims or null, reasons]", type(value).__name__)
    f = Fields(dict(enumerate(value)), "decision.outcomes")
    return Outcome(f.raw(0, size=16), f.optional_digest(1), _reasons(f.items(2, most=MAX_REASONS)))


def _reasons(items: list[object]) -> tuple[Reason, ...]:
    reasons = tuple(Reason.from_cbor(item) for item in items)
    if list(reasons) != sorted(set(reasons)):
        raise FormatError("decision.reasons", "a sorted set", "another order")
    return reasons
