"""What a verifier that serves exports is proven by an auditor: each decision in its log, under the trust file that it gives out."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from auditor.__main__ import main
from tests.world.host import SimulatedHost
from tests.world.verifier import RunningVerifier
from verifier.export import archived
from writ.formats.archive import parse_archive
from writ.formats.tlog.merkle import leaf_hash


def test_a_token_of_this_verifier_is_proven_to_be_in_its_log(
    verifier: RunningVerifier, host: SimulatedHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        host.attest("one")
    (tmp_path / "archive").write_bytes(verifier.client.export(page=4))
    (tmp_path / "trust").write_bytes(base64.b64decode(verifier.client.get("/v1/trust")["file"]))
    archive = parse_archive((tmp_path / "archive").read_bytes())
    assert {place.leaf for place in archive.places} == {leaf_hash(entry) for entry in archive.entries}

    assert main(["export", str(tmp_path / "archive"), "--out", str(tmp_path / "proofs"), "--tokens", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    assert len(written) == 3
    for name in written:
        assert main(["verify", str(tmp_path / "proofs" / name), "--trust", str(tmp_path / "trust"), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        places = {one["entry"]: one["index"] for one in answer["logged"]}
        assert places["references_act"] < places["attest_decision"] > places["policy_act"]
        assert places["enrol_decision"] < places["attest_decision"]


def test_an_entry_that_is_not_published_yet_is_not_exported(verifier: RunningVerifier, host: SimulatedHost) -> None:
    """As a reader finds it between the commit of an entry and the publication of its checkpoint."""
    log, reader = verifier.made.ledger.log, verifier.made.ledger.read
    assert log is not None
    host.attest("one")
    before = archived(reader(), log, "default", whole=True, most=500, after=-1)
    earlier = log.checkpoint
    host.attest("one")
    log._publishes(earlier)  # noqa: SLF001 - the moment in between
    assert archived(reader(), log, "default", whole=True, most=500, after=-1).entries == before.entries
