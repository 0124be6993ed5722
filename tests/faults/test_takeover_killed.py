"""A holder stops at each step of a takeover, and who watches over its instance is killed: no agent acts, and nothing is left of it.

The daemon's death alone costs the instance nothing: it comes over, stays on hold, and acts on when the next daemon is there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.enforcer.host import Host, wait_for
from tests.enforcer.test_takeover import COUNTS, acts_as, enough, gone, records, running
from tests.faults.fault import Step

pytestmark = pytest.mark.cgroup

OLD = (
    Step("held, nothing left yet", "enforcer/instance.py", "_estate", "tools = tuple("),
    Step("calls failed, the gate left", "enforcer/instance.py", "_estate", "self._close_ways()"),
    Step("the log closed", "enforcer/instance.py", "_estate", "self._log.broken is not None"),
    Step("nothing sealed yet", "enforcer/estate.py", "leave", "memory = sealed("),
    Step("sealed, not yet another", "enforcer/estate.py", "leave", "os.execve("),
)
NEW = (
    Step("another, with nothing read", "enforcer/takeover.py", "main", "installed_code()"),
    Step("the estate read", "enforcer/takeover.py", "main", "_close_others(estate)"),
    Step("its own descriptors alone", "enforcer/takeover.py", "main", "Successor(estate"),
    Step("under the old watchdog", "enforcer/takeover.py", "__init__", "self._watchdog ="),
    Step("under two watchdogs", "enforcer/launch/process.py", "__init__", "former[0].kill()"),
    Step("the old watchdog killed", "enforcer/launch/process.py", "__init__", "os.close(former[1])"),
    Step("under the new watchdog", "enforcer/takeover.py", "__init__", "if not self._cgroup.freeze()"),
    Step("the log open", "enforcer/takeover.py", "__init__", "self._tenure.resume("),
    Step("its standing written", "enforcer/takeover.py", "__init__", "self._slot ="),
    Step("ways out open, and cut", "enforcer/takeover.py", "_take", "gate = "),
    Step("the gate open, on hold", "enforcer/takeover.py", "_take", "socket_path = "),
    Step("heard by the daemon", "enforcer/takeover.py", "_take", "self._attend_to(agent)"),
    Step("all taken", "enforcer/takeover.py", "live", "self._watch_over()"),
)
VICTIMS = (("holder",), ("holder", "watchdog"), ("daemon", "holder"), ("daemon", "watchdog", "holder"))
STOP = "import os as _os, signal as _signal; _os.kill(_os.getpid(), _signal.SIGSTOP)"
BOUND = 10.0
WATCHED = 0.3


def stop_at(host: Host, step: Step) -> None:
    """Holders of the version installed last stop there."""
    path, number = host.code / step.file, step.line()
    lines = path.read_text().splitlines()
    indent = lines[number - 1][: len(lines[number - 1]) - len(lines[number - 1].lstrip())]
    lines.insert(number - 1, f"{indent}{STOP}")
    path.write_text("\n".join(lines) + "\n")


def stopped_at(host: Host, step: Step) -> bytes:
    """An agent whose holder is stopped at `step` of a takeover."""
    host.agent("a", COUNTS)
    if step in OLD:
        host.kill_daemon()
        host.install("v1")
        stop_at(host, step)
        host.serve()
    _, instance = running(host)
    host.install("v2")
    if step in NEW:
        stop_at(host, step)
    host.kill_daemon()
    host.serve()
    wait_for(lambda: state(host.holder_pid(instance)) == "T")
    return instance


def state(pid: int) -> str:
    """As /proc says it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def watchdogs(host: Host, holder: int) -> list[int]:
    return [pid for pid in host.children(holder) if b"watchdog.py" in cmdline(pid)]


def kill(host: Host, instance: bytes, victims: tuple[str, ...]) -> None:
    """SIGKILL to each, in this order."""
    holder = host.holder_pid(instance)
    guards = watchdogs(host, holder)
    for victim in victims:
        if victim == "daemon":
            host.kill_daemon()
        for pid in {"holder": [holder], "watchdog": guards}.get(victim, []):
            os.kill(pid, signal.SIGKILL)


def no_survivor_acts(host: Host, step: Step, victims: tuple[str, ...]) -> None:
    """1. Stopped at the step, it is frozen. 2. After the deaths nothing is permitted. 3. Nothing is left, at the latest with a daemon."""
    instance = stopped_at(host, step)
    # 1
    cgroup = host.cgroup_of(instance)
    assert cgroup.frozen(), step.name
    acted = len(records(host, instance))
    # 2
    kill(host, instance, victims)
    time.sleep(WATCHED)
    assert not cgroup.populated() or cgroup.frozen(), step.name
    assert not any(record.permit for record in records(host, instance)[acted:]), step.name
    # 3
    if "daemon" in victims:
        host.serve()
    wait_for(lambda: gone(host, instance), BOUND)
    wait_for(lambda: host.attestor.instances[instance].stopped == "lost", BOUND)
    assert not any(record.permit for record in records(host, instance)[acted:]), step.name


PLAN = [(step, VICTIMS[number % len(VICTIMS)]) for number, step in enumerate((*OLD, *NEW)) if number % 5 == 0]
REST = [(step, victims) for step in (*OLD, *NEW) for victims in VICTIMS if (step, victims) not in PLAN]


def names(plan: Sequence[tuple[Step, tuple[str, ...]]]) -> list[str]:
    return [f"{step.name}: {'+'.join(victims)}" for step, victims in plan]


@pytest.mark.parametrize("step,victims", PLAN, ids=names(PLAN))
def test_no_agent_acts_after_a_death_at(host: Host, step: Step, victims: tuple[str, ...]) -> None:
    no_survivor_acts(host, step, victims)


@pytest.mark.faults
@pytest.mark.parametrize("step,victims", REST, ids=names(REST))
def test_no_agent_acts_after_any_other_death_at(host: Host, step: Step, victims: tuple[str, ...]) -> None:
    no_survivor_acts(host, step, victims)


@pytest.mark.faults
@pytest.mark.parametrize("step", [OLD[2], NEW[0], NEW[11]], ids=lambda step: step.name)
def test_daemon_that_dies_in_between_is_waited_for(host: Host, step: Step) -> None:
    instance = stopped_at(host, step)
    holder = host.holder_pid(instance)
    host.kill_daemon()
    os.kill(holder, signal.SIGCONT)
    wait_for(lambda: host.standing(instance)["moves"] == 1 and host.standing(instance)["state"] == "held")
    time.sleep(WATCHED)
    assert host.cgroup_of(instance).frozen(), "nobody but a daemon that lives makes it act"
    host.serve()

    acts_as(host, instance, 1)
    enough(host, instance)
    assert host.finish(host.runs[-1])[0] == 7


def test_agent_that_is_killed_in_between_ends_with_its_status(host: Host) -> None:
    instance = stopped_at(host, NEW[0])
    holder = host.holder_pid(instance)
    (agent,) = [pid for pid in host.children(holder) if b"/code/a.py" in cmdline(pid)]
    os.kill(agent, signal.SIGKILL)
    os.kill(holder, signal.SIGCONT)

    assert host.finish(host.runs[-1])[0] == 137
    wait_for(lambda: gone(host, instance), BOUND)
    assert host.attestor.instances[instance].stopped == "exited"


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
