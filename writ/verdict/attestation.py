"""One attestation decided, from bytes to the bytes that are signed.

The verifier calls this once and commits what it returns; `auditor replay`
calls it again, years later, and demands the same bytes (I5).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from writ.formats.decision import AttestDecision, Outcome
from writ.formats.digest import Digest
from writ.formats.ear import encode_ear_cbor
from writ.formats.eat import encode_claims
from writ.formats.engine import EngineId
from writ.formats.errors import FormatError
from writ.formats.eventlog.cel import parse_cel
from writ.formats.eventlog.runtime import StartEvent, parse_event
from writ.formats.evidence import Evidence, parse_evidence
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.state import HostRecord, HostState, encode_host_record, encode_host_state
from writ.formats.tpm.public import parse_public
from writ.verdict.appraisal import appraise
from writ.verdict.evidence import verify_evidence
from writ.verdict.issue import Issuance, TokenDecision, consulted, issue
from writ.verdict.lease_key import judge_lease_keys
from writ.verdict.reference import ReferenceSet


@dataclass(frozen=True, slots=True)
class AttestationVerdict:
    """A proposal: what is to be signed and committed, in one transaction, or not at all."""

    entry: AttestDecision
    result: bytes
    tokens: tuple[TokenDecision, ...]
    state_after: HostState


def said_parents(evidence: Evidence, state: HostState | None) -> frozenset[bytes]:
    """The instances that evidence or state call a parent of one that asks. Nobody has verified it: it says what to look up, and no more.

    Where the log is none, what the state says: the verdict will say why.
    """
    asking = {request.instance for request in evidence.requests}
    known = [] if state is None else [one for name in asking if (one := state.runtime.find(name)) is not None]
    found = {one.parent for one in known}
    with suppress(FormatError):
        for record in parse_cel(evidence.log, first=evidence.log_first):
            event = parse_event(record.content)
            if isinstance(event, StartEvent) and event.instance in asking:
                found.add(event.parent)
    return frozenset(one for one in found if one is not None)


def decide_attestation(
    evidence: bytes, *, record: HostRecord, state: HostState | None, references: ReferenceSet, bundle: PolicyBundle,
    verifier: bytes, issuance: Issuance, engine: EngineId,
) -> AttestationVerdict:  # fmt: skip
    """The decision on `evidence`: what it is worth, who gets a token, and what is remembered.

    `verifier` is the thumbprint of the decision key. `issuance.issued` has one
    row for each request in the evidence, in its order. The nonce in the
    evidence must be the one whose issue time `issuance` states; that it is
    ours and unspent is checked when this is committed.

    Raises FormatError or Refused while the sender is not yet known to be the enrolled TPM.
    """
    parsed = parse_evidence(evidence)
    verified = verify_evidence(
        parsed, record=record, state=state, verifier=verifier, files=references.files(issuance.now), rules=bundle.settings.ima
    )
    result = appraise(
        verified, record=record, state=state, references=references, bundle=bundle, now=issuance.now, nonce=parsed.nonce.value
    )
    encoded = encode_ear_cbor(result.ear)
    leases = None if bundle.settings.lease_approver is None else judge_lease_keys(
        parsed.lease_keys, verified.quote, session_keys={r.instance: r.session_key.thumbprint() for r in verified.requests},
        ak=parse_public(record.ak), ak_qualified_name=record.qualified_name, verifier=verifier, host=record.host,
        nonce=parsed.nonce.value, approver=bundle.settings.lease_approver,
    )  # fmt: skip
    tokens = issue(result, record=record, bundle=bundle, issuance=issuance, result_digest=Digest.of(encoded), leases=leases)
    after = encode_host_state(result.state_after)
    inputs = (
        ("evidence", Digest.of(evidence)),
        ("policy", bundle.digest),
        ("record", Digest.of(encode_host_record(record))),
        ("references", references.digest),
        ("state", Digest.of(b"" if state is None else encode_host_state(state))),
    )
    outcomes = tuple(Outcome(t.instance, None if t.claims is None else Digest.of(encode_claims(t.claims)), t.reasons) for t in tokens)
    alive = consulted(result, issuance)
    entry = AttestDecision(
        engine=engine,
        decided_at=issuance.now,
        issuer=issuance.issuer,
        host=record.host,
        namespace=record.namespace,
        nonce=parsed.nonce.value,
        nonce_issued_at=issuance.nonce_issued_at,
        inputs=inputs,
        issued=issuance.issued,
        status_uri=issuance.status_uri,
        verdict="refused" if result.reasons else "accepted",
        result=Digest.of(encoded),
        state_after=Digest.of(after),
        outcomes=outcomes,
        reasons=result.reasons,
        alive=alive,
    )
    return AttestationVerdict(entry, encoded, tokens, result.state_after)
