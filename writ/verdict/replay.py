"""Recorded decisions made again, with the functions that made them: `prove` and `auditor replay` rest on these and on no others.

Each takes a decision and the inputs that it names, demands that they are those, and says what this engine makes of them. Whether that is
the same is for whoever asks to see. Nothing recorded is believed because it was recorded, but what no function could know: the time, and
the ids that were given out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from writ.formats.action import Action
from writ.formats.approval import parse_signed_approval
from writ.formats.decision import AttestDecision, EnrolDecision, Entry, ExchangeDecision, encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import TokenClaims, parse_token
from writ.formats.enrolment import parse_enrolment_evidence
from writ.formats.errors import FormatError, Refused
from writ.formats.evidence import parse_evidence
from writ.formats.exchange import EXCHANGE, Activation, EnrolRequest, exchange_uri
from writ.formats.grants import covers
from writ.formats.keys import parse_cose_key
from writ.formats.policy_bundle import PolicyBundle, parse_bundle
from writ.formats.proof_bundle import Opened
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, commit, parse_record
from writ.formats.rerun import APPROVAL, Made, Rerun, encode_made, parse_rerun
from writ.formats.state import HostState, encode_host_record, parse_host_record, parse_host_state
from writ.formats.strict import decode_cbor, encode_cbor
from writ.formats.trust import Trust, parse_trust
from writ.verdict.approval import Consent, consent_of, verify_approval
from writ.verdict.attestation import AttestationVerdict, decide_attestation
from writ.verdict.decide import Answer, judge_recorded, lag_of, used_of
from writ.verdict.enrolment import Admission, EnrolledHost, judge_activation, judge_enrolment
from writ.verdict.issue import Issuance
from writ.verdict.reference import ReferenceSet, parse_references
from writ.verdict.token_exchange import Exchanging, decide_exchange

JUDGED: Final = frozenset(
    {"approval-required", "grant-missing", "policy-digest-mismatch", "policy-error", "policy-refused", "record-lag", "token-expired"}
)
"""The reasons that follow from token, policy and context. What else refuses an action was found elsewhere: by a gate, or on hold."""


def refused(code: str, claim: str, expected: str, got: str) -> Refused:
    """A refusal for one reason."""
    return Refused(Reason(code, claim, expected, got))


def demand(claim: str, named: Digest, data: bytes) -> None:
    """`data` is what was `named`. Raises Refused `digest-mismatch`."""
    if (got := Digest.of(data)) != named:
        raise refused("digest-mismatch", claim, str(named), str(got))


def demand_same(claim: str, recorded: bytes, again: bytes) -> None:
    """The bytes that were recorded, and those made again, are one. Raises Refused `decision-mismatch`, with the digests of both."""
    if recorded != again:
        raise refused("decision-mismatch", claim, str(Digest.of(recorded)), str(Digest.of(again)))


# --- the verifier's decisions ---------------------------------------------------------------------------------------------


def enrolled_again(decision: EnrolDecision, evidence: bytes, trust: Trust) -> tuple[EnrolledHost, str]:
    """What comes of the enrolment under `trust`, and the root that vouches for the TPM. Raises Refused or FormatError."""
    demand("enrolment", decision.evidence, evidence)
    e = parse_enrolment_evidence(evidence)
    request, activation = EXCHANGE.parse(e.request), EXCHANGE.parse(e.activation)
    if not isinstance(request, EnrolRequest) or not isinstance(activation, Activation):
        raise FormatError("enrolment evidence", "an enrolment request and an activation", "other messages")
    admission = Admission(e.host, e.namespace, e.generation, e.ek, e.unendorsed)
    pending = judge_enrolment(request, admission=admission, trust=trust, now=decision.decided_at)
    enrolled = judge_activation(
        activation, pending=pending, challenge=e.challenge, secret=e.secret, reset_count=e.reset_count, now=decision.decided_at
    )
    return enrolled, pending.root


def request_of(evidence: bytes) -> EnrolRequest:
    """The request in enrolment evidence. Raises FormatError."""
    request = EXCHANGE.parse(parse_enrolment_evidence(evidence).request)
    if not isinstance(request, EnrolRequest):
        raise FormatError("enrolment evidence", "an enrolment request", "another message")
    return request


@dataclass(frozen=True, slots=True)
class Appraised:
    """The inputs of an attestation's decision, as bytes; the references as one set, thumbprint of the signing key, issuer."""

    evidence: bytes
    record: bytes
    state: bytes
    policy: bytes
    references: ReferenceSet
    verifier: bytes
    issuer: str


def attested_again(decision: AttestDecision, inputs: Appraised) -> AttestationVerdict:
    """What is decided of that evidence then, with all that comes of it. Raises Refused or FormatError."""
    named = dict(decision.inputs)
    for claim, data in (("evidence", inputs.evidence), ("policy", inputs.policy), ("record", inputs.record), ("state", inputs.state)):
        demand(claim, named[claim], data)
    if len(decision.issued) != (asked := len(parse_evidence(inputs.evidence).requests)):
        raise refused("decision-mismatch", "attest_decision.issued", f"{asked} rows", f"{len(decision.issued)} rows")
    issuance = Issuance(inputs.issuer, decision.decided_at, decision.nonce_issued_at, decision.issued, decision.status_list, decision.alive)
    return decide_attestation(
        inputs.evidence, record=parse_host_record(inputs.record), state=_state(inputs.state), references=inputs.references,
        bundle=parse_bundle(inputs.policy), verifier=inputs.verifier, issuance=issuance, engine=decision.engine,
    )  # fmt: skip


def _state(data: bytes) -> HostState | None:
    return parse_host_state(data) if data else None


def _exchanged_again(decision: ExchangeDecision, inputs: dict[str, bytes], references: ReferenceSet) -> ExchangeDecision:
    """What is decided of that request then. Raises Refused or FormatError."""
    named = dict(decision.inputs)
    issuer = _text(inputs["issuer"])
    for claim in named.keys() & inputs.keys():
        demand(claim, named[claim], inputs[claim])
    keys = decode_cbor(inputs["keys"], "keys")
    if not isinstance(keys, list):
        raise FormatError("keys", "an array", type(keys).__name__)
    exchanging = Exchanging(issuer, exchange_uri(issuer, decision.host), decision.decided_at, decision.issued)
    return decide_exchange(
        inputs["request"], record=parse_host_record(inputs["record"]), state=_state(inputs["state"]), references=references,
        bundle=parse_bundle(inputs["policy"]), keys=[parse_cose_key(key) for key in keys], exchanging=exchanging, engine=decision.engine,
    ).entry  # fmt: skip


# --- an enforcer's --------------------------------------------------------------------------------------------------------


def judged(record: ActionRecord) -> bool:
    """Whether the record says that token and policy decided: all its reasons are theirs. A permit always says so."""
    return record.permit or (record.token is not None and record.bundle is not None and {one.code for one in record.reasons} <= JUDGED)


def acted_again(record: ActionRecord, claims: TokenClaims, policy: PolicyBundle, opened: Opened, approval: bytes | None) -> Answer:
    """What token and policy say in the context that the record commits to, with the approval that it names, if it names one.

    Raises Refused or FormatError.
    """
    if (commitment := commit(opened.salt, opened.context)) != record.context:
        raise refused("digest-mismatch", "action.context", record.context.hex(), commitment.hex())
    action = Action(record.action, record.resource, Digest("sha256", bytes(32)))
    consent = _consented(record, opened.context, claims.instance, action, policy, approval)
    return judge_recorded(
        action, claims, policy, gate=record.gate, now=record.decided_at, consent=consent, used=used_of(opened.context),
        lag=lag_of(opened.context),
    )  # fmt: skip


def within_token(record: ActionRecord, claims: TokenClaims) -> None:
    """A permit lies before the token's end and within its grants: what of it can be seen without its context. Raises Refused."""
    if not record.permit:
        return
    if record.decided_at >= claims.expires_at:
        raise refused("decision-mismatch", "action.decided_at", f"before {claims.expires_at}", str(record.decided_at))
    if not any(covers(grant, record.action, record.resource) for grant in claims.grants):
        raise refused("decision-mismatch", "action.resource", "what a grant of the token covers", f"{record.action} on {record.resource}")


def _consented(
    record: ActionRecord, context: bytes, instance: bytes, action: Action, policy: PolicyBundle, approval: bytes | None
) -> Consent | None:  # fmt: skip
    """The approval that the record's context names, verified as of the decision; None where it names none."""
    named = consent_of(context)
    if (named is None) != (approval is None):
        got = "none" if approval is None else "one that no context names"
        raise refused("proof-bundle-incomplete", "approval", "the approval that the record names", got)
    if approval is None:
        return None
    consent = verify_approval(
        parse_signed_approval(approval), action=action, gate=record.gate, instance=instance, bundle=policy, now=record.decided_at
    )  # fmt: skip
    if consent != named:
        raise refused("digest-mismatch", "approval", str(named), str(consent))
    return consent


def said(reasons: tuple[Reason, ...], context: bytes) -> bytes:
    """What of a decision on an action is compared: its reasons, none for a permit, and the context that it saw."""
    return encode_cbor([[reason.to_cbor() for reason in reasons], context])


# --- any of them, from bytes to bytes ---------------------------------------------------------------------------------------


class Reruns:
    """Decisions made again one after another. What it remembers, the reference values last read, changes no answer."""

    def __init__(self) -> None:
        self._read: tuple[tuple[bytes, ...], ReferenceSet] | None = None

    def answer(self, message: bytes) -> bytes:
        """The encoded `Made` of an encoded `Rerun`: what an engine in a wheel is asked. A message that is none has reasons too."""
        try:
            return encode_made(self.made(parse_rerun(message)))
        except FormatError as error:
            return encode_made(Made(None, (_malformed(error),)))

    def made(self, rerun: Rerun) -> Made:
        """The bytes that this engine would sign, or why it would sign none."""
        try:
            return Made(self._again(rerun))
        except FormatError as error:
            return Made(None, (_malformed(error),))
        except Refused as no:
            return Made(None, no.reasons)

    def _again(self, rerun: Rerun) -> bytes:
        inputs = dict(rerun.inputs)
        if rerun.kind == "action":
            return _action(rerun.decision, inputs)
        entry = parse_entry(rerun.decision)
        if isinstance(entry, EnrolDecision) and rerun.kind == "enrol":
            return encode_entry(_enrolment(entry, inputs))
        if isinstance(entry, AttestDecision) and rerun.kind == "attest":
            named = Appraised(
                inputs["evidence"],
                inputs["record"],
                inputs["state"],
                inputs["policy"],
                self._references(rerun),
                inputs["verifier"],
                _text(inputs["issuer"]),
            )
            return encode_entry(attested_again(entry, named).entry)
        if isinstance(entry, ExchangeDecision) and rerun.kind == "exchange":
            return encode_entry(_exchanged_again(entry, inputs, self._references(rerun)))
        raise FormatError("rerun.decision", f"a decision of the kind {rerun.kind}", type(entry).__name__)

    def _references(self, rerun: Rerun) -> ReferenceSet:
        if self._read is None or self._read[0] != rerun.references:
            self._read = rerun.references, parse_references(rerun.references)
        return self._read[1]


def _enrolment(entry: EnrolDecision, inputs: dict[str, bytes]) -> Entry:
    trust = parse_trust(inputs["trust"])
    demand("trust", entry.trust, inputs["trust"])
    enrolled, _ = enrolled_again(entry, inputs["evidence"], trust)
    record = enrolled.record
    return EnrolDecision(
        entry.engine, entry.decided_at, record.host, record.namespace, Digest.of(encode_host_record(record)),
        Digest.of(inputs["evidence"]), trust.digest, enrolled.cleared,
    )  # fmt: skip


def _action(leaf: bytes, inputs: dict[str, bytes]) -> bytes:
    record = parse_record(leaf)
    if not isinstance(record, ActionRecord):
        raise FormatError("rerun.decision", "an action", type(record).__name__)
    token, policy = parse_token(inputs["token"].decode("ascii", "replace")), parse_bundle(inputs["policy"])
    for claim, named, got in (("token", record.token, token.digest), ("bundle", record.bundle, policy.digest)):
        if named != got:
            raise refused("digest-mismatch", f"action.{claim}", str(named), str(got))
    answer = acted_again(record, token.claims, policy, Opened(inputs["salt"], inputs["context"]), inputs.get(APPROVAL))
    return said(answer.reasons, answer.context)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError("issuer", "UTF-8", "bytes that are not") from None


def _malformed(error: FormatError) -> Reason:
    return Reason("malformed", error.what[:200], error.expected, error.got)
