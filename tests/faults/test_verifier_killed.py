"""SIGKILL of the verifier at each step of an attestation under load (I4): nothing was told that is not durable, nothing happened twice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn.protocols.http.httptools_impl as http

from tests.faults.fault import Step
from tests.faults.verifier import Campaign

ATTEST, SEQUENCER, RULES = "verifier/attest.py", "verifier/ledger/sequencer.py", "verifier/ledger/transaction.py"
TRANSLOG = "verifier/ledger/translog.py"

STEPS = (
    Step("before anything of the request is read", "verifier/http/limits.py", "__call__", "limit = self._limit("),
    Step("before the host's proof is judged", "verifier/http/route.py", "_admit", "request.state.record = await"),
    Step("before the evidence is parsed", ATTEST, "attest", "evidence = parse_evidence(body)"),
    Step("after the evidence is parsed", ATTEST, "attest", "if evidence.host != host"),
    Step("before the nonce is judged", ATTEST, "attest", "nonce = judge_nonce("),
    Step("before the verdict", ATTEST, "_decide", "verdict = decide_attestation("),
    Step("after the verdict", ATTEST, "_decide", "entry = self._keys.sign_entry("),
    Step("after the decision is signed", ATTEST, "_decide", "signer = self._keys.current()"),
    Step("after the tokens are signed", ATTEST, "_decide", "answer = AttestAnswer("),
    Step("before the change is queued", ATTEST, "attest", "committed = self._ledger.commit(change)"),
    Step("after the change is queued", SEQUENCER, "commit", "return done.result("),
    Step("before the transaction begins", SEQUENCER, "_commit", 'execute("BEGIN IMMEDIATE")'),
    Step("before the nonce is spent", RULES, "_attested", "tables.put(replace(nonce, newest=0, spent_by"),
    Step("after the nonce is spent, before the state moves", RULES, "_attested", "tables.put(replace(host, status="),
    Step("after the state moved, before the next nonce", RULES, "_attested", "_issue(tables, change.next_nonce)"),
    Step("before the savepoint is released", SEQUENCER, "_commit", 'execute("RELEASE change")'),
    Step("before the entries are appended", RULES, "entered", "tables.append(rows)"),
    Step("after the tiles are put, before the checkpoint is signed", TRANSLOG, "extend", "note = self._signed("),
    Step("after the checkpoint is put", TRANSLOG, "extend", "return Extended(edge"),
    Step("before COMMIT", SEQUENCER, "_commit", 'execute("COMMIT")'),
    Step("after COMMIT, before the head is written", TRANSLOG, "publish", "self._head.write(self._stands.note)"),
    Step("after the head is written", TRANSLOG, "publish", "self._publishes(self._stands.note)"),
    Step("after COMMIT, before anyone hears of it", SEQUENCER, "_commit", "for (done, one), answer in zip("),
    Step("between COMMIT and the answer", ATTEST, "attest", "return Answered(change.answer"),
    Step("before the answer is sent", "verifier/http/attest.py", "post_attest", 'parts.counters.add("verifier_attestations_total")'),
    Step("between head and body of an answer", http.__file__, "send", 'body = message.get("body"'),
    Step("after an answer is written", http.__file__, "send", "self.on_response()"),
    Step("before a fetched nonce is durable", ATTEST, "nonce", "self._ledger.commit(NonceIssued(fresh))"),
    Step("after a fetched nonce is durable", ATTEST, "nonce", "return EXCHANGE.encode(NonceAnswer("),
)
QUICK = (
    "after the tokens are signed", "before COMMIT", "after COMMIT, before the head is written", "after COMMIT, before anyone hears of it",
    "between head and body of an answer",
)  # fmt: skip
SEED = 20


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Campaign]:
    made = Campaign(tmp_path, hosts=4, seed=SEED)
    try:
        yield made
    finally:
        made.close()


def report(campaign: Campaign, tokens: int) -> None:
    cases = ", ".join(f"{case}: {count}" for case, count in sorted(campaign.cases.items()))
    print(f"\nverifier killed {campaign.deaths} times; {tokens} tokens, each durable; then {cases}")


@pytest.mark.faults
@pytest.mark.short
@pytest.mark.timeout(200)
def test_tokens_survive_the_verifiers_death_at_the_steps_around_a_commit(campaign: Campaign) -> None:
    for step in STEPS:
        if step.name in QUICK:
            campaign.die_at(step, campaign.dice.randrange(2, 9))

    tokens = campaign.end()

    report(campaign, tokens)
    assert tokens > 0
    assert campaign.cases["decided, answer lost"] > 0
    assert campaign.cases["not decided, resent"] + campaign.cases["not decided, other evidence sent"] > 0


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_tokens_survive_the_verifiers_death_at_every_step(campaign: Campaign) -> None:
    for step in STEPS:
        campaign.die_at(step, campaign.dice.randrange(0, 12))

    tokens = campaign.end()

    report(campaign, tokens)
    assert campaign.deaths == len(STEPS)
    assert tokens > len(STEPS)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_tokens_survive_the_verifiers_death_at_any_moment(campaign: Campaign) -> None:
    dice = random.Random(SEED)
    for _ in range(30):
        campaign.die_at(None, dice.randrange(5, 400))

    tokens = campaign.end()

    report(campaign, tokens)
    assert campaign.cases["decided, answer lost"] > 0
    assert campaign.cases["not decided, resent"] + campaign.cases["not decided, other evidence sent"] > 0


def test_every_named_step_is_in_the_source() -> None:
    lines = [(step.file, step.function, step.line()) for step in STEPS]

    assert len(set(lines)) == len(lines)
