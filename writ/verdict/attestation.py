"""One attestation decided, from bytes to the bytes that are signed.

The verifier calls this once and commits what it returns; `auditor replay`
calls it again, years later, and demands the same bytes (I5).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from writ.formats.decision import MAX_ENTRY, MAX_REASONS, AttestDecision, Outcome, encode_entry
from writ.formats.digest import Digest
from writ.formats.ear import encode_ear_cbor
from writ.formats.eat import encode_claims
from writ.formats.errors import FormatError
from writ.formats.eventlog.cel import parse_cel
from writ.formats.eventlog.runtime import StartEvent, parse_event
from writ.formats.evidence import Evidence, parse_evidence
from writ.formats.policy_bundle import PolicyBundle
from writ.formats.public import with_salt, without_names
from writ.formats.reason import Reason
from writ.formats.state import HostRecord, HostState, encode_host_record, encode_host_state
from writ.formats.tpm.public import parse_public
from writ.verdict.appraisal import appraise, size_of, within
from writ.verdict.evidence import verify_evidence
from writ.verdict.issue import Issuance, TokenDecision, consulted, issue
from writ.verdict.lease_key import judge_lease_keys
from writ.verdict.reference import ReferenceSet

HOST_ROOM: Final = 6000
"""Bytes of a decision that reasons against 256 refused instances leave to those against their host."""


@dataclass(frozen=True, slots=True)
class AttestationVerdict:
    """A proposal: what is to be signed and committed, in one transaction, or not at all.

    `reasons` is what stands against the host, with the names of files that the entry leaves out, in as much room as an entry has.
    """

    entry: AttestDecision
    result: bytes
    tokens: tuple[TokenDecision, ...]
    state_after: HostState
    reasons: tuple[Reason, ...]


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
    verifier: bytes, issuance: Issuance, engine: Digest,
) -> AttestationVerdict:  # fmt: skip
    """The decision on `evidence`: what it is worth, who gets a token, and what is remembered.

    `verifier` is the thumbprint of the decision key, `engine` the digest of the engine that decides. `issuance.issued` has one
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
    encoded = encode_ear_cbor(with_salt(result.ear, result.reasons, evidence))
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
    entry = AttestDecision(
        engine=engine,
        decided_at=issuance.now,
        host=record.host,
        namespace=record.namespace,
        nonce=parsed.nonce.value,
        nonce_issued_at=issuance.nonce_issued_at,
        inputs=inputs,
        status_list=issuance.status_list,
        result=Digest.of(encoded),
        state_after=Digest.of(after),
        outcomes=_outcomes(parsed, issuance, tokens),
        reasons=without_names(result.reasons),
        alive=consulted(result, issuance),
        anchors=result.anchors,
    )
    entry, tokens = fitted(entry, tokens)
    return AttestationVerdict(entry, encoded, tokens, result.state_after, within(result.reasons, MAX_ENTRY))


def _outcomes(evidence: Evidence, issuance: Issuance, tokens: Sequence[TokenDecision]) -> tuple[Outcome, ...]:
    """What is answered to each request, in their order, beside the checkpoint that it carried."""
    return tuple(
        Outcome(
            token.instance, token_id, index, None if token.claims is None else Digest.of(encode_claims(token.claims)),
            request.log_size, request.log_root, token.reasons,
        )
        for request, (token_id, index), token in zip(evidence.requests, issuance.issued, tokens, strict=True)
    )  # fmt: skip


def fitted(entry: AttestDecision, tokens: Sequence[TokenDecision]) -> tuple[AttestDecision, tuple[TokenDecision, ...]]:
    """The decision with so many of its reasons that an entry holds it, and `tokens`, one for each outcome, with the same.

    Refused instances share alike what the rest leaves, less what the host's reasons take, up to `HOST_ROOM`; the host's then have what is
    left. Each that was refused says so still. A decision that an entry holds anyway is as it was.
    """
    if len(encode_entry(entry)) <= MAX_ENTRY and len(entry.reasons) <= MAX_REASONS:
        return entry, tuple(tokens)
    bare = replace(entry, outcomes=tuple(replace(one, reasons=()) for one in entry.outcomes), reasons=())
    room = MAX_ENTRY - len(encode_entry(bare))
    refused = sum(1 for token in tokens if token.reasons)
    share = (room - min(size_of(entry.reasons), HOST_ROOM)) // max(1, refused)
    kept = tuple(
        TokenDecision(token.instance, token.claims, within(token.reasons, share), token.approved) if token.reasons else token
        for token in tokens
    )
    room -= sum(size_of(token.reasons) for token in kept)
    outcomes = tuple(replace(one, reasons=token.reasons) for one, token in zip(entry.outcomes, kept, strict=True))
    return replace(entry, outcomes=outcomes, reasons=within(entry.reasons, room) if entry.reasons else ()), kept
