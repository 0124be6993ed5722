"""What decisions rest on is sealed by namespace: one key destroyed erases it, every proof still holds, and a legal hold refuses."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.world.clock import HandClock
from tests.world.host import SimulatedHost
from tests.world.verifier import RunningVerifier, running_verifier
from verifier.export import archived
from verifier.ledger.blobs import FOLDER
from verifier.ledger.schema import EntryRow
from verifier.ledger.transaction import blob
from writ.formats.cose import parse_sign1, verify_sign1
from writ.formats.decision import AttestDecision, OperatorAct, parse_entry
from writ.formats.digest import Digest
from writ.formats.errors import Refused
from writ.formats.record import commit, parse_preimage
from writ.formats.tlog.merkle import leaf_hash, root


def decided(verifier: RunningVerifier) -> list[AttestDecision]:
    rows = verifier.made.ledger.read().select(EntryRow)
    read = [parse_entry(parse_sign1(row.entry).payload or b"") for row in rows]
    return [one for one in read if isinstance(one, AttestDecision)]


def acts(verifier: RunningVerifier) -> list[OperatorAct]:
    rows = verifier.made.ledger.read().select(EntryRow)
    read = [parse_entry(parse_sign1(row.entry).payload or b"") for row in rows]
    return [one for one in read if isinstance(one, OperatorAct) and one.act.startswith("content-")]


def test_an_erasure_leaves_every_decision_and_takes_what_they_rest_on(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    [decision] = decided(verifier)
    tables = verifier.made.ledger.read()
    inputs = dict(decision.inputs)
    wanted = (inputs["evidence"], inputs["record"], decision.result)
    assert all(blob(tables, decision.namespace, one) is not None for one in wanted)
    evidence = blob(tables, decision.namespace, inputs["evidence"])
    assert evidence is not None
    raw = b"".join(path.read_bytes() for path in verifier.config.ledger_file.parent.glob("ledger*"))
    assert evidence not in raw
    before = [row.entry for row in tables.select(EntryRow)]

    assert verifier.client.post("/v1/contents/erase", {"why": "contract ended"}) == {"namespace": "default", "erased": True}

    assert [blob(tables, decision.namespace, one) for one in wanted] == [None] * 3
    after = [row.entry for row in tables.select(EntryRow)]
    assert after[: len(before)] == before
    assert host.decision_key is not None
    assert all(verify_sign1(parse_sign1(entry), host.decision_key) for entry in after)
    assert root([leaf_hash(entry) for entry in before]) == root([leaf_hash(entry) for entry in after[: len(before)]])
    assert blob(tables, "default", decision.engine) is not None, "what is the domain's stays"
    assert blob(tables, "default", inputs["policy"]) is not None
    [act] = acts(verifier)
    assert (act.act, act.namespace) == ("content-erase", "default")
    assert act.detail is not None
    salt, said = parse_preimage(blob(tables, "", act.detail) or b"")
    assert (Digest("sha256", commit(salt, b"contract ended")), blob(tables, "", said)) == (act.detail, b"contract ended")
    assert b"contract ended" in archived(tables, None, "default", whole=True, most=100, after=-1).objects


def test_what_comes_after_an_erasure_is_kept_under_a_new_key(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    verifier.client.post("/v1/contents/erase", {"why": "x"})
    host.attest("one")
    first, second = decided(verifier)
    tables = verifier.made.ledger.read()
    assert blob(tables, "default", dict(first.inputs)["evidence"]) is None
    assert blob(tables, "default", dict(second.inputs)["evidence"]) is not None


def test_a_legal_hold_refuses_until_it_is_lifted_and_says_who(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    verifier.client.post("/v1/contents/hold", {"why": "case 7"})
    with pytest.raises(Refused) as refused:
        verifier.client.post("/v1/contents/erase", {"why": "x"})
    assert [one.code for one in refused.value.reasons] == ["held"]
    with pytest.raises(Refused):
        verifier.client.post("/v1/contents/hold", {"why": "again"})
    [decision] = decided(verifier)
    assert blob(verifier.made.ledger.read(), "default", decision.result) is not None
    verifier.client.post("/v1/contents/lift", {"why": "settled"})
    assert verifier.client.post("/v1/contents/erase", {"why": "x"})["erased"]
    assert [one.act for one in acts(verifier)] == ["content-hold", "content-lift", "content-erase"]
    assert all(one.operator for one in acts(verifier))


def test_a_hold_outlives_a_restart_and_a_clock_that_was_put_back(tmp_path: Path) -> None:
    with running_verifier(tmp_path) as before:
        before.client.post("/v1/contents/hold", {"why": "case 7"})
    clock = HandClock(before.clock.wall - 1_000_000)
    with running_verifier(tmp_path, clock=clock) as after:
        with pytest.raises(Refused) as refused:
            after.client.post("/v1/contents/erase", {"why": "x"})
        assert [one.code for one in refused.value.reasons] == ["held"]


def test_an_erasure_is_of_one_namespace(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    other = verifier.as_operator(verifier.key_file, "billing")
    assert other.post("/v1/contents/erase", {"why": "x"}) == {"namespace": "billing", "erased": False}
    [decision] = decided(verifier)
    assert blob(verifier.made.ledger.read(), "default", decision.result) is not None
    assert blob(verifier.made.ledger.read(), "billing", decision.result) is None


def test_keys_lie_beside_the_ledger_for_the_verifier_alone(verifier: RunningVerifier, host: SimulatedHost) -> None:
    host.attest("one")
    folder = verifier.config.ledger_file.parent / FOLDER
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {"default.key": 0o600}
    key = (folder / "default.key").read_bytes()
    with sqlite3.connect(verifier.config.ledger_file) as db:
        assert all(key not in bytes(data) for (data,) in db.execute("SELECT data FROM blob"))


def test_a_blob_is_bound_to_its_name(verifier: RunningVerifier, host: SimulatedHost) -> None:
    """Two sealed blobs exchanged in the file: neither opens."""
    host.attest("one")
    [decision] = decided(verifier)
    evidence = dict(decision.inputs)["evidence"]
    with sqlite3.connect(verifier.config.ledger_file) as db:
        rows = db.execute("SELECT id, data FROM blob WHERE namespace = 'default'").fetchall()
        db.executemany("UPDATE blob SET data = ? WHERE id = ?", [(rows[at - 1][1], one) for at, (one, _) in enumerate(rows)])
    assert blob(verifier.made.ledger.read(), "default", evidence) is None
