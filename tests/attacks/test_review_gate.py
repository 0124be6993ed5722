"""The gate of an instance, asked by a process that has the uid of its slot and is not its agent."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.enforcer.host import UID_FIRST, Host
from tests.world.root_fs import PYTHON

STRANGER = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
print("connected")
try:
    connection.sendall(b'{"id": 1, "tool": "notes", "method": "read", "arguments": {"name": "today"}}\\n')
    print(connection.recv(4096))
except ConnectionError:
    print(b"")
"""


@pytest.mark.cgroup
def test_i8_process_outside_the_cgroup_is_not_the_agent_whatever_its_uid(enforcer_host: Host) -> None:
    """An agent leaves a setuid copy of an interpreter behind; its slot's uid is the next instance's; any local user runs the copy."""
    body = """
print(json.dumps(ask("notes", "read", name="today")), flush=True)
time.sleep(30)
"""
    enforcer_host.agent("honest", body)
    run = enforcer_host.run("honest")
    assert run.stdout is not None
    assert json.loads(run.stdout.readline())["ok"] is True, "what its agent may"
    gate = enforcer_host.config.agent_dir(enforcer_host.instance("honest")) / "gate" / "gate.sock"
    stranger = subprocess.run(
        [PYTHON, "-I", "-c", STRANGER, str(gate)], user=UID_FIRST, group=UID_FIRST, extra_groups=(), capture_output=True, text=True,
        timeout=30, check=True,
    )  # fmt: skip
    assert stranger.stdout == "connected\nb''\n"
