"""Attestation: fetch what a verdict needs, let it be made, commit it, answer. No rule lives here.

The clock is read once. Tokens and decision are signed before the commit and
released only after it (I4). A verdict whose basis moved meanwhile is void and
is made again on what stands now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from verifier.heard import heard_after
from verifier.ima_lists import listed_part
from verifier.keys import Keys
from verifier.ledger import ATTEMPTS, Attested, Basis, Ledger, NonceIssued, Tables, Void
from verifier.ledger.schema import AnswerRow, ExemptionRow, HeardRow, HostRow, NonceRow, ReferenceRow, SpaceRow, TokenRow
from verifier.ledger.transaction import judge_nonce, space, stored_answer, unheard
from verifier.proposals import policy_in_force, settings_in_force
from writ.formats.corim import parse_signed_corim
from writ.formats.digest import Digest
from writ.formats.errors import Refused, Unavailable
from writ.formats.evidence import Evidence, parse_evidence
from writ.formats.exchange import EXCHANGE, AttestAnswer, InstanceAnswer, NonceAnswer
from writ.formats.exemption import parse_exemption
from writ.formats.keys import Signer
from writ.formats.policy_bundle import NONCE_LIFE, PolicyBundle, PolicySettings
from writ.formats.reason import Reason
from writ.formats.state import HostRecord, HostState, encode_host_state, parse_host_record, parse_host_state
from writ.formats.strict import b64url
from writ.formats.tlog.merkle import leaf_hash
from writ.service.clock import Clock
from writ.service.observe import get_logger
from writ.verdict.attestation import AttestationVerdict, decide_attestation, said_parents
from writ.verdict.issue import Issuance, TokenDecision
from writ.verdict.reference import ReferenceSet, reference_set

LIST_SIZE: Final = 1 << 17
"""Tokens in one status list: 16 KiB of bits."""

_LOG = get_logger("verifier.attest")


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything of the ledger that one verdict is made with."""

    row: HostRow
    heard: HeardRow
    record: HostRecord
    state: HostState | None
    space: SpaceRow
    bundle: PolicyBundle
    signed_policy: bytes
    references: ReferenceSet

    @property
    def basis(self) -> Basis:
        """What the commit checks again."""
        return Basis(
            Digest.of(self.row.record or b"").value,
            self.row.version,
            str(self.bundle.digest),
            self.space.references_digest,
            self.space.epoch,
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to evidence, and the place of its decision in the log."""

    answer: bytes
    sequence: int


class StatusIndexes:
    """Hands out the places of tokens in the status lists, each once."""

    def __init__(self, ledger: Ledger) -> None:
        last = ledger.read().last(TokenRow)
        self._next = 0 if last is None else last.status_index + 1
        self._lock = threading.Lock()

    def take(self, count: int) -> tuple[int, range]:
        """The number of a list, and `count` places that follow each other, all in it."""
        with self._lock:
            if self._next // LIST_SIZE != (self._next + max(count, 1) - 1) // LIST_SIZE:
                self._next = (self._next // LIST_SIZE + 1) * LIST_SIZE
            taken = range(self._next, self._next + count)
            self._next += count
            return taken.start // LIST_SIZE, taken


class ReferenceSets:
    """The sets of reference values in force, each put in order once and kept while it is in use."""

    _MOST: Final = 16

    def __init__(self) -> None:
        self._known: dict[bytes, ReferenceSet] = {}
        self._lock = threading.Lock()

    def of(self, tables: Tables, found: SpaceRow) -> ReferenceSet:
        """The set of the namespace as `tables` have it; the commit asks whether it still is."""
        with self._lock:
            known = self._known.get(found.references_digest)
        if known is not None:
            return known
        made = reference_set(
            (parse_signed_corim(row.signed).corim for row in tables.select(ReferenceRow, namespace=found.namespace, active=1)),
            (parse_exemption(row.data) for row in tables.select(ExemptionRow, namespace=found.namespace, active=1)),
        )
        with self._lock:
            if len(self._known) >= self._MOST:
                self._known.pop(next(iter(self._known)))
            self._known[made.digest.value] = made
        return made


class Attestation:
    """Nonces, and the answers to evidence."""

    def __init__(
        self, ledger: Ledger, keys: Keys, clock: Clock, engine: Digest, issuer: str, random: Callable[[int], bytes], sets: ReferenceSets
    ) -> None:
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self._engine = engine
        self._issuer = issuer
        self._random = random
        self._indexes = StatusIndexes(ledger)
        self._sets = sets

    def nonce(self, host: str) -> bytes:
        """A fresh nonce is the only valid one of the host; the encoded NonceAnswer."""
        tables = self._ledger.read()
        row = tables.get(HostRow, host)
        life = NONCE_LIFE if row is None else nonce_life(tables, row.namespace)
        fresh = fresh_nonce(host, self._clock.now(), life, self._random)
        self._ledger.commit(NonceIssued(fresh))
        return EXCHANGE.encode(NonceAnswer(fresh.nonce, life))

    def attest(self, host: str, body: bytes) -> Answered:
        """The committed answer to evidence, encoded. Raises FormatError, Refused (then nothing is recorded), Unavailable.

        Committed is not published: it leaves with a receipt of the published log.
        """
        evidence = parse_evidence(body)
        if evidence.host != host:
            raise Refused(Reason("host-unknown", "host", host, evidence.host))
        now = self._clock.now()
        digest = Digest.of(body).value
        for _ in range(ATTEMPTS):
            tables = self._ledger.read()
            nonce = tables.get(NonceRow, evidence.nonce.value)
            stored = stored_answer(tables, nonce, digest)
            if stored is not None:
                return _again(tables, stored)
            nonce = judge_nonce(nonce, host=host, at=now)
            inputs = read_inputs(tables, host, self._sets)
            alive = held_until(tables, host, said_parents(evidence, inputs.state), now)
            change = self._decide(body, evidence, inputs, nonce, now, alive)
            try:
                committed = self._ledger.commit(change)
            except Void as void:
                _LOG.info("verdict-void", host=host, moved=void.what)
                continue
            if committed.entry is None:
                return _again(self._ledger.read(), committed.answer or b"")
            return Answered(change.answer.answer, committed.entry.sequence)
        raise Unavailable("attestation", f"the state of {host} moved {ATTEMPTS} times while it was judged")

    def _decide(
        self, body: bytes, evidence: Evidence, inputs: Inputs, nonce: NonceRow, now: int, alive: tuple[tuple[bytes, int], ...]
    ) -> Attested:
        number, places = self._indexes.take(len(evidence.requests))
        issued = tuple((b64url(self._random(16)), place % LIST_SIZE) for place in places)
        issuance = Issuance(self._issuer, now, nonce.issued_at, issued, number, alive)
        verdict = decide_attestation(
            body,
            record=inputs.record,
            state=inputs.state,
            references=inputs.references,
            bundle=inputs.bundle,
            verifier=self._keys.decision.public.thumbprint(),
            issuance=issuance,
            engine=self._engine,
        )
        entry = self._keys.sign_entry(verdict.entry)
        signer = self._keys.current()
        answers = tuple(self._answer(token, inputs.bundle.settings, signer) for token in verdict.tokens)
        life = inputs.bundle.settings.nonce_life
        fresh = fresh_nonce(inputs.record.host, now, life, self._random)
        answer = AttestAnswer(
            entry.signed,
            verdict.result,
            verdict.reasons,
            answers,
            fresh.nonce,
            life,
            inputs.signed_policy,
            self._keys.token_keys(now),
        )
        state = encode_host_state(verdict.state_after)
        heard = heard_after(
            inputs.heard, replace(verdict.entry, reasons=verdict.reasons), before=inputs.state, after=verdict.state_after,
            token_life=inputs.bundle.settings.token_life,
        )  # fmt: skip
        before = () if inputs.row.state is None else (inputs.row.state,)
        return Attested(
            entry=entry,
            basis=inputs.basis,
            heard=heard,
            nonce=nonce.nonce,
            evidence=Digest.of(body).value,
            state=state,
            status=verdict.state_after.status,
            version=verdict.state_after.version,
            doomed=_doomed(inputs.state, verdict.state_after),
            tokens=_tokens(verdict, inputs.record, places),
            next_nonce=fresh,
            answer=AnswerRow(nonce.nonce, Digest.of(body).value, EXCHANGE.encode(answer), nonce.expires_at),
            blobs=(body, verdict.result, inputs.references.listed, *before),
            listed=listed_part(evidence, Digest.of(body), before=inputs.state, after=verdict.state_after),
        )

    def _answer(self, token: TokenDecision, settings: PolicySettings, signer: Signer) -> InstanceAnswer:
        """The token signed, and its lease key approved where there is one. Raises Unavailable."""
        signed = None if token.claims is None else self._keys.sign_token(token.claims, signer)
        approval = None
        if token.approved is not None and settings.lease_approver is not None:
            approval = self._keys.approve(token.approved, settings.lease_approver)
        return InstanceAnswer(token.instance, signed, token.reasons, approval)


def _again(tables: Tables, answer: bytes) -> Answered:
    """An answer that went out before, or was about to."""
    message = EXCHANGE.parse(answer)
    if not isinstance(message, AttestAnswer):
        raise Unavailable("ledger", "expected a stored answer to evidence, got another message")
    (row,) = tables.entries(leaf_hash(message.decision).hex(), most=1)
    return Answered(answer, row.sequence)


def fresh_nonce(host: str, now: int, life: int, random: Callable[[int], bytes]) -> NonceRow:
    """A nonce of 32 random bytes, ready to be stored."""
    return NonceRow(random(32), host, now, now + life, 1, None)


def nonce_life(tables: Tables, namespace: str) -> int:
    """Seconds a nonce lives under the namespace's policy."""
    settings = settings_in_force(tables, namespace)
    return NONCE_LIFE if settings is None else settings.nonce_life


def token_life(tables: Tables, namespace: str) -> int:
    """Seconds a token lives under the namespace's policy, 0 where none is in force."""
    settings = settings_in_force(tables, namespace)
    return 0 if settings is None else settings.token_life


def held_until(tables: Tables, host: str, instances: Iterable[bytes], now: int) -> tuple[tuple[bytes, int], ...]:
    """Until when each of these instances of the host holds a token that nobody revoked; those that hold none are left out."""
    found = ((one, tables.select(TokenRow, instance=one, host=host, revoked=0)) for one in sorted(instances))
    ends = ((one, max((row.expires_at for row in rows), default=0)) for one, rows in found)
    return tuple((one, end) for one, end in ends if end > now)


def read_inputs(tables: Tables, host: str, sets: ReferenceSets) -> Inputs:
    """What the ledger knows of the host and its namespace. Raises Refused."""
    row = tables.get(HostRow, host)
    if row is None or row.record is None:
        raise Refused(Reason("host-unknown", "host", "an enrolled host", host))
    found = space(tables, row.namespace)
    held = policy_in_force(tables, row.namespace)
    if held is None:
        raise Refused(Reason("policy-unknown", "policy", f"a policy of {row.namespace}", "none"))
    bundle, signed_policy = held
    references = sets.of(tables, found)
    return Inputs(
        row,
        tables.get(HeardRow, host) or unheard(host, row.namespace, 0),
        parse_host_record(row.record),
        None if row.state is None else parse_host_state(row.state),
        found,
        bundle,
        signed_policy,
        references,
    )


def _doomed(before: HostState | None, after: HostState) -> tuple[bytes, ...]:
    """The instances that ran before and are found drifted or tainted now, with their descendants."""
    running = {i.instance for i in (() if before is None else before.runtime.instances) if i.phase == "running"}
    fallen = [i.instance for i in after.runtime.instances if i.phase in ("drifted", "tainted") and i.instance in running]
    return tuple(dict.fromkeys(one for instance in fallen for one in descendants(after, instance)))


def descendants(state: HostState, instance: bytes) -> tuple[bytes, ...]:
    """The instance, and every instance launched by it or by one of those."""
    found = [instance]
    for one in found:
        found += [i.instance for i in state.runtime.instances if i.parent == one and i.instance not in found]
    return tuple(found)


def _tokens(verdict: AttestationVerdict, record: HostRecord, places: range) -> tuple[TokenRow, ...]:
    return tuple(
        TokenRow(place, token.claims.token_id, record.namespace, record.host, token.instance, token.claims.expires_at, 0)
        for token, place in zip(verdict.tokens, places, strict=True)
        if token.claims is not None
    )
