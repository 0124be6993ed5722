"""What the peers are: each says its version, so that what a test ran against is known."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.conftest import caddy, envoy, go, nginx, node

pytestmark = pytest.mark.peers


@pytest.mark.parametrize(
    "find, arguments", [(envoy, ["--version"]), (nginx, ["-v"]), (caddy, ["version"]), (go, ["version"]), (node, ["--version"])]
)
def test_a_peer_says_its_version(find: Callable[[], Path], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([find(), *arguments], capture_output=True, text=True, timeout=30, check=True)
    said = (done.stdout + done.stderr).strip()
    with capsys.disabled():
        print(f"\n  {said.splitlines()[0]}")
    assert any(letter.isdigit() for letter in said)
