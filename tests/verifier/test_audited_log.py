"""The log that a verifier serves, as an auditor reads it: whole, mirrored, and the same from there."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from auditor.__main__ import main
from tests.world.host import SimulatedHost
from tests.world.verifier import RunningVerifier
from writ.formats.tlog.checkpoint import parse_signed_checkpoint


def test_an_auditor_reads_the_log_that_the_verifier_serves(
    verifier: RunningVerifier, host: SimulatedHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, believed = f"{verifier.url}/log", tmp_path / "trust.cbor"
    believed.write_bytes(base64.b64decode(verifier.client.get("/v1/trust")["file"]))
    sizes = []
    for _ in range(2):
        host.attest("one")
        assert main(["log", "mirror", url, str(tmp_path / "mirror"), "--trust", str(believed)]) == 0
        sizes.append(parse_signed_checkpoint((tmp_path / "mirror" / "checkpoint").read_bytes()).checkpoint.size)
    capsys.readouterr()

    for source in (url, str(tmp_path / "mirror")):
        assert main(["log", "verify", source, "--trust", str(believed), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["log"]["size"] == sizes[1] > sizes[0] > 1
    assert main(["log", "diff", url, str(tmp_path / "mirror"), "--trust", str(believed)]) == 0
