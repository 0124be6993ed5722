"""The zygote: what it holds, what holders share, and whose end is whose."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from enforcer.zygote import environment
from tests.enforcer.host import Host, wait_for

pytestmark = pytest.mark.cgroup

IDLE = "time.sleep(60)"


def zygote_of(host: Host) -> int:
    assert host.daemon is not None
    daemon = host.daemon.pid
    return int(wait_for(lambda: [p for p in host.children(daemon) if b"enforcer.zygote" in Path(f"/proc/{p}/cmdline").read_bytes()])[0])


def started(host: Host, agent: str = "a") -> bytes:
    known = set(host.attestor.instances)
    host.run(agent)
    instance = bytes(wait_for(lambda: [i for i in host.attestor.instances if i not in known])[0])
    host.wait_state(instance, "running")
    wait_for(host.cgroup_of(instance).child("agent").processes)  # a daemon that dies before this ends the start
    return instance


def sockets(pid: int) -> list[str]:
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if link.startswith("socket:")]


def test_zygote_has_one_thread_and_one_socket_also_after_runs(host: Host) -> None:
    host.agent("a", IDLE)
    started(host)
    started(host)
    zygote = zygote_of(host)

    assert len(list(Path(f"/proc/{zygote}/task").iterdir())) == 1
    wait_for(lambda: len(sockets(zygote)) == 1)


def test_zygote_knows_where_the_machines_own_key_is_and_nothing_else_of_the_daemonsenvironment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", "/var/lib/systemd/other.secret")
    monkeypatch.setenv("SOMETHING_ELSE", "x")
    assert set(environment()) <= {"PATH", "LANG", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "SYSTEMD_CREDENTIAL_SECRET"}
    assert environment()["SYSTEMD_CREDENTIAL_SECRET"] == "/var/lib/systemd/other.secret"


def test_holders_of_one_zygote_have_keys_and_sessions_of_their_own(host: Host) -> None:
    host.agent("a", IDLE)
    instances = [started(host) for _ in range(3)]
    holders = [host.holder_pid(instance) for instance in instances]

    assert len({host.attestor.instances[i].session_key.thumbprint() for i in instances}) == 3
    assert sorted(holders) == sorted(host.holders())
    assert all(os.getsid(pid) == pid for pid in holders)
    assert not set(sockets(holders[0])) & set(sockets(holders[1]))


def test_zygote_killed_costs_no_agent_its_life_and_is_replaced(host: Host) -> None:
    host.agent("a", IDLE)
    first = started(host)
    before = zygote_of(host)
    os.kill(before, signal.SIGKILL)
    second = started(host)

    assert zygote_of(host) != before
    assert [host.standing(i)["state"] for i in (first, second)] == ["running", "running"]
    assert host.cgroup_of(first).populated()


def test_zygote_ends_with_its_daemon_and_the_holder_holds(host: Host) -> None:
    host.agent("a", IDLE)
    instance, zygote = started(host), zygote_of(host)
    host.kill_daemon()

    host.wait_state(instance, "held")
    wait_for(lambda: not Path(f"/proc/{zygote}").exists() or "\nState:\tZ" in Path(f"/proc/{zygote}/status").read_text())
    assert host.cgroup_of(instance).frozen()
