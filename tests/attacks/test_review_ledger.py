"""The ledger's file, looked at by another process while the daemon serves: a backup, `verifier doctor`, a second daemon."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.world.clock import HandClock
from tests.world.verifier import running_verifier
from verifier import compose
from verifier.ledger.schema import HostRow
from verifier.ledger.sequencer import SqliteLedger
from writ.formats.errors import Unavailable

LOOK = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM entry').fetchone(); c.close()"


def test_i4_what_was_committed_is_there_after_a_crash_though_another_process_looked(tmp_path: Path) -> None:
    """POSIX locks of a process end when it closes any descriptor of the file (fcntl(2); sqlite.org/howtocorrupt.html section 2.2)."""
    with running_verifier(tmp_path / "verifier") as verifier:
        verifier.admit("before")
        ledger_file = verifier.config.ledger_file
        subprocess.run([sys.executable, "-c", LOOK, str(ledger_file)], check=True, timeout=30)
        verifier.admit("after")
        crashed = tmp_path / "crashed"
        shutil.copytree(verifier.config.state_dir, crashed)  # what a SIGKILL leaves
    found = SqliteLedger(crashed / ledger_file.name)
    try:
        assert [row.host for row in found.read().select(HostRow)] == ["after", "before"]
    finally:
        found.close()


def test_i6_second_verifier_on_one_state_directory_is_refused(tmp_path: Path) -> None:
    """What was used once is remembered in memory (proofs of hosts, challenges): two daemons take each of them twice."""
    with running_verifier(tmp_path) as verifier, pytest.raises(Unavailable):
        compose.verifier(verifier.config, HandClock()).close()
