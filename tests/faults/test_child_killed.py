"""SIGKILL of the parent's holder, the child's or the zygote, at any moment from the start of the agent to its child's steady state."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from enforcer.launch.cgroup import MOUNTINFO, Cgroup, find_mount
from tests.enforcer.child.test_children import GRANTS, PRELUDE, START
from tests.enforcer.host import UID_FIRST, Host, wait_for

ROUNDS = int(os.environ.get("WRIT_ROUNDS", "120"))
STEADY = 2.0
"""Seconds within which most children run a command: half of the rounds kill before."""
pytestmark = [pytest.mark.faults, pytest.mark.cgroup]


def survivors() -> list[int]:
    """Every process of the uids of instances, as the host sees them; a zombie acts no more."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if UID_FIRST <= folder.stat().st_uid < UID_FIRST + 40 and state not in "ZX":
                    found.append(int(folder.name))
    return found


@pytest.mark.timeout(3600)
def test_no_round_leaves_a_survivor(host: Host) -> None:
    chance = random.Random(os.environ.get("WRIT_SEED", "1"))
    host.child("coder", "/usr/bin/sleep")
    host.agent("a", START + "run('sleep 600 & sleep 600')\n", prelude=PRELUDE, more=GRANTS)
    reached = 0
    for number in range(ROUNDS):
        run = host.run("a")
        time.sleep(chance.uniform(0, 2 * STEADY))
        whose = chance.choice(["any", "zygote", "all"])
        holders = list(host.holders())
        reached += len(holders) > 1
        zygotes = [] if host.daemon is None else [pid for pid in host.children(host.daemon.pid) if _is_zygote(pid)]
        chance.shuffle(holders)
        for pid in {"any": holders[:1], "zygote": zygotes, "all": holders}[whose]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.kill()  # the client is gone: what is left has to end by itself
        run.communicate()
        host.runs.remove(run)
        wait_for(lambda: not survivors(), 40)
        top = Cgroup(find_mount(MOUNTINFO.read_text()) / host.cgroup.strip("/"))
        wait_for(lambda top=top: not [p for p in top.path.iterdir() if p.is_dir()], 40)  # type: ignore[misc]
        assert not survivors(), f"round {number}, {whose}"
    assert reached > ROUNDS // 4, "too few rounds reached a child"


def _is_zygote(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"enforcer.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
