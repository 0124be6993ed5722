"""What a running verifier exports is all that an auditor needs to make its decisions again, also after what they rested on was replaced."""

from __future__ import annotations

import base64

import pytest

from auditor.engines import Engines
from auditor.replay.decisions import IDENTICAL, NOTHING_TO_DECIDE, Replay, Summary
from tests.world.chip import Maker
from tests.world.host import RefusedByVerifier
from tests.world.verifier import RunningVerifier
from verifier.export import archived
from writ.formats.trust import parse_trust
from writ.service.engine_id import installed_engine

VAULT = "https://vault.example.org"
PERMIT = f'@id("vault") permit (principal, action == Writ::Action::"token.exchange", resource == Writ::Audience::"{VAULT}");'


def test_exported_decisions_of_every_kind_are_made_again_byte_for_byte(bare: RunningVerifier) -> None:
    bare.trust(Maker())
    bare.publish(PERMIT)
    host = bare.host("h1")
    host.launch("one", grants=(("token.exchange", VAULT),))
    bare.approve(host)
    (answer,) = host.attest("one").answers
    assert answer.token is not None
    host.exchange(host.exchange_request("one", answer.token, VAULT))
    host.launch("two", agent="stranger")
    assert host.attest("two").answers[0].token is None, "nobody approved it"
    bare.approve(host, replace=True)
    bare.publish()
    host.attest("one", "two")
    with pytest.raises(RefusedByVerifier):
        host.exchange(host.exchange_request("one", answer.token, VAULT))

    archive = archived(bare.made.ledger.read(), None, "default", whole=True, most=10_000, after=0)
    trust = parse_trust(base64.b64decode(bare.client.get("/v1/trust")["file"]))
    summary, kinds = Summary(), set()
    for one in Replay(archive, trust, Engines(None), installed_engine()).judged():
        assert one.outcome in (IDENTICAL, NOTHING_TO_DECIDE), (one.what, one.reasons)
        summary.add(one)
        kinds.add((one.what.split()[0], one.outcome))
    assert {("enrol", IDENTICAL), ("attest", IDENTICAL), ("exchange", IDENTICAL)} <= kinds
    assert summary.counts[IDENTICAL] == 6
    assert summary.exit_code == 0
