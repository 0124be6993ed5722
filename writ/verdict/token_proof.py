"""The chain of a token judged: did a verifier issue it for a genuine, admitted TPM, and is that in the verifier's log?

Seven numbered steps, the first of every proof bundle; `verdict.proof` goes on
from them. Each re-runs what the verifier ran, with the same functions, and
demands the same bytes. The first fault ends it, since what follows rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, EnrolDecision, OperatorAct, encode_entry
from writ.formats.digest import Digest
from writ.formats.eat import SignedToken, encode_claims, parse_token
from writ.formats.engine import parse_engine
from writ.formats.keys import PublicKey, key_id
from writ.formats.policy_bundle import PolicyBundle, parse_bundle
from writ.formats.proof_bundle import Published, TokenProof
from writ.formats.state import HostRecord, RuntimeState, encode_host_record, parse_host_record
from writ.formats.tlog.cosignature import TlogPolicy
from writ.formats.tlog.inclusion import parse_inclusion
from writ.formats.tlog.merkle import leaf_hash
from writ.formats.trust import Trust
from writ.verdict.chain import judge_collateral
from writ.verdict.reference import parse_references
from writ.verdict.replay import Appraised, attested_again, demand, demand_same, enrolled_again, refused, request_of
from writ.verdict.signed_entry import by_thumbprint, decision_key, verify_entry
from writ.verdict.transparency import Logged, verify_logged

PUBLISHING: Final = {
    "policy": frozenset({"policy-publish", "reference-approve"}),
    "references": frozenset({"reference-import", "reference-approve", "reference-publish", "reference-retire"}),
}
"""The acts whose `detail` is the policy in force after them, or the set of reference values."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step that held: its number in docs/formats.md, what is true, and what was checked against what."""

    number: int
    what: str
    checked: str


@dataclass(frozen=True, slots=True)
class ProvenToken:
    """Proof that the steps 1 to 7 ran: the token, the decision that issued it, its host and policy, and the times in seconds.

    `manifest` is the root of what was measured of the token's instance, by the part of the runtime log that the quote covers.
    `logged` is where each decision and publication stands in the verifier's log, by name; empty where the trust file names no log.
    """

    token: SignedToken
    decision: AttestDecision
    policy: PolicyBundle
    host: HostRecord
    tpm_root: str
    enrolled_at: int
    engine_number: int
    manifest: Digest
    logged: tuple[tuple[str, Logged], ...]
    steps: tuple[Step, ...]

    @property
    def attested_at(self) -> int:
        """When the verifier decided on the evidence."""
        return self.decision.decided_at

    @property
    def runtime(self) -> str:
        """What the token says of the runtime."""
        return self.token.claims.runtime

    @property
    def exceptions(self) -> tuple[str, ...]:
        """What was excepted from the appraisal."""
        return self.token.claims.exceptions


def prove_token(bundle: TokenProof, trust: Trust, witnesses: TlogPolicy | None = None) -> ProvenToken:
    """The token in `bundle` was issued for a TPM that a root in `trust` vouches for, and the verifier said so in public.

    1. The enrolment decision is signed by a trusted decision key.
    2. The EK chains to a trusted root, over what the auditor and the bundle hold of certificates, and nothing that either holds revokes it;
       what the bundle holds is as a CA made it; EK and AK are what they must be; the activation answer is right; the record is theirs.
    3. The attestation decision is signed by a trusted decision key; its engine and every input it names are in the bundle; the token is by
       the trusted issuer.
    4. Run again, the decision gives the same bytes.
    5. The token's claims are those the decision issued.
    6. Both decisions stand in the verifier's log, in this order: a path leads from each to a root that a log key of the trust file signed
       with its size, and that the quorum of `witnesses` cosigned where the auditor gives a policy. A trust file without a log key leaves
       this out, and the step says so; with one, a bundle without an inclusion is refused.
    7. Where the bundle shows how policy and reference values were published, the operator's act is signed, names them, and stands in the
       log before the decision. Where it does not, the step says so.

    Does not prove that anybody used the token, that its signature is by a key that the issuer still publishes (the decision vouches for the
    claims), nor that the log showed everybody the same: for that ask witnesses, and `auditor log`.
    Raises Refused or FormatError at the first fault.
    """
    steps: list[Step] = []
    keys = by_thumbprint(trust.decision_keys)
    # 1
    enrol = verify_entry(bundle.enrol_decision, keys, "enrol_decision")
    if not isinstance(enrol, EnrolDecision):
        raise refused("proof-bundle-incomplete", "enrol_decision", "an enrolment", type(enrol).__name__)
    steps.append(Step(1, "enrolment decision signed", _by(bundle.enrol_decision, keys)))
    # 2
    host, root, against = _enrolled(bundle, enrol, trust)
    steps.append(Step(2, f"TPM vouched for by {root}", against))
    # 3
    decision = verify_entry(bundle.attest_decision, keys, "attest_decision")
    if not isinstance(decision, AttestDecision):
        raise refused("proof-bundle-incomplete", "attest_decision", "an attestation", type(decision).__name__)
    policy = parse_bundle(bundle.policy)
    demand("engine", decision.engine, bundle.engine)
    engine, token = parse_engine(bundle.engine), parse_token(bundle.token)
    if token.claims.issuer != trust.issuer:
        raise refused("trust-root-unknown", "token.issuer", trust.issuer, token.claims.issuer)
    named = f"{_by(bundle.attest_decision, keys)}; engine {decision.engine} is in the bundle; the token's issuer is the trust file's"
    steps.append(Step(3, "attestation decision signed", named))
    # 4
    after = _again(bundle, decision, decision_key(parse_sign1(bundle.attest_decision), keys), trust.issuer)
    again = f"evidence, policy, record, references, state and result by their digests; made again, {Digest.of(encode_entry(decision))}"
    steps.append(Step(4, "attestation re-run, same bytes", again))
    # 5
    claims = _issued(token, decision)
    steps.append(Step(5, "token issued by that decision", f"its claims {claims} against the decision's outcome"))
    # 6, 7
    places, shown = _logged(bundle, trust, witnesses, keys, decision)
    steps.extend(shown)
    return ProvenToken(token, decision, policy, host, root, enrol.decided_at, engine.number, _measured(after, token), places, tuple(steps))


def _by(signed: bytes, keys: Mapping[bytes, PublicKey]) -> str:
    return f"by the decision key {key_id(decision_key(parse_sign1(signed), keys))} of the trust file"


def _enrolled(bundle: TokenProof, enrol: EnrolDecision, trust: Trust) -> tuple[HostRecord, str, str]:
    """The host's record, the root that vouches for its TPM, and against what it was judged.

    What the bundle holds of certificates, CRLs and OCSP responses is judged beside the auditor's own: each is believed under its signature,
    so it can lead to a root and revoke, and make a revocation that nobody knew known. It takes nothing away.
    """
    demand("record", enrol.record, bundle.record)
    held = bundle.collateral
    sent = request_of(bundle.enrolment).ek_certificates
    judge_collateral(sent, held, trust, now=enrol.decided_at)
    wider = trust.beside(intermediates=held.intermediates, crls=held.crls, ocsp=held.ocsp)
    enrolled, root = enrolled_again(enrol, bundle.enrolment, wider)
    record = parse_host_record(bundle.record)
    # Which CRLs the verifier held is its own word: the chain is judged here by those that auditor and bundle hold.
    demand("record", enrol.record, encode_host_record(enrolled.record.checked(record.revocation_checked)))
    if enrolled.cleared != enrol.cleared:
        raise refused("decision-mismatch", "enrol_decision.cleared", str(enrol.cleared).lower(), str(enrolled.cleared).lower())
    against = (
        f"{len(trust.roots)} roots, {len(wider.intermediates)} intermediates, {len(wider.crls)} CRLs, {len(wider.ocsp)} OCSP responses at "
        f"{enrol.decided_at}; revocation known: {str(enrolled.record.revocation_checked).lower()}; record {enrol.record}"
    )
    return record, root, against


def _again(bundle: TokenProof, decision: AttestDecision, key: PublicKey, issuer: str) -> RuntimeState:
    """The runtime that the quote covered. Raises Refused where the decision is another."""
    references = parse_references(bundle.references)
    demand("result", decision.result, bundle.result)
    inputs = Appraised(bundle.evidence, bundle.record, bundle.state, bundle.policy, references, key.thumbprint(), issuer)
    again = attested_again(decision, inputs)
    demand_same("attest_decision", encode_entry(decision), encode_entry(again.entry))
    return again.state_after.runtime


def _measured(runtime: RuntimeState, token: SignedToken) -> Digest:
    known = runtime.find(token.claims.instance)
    if known is None:
        raise refused("digest-mismatch", "token.instance", "an instance that the quoted log started", token.claims.instance.hex())
    return known.manifest


def _issued(token: SignedToken, decision: AttestDecision) -> Digest:
    claims = Digest.of(encode_claims(token.claims))
    for outcome in decision.outcomes:
        if outcome.instance == token.claims.instance:
            if outcome.claims != claims:
                raise refused("digest-mismatch", "token.claims", str(outcome.claims), str(claims))
            return claims
    raise refused("digest-mismatch", "token.instance", "an instance of the decision", token.claims.instance.hex())


# --- the verifier's log ---------------------------------------------------------------------------------------------------


def place(signed: bytes, inclusion: bytes | None, claim: str, trust: Trust, witnesses: TlogPolicy | None) -> Logged:
    """Where the entry stands in a log of the trust file. Raises Refused, also where the bundle does not say; FormatError."""
    if inclusion is None:
        names = ", ".join(sorted({key.name for key in trust.log_keys}))
        raise refused("proof-bundle-incomplete", f"{claim}.inclusion", f"its place in the log {names}", "none")
    return verify_logged(leaf_hash(signed), parse_inclusion(inclusion), trust.log_keys, witnesses, f"{claim}.inclusion")


def demand_order(earlier: tuple[str, Logged], later: tuple[str, Logged]) -> None:
    """Of two entries of one log the second stands behind the first. Raises Refused."""
    (_, before), (claim, after) = earlier, later
    if before.origin == after.origin and not before.index < after.index:
        raise refused("chain-order", f"{claim}.index", f"behind entry {before.index}, {earlier[0]}", str(after.index))


def not_shown(witnesses: TlogPolicy | None) -> str:
    """What a step says where the trust file names no log. Raises Refused where the auditor asks for witnesses of one."""
    if witnesses is not None:
        raise refused("trust-root-unknown", "trust.log_keys", "the key of a log that witnesses could have cosigned", "none")
    return "not shown: the trust file names no log"


def said(logged: Logged) -> str:
    """Where an entry stands, for people."""
    saw = "" if logged.seen is None else f", cosigned by {', '.join(name for name, _ in logged.seen) or 'nobody'}"
    return f"entry {logged.index} of {logged.size} in {logged.origin}{saw}"


def _logged(
    bundle: TokenProof, trust: Trust, witnesses: TlogPolicy | None, keys: Mapping[bytes, PublicKey], decision: AttestDecision
) -> tuple[tuple[tuple[str, Logged], ...], tuple[Step, Step]]:  # fmt: skip
    if not trust.log_keys:
        why = not_shown(witnesses)
        return (), (Step(6, f"decisions in the verifier's log: {why}", why), Step(7, f"publications in the verifier's log: {why}", why))
    enrolment = ("enrol_decision", place(bundle.enrol_decision, bundle.enrol_inclusion, "enrol_decision", trust, witnesses))
    attested = ("attest_decision", place(bundle.attest_decision, bundle.attest_inclusion, "attest_decision", trust, witnesses))
    demand_order(enrolment, attested)
    places, told = [enrolment, attested], []
    for name, published in (("policy", bundle.policy_published), ("references", bundle.references_published)):
        if published is None:
            told.append(f"{name} not shown")
            continue
        where = (f"{name}_act", _published(name, published, decision, trust, witnesses, keys))
        demand_order(where, attested)
        places.append(where)
        told.append(f"{name} {said(where[1])}")
    both = f"enrolment {said(enrolment[1])}; attestation {said(attested[1])}; roots signed by a log key of the trust file"
    return tuple(places), (
        Step(6, "decisions in the verifier's log", both),
        Step(7, f"published before: {'; '.join(told)}", "the digests that the decision names, against signed acts in the log before it"),
    )


def _published(
    name: str, published: Published, decision: AttestDecision, trust: Trust, witnesses: TlogPolicy | None, keys: Mapping[bytes, PublicKey]
) -> Logged:  # fmt: skip
    claim = f"{name}_act"
    act = verify_entry(published.act, keys, claim)
    if not isinstance(act, OperatorAct) or act.act not in PUBLISHING[name]:
        got = act.act if isinstance(act, OperatorAct) else type(act).__name__
        raise refused("proof-bundle-incomplete", claim, " or ".join(sorted(PUBLISHING[name])), got)
    for what, want, got in (
        ("detail", str(dict(decision.inputs)[name]), str(act.detail)),
        ("namespace", decision.namespace, act.namespace),
    ):
        if want != got:
            raise refused("digest-mismatch", f"{claim}.{what}", want, got)
    return place(published.act, published.inclusion, claim, trust, witnesses)
