"""Steps 6, 7 and 12 of a proof: the decisions stand in the verifier's log; and the chain of a token alone, with what it was judged by."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

import pytest

from tests.world.authority import Ca, crls_of
from tests.world.scene import ENGINE_ID, NAMESPACE, NOW, Scene, sign_entry, signer
from tests.world.tlog import ORIGIN, MemoryLog, in_log, plain_key, witness_key
from tests.writ.verdict.refusal import refused
from writ.formats.decision import OperatorAct
from writ.formats.digest import Digest
from writ.formats.enrolment import parse_enrolment_evidence
from writ.formats.errors import FormatError, Refused
from writ.formats.exchange import EXCHANGE, EnrolRequest
from writ.formats.proof_bundle import (
    Collateral,
    ProofBundle,
    Published,
    TokenProof,
    encode_proof_bundle,
    parse_proof,
    parse_proof_bundle,
)
from writ.formats.reason import Reason
from writ.formats.tlog.cosignature import parse_policy
from writ.formats.tlog.proof import encode_tlog_proof, parse_tlog_proof
from writ.formats.trust import ChainRules, Trust
from writ.formats.x509 import parse_certificate
from writ.verdict.chain import collateral_of
from writ.verdict.proof import prove
from writ.verdict.token_proof import prove_token

SCENE = Scene()
LOGGED = in_log(SCENE.proof_bundle(), SCENE.trust)
WHOLE, TRUST = LOGGED.bundle, LOGGED.trust
POLICY = parse_policy(
    f"log {plain_key()}\nwitness w1 {witness_key('w1')}\nwitness w2 {witness_key('w2')}\ngroup both all w1 w2\nquorum both\n".encode()
)
DECISIONS = ("enrol", "attest", "carrier")


def refuse(bundle: ProofBundle, trust: Trust = TRUST) -> Reason:
    return refused(lambda: prove(bundle, trust))


def swap(part: str, value: Any, whole: ProofBundle = WHOLE) -> ProofBundle:
    changed: dict[str, Any] = {part: value}
    return replace(whole, **changed)


def token_of(bundle: ProofBundle) -> TokenProof:
    return TokenProof(**{field.name: getattr(bundle, field.name) for field in fields(TokenProof)})


# --- 6, 12: the decisions


def test_decisions_and_publications_stand_in_the_log_each_at_its_place() -> None:
    proven = prove(WHOLE, TRUST)
    assert [(name, one.index, one.size, one.origin, one.seen) for name, one in proven.logged] == [
        ("enrol_decision", 3, 8, ORIGIN, None), ("attest_decision", 4, 8, ORIGIN, None), ("policy_act", 1, 8, ORIGIN, None),
        ("references_act", 2, 8, ORIGIN, None), ("carrier_decision", 6, 8, ORIGIN, None),
    ]  # fmt: skip
    assert f"entry 4 of 8 in {ORIGIN}" in proven.steps[5].checked
    assert f"policy entry 1 of 8 in {ORIGIN}" in proven.steps[6].what
    assert proven.steps[11].checked == f"entry 6 of 8 in {ORIGIN}"


def test_a_receipt_serves_as_well_as_a_proof() -> None:
    bundle = parse_proof_bundle(encode_proof_bundle(LOGGED.placed(receipt=True)))
    assert [one.index for _, one in prove(bundle, TRUST).logged] == [3, 4, 1, 2, 6]


@pytest.mark.parametrize("which", DECISIONS)
def test_a_decision_without_its_place_is_refused_where_the_trust_file_names_a_log_and_not_shown_where_it_does_not(which: str) -> None:
    bundle = swap(f"{which}_inclusion", None)
    reason = refuse(bundle)
    assert (reason.code, reason.claim, reason.got) == ("proof-bundle-incomplete", f"{which}_decision.inclusion", "none")
    proven = prove(bundle, SCENE.trust)
    assert proven.logged == ()
    assert ["not shown: the trust file names no log" in proven.steps[at].what for at in (5, 6, 11)] == [True] * 3


@pytest.mark.parametrize("receipt", [False, True])
@pytest.mark.parametrize("which", DECISIONS)
def test_a_place_of_another_entry_or_in_another_log_is_refused(which: str, receipt: bool) -> None:
    part = f"{which}_inclusion"
    reason = refuse(swap(part, LOGGED.place(b"another", receipt=receipt)))
    assert (reason.code, reason.claim) == (("receipt-invalid", "receipt.signature") if receipt else ("inclusion-invalid", "proof"))
    signed = getattr(WHOLE, f"{which}_decision")
    elsewhere = MemoryLog(list(LOGGED.signed), "elsewhere.example.org/log")
    index = LOGGED.signed.index(signed)
    given = elsewhere.receipt(index) if receipt else encode_tlog_proof(elsewhere.proof(index))
    reason = refuse(swap(part, given))
    assert (reason.code, reason.claim, reason.expected) == ("trust-root-unknown", f"{which}_decision.inclusion.origin", ORIGIN)


def test_a_log_that_another_key_signs_under_the_name_is_refused() -> None:
    for bundle in (WHOLE, LOGGED.placed(receipt=True)):
        other = replace(plain_key(), key=signer("another").public)
        assert refuse(bundle, replace(TRUST, log_keys=(other,))).code in ("checkpoint-invalid", "receipt-invalid")
        both = replace(TRUST, log_keys=(other, *TRUST.log_keys))
        assert len(prove(bundle, both).logged) == 5, "the log changed its key: either serves"


def test_size_and_index_are_those_that_the_log_signed() -> None:
    """One path leads to one root from (index 2, size 3) and from (index 1, size 2): audit.md 2.4."""
    log = MemoryLog([b"genesis", b"another", WHOLE.enrol_decision])
    honest = encode_tlog_proof(log.proof(2))
    assert prove(swap("enrol_inclusion", honest), TRUST).logged[0][1].index == 2
    reason = refuse(swap("enrol_inclusion", honest.replace(b"index 2\n", b"index 1\n")))
    assert (reason.code, reason.claim) == ("inclusion-invalid", "proof")
    reason = refuse(swap("enrol_inclusion", honest.replace(b"\n3\n", b"\n2\n").replace(b"index 2\n", b"index 1\n")))
    assert (reason.code, reason.claim) == ("checkpoint-invalid", "checkpoint.signature")


def test_decisions_stand_in_the_log_in_the_order_in_which_they_were_made() -> None:
    for earlier, later in (("enrol", "attest"), ("attest", "carrier"), ("policy", "attest"), ("references", "attest")):
        entries = list(LOGGED.signed)
        names = {"policy": 1, "references": 2, "enrol": 3, "attest": 4, "carrier": 6}
        one, two = names[earlier], names[later]
        if (earlier, later) == ("enrol", "attest"):
            entries[3], entries[4] = entries[4], entries[3]
        else:
            entries.append(entries.pop(one)) if later == "attest" else entries.insert(3, entries.pop(two))
        if (earlier, later) == ("attest", "carrier"):
            entries[3], entries[4] = entries[4], entries[3]  # the enrolment stays first
        shuffled = replace(LOGGED, log=MemoryLog(entries))
        reason = refuse(shuffled.placed())
        assert (reason.code, reason.claim) == ("chain-order", f"{later}_decision.index"), earlier


def test_two_logs_have_no_order_between_them() -> None:
    older = MemoryLog(list(LOGGED.signed) + [WHOLE.enrol_decision] * 3, "older.example.org/log")
    bundle = swap("enrol_inclusion", encode_tlog_proof(older.proof(9)))
    known = replace(TRUST, log_keys=(*TRUST.log_keys, plain_key("older.example.org/log")))
    assert prove(bundle, known).logged[0][1].index == 9


# --- witnesses


def test_the_quorum_of_the_auditors_policy_is_asked_of_every_place() -> None:
    proven = prove(LOGGED.placed(witnesses=("w1", "w2")), TRUST, POLICY)
    assert [one.seen for _, one in proven.logged] == [(("w1", NOW), ("w2", NOW))] * 5
    assert "cosigned by w1, w2" in proven.steps[5].checked
    whole = LOGGED.placed(witnesses=("w1", "w2"))
    for part in ("enrol_inclusion", "attest_inclusion", "carrier_inclusion"):
        signed = getattr(whole, part.replace("inclusion", "decision"))
        for few in (LOGGED.place(signed, witnesses=("w1",)), LOGGED.place(signed), LOGGED.place(signed, receipt=True)):
            reason = refused(lambda part=part, few=few: prove(swap(part, few, whole), TRUST, POLICY))  # type: ignore[misc] # a default
            assert reason.code == "quorum-missing"
    assert refused(lambda: prove(whole, SCENE.trust, POLICY)).claim == "trust.log_keys"


def test_a_witness_whose_cosignature_does_not_hold_is_none() -> None:
    proof = parse_tlog_proof(LOGGED.place(WHOLE.attest_decision, witnesses=("w1", "w2")))
    note = proof.checkpoint.note
    *kept, last = note.signatures
    spoilt = replace(last, signature=last.signature[:-1] + bytes([last.signature[-1] ^ 1]))
    lied = replace(proof, checkpoint=replace(proof.checkpoint, note=replace(note, signatures=(*kept, spoilt))))
    whole = swap("attest_inclusion", encode_tlog_proof(lied), LOGGED.placed(witnesses=("w1", "w2")))
    assert refused(lambda: prove(whole, TRUST, POLICY)).code == "checkpoint-invalid"


# --- 7: what was published before


def test_a_publication_that_is_not_shown_is_said_to_be_so() -> None:
    bundle = replace(WHOLE, policy_published=None)
    proven = prove(bundle, TRUST)
    assert "policy not shown; references entry 2" in proven.steps[6].what
    assert [name for name, _ in proven.logged].count("policy_act") == 0


@pytest.mark.parametrize("name", ["policy", "references"])
def test_a_publication_of_something_else_is_refused(name: str) -> None:
    published = getattr(WHOLE, f"{name}_published")
    at = LOGGED.signed.index(published.act)
    digest = Digest.of(WHOLE.policy) if name == "policy" else None
    act = OperatorAct(ENGINE_ID.digest, NOW, NAMESPACE, "root", "policy-publish" if name == "policy" else "reference-import", "all", digest)
    lies = {
        f"{name}_act.detail": sign_entry(replace(act, detail=Digest.of(b"other"))),
        f"{name}_act.namespace": sign_entry(replace(act, detail=named(name), namespace="other")),
        f"{name}_act": sign_entry(replace(act, detail=named(name), act="host-admit")),
        "decision.kid": sign_entry(replace(act, detail=named(name)), signer("alien")),
    }
    for claim, signed in lies.items():
        entries = list(LOGGED.signed)
        entries[at] = signed
        log = replace(LOGGED, log=MemoryLog(entries), signed=tuple(entries))
        assert refuse(log.placed()).claim == claim
    wrong = Published(WHOLE.enrol_decision, LOGGED.place(WHOLE.enrol_decision))
    assert refuse(swap(f"{name}_published", wrong)).claim == f"{name}_act"
    assert refuse(swap(f"{name}_published", replace(published, inclusion=LOGGED.place(b"another")))).code == "inclusion-invalid"


def named(name: str) -> Digest:
    return next(one for what, one in prove_token(WHOLE, TRUST).decision.inputs if what == name)


# --- any byte


@pytest.mark.parametrize("name", ["enrol_inclusion", "attest_inclusion", "carrier_inclusion", "policy_published", "references_published"])
@pytest.mark.parametrize("receipt", [False, True])
def test_any_byte_flipped_in_any_place_is_refused(name: str, receipt: bool) -> None:
    whole, chance = LOGGED.placed(receipt=receipt), random.Random(name)
    part = getattr(whole, name)
    for attribute in ("act", "inclusion") if isinstance(part, Published) else ("",):
        item = getattr(part, attribute) if attribute else part
        for at in chance.sample(range(len(item)), 60):
            spoilt = bytearray(item)
            spoilt[at] ^= 1 << chance.randrange(8)
            given = replace(part, **{attribute: bytes(spoilt)}) if attribute else bytes(spoilt)
            with pytest.raises((Refused, FormatError)):
                prove(swap(name, given, whole), TRUST)


# --- 2: what the verifier held about the chain


def request_of(bundle: TokenProof) -> EnrolRequest:
    request = EXCHANGE.parse(parse_enrolment_evidence(bundle.enrolment).request)
    assert isinstance(request, EnrolRequest)
    return request


def test_collateral_is_what_the_verifier_held_of_this_chain_and_nothing_else() -> None:
    then, root = SCENE.enrol_entry.decided_at, Ca("maker root", key="maker/root")
    of_ek, of_ca = (parse_certificate(der).serial for der in SCENE.chip.ek_certificates)
    about, other = root.ocsp(of_ca, this=then), root.ocsp(of_ek + of_ca, this=then)
    theirs, strange = crls_of(SCENE.chip.maker, this=then - 9), Ca("stranger").crl(this=then - 9)
    held = replace(TRUST, crls=(*theirs, strange), ocsp=(about, other), intermediates=SCENE.chip.ek_certificates[1:])
    ek, *above = request_of(WHOLE).ek_certificates
    assert collateral_of((ek, *above), held, now=then) == Collateral((), tuple(sorted(theirs)), (about,))
    assert collateral_of((ek,), held, now=then).intermediates == tuple(above)


def unknown(bundle: ProofBundle, trust: Trust) -> bool:
    """Of each certificate on the way, where there are several."""
    with pytest.raises(Refused) as caught:
        prove(bundle, trust)
    return {reason.code for reason in caught.value.reasons} == {"revocation-unknown"}


def test_what_the_verifier_held_makes_known_years_later_what_was_revoked_then() -> None:
    then, strict = SCENE.enrol_entry.decided_at, replace(TRUST, rules=ChainRules(crl_required=True))
    assert unknown(WHOLE, strict)
    held = Collateral(crls=tuple(sorted(crls_of(SCENE.chip.maker, this=then - 9))))
    bundle = parse_proof_bundle(encode_proof_bundle(replace(WHOLE, collateral=held)))
    assert "2 CRLs" in prove(bundle, strict).steps[1].checked
    late = Collateral(crls=tuple(sorted(crls_of(SCENE.chip.maker, this=then + 1))))
    assert unknown(replace(WHOLE, collateral=late), strict)


def test_collateral_adds_and_takes_nothing_away() -> None:
    then, ca = SCENE.enrol_entry.decided_at, Ca("maker ca", key="maker/ca")
    of_ek = parse_certificate(SCENE.chip.ek_certificates[0]).serial
    revoked, good = ca.ocsp(of_ek, "revoked", this=then - 5), ca.ocsp(of_ek, this=then - 9)
    bundle = replace(WHOLE, collateral=Collateral(ocsp=(good,)))
    assert refuse(bundle, replace(TRUST, ocsp=(revoked,))).code == "ek-certificate-revoked"
    assert refuse(replace(WHOLE, collateral=Collateral(ocsp=(revoked,)))).code == "ek-certificate-revoked"
    own = Ca("stranger")
    for strange in (
        Collateral(crls=(Ca("maker ca", key="forged").crl(this=then - 9),)), Collateral(intermediates=(own.certificate(),)),
        Collateral(ocsp=(Ca("maker ca", key="forged").ocsp(of_ek, this=then - 9),)), Collateral(crls=(b"rubbish",)),
    ):  # fmt: skip
        assert refuse(replace(WHOLE, collateral=strange)).code == "collateral-refused"
    led = Collateral((Ca("below", own).certificate(), own.certificate()), (own.crl(this=then - 9),))
    assert refuse(replace(WHOLE, collateral=led)).code == "collateral-refused", "of no CA that is known"


def test_any_byte_flipped_of_what_is_held_about_the_chain_is_refused() -> None:
    then, chance = SCENE.enrol_entry.decided_at, random.Random(7)
    ca, (ek, middle) = Ca("maker ca", key="maker/ca"), SCENE.chip.ek_certificates
    crls = tuple(sorted(crls_of(SCENE.chip.maker, this=then - 9)))
    held = Collateral((middle,), crls, (ca.ocsp(parse_certificate(ek).serial, this=then),))
    assert prove(replace(WHOLE, collateral=held), TRUST).chain.tpm_root == "maker"
    for name in ("intermediates", "crls", "ocsp"):
        whole = getattr(held, name)
        for at in chance.sample(range(len(whole[0])), 40):
            spoilt = bytearray(whole[0])
            spoilt[at] ^= 1 << chance.randrange(8)
            given = replace(held, **{name: (bytes(spoilt), *whole[1:])})
            with pytest.raises((Refused, FormatError)):
                prove(replace(WHOLE, collateral=given), TRUST)


# --- a token alone


def test_the_chain_of_a_token_alone_is_proven_in_its_first_seven_steps() -> None:
    data = encode_proof_bundle(token_of(WHOLE))
    bundle = parse_proof(data)
    assert type(bundle) is TokenProof
    proven = prove_token(bundle, TRUST)
    assert [step.number for step in proven.steps] == [*range(1, 8)]
    assert proven.steps == prove(WHOLE, TRUST).steps[:7]
    assert proven.token.claims.token_id
    with pytest.raises(FormatError):
        parse_proof_bundle(data)
    assert parse_proof(encode_proof_bundle(WHOLE)) == WHOLE
