"""A proof bundle judged: did this action descend from a genuine, admitted TPM, under this policy, at that time?

Ten numbered steps. Each re-runs what verifier or enforcer ran, with the same
functions, and demands the same bytes; nothing recorded is believed because it
was recorded. The first fault ends it, since what follows rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, EnrolDecision, encode_entry
from writ.formats.digest import Digest
from writ.formats.eat import SignedToken, encode_claims, parse_token
from writ.formats.engine import parse_engine
from writ.formats.evidence import InstanceRequest, binding, parse_evidence
from writ.formats.jose import b64url
from writ.formats.keys import PublicKey
from writ.formats.policy_bundle import CLOCK_SKEW, PolicyBundle, parse_bundle
from writ.formats.proof_bundle import Leaf, Opened, ProofBundle
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, parse_record
from writ.formats.state import HostRecord, encode_host_record, parse_host_record
from writ.formats.tlog.merkle import leaf_hash, verify_inclusion
from writ.formats.tpm.public import parse_public
from writ.formats.trust import Trust
from writ.verdict.appraisal import NOT_CONTINUED
from writ.verdict.quote import verify_quote
from writ.verdict.reference import parse_references
from writ.verdict.replay import Appraised, acted_again, attested_again, demand, demand_same, enrolled_again, refused, within_token
from writ.verdict.signed_entry import by_thumbprint, decision_key, verify_entry


@dataclass(frozen=True, slots=True)
class ProvenAction:
    """Proof that `prove` ran: the action, who did it, and the times (seconds) between which everything happened.

    `rerun` says whether the decision on the action was made again: it cannot be where its context was erased.
    """

    opening: Opening
    record: ActionRecord
    rerun: bool
    outcome: OutcomeRecord | None
    host: HostRecord
    tpm_root: str
    runtime: str
    exceptions: tuple[str, ...]
    enrolled_at: int
    attested_at: int
    carried_at: int
    engine_number: int
    steps: tuple[str, ...]


def prove(bundle: ProofBundle, trust: Trust) -> ProvenAction:
    """The one action in `bundle` descends from a TPM that a root in `trust` vouches for.

    1. The enrolment decision is signed by a trusted decision key.
    2. The EK chains to a trusted root; EK and AK are what they must be; the activation answer is right; the record is theirs.
    3. The attestation decision is signed by a trusted decision key; its engine and every input it names are in the bundle; the token is by
       the trusted issuer.
    4. Run again, the decision gives the same bytes.
    5. The token's claims are those the decision issued.
    6. The action record names that token and that policy, and lies within the token's life, give or take the skew.
    7. Run again, the decision on the action gives the same answer; the approval that its context names is in the bundle, and good. Where
       the context is not shown (erased, or kept back: nobody can tell) this is left out, and `rerun` says so; a permit is then still
       within the token's grants and before its end, and whether the policy allowed it is the enforcer's word.
    8. The record and its opening, which is of the token's instance and agent, are in the action log of the carried checkpoint.
    9. The TPM quoted that checkpoint, later, in evidence whose decision is signed by a trusted key, names the same checkpoint, and found no
       fork in that log.
    10. The outcome, where there is one, is in the same log, after the action; and all of it happened in order.

    Does not prove what the arguments were (they are salted commitments), so nor
    that they are those approved, nor that an approval was used once; nor that
    nothing was done after the carried checkpoint.
    Raises Refused or FormatError at the first fault.
    """
    steps: list[str] = []
    keys = by_thumbprint(trust.decision_keys)
    # 1
    enrol = verify_entry(bundle.enrol_decision, keys, "enrol_decision")
    if not isinstance(enrol, EnrolDecision):
        raise refused("proof-bundle-incomplete", "enrol_decision", "an enrolment", type(enrol).__name__)
    steps.append("enrolment decision signed")
    # 2
    host, root = _enrolled(bundle, enrol, trust)
    steps.append(f"TPM vouched for by {root}")
    # 3
    decision = verify_entry(bundle.attest_decision, keys, "attest_decision")
    if not isinstance(decision, AttestDecision):
        raise refused("proof-bundle-incomplete", "attest_decision", "an attestation", type(decision).__name__)
    policy = parse_bundle(bundle.policy)
    demand("engine", decision.engine, bundle.engine)
    engine, token = parse_engine(bundle.engine), parse_token(bundle.token)
    if token.claims.issuer != trust.issuer:
        raise refused("trust-root-unknown", "token.issuer", trust.issuer, token.claims.issuer)
    steps.append("attestation decision signed")
    # 4
    _again(bundle, decision, decision_key(parse_sign1(bundle.attest_decision), keys), trust.issuer)
    steps.append("attestation re-run, same bytes")
    # 5
    _issued(token, decision)
    steps.append("token issued by that decision")
    # 6, 7
    record = parse_record(bundle.action.record)
    if not isinstance(record, ActionRecord):
        raise refused("proof-bundle-incomplete", "action", "an action record", type(record).__name__)
    _acted(record, token, policy)
    _decided(record, token, policy, bundle.context, bundle.approval)
    rerun = bundle.context is not None
    steps.append("action decided by that token and policy" + (", re-run" if rerun else "; not re-run: its context is not shown"))
    # 8, 9
    size, log_root, carried_at = _carried(bundle, host, token, keys)
    opening = _opened(bundle, record, token)
    _included(bundle.opening, size, log_root, "opening")
    _included(bundle.action, size, log_root, "action")
    steps.append("record in the log that the TPM quoted")
    # 10
    outcome = _outcome(bundle, record, size, log_root)
    if not enrol.decided_at <= decision.decided_at <= carried_at:
        got = f"{enrol.decided_at}, {decision.decided_at}, {carried_at}"
        raise refused("chain-order", "decided_at", "enrolment, attestation, checkpoint in order", got)
    if outcome is not None and not record.decided_at - _skew(policy) <= outcome.finished_at <= carried_at + _skew(policy):
        raise refused("chain-order", "outcome.finished_at", "between the action and the checkpoint", str(outcome.finished_at))
    if record.decided_at > carried_at + _skew(policy):
        raise refused("chain-order", "action.decided_at", f"at most {carried_at + _skew(policy)}", str(record.decided_at))
    return ProvenAction(
        opening, record, rerun, outcome, host, root, token.claims.runtime, token.claims.exceptions, enrol.decided_at, decision.decided_at,
        carried_at, engine.number, tuple(steps),
    )  # fmt: skip


def _enrolled(bundle: ProofBundle, enrol: EnrolDecision, trust: Trust) -> tuple[HostRecord, str]:
    demand("record", enrol.record, bundle.record)
    enrolled, root = enrolled_again(enrol, bundle.enrolment, trust)
    record = parse_host_record(bundle.record)
    # Which CRLs the verifier held is its own word: the chain is judged here by those that the auditor holds.
    demand("record", enrol.record, encode_host_record(enrolled.record.checked(record.revocation_checked)))
    if enrolled.cleared != enrol.cleared:
        raise refused("decision-mismatch", "enrol_decision.cleared", str(enrol.cleared).lower(), str(enrolled.cleared).lower())
    return record, root


def _again(bundle: ProofBundle, decision: AttestDecision, key: PublicKey, issuer: str) -> None:
    references = parse_references(bundle.references)
    demand("result", decision.result, bundle.result)
    inputs = Appraised(bundle.evidence, bundle.record, bundle.state, bundle.policy, references, key.thumbprint(), issuer)
    demand_same("attest_decision", encode_entry(decision), encode_entry(attested_again(decision, inputs)))


def _issued(token: SignedToken, decision: AttestDecision) -> None:
    claims = Digest.of(encode_claims(token.claims))
    for outcome in decision.outcomes:
        if outcome.instance == token.claims.instance:
            if outcome.claims != claims:
                raise refused("digest-mismatch", "token.claims", str(outcome.claims), str(claims))
            return
    raise refused("digest-mismatch", "token.instance", "an instance of the decision", token.claims.instance.hex())


def _acted(record: ActionRecord, token: SignedToken, policy: PolicyBundle) -> None:
    claims = token.claims
    expected = (("token", token.digest, record.token), ("bundle", policy.digest, record.bundle), ("policy", policy.digest, claims.policy))
    for claim, want, got in expected:
        if want != got:
            raise refused("digest-mismatch", f"action.{claim}", str(want), str(got))
    if record.decided_at + _skew(policy) < claims.issued_at:
        raise refused("chain-order", "action.decided_at", f"at least {claims.issued_at - _skew(policy)}", str(record.decided_at))
    within_token(record, claims)


def _opened(bundle: ProofBundle, record: ActionRecord, token: SignedToken) -> Opening:
    """The opening under which the record stands; it is of the token's instance and agent."""
    opening = parse_record(bundle.opening.record)
    if not isinstance(opening, Opening):
        raise refused("proof-bundle-incomplete", "opening", "an opening", type(opening).__name__)
    if not record.opening == opening.sequence == bundle.opening.index:
        raise refused("inclusion-invalid", "action.opening", str(record.opening), f"{opening.sequence} at {bundle.opening.index}")
    if (opening.instance, opening.agent) != (token.claims.instance, str(token.claims.agent)):
        raise refused("digest-mismatch", "opening.instance", token.claims.instance.hex(), opening.instance.hex())
    return opening


def _decided(
    record: ActionRecord, token: SignedToken, policy: PolicyBundle, opened: Opened | None, approval: bytes | None
) -> None:  # fmt: skip
    """The decision made again in the context that the record commits to, with the same answer; where that is erased, nothing is said."""
    if opened is None:
        if approval is not None:
            raise refused("proof-bundle-incomplete", "context", "the context that names the approval", "none")
        return
    answer = acted_again(record, token.claims, policy, opened, approval)
    if answer.permit != record.permit or answer.reasons != record.reasons or answer.context != opened.context:
        raise refused("decision-mismatch", "action", f"permit {record.permit}", f"permit {answer.permit}")


def _skew(policy: PolicyBundle) -> int:
    """Seconds by which the clocks of enforcer and verifier may differ."""
    return max(CLOCK_SKEW, policy.settings.clock_skew)


def _carried(bundle: ProofBundle, host: HostRecord, token: SignedToken, keys: Mapping[bytes, PublicKey]) -> tuple[int, bytes, int]:
    """Size and root of the action log as a quote of this TPM bound them, and when the verifier decided on that quote."""
    decision = verify_entry(bundle.carrier_decision, keys, "carrier_decision")
    if not isinstance(decision, AttestDecision):
        raise refused("proof-bundle-incomplete", "carrier_decision", "an attestation", type(decision).__name__)
    demand("carrier", dict(decision.inputs)["evidence"], bundle.carrier)
    evidence = parse_evidence(bundle.carrier)
    demand("carrier.record", dict(decision.inputs)["record"], bundle.record)
    verifier = decision_key(parse_sign1(bundle.carrier_decision), keys).thumbprint()
    verify_quote(
        evidence.attest, evidence.signature, evidence.pcrs, ak=parse_public(host.ak), qualified_name=host.qualified_name,
        extra_data=binding(verifier, evidence.host, evidence.nonce, evidence.requests, evidence.further), bank=host.bank,
    )  # fmt: skip
    for request in evidence.requests:
        if request.instance == token.claims.instance:
            if request.session_key.thumbprint() != token.claims.key:
                raise refused(
                    "instance-key-mismatch", "carrier.session_key", b64url(token.claims.key), b64url(request.session_key.thumbprint())
                )
            _continued(decision, token, request)
            return request.log_size, request.log_root, decision.decided_at
    raise refused("proof-bundle-incomplete", "carrier.requests", token.claims.instance.hex(), "no such instance")


def _continued(decision: AttestDecision, token: SignedToken, request: InstanceRequest) -> None:
    """The verifier took the checkpoint as a continuation of the one before: else a second history could be carried beside the first.

    It is also the one that its log names, where all can see it.
    """
    for one in decision.outcomes:
        if one.instance == token.claims.instance:
            wanted, told = (f"{of.log_size} records, {of.log_root.hex()}" for of in (request, one))
            if wanted != told:
                raise refused("digest-mismatch", "carrier_decision.log", wanted, told)
            codes = sorted({reason.code for reason in one.reasons} & NOT_CONTINUED)
            if codes:
                raise refused("consistency-invalid", "carrier_decision", "a checkpoint that extends the one before", ", ".join(codes))
            return
    raise refused("proof-bundle-incomplete", "carrier_decision.outcomes", token.claims.instance.hex(), "no such instance")


def _included(leaf: Leaf, size: int, root: bytes, claim: str) -> None:
    if not verify_inclusion(leaf_hash(leaf.record), leaf.index, size, leaf.proof, root):
        raise refused("inclusion-invalid", claim, f"a path to {root.hex()} at size {size}", f"index {leaf.index}")


def _outcome(bundle: ProofBundle, record: ActionRecord, size: int, root: bytes) -> OutcomeRecord | None:
    if record.sequence != bundle.action.index:
        raise refused("inclusion-invalid", "action.sequence", str(bundle.action.index), str(record.sequence))
    if bundle.outcome is None:
        return None
    outcome = parse_record(bundle.outcome.record)
    if not isinstance(outcome, OutcomeRecord) or outcome.of != record.sequence:
        raise refused("digest-mismatch", "outcome.of", str(record.sequence), "another record")
    _included(bundle.outcome, size, root, "outcome")
    if outcome.sequence != bundle.outcome.index:
        raise refused("inclusion-invalid", "outcome.sequence", str(bundle.outcome.index), str(outcome.sequence))
    return outcome
