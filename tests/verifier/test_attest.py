"""Attestation over HTTP: one decision for a nonce, whatever is sent and however often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from attestor.evidence import reasons_for
from tests.world.chip import Chip
from tests.world.host import RefusedByVerifier, SimulatedHost
from tests.world.verifier import RunningVerifier
from verifier.keys import Keys
from verifier.ledger.schema import BlobRow, EntryRow, NonceRow, TokenRow
from writ.formats.cose import parse_sign1, verify_sign1
from writ.formats.decision import AttestDecision, parse_entry
from writ.formats.eat import parse_token
from writ.formats.engine import parse_engine
from writ.formats.errors import FormatError
from writ.formats.exchange import AttestAnswer
from writ.formats.jose import verify_jws
from writ.formats.keys import key_id
from writ.formats.reason import Reason
from writ.service.engine_id import installed_engine
from writ.verdict.token import verify_token


def token_of(answer: AttestAnswer, at: int = 0) -> str:
    token = answer.answers[at].token
    assert token is not None, answer.answers[at].reasons
    return token


def codes(answer: AttestAnswer, at: int = 0) -> list[str]:
    assert answer.answers[at].token is None
    return [reason.code for reason in reasons_for(answer, answer.answers[at].instance)[1]]


def refusal(host: SimulatedHost, evidence: bytes) -> tuple[int, list[str]]:
    with pytest.raises(RefusedByVerifier) as caught:
        host.deliver(evidence)
    return caught.value.status, caught.value.codes


def decisions(verifier: RunningVerifier) -> int:
    return len(verifier.made.ledger.read().select(EntryRow, kind="attest"))


def test_approved_instance_gets_a_token_that_verifies(verifier: RunningVerifier, host: SimulatedHost) -> None:
    answer = host.attest("one")
    token = parse_token(token_of(answer))
    keys = {key_id(key): key for key in answer.token_keys}
    assert verify_jws(token.jws, keys[token.jws.kid or ""])
    assert token.claims.key == host.instances["one"].key.public.thumbprint()
    assert token.claims.expires_at == verifier.clock.now() + 60
    assert token.claims.status_uri == f"{verifier.url}/v1/status/0"


def test_decision_is_signed_and_in_the_log_before_the_answer(verifier: RunningVerifier, host: SimulatedHost) -> None:
    answer = host.attest("one")
    signed = parse_sign1(answer.decision)
    assert host.decision_key is not None
    assert verify_sign1(signed, host.decision_key)
    decision = parse_entry(signed.payload or b"")
    assert isinstance(decision, AttestDecision)
    engine = verifier.made.ledger.read().get(BlobRow, decision.engine.value)
    assert engine is not None
    assert parse_engine(engine.data) == installed_engine()
    assert [name for name, _ in decision.inputs] == ["evidence", "policy", "record", "references", "state"]
    last = verifier.made.ledger.read().last(EntryRow)
    assert last is not None
    assert last.entry == answer.decision


def test_refusal_is_committed_and_answered_with_reasons(verifier: RunningVerifier) -> None:
    host = verifier.host("h1")
    host.launch("one")
    answer = host.attest("one")
    assert codes(answer) == ["agent-unknown", "governance-mismatch"]
    assert decisions(verifier) == 1


def test_first_attestation_without_a_policy_is_refused(bare: RunningVerifier) -> None:
    from tests.world.chip import Maker

    bare.trust(Maker())
    host = bare.host("h1")
    assert refusal(host, host.evidence()) == (409, ["policy-unknown"])


def test_answer_carries_the_next_nonce(verifier: RunningVerifier, host: SimulatedHost) -> None:
    for _ in range(3):
        token_of(host.attest("one"))
    assert decisions(verifier) == 3


def test_lost_answer_retried_is_the_stored_answer_and_one_decision(verifier: RunningVerifier, host: SimulatedHost) -> None:
    evidence = host.evidence("one")
    first = host.say("/v1/hosts/h1/attest", evidence)
    verifier.clock.advance(30)
    second = host.say("/v1/hosts/h1/attest", evidence)
    assert first == second
    assert decisions(verifier) == 1


def test_retry_with_one_byte_changed_is_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    evidence = host.evidence("one")
    host.deliver(evidence)
    nonce = host.nonce
    spent = bytearray(evidence)
    at = evidence.rindex(b"tools")
    spent[at] ^= 1
    assert refusal(host, bytes(spent)) == (409, ["nonce-spent"])
    assert decisions(verifier) == 1
    host.nonce = nonce
    token_of(host.attest("one"))


def test_replayed_nonce_is_refused(host: SimulatedHost) -> None:
    nonce = host.nonce
    host.attest("one")
    assert refusal(host, host.evidence("one", nonce=nonce)) == (409, ["nonce-spent"])


def test_superseded_nonce_is_refused(host: SimulatedHost) -> None:
    """A nonce fetched before a compromise is void once the next one is fetched."""
    old = host.evidence("one")
    host.fetch_nonce()
    assert refusal(host, old) == (409, ["nonce-superseded"])


def test_expired_nonce_is_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    evidence = host.evidence("one")
    verifier.clock.advance(120)
    assert refusal(host, evidence) == (409, ["nonce-expired"])


def test_clock_set_back_before_the_nonce_is_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    evidence = host.evidence("one")
    verifier.clock.wall -= 60
    assert refusal(host, evidence) == (409, ["nonce-expired"])


def test_nonce_of_nobody_is_refused(host: SimulatedHost) -> None:
    assert refusal(host, host.evidence("one", nonce=b"n" * 32)) == (409, ["nonce-unknown"])


def test_nonce_of_another_host_is_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    other = verifier.host("h2")
    assert refusal(host, host.evidence("one", nonce=other.nonce)) == (409, ["nonce-unknown"])


def test_evidence_held_past_the_tokens_life_gives_no_token(verifier: RunningVerifier, host: SimulatedHost) -> None:
    evidence = host.evidence("one")
    verifier.clock.advance(60)
    assert codes(host.deliver(evidence)) == ["nonce-expired"]


def test_nonces_never_repeat(verifier: RunningVerifier, host: SimulatedHost) -> None:
    seen = {host.fetch_nonce() for _ in range(64)}
    assert len(seen) == 64
    assert len(verifier.made.ledger.read().select(NonceRow, host="h1", newest=1)) == 1
    ones = sum(byte.bit_count() for nonce in seen for byte in nonce)
    assert abs(ones - 64 * 128) < 6 * 64  # six standard deviations of 16384 fair bits


def test_forged_signature_is_refused_and_spends_nothing(verifier: RunningVerifier, host: SimulatedHost) -> None:
    other = Chip(seed="forger")
    genuine, host.chip = host.chip, other
    forged = host.evidence("one")
    host.chip = genuine
    assert refusal(host, forged) == (403, ["signature-invalid"])
    assert decisions(verifier) == 0
    token_of(host.attest("one"))


def test_evidence_of_another_host_is_refused(verifier: RunningVerifier, host: SimulatedHost) -> None:
    other = verifier.host("h2")
    evidence = host.evidence("one")
    with pytest.raises(RefusedByVerifier) as caught:
        other.ask("/v1/hosts/h2/attest", evidence)
    assert caught.value.codes == ["host-unknown"]


def test_rubbish_is_malformed(host: SimulatedHost) -> None:
    for body in (b"", b"\xa0", b"x" * 1000, host.evidence("one") + b"\0"):
        assert refusal(host, body) == (400, ["malformed"])


def test_one_of_many_parallel_uses_of_a_nonce_is_decided(verifier: RunningVerifier, host: SimulatedHost) -> None:
    nonce = host.nonce
    evidences = [host.evidence("one", nonce=nonce) for _ in range(12)]
    clones = []
    for _ in evidences:
        clone = verifier.stranger("h1", host.chip)
        clone.key, clone.uplink = host.key, type(host.uplink)(verifier.url, ca_file=None, signer=host.key, clock=verifier.clock)
        verifier.closing.callback(clone.uplink.close)
        clones.append(clone)

    def attempt(at: int) -> str:
        try:
            clones[at].ask("/v1/hosts/h1/attest", evidences[at])
        except RefusedByVerifier as error:
            return error.codes[0]
        return "decided"

    with ThreadPoolExecutor(12) as pool:
        outcomes = list(pool.map(attempt, range(12)))
    assert sorted(outcomes) == ["decided"] + ["nonce-spent"] * 11
    assert decisions(verifier) == 1


def test_drifted_instance_is_refused_and_its_neighbour_is_not(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.launch("two")
    host.attest("one", "two")
    host.drift("one")
    answer = host.attest("one", "two")
    assert codes(answer, 0) == ["instance-drifted"]
    token_of(answer, 1)
    assert [row.revoked for row in verifier.made.ledger.read().select(TokenRow)] == [1, 0, 0]
    assert codes(host.attest("one", "two"), 0) == ["instance-tainted"]


def test_policy_published_meanwhile_is_the_one_that_counts(verifier: RunningVerifier, host: SimulatedHost) -> None:
    first = parse_token(token_of(host.attest("one")))
    verifier.publish(token_life=30)
    second = parse_token(token_of(host.attest("one")))
    assert first.claims.policy != second.claims.policy
    assert second.claims.expires_at == verifier.clock.now() + 30


def test_restored_tpm_contains_the_host_until_it_is_released(verifier: RunningVerifier, host: SimulatedHost) -> None:
    token_of(host.attest("one"))
    host.chip.clock -= 1_500
    assert codes(host.attest("one")) == ["clock-fell", "instance-unknown"]
    assert [row.revoked for row in verifier.made.ledger.read().select(TokenRow)] == [1]
    host.chip.tick(100_000)
    assert "host-contained" in codes(host.attest("one"))
    host.reboot()
    host.launch("one")
    assert "host-contained" in codes(host.attest("one"))
    assert verifier.client.post("/v1/hosts/h1/release")["status"] == "active"
    token_of(host.deliver(host.evidence("one", first=0), "one"))


def test_status_index_is_each_tokens_own(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.launch("two")
    for _ in range(3):
        host.attest("one", "two")
    rows = verifier.made.ledger.read().select(TokenRow)
    assert [row.status_index for row in rows] == list(range(6))
    assert len({row.token_id for row in rows}) == 6


def test_token_is_accepted_by_a_relying_party(verifier: RunningVerifier, host: SimulatedHost) -> None:
    answer = host.attest("one")
    verified = verify_token(
        parse_token(token_of(answer)), keys={key_id(key): key for key in answer.token_keys}, issuer=verifier.url, audience="tools",
        now=verifier.clock.now(), revocation=None,
    )  # fmt: skip
    assert verified.claims.host == "h1"


def test_decision_that_nobody_could_read_is_not_signed(verifier: RunningVerifier, host: SimulatedHost) -> None:
    entry = parse_entry(parse_sign1(host.attest("one").decision).payload or b"")
    assert isinstance(entry, AttestDecision)
    many = tuple(Reason("component-missing", f"{number:04}", "", "") for number in range(2000))
    with pytest.raises(FormatError, match="reasons"):
        Keys(verifier.config.key_dir, verifier.made.ledger).sign_entry(replace(entry, reasons=many))
