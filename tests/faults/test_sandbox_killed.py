"""SIGKILL of whoever starts a sandbox, at any moment from the fork to steady state: nothing of it lives on."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.launch.cgroup import Cgroup, parent_of
from enforcer.launch.process import Watchdog, start
from tests.enforcer.inside import UID, Inside, inside
from tests.world.root_fs import PYTHON

ROUNDS = 1000
STEADY = 0.25
"""Seconds within which most starts are over: half of the rounds kill before, by design."""
GONE_WITHIN = 10.0
AGENT = """
import os, sys, time
sys.stdout.write("x")
sys.stdout.flush()
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            break
        os._exit(0)
while True:
    time.sleep(0.01)
"""

pytestmark = [pytest.mark.faults, pytest.mark.cgroup]


@pytest.fixture(scope="module")
def box() -> Iterator[Inside]:
    with inside() as made:
        yield made


def survivors(cgroup: Cgroup) -> set[int]:
    """Every process of the agent's uid, and every one in its cgroup, as the host sees them; a zombie acts no more."""
    found = set(cgroup.processes())
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if folder.stat().st_uid == UID and (folder / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    found.add(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def one_round(box: Inside, parent: Path, number: int, after: float) -> tuple[bool, float]:
    """Whether the agent ran before the kill, and how long after it the last of it was gone. Fails where something lives on."""
    cgroup = Cgroup.fresh(parent, f"{number:032x}", "agent")
    said, say = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    holder = os.fork()
    if holder == 0:
        os.close(said)
        try:
            watchdog = Watchdog(cgroup)
            program = box.program(PYTHON, "-I", "-S", "-c", AGENT)
            start(program, cgroup.child("agent"), (null, say, null))
            while watchdog.keep():
                time.sleep(1)
        finally:
            os._exit(1)
    os.close(say)
    os.close(null)
    time.sleep(after)
    os.kill(holder, signal.SIGKILL)
    killed = time.monotonic()
    os.waitpid(holder, 0)
    while cgroup.exists() or survivors(cgroup):
        if time.monotonic() - killed > GONE_WITHIN:
            pytest.fail(f"round {number}, killed after {after * 1000:.0f} ms: {sorted(survivors(cgroup))} live on")
        if not cgroup.exists() and not survivors(cgroup):
            break
        if not _guarded(cgroup):  # killed before there was a watchdog: then nothing may be in there, and the daemon removes it
            assert not survivors(cgroup), f"round {number}: processes without a watchdog"
            cgroup.remove()
        time.sleep(0.005)
    gone = time.monotonic() - killed
    ran = os.read(said, 1) == b"x"
    os.close(said)
    return ran, gone


def _guarded(cgroup: Cgroup) -> bool:
    """Whether a watchdog of this cgroup lives."""
    wanted = str(cgroup.path).encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in command and any(part.endswith(b"watchdog.py") for part in command):
                return True
    return False


@pytest.mark.timeout(3600)
def test_nothing_outlives_a_killed_holder(box: Inside, cgroup_mount: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen, parent = random.Random(4), parent_of(f"/writ-killed-{os.getpid()}", cgroup_mount)
    rounds = int(os.environ.get("WRIT_ROUNDS", str(ROUNDS)))
    results = [one_round(box, parent, number, chosen.uniform(0, 2 * STEADY)) for number in range(rounds)]
    Cgroup(parent).remove()
    ran = sum(was for was, _ in results)
    times = sorted(gone for _, gone in results)
    half, last = (1000 * times[at] for at in (rounds // 2, rounds - 1))
    with capsys.disabled():
        print(f"\n{rounds} rounds, {ran} after the agent ran: gone p50 {half:.0f} ms, max {last:.0f} ms")
    assert 0 < ran < rounds
