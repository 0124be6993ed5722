"""TRACE's own library and conformance tests, as they are, on records of ours: what passes, and that it proves nothing by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from auditor.trace import sign_trace
from tests.auditor.test_trace import record_of, rooted
from tests.peers.conftest import LIB
from tests.signers import new_signer

pytestmark = pytest.mark.peers


def conforms(record: Path, level: int, nonce: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "trace_tests.cli", "verify", "--record", str(record), "--level", str(level), "--expected-nonce", nonce]
    done = subprocess.run(argv, env={"PYTHONPATH": str(LIB)}, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def written(tmp_path: Path, tpm_class: str) -> tuple[Path, str]:
    record = record_of(*rooted(tpm_class)) | {"iat": int(time.time())}
    file = tmp_path / f"{tpm_class}.json"
    file.write_bytes(sign_trace(record, new_signer()))
    return file, record["runtime"]["nonce"]


def test_a_record_of_a_tpm_passes_level_1_and_one_of_a_software_tpm_level_0_alone(tmp_path: Path) -> None:
    record, nonce = written(tmp_path, "discrete")
    for level in (0, 1):
        code, told = conforms(record, level, nonce)
        assert code == 0, told
    assert conforms(record, 1, nonce[:-1] + "_")[0] != 0
    code, told = conforms(record, 2, nonce)
    assert code != 0, "the record itself stands in no log of theirs"
    record, nonce = written(tmp_path, "software")
    assert conforms(record, 0, nonce)[0] == 0
    assert conforms(record, 1, nonce)[0] != 0


VERIFY = """
import json, sys
from agentrust_trace import verify_record
verify_record(json.load(open(sys.argv[1])), json.loads(sys.argv[3]), expected_nonce=sys.argv[2])
"""


def test_the_reference_library_verifies_it_under_its_key_and_not_when_a_claim_changes(tmp_path: Path) -> None:
    record, nonce = written(tmp_path, "discrete")
    claims = json.loads(record.read_bytes())

    def verified(nonce: str, key: object) -> bool:
        argv = [sys.executable, "-c", VERIFY, str(record), nonce, json.dumps(key)]
        done = subprocess.run(argv, env={"PYTHONPATH": str(LIB)}, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (0, 1)
        return done.returncode == 0

    jwk = claims["cnf"]["jwk"]
    assert verified(nonce, jwk)
    assert not verified(nonce[:-1] + "_", jwk)
    assert not verified(nonce, new_signer().public.to_jwk())
    record.write_text(json.dumps({**claims, "data_class": "public"}))
    assert not verified(nonce, jwk)
