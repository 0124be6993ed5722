"""The gate of an instance, asked by a process that has the uid of its slot and is not its agent."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.enforcer.host import PYTHON, UID_FIRST, Host

STRANGER = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
stream = connection.makefile("rwb")
stream.write(b'{"id": 1, "tool": "notes", "method": "read", "arguments": {"name": "today"}}\\n')
stream.flush()
print(stream.readline().decode() or "{}")
"""


@pytest.mark.cgroup
def test_i8_process_outside_the_cgroup_is_not_the_agent_whatever_its_uid(enforcer_host: Host) -> None:
    """An agent leaves a setuid copy of an interpreter behind; its slot's uid is the next instance's; any local user runs the copy."""
    enforcer_host.agent("honest", "print(os.environ['WRIT_SOCKET'], flush=True)\ntime.sleep(30)\n")
    run = enforcer_host.run("honest")
    assert run.stdout is not None
    gate = run.stdout.readline().decode().strip()
    stranger = subprocess.run(
        [PYTHON, "-I", "-c", STRANGER, gate], user=UID_FIRST, group=UID_FIRST, extra_groups=(), capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    answer = json.loads(stranger.stdout or "{}")
    assert answer.get("ok") is not True
