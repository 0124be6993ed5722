"""Enrolment: an admission, a challenge that only the right TPM can answer, and the commit that binds the two for ever.

Pending challenges live in memory only: bounded, 120 seconds, one for a host
and an EK. Any answer, right or wrong, uses its challenge up. A byte-identical
retry of a right answer is given the same `Enrolled` again while it is remembered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from verifier.attest import fresh_nonce, nonce_life
from verifier.keys import Keys
from verifier.ledger import Enrolment as EnrolmentChange
from verifier.ledger import Ledger, Tables, decide_and_commit
from verifier.ledger.schema import AdmissionRow, HostRow
from verifier.ledger.transaction import judge_admission, judge_ek
from verifier.trust import Anchors
from writ.formats.decision import EnrolDecision
from writ.formats.digest import Digest
from writ.formats.enrolment import EnrolmentEvidence, encode_enrolment_evidence
from writ.formats.errors import Refused
from writ.formats.exchange import EXCHANGE, Activation, EnrolChallenge, Enrolled, EnrolRequest
from writ.formats.reason import Reason
from writ.formats.state import HostRecord, HostState, clean_runtime, encode_host_record, encode_host_state, parse_host_state
from writ.formats.tpm.credential import SEED_SIZE, make_credential
from writ.formats.trust import Trust, encode_trust
from writ.service.clock import Clock
from writ.verdict.enrolment import Admission, EnrolledHost, VerifiedEnrolment, judge_activation, judge_enrolment

CHALLENGE_LIFE: Final = 120
MAX_PENDING: Final = 1024


@dataclass(frozen=True, slots=True)
class Pending:
    """One challenge that waits for its answer. `until` is on the boot clock."""

    verified: VerifiedEnrolment
    admission: bytes
    request: bytes
    challenge: bytes
    secret: bytes
    until: float
    trust: Trust


class Enrolment:
    """The two halves of an enrolment."""

    def __init__(
        self,
        ledger: Ledger,
        keys: Keys,
        anchors: Anchors,
        clock: Clock,
        engine: Digest,
        domain: str,
        issuer: str,
        random: Callable[[int], bytes],
    ) -> None:
        self._ledger = ledger
        self._keys = keys
        self._anchors = anchors
        self._clock = clock
        self._engine = engine
        self._domain = domain
        self._issuer = issuer
        self._random = random
        self._pending: dict[bytes, Pending] = {}
        self._answered: dict[bytes, tuple[bytes, bytes, float]] = {}
        self._lock = threading.Lock()

    def enrol(self, request: EnrolRequest, body: bytes) -> EnrolChallenge:
        """A challenge for the TPM that `request` names, if an operator admitted it. Raises FormatError, Refused.

        1. The ticket, or an EK digest admitted beforehand, admits the host.
        2. The request is judged: EK chain, AK attributes, runtime PCR.
        3. The EK is free or this host's already, and the host has no other.
        4. A secret is encrypted to the EK and the AK's name; an older challenge for the same host and EK is void.
        """
        now = self._clock.now()
        tables = self._ledger.read()
        # 1
        row = find_admission(tables, request, now)
        host = tables.get(HostRow, row.host)
        generation = 1 if host is None else host.generation + 1
        admission = Admission(row.host, row.namespace, generation, None if row.ek is None else Digest.parse(row.ek), bool(row.unendorsed))
        # 2
        trust = self._anchors.current()
        verified = judge_enrolment(request, admission=admission, trust=trust, now=now)
        # 3
        judge_ek(tables, host, ek=str(verified.ek_digest), host=row.host)
        # 4
        challenge, secret = self._random(32), self._random(32)
        credential, encrypted = make_credential(verified.ek, verified.ak.name(), secret, seed=self._random(SEED_SIZE))
        self._remember(challenge, Pending(verified, row.id, body, challenge, secret, self._clock.boot() + CHALLENGE_LIFE, trust))
        return EnrolChallenge(challenge, credential, encrypted)

    def activate(self, activation: Activation, body: bytes) -> bytes:
        """The host is enrolled; the encoded Enrolled. Raises Refused: the challenge is burnt then, and nothing is revealed.

        1. The challenge is pending and alive; it is used up whatever follows.
        2. The answer shows the TPM that holds the EK recovered the secret, with the AK below it and the host's key.
        3. Admission, EK and host are checked again where it is committed.
        """
        # 1
        again = self._repeated(activation.challenge, body)
        if again is not None:
            return again
        pending = self._take(activation.challenge)
        # 2
        now = self._clock.now()
        name = pending.verified.admission.host

        def activated(tables: Tables) -> tuple[EnrolmentChange, Enrolled]:
            before = tables.get(HostRow, name)
            known = _reset_count(before, str(pending.verified.ek_digest))
            enrolled = judge_activation(
                activation, pending=pending.verified, challenge=activation.challenge, secret=pending.secret, reset_count=known, now=now
            )  # fmt: skip
            # 3
            change = self._change(tables, before, enrolled, known, pending, body, now)
            return change, self._enrolled(enrolled.record, change)

        answer = EXCHANGE.encode(decide_and_commit(self._ledger, activated, what="enrolment", of=f"the state of {name}"))
        with self._lock:
            self._answered[activation.challenge] = (Digest.of(body).value, answer, pending.until)
        return answer

    def _change(
        self, tables: Tables, before: HostRow | None, enrolled: EnrolledHost, known: int | None, pending: Pending, body: bytes, now: int
    ) -> EnrolmentChange:
        record, trust = enrolled.record, pending.trust
        encoded = encode_host_record(record)
        state = surviving_state(before, record.bank)
        status = "active" if before is None or before.status == "admitted" else before.status
        by = None if before is None else before.contained_by
        after, version = (None, -1) if state is None else (encode_host_state(state), state.version)
        row = HostRow(record.host, record.namespace, record.generation, status, by, str(record.ek), encoded, after, version)
        evidence = _evidence(pending, body, known)
        decision = EnrolDecision(
            self._engine, now, record.host, record.namespace, Digest.of(encoded), Digest.of(evidence), trust.digest, enrolled.cleared
        )
        nonce = fresh_nonce(record.host, now, nonce_life(tables, record.namespace), self._random)
        blobs = (encoded, evidence, encode_trust(trust))
        return EnrolmentChange(self._keys.sign_entry(decision), pending.admission, before, row, nonce, blobs, enrolled.cleared)

    def _enrolled(self, record: HostRecord, change: EnrolmentChange) -> Enrolled:
        nonce = change.nonce
        key = self._keys.decision.public
        return Enrolled(record.host, record.namespace, self._domain, self._issuer, key, nonce.nonce, nonce.expires_at - nonce.issued_at)

    # --- pending challenges ---------------------------------------------------------------------------------------------

    def _remember(self, challenge: bytes, pending: Pending) -> None:
        who = (pending.verified.admission.host, pending.verified.ek_digest)
        with self._lock:
            self._expire()
            for known, other in list(self._pending.items()):
                if (other.verified.admission.host, other.verified.ek_digest) == who:
                    del self._pending[known]
            if len(self._pending) >= MAX_PENDING:
                raise Refused(Reason("too-many-requests", "enrolment", f"at most {MAX_PENDING} pending challenges", "more"))
            self._pending[challenge] = pending

    def _take(self, challenge: bytes) -> Pending:
        with self._lock:
            pending = self._pending.pop(challenge, None)
            self._expire()
        if pending is None:
            raise Refused(Reason("challenge-unknown", "challenge", "a pending challenge", "another"))
        if self._clock.boot() >= pending.until:
            raise Refused(Reason("challenge-expired", "challenge", f"an answer within {CHALLENGE_LIFE} s", "a later one"))
        return pending

    def _repeated(self, challenge: bytes, body: bytes) -> bytes | None:
        with self._lock:
            known = self._answered.get(challenge)
        return known[1] if known is not None and known[0] == Digest.of(body).value and self._clock.boot() < known[2] else None

    def _expire(self) -> None:
        now = self._clock.boot()
        self._pending = {challenge: pending for challenge, pending in self._pending.items() if now < pending.until}
        self._answered = {challenge: answer for challenge, answer in self._answered.items() if now < answer[2]}


def _evidence(pending: Pending, activation: bytes, reset_count: int | None) -> bytes:
    """All that an auditor needs to judge the enrolment again."""
    a, p = pending.verified.admission, pending
    evidence = EnrolmentEvidence(
        a.host, a.namespace, a.generation, a.ek, a.unendorsed, p.request, p.challenge, p.secret, activation, reset_count
    )
    return encode_enrolment_evidence(evidence)


def _reset_count(before: HostRow | None, ek: str) -> int | None:
    """What is recorded of this very TPM; the counters of one that was replaced say nothing of it."""
    return None if before is None or before.state is None or before.ek != ek else parse_host_state(before.state).reset_count


def find_admission(tables: Tables, request: EnrolRequest, now: int) -> AdmissionRow:
    """The admission that the request's ticket names, or without one the EK digest admitted for the host. Raises Refused."""
    if request.ticket is not None:
        row = tables.get(AdmissionRow, ticket_id(request.ticket))
        return judge_admission(row if row is not None and row.host == request.host else None, at=now)
    open_ones = tables.select(AdmissionRow, host=request.host, ticket=0, spent=0)
    if not open_ones:
        raise Refused(Reason("ek-not-admitted", "ticket", "a ticket, or an EK digest admitted for this host", "neither"))
    return judge_admission(open_ones[-1], at=now)


def ticket_id(ticket: str) -> bytes:
    """How the ledger names a ticket: its SHA-256."""
    return Digest.of(ticket.encode("utf-8")).value


def surviving_state(before: HostRow | None, bank: str) -> HostState | None:
    """What a re-enrolment keeps (I6): containment, the logs owed, and that no instance of before goes on: its checkpoint would be lost.

    A host owes logs by its name, whatever TPM it has: else who was refused for its boot would enrol again. Only `Hosts.excuse` ends that.
    """
    if before is None or before.state is None:
        return None
    old = parse_host_state(before.state)
    tainted = tuple(i.in_phase("tainted") for i in old.runtime.instances if i.phase != "stopped")
    return HostState(old.version + 1, old.status, 0, 0, 0, False, old.seen_at, clean_runtime(bank).with_instances(tainted), old.logs)
