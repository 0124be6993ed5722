"""The OpenAPI document says what the routes do: schemathesis sends what it allows and what it forbids."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.world.verifier import RunningVerifier

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_schemathesis_finds_no_fault(verifier: RunningVerifier, tmp_path: Path) -> None:
    verifier.host("h1")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"), "--config-file", Path(__file__).with_name("schemathesis.toml"),
            "run", f"{verifier.url}/openapi.json",
            "--header", f"Authorization: Bearer {verifier.key_file.read_text().strip()}",
            "--phases", "coverage,fuzzing", "--max-examples", "1", "--no-color",
        ],
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.verifier.openapi_hooks", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "53 selected / 53 total" in done.stdout
