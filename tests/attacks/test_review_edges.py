"""Edges: JSON with two readings, places that cannot be read or written, a log that no evidence can carry any more."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tests.world.verifier import running_verifier

ROOT = Path(__file__).parents[2]


def test_json_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    with running_verifier(tmp_path) as verifier:
        connection = http.client.HTTPConnection(urlsplit(verifier.url).netloc, timeout=10)
        headers = {"Authorization": f"Bearer {verifier.key_file.read_text().strip()}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/hosts", b'{"host": "host-1", "host": "host-2"}', headers)
        status = connection.getresponse().status
        connection.close()
    assert status in (400, 422)


def test_reader_of_a_namespace_called_domain_does_not_read_the_acts_on_the_domain(tmp_path: Path) -> None:
    with running_verifier(tmp_path) as verifier:
        file = tmp_path / "reader.key"
        try:
            made = verifier.client.post("/v1/api-keys", {"namespace": "domain", "role": "reader", "label": "tenant"})
        except Exception as error:  # noqa: BLE001 - refused: no such key, nothing to read
            assert "domain" in str(error)  # noqa: PT017
            return
        file.write_text(str(made["key"]))
        file.chmod(0o600)
        assert verifier.as_operator(file).get("/v1/decisions")["decisions"] == []


def run(*words: str, uid: int | None = None) -> subprocess.CompletedProcess[str]:
    """A command of ours."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *words], env=environment, capture_output=True, text=True, timeout=60, check=False, user=uid
    )


def test_export_to_a_place_that_is_no_directory_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    done = run("auditor", "export", str(tmp_path / "out"), "--out", str(tmp_path / "out"))
    assert done.returncode in (2, 3)
    assert "WRIT_DEBUG" not in done.stderr
    assert "out" in done.stderr
