"""A proof bundle judged: did this action descend from a genuine, admitted TPM, under this policy, at that time?

Thirteen numbered steps, of which the first seven are those of the token
(`verdict.token_proof`). Each re-runs what verifier or enforcer ran, with the
same functions, and demands the same bytes; nothing recorded is believed because
it was recorded. The first fault ends it, since what follows rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision
from writ.formats.eat import SignedToken
from writ.formats.evidence import InstanceRequest, binding, parse_evidence
from writ.formats.jose import b64url
from writ.formats.keys import PublicKey
from writ.formats.policy_bundle import CLOCK_SKEW, PolicyBundle
from writ.formats.proof_bundle import Leaf, Opened, ProofBundle
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, parse_record
from writ.formats.state import HostRecord
from writ.formats.tlog.cosignature import TlogPolicy
from writ.formats.tlog.merkle import leaf_hash, verify_inclusion
from writ.formats.tpm.public import parse_public
from writ.formats.trust import Trust
from writ.verdict.appraisal import NOT_CONTINUED
from writ.verdict.quote import verify_quote
from writ.verdict.replay import acted_again, demand, refused, within_token
from writ.verdict.signed_entry import by_thumbprint, decision_key, verify_entry
from writ.verdict.token_proof import ProvenToken, Step, demand_order, not_shown, place, prove_token, said
from writ.verdict.transparency import Logged


@dataclass(frozen=True, slots=True)
class ProvenAction:
    """Proof that `prove` ran: the action, the chain of its token, and when (seconds) the verifier had the log that holds it.

    `rerun` says whether the decision on the action was made again: it cannot be where its context was erased. `logged` is where each
    decision and publication stands in the verifier's log, by name; empty where the trust file names no log.
    """

    chain: ProvenToken
    opening: Opening
    record: ActionRecord
    rerun: bool
    outcome: OutcomeRecord | None
    carried_at: int
    logged: tuple[tuple[str, Logged], ...]
    steps: tuple[Step, ...]


def prove(bundle: ProofBundle, trust: Trust, witnesses: TlogPolicy | None = None) -> ProvenAction:
    """The one action in `bundle` descends from a TPM that a root in `trust` vouches for.

    1. to 7. The token does (`prove_token`).
    8. The action record names that token and that policy, and lies within the token's life, give or take the skew.
    9. Run again, the decision on the action gives the same answer; the approval that its context names is in the bundle, and good. Where
       the context is not shown (erased, or kept back: nobody can tell) this is left out, and `rerun` says so; a permit is then still
       within the token's grants and before its end, and whether the policy allowed it is the enforcer's word.
    10. The record and its opening, which is of the token's instance and agent, are in the action log of the carried checkpoint.
    11. The TPM quoted that checkpoint, later, in evidence whose decision is signed by a trusted key, names the same checkpoint, and found
        no fork in that log.
    12. That decision stands in the verifier's log, behind the one that issued the token, as step 6 has it.
    13. The outcome, where there is one, is in the same log, after the action; and all of it happened in order.

    Does not prove what the arguments were (they are salted commitments), so nor
    that they are those approved, nor that an approval was used once; nor that
    nothing was done after the carried checkpoint.
    Raises Refused or FormatError at the first fault.
    """
    # 1 to 7
    chain = prove_token(bundle, trust, witnesses)
    steps, token, policy, keys = list(chain.steps), chain.token, chain.policy, by_thumbprint(trust.decision_keys)
    # 8, 9
    record = parse_record(bundle.action.record)
    if not isinstance(record, ActionRecord):
        raise refused("proof-bundle-incomplete", "action", "an action record", type(record).__name__)
    _acted(record, token, policy)
    named = f"token {token.digest}, policy {policy.digest}, {record.decided_at} in {token.claims.issued_at} to {token.claims.expires_at}"
    steps.append(Step(8, "action under that token and policy", named))
    _decided(record, token, policy, bundle.context, bundle.approval)
    rerun = bundle.context is not None
    answer = f"permit {str(record.permit).lower()} and its reasons, in the context that the record commits to"
    steps.append(
        Step(9, "action's decision re-run, same answer", answer) if rerun
        else Step(9, "action's decision not re-run: its context is not shown", "a permit against the token's grants and end")
    )  # fmt: skip
    # 10, 11
    size, log_root, carrier = _carried(bundle, chain.host, token, keys)
    carried_at = carrier.decided_at
    opening = _opened(bundle, record, token)
    _included(bundle.opening, size, log_root, "opening")
    _included(bundle.action, size, log_root, "action")
    held = f"records {record.opening} and {record.sequence} against the root {log_root.hex()} of {size} records"
    steps.append(Step(10, "record and its opening in the carried action log", held))
    quoted = f"that root and size in the extraData of a quote by the AK, against the decision of {carried_at}"
    steps.append(Step(11, "action log quoted by the TPM", quoted))
    # 12
    logged = chain.logged
    if trust.log_keys:
        after = ("carrier_decision", place(bundle.carrier_decision, bundle.carrier_inclusion, "carrier_decision", trust, witnesses))
        demand_order(("attest_decision", dict(logged)["attest_decision"]), after)
        logged = (*logged, after)
        steps.append(Step(12, "carrying decision in the verifier's log", said(after[1])))
    else:
        why = not_shown(witnesses)
        steps.append(Step(12, f"carrying decision in the verifier's log: {why}", why))
    # 13
    outcome = _outcome(bundle, record, size, log_root)
    if not chain.enrolled_at <= chain.attested_at <= carried_at:
        got = f"{chain.enrolled_at}, {chain.attested_at}, {carried_at}"
        raise refused("chain-order", "decided_at", "enrolment, attestation, checkpoint in order", got)
    if outcome is not None and not record.decided_at - _skew(policy) <= outcome.finished_at <= carried_at + _skew(policy):
        raise refused("chain-order", "outcome.finished_at", "between the action and the checkpoint", str(outcome.finished_at))
    if record.decided_at > carried_at + _skew(policy):
        raise refused("chain-order", "action.decided_at", f"at most {carried_at + _skew(policy)}", str(record.decided_at))
    became = "none shown" if outcome is None else f"{outcome.outcome}, record {outcome.sequence} of the same log"
    times = f"{chain.enrolled_at}, {chain.attested_at}, {record.decided_at}, {carried_at}, give or take {_skew(policy)} s"
    steps.append(Step(13, f"outcome: {became}; all in order", times))
    return ProvenAction(chain, opening, record, rerun, outcome, carried_at, logged, tuple(steps))


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


def _carried(
    bundle: ProofBundle, host: HostRecord, token: SignedToken, keys: Mapping[bytes, PublicKey]
) -> tuple[int, bytes, AttestDecision]:  # fmt: skip
    """Size and root of the action log as a quote of this TPM bound them, and what the verifier decided on that quote."""
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
            return request.log_size, request.log_root, decision
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
