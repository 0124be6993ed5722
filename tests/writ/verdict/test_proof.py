"""Each step of `prove`: a whole chain is proven, and one thing wrong is named."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

from tests.world.authority import Ca, crls_of
from tests.world.chip import Maker
from tests.world.machine import Machine
from tests.world.scene import (
    ENGINE_ID,
    ISSUER,
    NOW,
    Scene,
    permitted,
    policy,
    sign_entry,
    sign_token,
    signer,
    sixteen,
)  # fmt: skip
from tests.writ.verdict.refusal import refused
from writ.formats.cose import parse_sign1
from writ.formats.decision import AttestDecision, EnrolDecision, OperatorAct, encode_entry, parse_entry
from writ.formats.digest import Digest
from writ.formats.eat import encode_claims, parse_token
from writ.formats.engine import encode_engine
from writ.formats.enrolment import encode_enrolment_evidence, parse_enrolment_evidence
from writ.formats.errors import FormatError, Refused
from writ.formats.evidence import encode_evidence, parse_evidence
from writ.formats.exemption import Exemption
from writ.formats.policy_bundle import encode_bundle
from writ.formats.proof_bundle import Leaf, Opened, ProofBundle, encode_proof_bundle, parse_proof_bundle
from writ.formats.reason import Reason
from writ.formats.record import Opening, OutcomeRecord, commit, encode_record, parse_record
from writ.formats.state import encode_host_record
from writ.formats.tlog.merkle import inclusion_proof, leaf_hash, root
from writ.formats.trust import ChainRules, ManufacturerRoot, Trust
from writ.formats.x509 import parse_certificate
from writ.verdict.proof import prove

SCENE = Scene()
WHOLE = SCENE.proof_bundle()
TRUST = SCENE.trust
CONTINUED = Scene()
CONTINUED.launch("one")
CONTINUED.attest("one")
LATER = CONTINUED.proof_bundle()
"""A chain whose attestation had a state before it."""


def entry_of(signed: bytes) -> Any:
    payload = parse_sign1(signed).payload
    assert payload is not None
    return parse_entry(payload)


def refuse(bundle: ProofBundle, trust: Trust = TRUST) -> Reason:
    return refused(lambda: prove(bundle, trust))


def swap(part: str, value: Any, whole: ProofBundle = WHOLE) -> ProofBundle:
    """The bundle with another value in one part."""
    changed: dict[str, Any] = {part: value}
    return replace(whole, **changed)


def forged(part: str, change: Callable[[Any], Any]) -> ProofBundle:
    """The bundle with one decision changed and signed again by the decision key: a verifier that lies."""
    return swap(part, sign_entry(change(entry_of(getattr(WHOLE, part)))))


def test_whole_chain_is_proven_with_every_step_named() -> None:
    proven = prove(WHOLE, TRUST)
    assert (proven.record.action, proven.record.resource, proven.record.sequence) == ("tool.call", "files/a", 2)
    assert proven.outcome is not None
    assert (proven.outcome.of, proven.outcome.outcome) == (2, "done")
    assert (proven.chain.host, proven.chain.tpm_root, proven.chain.runtime, proven.chain.exceptions) == (
        SCENE.record, "maker", "runtime-only", ("attestor-not-rooted",),
    )  # fmt: skip
    assert (proven.chain.enrolled_at, proven.chain.attested_at, proven.carried_at) == (NOW - 5000, NOW, NOW + 30)
    assert (proven.chain.engine_number, [step.number for step in proven.steps]) == (1, [*range(1, 14)])


def test_chain_with_a_state_before_it_and_without_an_outcome_is_proven() -> None:
    assert LATER.state
    assert prove(LATER, CONTINUED.trust).outcome is not None
    assert prove(replace(LATER, outcome=None), CONTINUED.trust).outcome is None


def test_action_of_a_child_is_proven_from_what_its_decision_says_of_its_parents_token() -> None:
    scene = Scene()
    scene.launch("boss")
    scene.launch("one", parent="boss")
    scene.alive = ((sixteen("boss"), NOW + 45),)
    bundle = scene.proof_bundle()
    assert parse_token(bundle.token).claims.expires_at == NOW + 45
    assert prove(bundle, scene.trust).record.action == "tool.call"
    entry = entry_of(bundle.attest_decision)
    assert isinstance(entry, AttestDecision)
    for alive in (None, (), ((sixteen("boss"), NOW + 46),)):
        forged = replace(bundle, attest_decision=sign_entry(replace(entry, alive=alive)))
        assert refuse(forged, scene.trust).code == "decision-mismatch"


def test_bundle_survives_its_file() -> None:
    assert parse_proof_bundle(encode_proof_bundle(WHOLE)) == WHOLE


# --- 1, 2


@pytest.mark.parametrize("part", ["enrol_decision", "attest_decision", "carrier_decision"])
def test_decision_of_a_key_that_is_not_trusted_is_refused(part: str) -> None:
    alien = sign_entry(entry_of(getattr(WHOLE, part)), signer("alien"))
    assert refuse(swap(part, alien)).code == "trust-root-unknown"


@pytest.mark.parametrize("part", ["enrol_decision", "attest_decision", "carrier_decision"])
def test_decision_whose_signature_is_of_another_is_refused(part: str) -> None:
    signed = bytearray(getattr(WHOLE, part))
    signed[-1] ^= 1
    reason = refuse(swap(part, bytes(signed)))
    assert (reason.code, reason.claim) == ("signature-invalid", part)


def test_decision_signed_as_something_else_is_refused() -> None:
    for kind in ("application/vnd.writ.policy+cbor", "\x1b[31m"):
        reason = refuse(replace(WHOLE, enrol_decision=sign_entry(SCENE.enrol_entry, content_type=kind)))
        assert (reason.code, reason.claim) == ("signature-invalid", "enrol_decision.content_type")
        assert reason.got.isprintable()


ACT = OperatorAct(ENGINE_ID.digest, NOW, "billing", "root", "host-admit", "host-1", None)


@pytest.mark.parametrize("part", ["enrol_decision", "attest_decision", "carrier_decision"])
def test_decision_of_another_kind_is_refused(part: str) -> None:
    reason = refuse(swap(part, sign_entry(ACT)))
    assert (reason.code, reason.claim) == ("proof-bundle-incomplete", part)
    swapped = WHOLE.enrol_decision if part != "enrol_decision" else WHOLE.attest_decision
    assert refuse(swap(part, swapped)).claim == part


def test_enrolment_and_record_are_those_the_decision_names() -> None:
    other = Scene(host="host-2")
    assert refuse(replace(WHOLE, enrolment=other.enrolment)).claim == "enrolment"
    assert refuse(replace(WHOLE, record=encode_host_record(other.record))).claim == "record"


def test_enrolment_is_judged_again() -> None:
    evidence = parse_enrolment_evidence(WHOLE.enrolment)
    wrong = encode_enrolment_evidence(replace(evidence, secret=b"t" * 32))
    lied = replace(SCENE.enrol_entry, evidence=Digest.of(wrong))
    assert refuse(replace(WHOLE, enrolment=wrong, enrol_decision=sign_entry(lied))).code == "activation-wrong"
    swapped = encode_enrolment_evidence(replace(evidence, request=evidence.activation))
    lied = replace(SCENE.enrol_entry, evidence=Digest.of(swapped))
    for bad in (swapped, encode_enrolment_evidence(replace(evidence, activation=evidence.request))):
        with pytest.raises(FormatError):
            prove(replace(WHOLE, enrolment=bad, enrol_decision=sign_entry(replace(lied, evidence=Digest.of(bad)))), TRUST)


def test_record_that_the_enrolment_does_not_give_is_refused() -> None:
    record = encode_host_record(replace(SCENE.record, tpm_class="discrete"))
    lied = replace(SCENE.enrol_entry, record=Digest.of(record))
    reason = refuse(replace(WHOLE, record=record, enrol_decision=sign_entry(lied)))
    assert (reason.code, reason.claim) == ("digest-mismatch", "record")


def test_auditor_judges_the_chain_by_his_own_crls_whatever_the_verifier_had() -> None:
    crls = crls_of(SCENE.chip.maker, this=NOW - 6_000)
    checked = Scene(crls=crls)
    assert (checked.record.revocation_checked, SCENE.record.revocation_checked) == (True, False)
    bundle = checked.proof_bundle()
    for anchors in (checked.trust, TRUST):
        assert prove(bundle, anchors).chain.host.revocation_checked
        assert not prove(WHOLE, anchors if anchors is TRUST else replace(TRUST, crls=crls)).chain.host.revocation_checked
    with pytest.raises(Refused, match="revocation-unknown"):
        prove(bundle, replace(TRUST, rules=replace(TRUST.rules, crl_required=True)))


def test_record_of_the_attestation_is_the_one_that_was_enrolled() -> None:
    """A verifier that enrolled one record and attested under another."""
    scene = Scene()
    scene.record = replace(scene.record, generation=2)
    reason = refuse(scene.proof_bundle(), scene.trust)
    assert (reason.code, reason.claim) == ("digest-mismatch", "record")


def test_tpm_whose_maker_is_not_trusted_is_refused() -> None:
    stranger = ManufacturerRoot("stranger", "discrete", Maker("stranger").root())
    assert refuse(WHOLE, replace(TRUST, roots=(stranger,))).code == "ek-certificate-refused"
    assert refuse(WHOLE, replace(TRUST, roots=())).code == "ek-certificate-refused"


def test_ocsp_responses_of_the_trust_file_are_judged_at_the_time_of_the_enrolment() -> None:
    then, root, ca = SCENE.enrol_entry.decided_at, Ca("maker root", key="maker/root"), Ca("maker ca", key="maker/ca")
    of_ek, of_ca = (parse_certificate(der).serial for der in SCENE.chip.ek_certificates)
    known = replace(TRUST, rules=ChainRules(crl_required=True), ocsp=(root.ocsp(of_ca, this=then), ca.ocsp(of_ek, this=then)))
    assert prove(WHOLE, known).chain.tpm_root == "maker"
    assert refuse(WHOLE, replace(known, ocsp=known.ocsp[:1])).code == "revocation-unknown"
    assert refuse(WHOLE, replace(known, ocsp=(known.ocsp[0], ca.ocsp(of_ek, this=then + 1)))).code == "revocation-unknown"
    assert refuse(WHOLE, replace(TRUST, ocsp=(ca.ocsp(of_ek, "revoked", this=then),))).code == "ek-certificate-revoked"


def test_class_in_the_record_is_the_auditors_own() -> None:
    other = replace(TRUST, roots=(replace(TRUST.roots[0], tpm_class="discrete"),))
    assert refuse(WHOLE, other).code == "digest-mismatch"


def test_any_of_the_trusted_decision_keys_serves() -> None:
    assert prove(WHOLE, replace(TRUST, decision_keys=(signer("other").public, *TRUST.decision_keys))).chain.tpm_root == "maker"
    assert refuse(WHOLE, replace(TRUST, decision_keys=())).code == "trust-root-unknown"


# --- 3, 4


def test_issuer_other_than_the_trusted_is_refused() -> None:
    assert refuse(WHOLE, replace(TRUST, issuer="https://other")).claim == "token.issuer"
    assert TRUST.issuer == ISSUER


@pytest.mark.parametrize(
    "part, other",
    [
        ("evidence", WHOLE.carrier),
        ("policy", encode_bundle(policy(policies="permit(principal, action, resource);"))),
        ("state", LATER.state),
        ("result", b"other"),
    ],
)
def test_input_other_than_the_decision_names_is_refused(part: str, other: bytes) -> None:
    reason = refuse(swap(part, other))
    assert (reason.code, reason.claim) == ("digest-mismatch", part)


def test_record_other_than_the_attestation_names_is_refused() -> None:
    bundle = forged("attest_decision", lambda e: replace(e, inputs=tuple((n, Digest.of(b"") if n == "record" else d) for n, d in e.inputs)))
    assert refuse(bundle).claim == "record"


def test_references_other_than_the_decision_names_are_refused() -> None:
    assert refuse(replace(WHOLE, references=WHOLE.references[:1])).code == "decision-mismatch"


LIES: dict[str, Callable[[AttestDecision], AttestDecision]] = {
    "another verdict": lambda e: replace(e, reasons=(Reason("host-contained", "host.status", "active", "contained"),)),
    "host": lambda e: replace(e, host="host-2"),
    "namespace": lambda e: replace(e, namespace="other"),
    "nonce": lambda e: replace(e, nonce=bytes(32)),
    "state after": lambda e: replace(e, state_after=Digest.of(b"")),
    "a token the policy never gave": lambda e: replace(e, outcomes=(replace(e.outcomes[0], claims=Digest.of(b"x")),)),
    "no outcomes": lambda e: replace(e, outcomes=()),
    "time": lambda e: replace(e, decided_at=e.decided_at + 1),
    "another id": lambda e: replace(e, outcomes=(replace(e.outcomes[0], token_id="another-token-id"),)),
    "another list": lambda e: replace(e, status_list=2),
    "another checkpoint": lambda e: replace(e, outcomes=(replace(e.outcomes[0], log_size=9),)),
    "one outcome more": lambda e: replace(e, outcomes=(*e.outcomes, replace(e.outcomes[0], instance=sixteen("two")))),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_decision_that_run_again_says_otherwise_is_refused(lie: Callable[[AttestDecision], AttestDecision]) -> None:
    assert refuse(forged("attest_decision", lie)).code == "decision-mismatch"


# --- 5, 6, 7


def test_token_of_another_attestation_is_refused() -> None:
    later = permitted(SCENE.judge(SCENE.evidence("one")))
    assert refuse(replace(WHOLE, token=sign_token(later))).claim == "token.claims"
    stranger = replace(parse_token(WHOLE.token).claims, instance=sixteen("two"))
    assert refuse(replace(WHOLE, token=sign_token(stranger))).claim == "token.instance"


def rerecorded(
    *, acted: int = 0, shift: int = 0, context: bytes | None = None, opened: dict[str, Any] | None = None, shown: bool = True,
    **changed: Any,
) -> Reason:  # fmt: skip
    """The action recorded otherwise, in a log whose root the TPM really quoted: an enforcer that lies."""
    scene = Scene()
    scene.launch("one")
    evidence = scene.evidence("one")
    verdict = scene.judge(evidence)
    claims, token = permitted(verdict), sign_token(permitted(verdict))
    scene.state = verdict.state_after
    scene.now += acted
    record = scene.act("one", token, claims)
    seen = scene.running["one"].contexts[record.sequence] if context is None else context
    record = replace(record, context=commit(bytes(32), seen), **changed)
    opening = parse_record(scene.running["one"].opening)
    assert isinstance(opening, Opening)
    leaves = scene.running["one"].leaves = [encode_record(replace(opening, **(opened or {}))), encode_record(record)]
    scene.now += 30 + shift
    carrier = scene.evidence("one")
    carried = scene.judge(carrier)
    hashes = [leaf_hash(leaf) for leaf in leaves]
    bundle = replace(
        WHOLE, opening=Leaf(leaves[0], 0, (hashes[1],)), action=Leaf(leaves[1], 1, (hashes[0],)),
        context=Opened(bytes(32), seen) if shown else None, outcome=None, token=token,
        carrier=encode_evidence(carrier), carrier_decision=sign_entry(carried.entry),
    )  # fmt: skip
    try:
        prove(bundle, TRUST)
    except Refused as refusal:
        return refusal.reasons[0]
    return Reason("internal", "none", "", "")


DENIED = (Reason("policy-refused", "tool.call on files/a", "a permit", "no policy permits"),)


@pytest.mark.parametrize(
    "changed, code, claim",
    [
        ({}, "internal", "none"),
        ({"token": None}, "digest-mismatch", "action.token"),
        ({"token": Digest.of(b"")}, "digest-mismatch", "action.token"),
        ({"bundle": Digest.of(b"")}, "digest-mismatch", "action.bundle"),
        ({"opened": {"instance": sixteen("two")}}, "digest-mismatch", "opening.instance"),
        ({"opened": {"agent": "spiffe://example.org/billing/agent/other"}}, "digest-mismatch", "opening.instance"),
        ({"opened": {"sequence": 1}}, "inclusion-invalid", "action.opening"),
        ({"decided_at": NOW - 5}, "decision-mismatch", "action"),
        ({"decided_at": NOW - 6}, "chain-order", "action.decided_at"),
        ({"decided_at": NOW + 58}, "decision-mismatch", "action.decided_at"),
        ({"resource": "other/a"}, "decision-mismatch", "action.resource"),
        ({"action": "file.read"}, "decision-mismatch", "action.resource"),
        ({"gate": "http"}, "decision-mismatch", "action"),
        ({"context": b"\xa0"}, "decision-mismatch", "action"),
        ({"reasons": DENIED}, "decision-mismatch", "action"),
        ({"resource": "other/a", "reasons": DENIED}, "decision-mismatch", "action"),
        ({"sequence": 2}, "inclusion-invalid", "action.sequence"),
    ],
)
def test_action_recorded_otherwise_is_refused(changed: dict[str, Any], code: str, claim: str) -> None:
    reason = rerecorded(**changed)
    assert (reason.code, reason.claim) == (code, claim)


def test_action_decided_after_its_checkpoint_was_carried_is_refused() -> None:
    assert rerecorded(acted=35, shift=-35).code == "internal"
    reason = rerecorded(acted=36, shift=-36)
    assert (reason.code, reason.claim) == ("chain-order", "action.decided_at")


def test_outcome_in_the_place_of_the_action_is_refused() -> None:
    assert WHOLE.outcome is not None
    assert refuse(replace(WHOLE, action=WHOLE.outcome)).claim == "action"


# --- 7: the context


def test_context_is_the_one_that_the_record_commits_to() -> None:
    assert WHOLE.context is not None
    for opened in (replace(WHOLE.context, salt=bytes(31) + b"x"), replace(WHOLE.context, context=b"\xa0")):
        assert refuse(replace(WHOLE, context=opened)).claim == "action.context"


def test_without_its_context_an_action_is_proven_and_not_decided_again() -> None:
    proven = prove(replace(WHOLE, context=None), TRUST)
    assert (proven.rerun, prove(WHOLE, TRUST).rerun) == (False, True)
    assert "not shown" in proven.steps[8].what
    assert refuse(replace(WHOLE, context=None, approval=b"one")).claim == "context"


@pytest.mark.parametrize(
    "changed, claim",
    [
        ({"decided_at": NOW + 58}, "action.decided_at"),
        ({"resource": "other/a"}, "action.resource"),
        ({"action": "file.read"}, "action.resource"),
    ],
)
def test_without_its_context_a_permit_is_still_within_its_token(changed: dict[str, Any], claim: str) -> None:
    """Who makes the bundle chooses what it shows: what can be judged without the context is."""
    reason = rerecorded(shown=False, **changed)
    assert (reason.code, reason.claim) == ("decision-mismatch", claim)
    assert rerecorded(shown=False).code == "internal"


# --- 8, 9, 10


def test_opening_is_one_in_the_carried_log() -> None:
    leaf = WHOLE.opening
    assert refuse(replace(WHOLE, opening=WHOLE.action)).claim == "opening"
    assert refuse(replace(WHOLE, opening=replace(leaf, proof=()))).claim == "opening"
    assert refuse(replace(WHOLE, opening=replace(leaf, index=1))).claim == "action.opening"


def test_record_that_is_not_in_the_carried_log_is_refused() -> None:
    for leaf in (replace(WHOLE.action, index=0), replace(WHOLE.action, proof=()), replace(WHOLE.action, proof=WHOLE.action.proof[::-1])):
        assert refuse(replace(WHOLE, action=leaf)).code == "inclusion-invalid"


def test_carrier_other_than_its_decision_names_is_refused() -> None:
    assert refuse(replace(WHOLE, carrier=WHOLE.evidence)).claim == "carrier"


def test_carrier_that_the_tpm_did_not_quote_is_refused() -> None:
    other = Scene(host="host-1")
    other.chip.seed = "other"
    other.launch("one")
    alien = encode_evidence(other.evidence("one"))
    bundle = forged(
        "carrier_decision", lambda e: replace(e, inputs=tuple((n, Digest.of(alien) if n == "evidence" else d) for n, d in e.inputs))
    )
    assert refuse(replace(bundle, carrier=alien)).code == "signature-invalid"


def test_carrier_without_the_instance_or_with_another_key_is_refused() -> None:
    for requests, claim in (
        ((), "carrier.requests"),
        ((replace(SCENE.running["one"].request(), session_key=signer("other").public),), "carrier.session_key"),
        ((replace(SCENE.running["one"].request(), instance=sixteen("two")),), "carrier.requests"),
    ):
        evidence = SCENE.evidence(requests=requests)
        decision = SCENE.judge(evidence)
        bundle = replace(WHOLE, carrier=encode_evidence(evidence), carrier_decision=sign_entry(decision.entry))
        assert refuse(bundle).claim == claim


def test_checkpoint_other_than_the_public_log_names_proves_nothing() -> None:
    entry = entry_of(WHOLE.carrier_decision)
    one = entry.outcomes[0]
    for lie in (replace(one, log_size=2), replace(one, log_root=bytes(32))):
        bundle = swap("carrier_decision", sign_entry(replace(entry, outcomes=(lie,))))
        assert refuse(bundle).claim == "carrier_decision.log"


def test_engine_other_than_the_decision_names_is_refused() -> None:
    other = encode_engine(replace(ENGINE_ID, number=2))
    assert refuse(swap("engine", other)).claim == "engine"
    forged_too = forged("attest_decision", lambda e: replace(e, engine=Digest.of(b"no engine")))
    with pytest.raises(FormatError):
        prove(replace(forged_too, engine=b"no engine"), TRUST)


def test_checkpoint_that_was_found_forked_proves_nothing() -> None:
    reason = Reason("action-log-inconsistent", "instance", "an extension", "a fork")
    bundle = forged("carrier_decision", lambda e: replace(e, outcomes=(replace(e.outcomes[0], claims=None, reasons=(reason,)),)))
    assert refuse(bundle).code == "consistency-invalid"
    neighbour = forged(
        "carrier_decision",
        lambda e: replace(e, outcomes=(*e.outcomes, replace(e.outcomes[0], instance=sixteen("two"), claims=None, reasons=(reason,)))),
    )
    assert prove(neighbour, TRUST).carried_at == NOW + 30
    refused_for_other = replace(reason, code="instance-drifted")
    drifted = forged(
        "carrier_decision", lambda e: replace(e, outcomes=(replace(e.outcomes[0], claims=None, reasons=(refused_for_other,)),))
    )
    assert prove(drifted, TRUST).carried_at == NOW + 30
    silent = forged("carrier_decision", lambda e: replace(e, outcomes=()))
    assert refuse(silent).claim == "carrier_decision.outcomes"


def test_steps_out_of_order_in_time_are_refused() -> None:
    late = replace(SCENE.enrol_entry, decided_at=NOW + 1)
    record = replace(SCENE.record, enrolled_at=NOW + 1)
    bundle = replace(
        WHOLE, enrol_decision=sign_entry(replace(late, record=Digest.of(encode_host_record(record)))), record=encode_host_record(record)
    )
    assert refuse(bundle).code in {"digest-mismatch", "chain-order"}
    assert refuse(forged("carrier_decision", lambda e: replace(e, decided_at=NOW - 1))).claim == "decided_at"
    assert prove(forged("carrier_decision", lambda e: replace(e, decided_at=NOW)), TRUST).carried_at == NOW


def test_outcome_is_of_this_action_and_in_the_same_log() -> None:
    assert WHOLE.outcome is not None
    record = parse_record(WHOLE.outcome.record)
    assert isinstance(record, OutcomeRecord)
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"of": 1}, "outcome.of"),
        ({"outcome": "failed"}, "outcome"),
    )
    for changed, claim in changes:
        leaf = replace(WHOLE.outcome, record=encode_record(replace(record, **changed)))
        assert refuse(replace(WHOLE, outcome=leaf)).claim == claim
    assert refuse(replace(WHOLE, outcome=WHOLE.action)).claim == "outcome.of"
    assert refuse(replace(WHOLE, outcome=replace(WHOLE.outcome, index=1))).claim == "outcome"


def test_outcome_at_another_index_than_it_says_is_refused() -> None:
    scene = Scene()
    scene.launch("one")
    verdict = scene.judge(scene.evidence("one"))
    claims, token = permitted(verdict), sign_token(permitted(verdict))
    scene.state = verdict.state_after
    record = scene.act("one", token, claims)
    outcome = replace(scene.outcome("one", record.sequence), sequence=3)
    scene.running["one"].leaves[2] = encode_record(outcome)
    hashes = scene.running["one"].hashes()
    carrier = scene.evidence("one")
    bundle = replace(
        WHOLE, opening=Leaf(scene.running["one"].leaves[0], 0, inclusion_proof(hashes, 0)),
        action=Leaf(encode_record(record), 1, inclusion_proof(hashes, 1)),
        context=Opened(bytes(32), scene.running["one"].contexts[1]), outcome=Leaf(encode_record(outcome), 2, inclusion_proof(hashes, 2)),
        token=token, carrier=encode_evidence(carrier), carrier_decision=sign_entry(scene.judge(carrier).entry),
    )  # fmt: skip
    assert refuse(bundle).claim == "outcome.sequence"
    assert root([leaf_hash(leaf) for leaf in scene.running["one"].leaves]) == carrier.requests[0].log_root


@pytest.mark.parametrize("finished_at, ok", [(NOW - 6, False), (NOW - 5, True), (NOW + 5, True), (NOW + 6, False)])
def test_outcome_comes_after_its_action_and_before_the_checkpoint(finished_at: int, ok: bool) -> None:
    """Give or take the skew of clocks."""
    scene = Scene()
    scene.launch("one")
    verdict = scene.judge(scene.evidence("one"))
    claims, token = permitted(verdict), sign_token(permitted(verdict))
    scene.state = verdict.state_after
    record = scene.act("one", token, claims)
    leaves = scene.running["one"].leaves
    leaves.append(encode_record(OutcomeRecord(2, finished_at, record.sequence, "done", None, 0, bytes(32))))
    hashes = scene.running["one"].hashes()
    carrier = scene.evidence("one")
    bundle = replace(
        WHOLE, opening=Leaf(leaves[0], 0, inclusion_proof(hashes, 0)), action=Leaf(leaves[1], 1, inclusion_proof(hashes, 1)),
        context=Opened(bytes(32), scene.running["one"].contexts[1]), outcome=Leaf(leaves[2], 2, inclusion_proof(hashes, 2)),
        token=token, carrier=encode_evidence(carrier), carrier_decision=sign_entry(scene.judge(carrier).entry),
    )  # fmt: skip
    if ok:
        assert prove(bundle, TRUST).outcome is not None
    else:
        assert refuse(bundle).claim == "outcome.finished_at"


# --- any byte


UNBOUND = {"approval", "collateral"}
"""What WHOLE has none of. Collateral is believed under its own signatures, or not at all."""


@pytest.mark.parametrize(
    "name", [f.name for f in fields(ProofBundle) if f.name not in UNBOUND and not f.name.endswith(("_inclusion", "_published"))]
)
def test_any_byte_flipped_in_any_part_is_refused(name: str) -> None:
    part, chance = getattr(LATER, name), random.Random(name)
    whole: list[bytes] = []
    if isinstance(part, bytes):
        whole = [part]
    elif isinstance(part, str):
        whole = [part.encode()]
    elif isinstance(part, Leaf):
        whole = [part.record, *part.proof]
    elif isinstance(part, Opened):
        whole = [part.salt, part.context]
    elif isinstance(part, tuple):
        whole = list(part)
    assert any(whole)
    for number, item in enumerate(whole):
        for at in chance.sample(range(len(item)), min(len(item), 12)):
            spoilt = bytearray(item)
            spoilt[at] ^= 1 << chance.randrange(7)
            changed = [bytes(spoilt) if n == number else other for n, other in enumerate(whole)]
            given: Any = changed[0]
            if isinstance(part, str):
                given = bytes(spoilt).decode("ascii", "replace")
            elif isinstance(part, Leaf):
                given = replace(part, record=changed[0], proof=tuple(changed[1:]))
            elif isinstance(part, Opened):
                given = Opened(*changed)
            elif isinstance(part, tuple):
                given = tuple(changed)
            with pytest.raises((Refused, FormatError)):
                prove(swap(name, given, LATER), CONTINUED.trust)


def test_any_byte_flipped_in_the_file_is_refused() -> None:
    data, chance = encode_proof_bundle(WHOLE), random.Random(1)
    for at in chance.sample(range(len(data)), 60):
        spoilt = bytearray(data)
        spoilt[at] ^= 1 << chance.randrange(8)
        with pytest.raises((Refused, FormatError)):
            prove(parse_proof_bundle(bytes(spoilt)), TRUST)


def test_records_used_here_are_what_they_seem() -> None:
    assert isinstance(entry_of(WHOLE.enrol_decision), EnrolDecision)
    assert encode_entry(entry_of(WHOLE.attest_decision)) == parse_sign1(WHOLE.attest_decision).payload
    assert encode_claims(parse_token(WHOLE.token).claims) == parse_token(WHOLE.token).jws.payload


# --- boot, files and exemptions in the chain ------------------------------------------------------------------------------------


def rooted() -> Machine:
    """A machine whose every quote comes with its whole logs."""
    machine = Machine()
    machine.scene.logs = machine.whole
    return machine


def test_action_under_a_rooted_runtime_is_proven_from_firmware_to_record() -> None:
    machine = rooted()
    bundle = parse_proof_bundle(encode_proof_bundle(machine.scene.proof_bundle()))
    proven = prove(bundle, machine.scene.trust)
    assert (proven.chain.runtime, proven.chain.exceptions) == ("affirming", ())


def test_action_under_an_exemption_is_proven_with_it_and_not_without() -> None:
    machine = rooted()
    digest = Digest.of(b"hotfix")
    machine.kernel.measure("/bin/hotfix", digest)
    machine.whole()  # the register is as the kernel left it before the quote
    machine.scene.exemptions = (
        Exemption("billing", "file-unknown", "ima./bin/hotfix", str(digest), ("host-1",), NOW, NOW + 600, "fix", ("alice", "bob")),
    )
    bundle = machine.scene.proof_bundle()
    assert prove(bundle, machine.scene.trust).chain.exceptions == (machine.scene.exemptions[0].label,)
    assert refuse(replace(bundle, references=bundle.references[:-1]), machine.scene.trust).code == "decision-mismatch"


def test_proof_without_the_boot_log_that_was_judged_is_none() -> None:
    machine = rooted()
    bundle = machine.scene.proof_bundle()
    without = encode_evidence(replace(parse_evidence(bundle.evidence), uefi_log=None))
    assert refuse(replace(bundle, evidence=without), machine.scene.trust).code == "digest-mismatch"
