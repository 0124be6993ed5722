"""Hold and kill on real cgroups, and SIGKILL of daemon, holder and watchdog: no agent acts."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from enforcer.contain import EVIDENCE_FILE
from enforcer.launch.cgroup import Cgroup
from enforcer.record import LogReader
from tests.enforcer.host import Host, wait_for
from writ.formats.local import Refusal
from writ.formats.policy_bundle import PolicySettings
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord

pytestmark = pytest.mark.cgroup

BUSY = """
for number in range(10_000):
    answer = ask("notes", "read", name="today")
    print(number, answer["ok"], flush=True)
    time.sleep(0.02)
"""


def running(host: Host, name: str = "a") -> bytes:
    """An agent that acts all the time, as an instance that runs and has acted."""
    host.agent(name, BUSY)
    before = set(host.attestor.instances)
    run = host.run(name)
    (instance,) = wait_for(lambda: set(host.attestor.instances) - before)
    host.wait_state(instance, "running")
    assert run.stdout is not None
    assert run.stdout.readline() == b"0 True\n"
    return bytes(instance)


def short_life(host: Host, hold_max: int = 600) -> None:
    host.attestor.settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=5, hold_max=hold_max)


def size(host: Host, instance: bytes) -> int:
    return LogReader(host.config.instance_dir(instance), instance).checkpoint.size


def actions(host: Host, instance: bytes) -> int:
    """How many actions were decided; an outcome may still be written of one that passed before."""
    return sum(isinstance(entry.record, ActionRecord) for entry in LogReader(host.config.instance_dir(instance), instance).entries())


def does_not_act(host: Host, instance: bytes, seconds: float = 0.5) -> bool:
    before = actions(host, instance)
    time.sleep(seconds)
    return actions(host, instance) == before


def test_drift_kills_that_instance_and_its_neighbour_lives_on(host: Host) -> None:
    drifting, other = running(host, "a"), running(host, "b")
    host.attestor.drift(drifting)
    standing = host.wait_state(drifting, "killed")
    status, out, err = host.finish(host.runs[0])

    assert status == 137
    assert "instance-drifted" in err
    assert out.count("True") > 0
    wait_for(lambda: not host.cgroup_of(drifting).exists())
    assert [r["code"] for r in standing["reasons"]] == ["instance-drifted"]
    assert 0 < standing["measured"]["frozen_ms"] <= standing["measured"]["killed_ms"] < 5000
    wait_for(lambda: host.attestor.instances[drifting].stopped == "killed")
    evidence = json.loads((host.config.instance_dir(drifting) / EVIDENCE_FILE).read_text())
    assert any("a.py" in " ".join(process["command"]) for process in evidence["processes"])
    assert evidence["records"]
    assert evidence["reasons"][0]["claim"] == "prompts:system.txt"
    why = host.show("why", drifting.hex()[:8])
    assert (why["state"], why["reasons"][0]["code"]) == ("killed", "instance-drifted")
    assert why["measured"]["killed_ms"] > 0
    assert host.standing(other)["state"] == "running"
    assert not does_not_act(host, other)


def test_what_a_drifted_agent_did_last_is_carried_although_it_is_refused(host: Host) -> None:
    """The records since the last renewal are in a checkpoint that the verifier holds: they can be proven."""
    instance = running(host)
    given = len(host.attestor.given)
    host.attestor.drift(instance)
    assert host.finish(host.runs[0])[0] == 137

    assert size(host, instance) > 0
    assert host.attestor.instances[instance].log[0] == size(host, instance)
    assert host.attestor.instances[instance].stopped == "killed"
    assert len(host.attestor.given) == given, "the ask that carried them got no token"


def test_quota_that_is_used_up_kills(idle_host: Host) -> None:
    host = idle_host
    host.write_config(log_bytes=1 << 16)
    host.serve()
    host.agent("a", BUSY)
    status, out, err = host.finish(host.run("a"), 60)

    assert status == 137
    assert "too-many-requests" in err
    acted = out.count("True")
    assert 10 < acted <= 64, "64 KiB are not 64 records of a KiB"
    assert host.attestor.instances[host.instance("a")].stopped == "killed"


def test_operator_kills_by_a_short_name(host: Host) -> None:
    instance = running(host)

    assert host.show("kill", instance.hex()[:6])["killed"] is True
    assert host.wait_state(instance, "killed")["reasons"][0]["code"] == "instance-tainted"
    assert host.show("kill", instance.hex()[:6])["verdict"] == "refused"


def test_verifier_away_past_the_tokens_life_holds_and_its_return_thaws(host: Host) -> None:
    short_life(host)
    instance = running(host)
    host.attestor.reachable = False
    standing = host.wait_state(instance, "held", 20)

    assert [r["code"] for r in standing["reasons"]] == ["token-expired"]
    assert host.cgroup_of(instance).frozen()
    assert does_not_act(host, instance)
    assert host.cgroup_of(instance).populated(), "held is not killed"
    host.attestor.reachable = True
    host.wait_state(instance, "running", 20)
    assert not host.cgroup_of(instance).frozen()
    assert not does_not_act(host, instance)


def test_refusal_that_is_not_final_holds_with_its_reasons(host: Host) -> None:
    short_life(host)
    instance = running(host)
    host.attestor.refusal = Refusal((Reason("governance-mismatch", "governance.policy", "a", "b"),), False)
    standing = host.wait_state(instance, "held")

    assert [r["code"] for r in standing["reasons"]] == ["governance-mismatch"]
    host.attestor.refusal = None
    host.wait_state(instance, "running", 20)


def test_final_refusal_kills(host: Host) -> None:
    short_life(host)
    instance = running(host)
    host.attestor.refusal = Refusal((Reason("token-revoked", "token", "a", "b"),), True)

    assert [r["code"] for r in host.wait_state(instance, "killed")["reasons"]] == ["token-revoked"]


def test_held_too_long_is_killed(host: Host) -> None:
    short_life(host, hold_max=1)
    instance = running(host)
    host.attestor.reachable = False
    standing = host.wait_state(instance, "killed", 20)

    assert "hold" in [r["code"] for r in standing["reasons"]]
    wait_for(lambda: not host.cgroup_of(instance).exists())


def test_a_hold_longer_than_it_may_be_counts_across_changing_reasons(host: Host) -> None:
    short_life(host, hold_max=2)
    instance = running(host)
    host.attestor.refusal = Refusal((Reason("governance-mismatch", "x", "a", "b"),), False)
    host.wait_state(instance, "held", 20)
    host.attestor.refusal, host.attestor.reachable = None, False

    host.wait_state(instance, "killed", 20)


def test_daemons_death_freezes_and_only_a_fresh_appraisal_after_its_return_thaws(host: Host) -> None:
    instance = running(host)
    host.kill_daemon()
    standing = host.wait_state(instance, "held")

    assert [r["claim"] for r in standing["reasons"]] == ["daemon"]
    assert host.cgroup_of(instance).frozen()
    assert does_not_act(host, instance)
    asked = len(host.attestor.asks)
    time.sleep(1)
    assert len(host.attestor.asks) == asked, "without a daemon nothing is asked for"
    host.serve()
    host.wait_state(instance, "running")
    assert len(host.attestor.asks) > asked
    assert not does_not_act(host, instance)
    host.attestor.drift(instance)
    host.wait_state(instance, "killed")


def test_daemon_that_returns_without_a_verifier_leaves_the_agent_frozen(host: Host) -> None:
    instance = running(host)
    host.kill_daemon()
    host.wait_state(instance, "held")
    host.attestor.reachable = False
    host.serve()
    time.sleep(1)

    assert host.standing(instance)["state"] == "held"
    assert host.cgroup_of(instance).frozen()


def test_holders_death_kills_its_agent_and_is_told(host: Host) -> None:
    instance, other = running(host, "a"), running(host, "b")
    os.kill(host.holder_pid(instance), signal.SIGKILL)
    cgroup = host.cgroup_of(instance)
    wait_for(lambda: not cgroup.exists())

    assert host.finish(host.runs[0])[0] == 3
    wait_for(lambda: host.attestor.instances[instance].stopped == "lost")
    assert host.show("status", instance.hex())["instances"][0]["state"] == "lost"
    assert not does_not_act(host, other)


def test_holders_death_while_frozen_kills_its_agent(host: Host) -> None:
    instance = running(host)
    host.kill_daemon()
    host.wait_state(instance, "held")
    os.kill(host.holder_pid(instance), signal.SIGKILL)

    wait_for(lambda: not host.cgroup_of(instance).exists())


def watchdog_of(host: Host, instance: bytes) -> int:
    holder = host.holder_pid(instance)
    return next(p for p in host.children(holder) if b"watchdog.py" in Path(f"/proc/{p}/cmdline").read_bytes())


def test_watchdog_that_dies_is_replaced(host: Host) -> None:
    instance = running(host)
    first = watchdog_of(host, instance)
    os.kill(first, signal.SIGKILL)
    wait_for(
        lambda: [
            p for p in host.children(host.holder_pid(instance)) if p != first and b"watchdog.py" in Path(f"/proc/{p}/cmdline").read_bytes()
        ]
    )
    assert host.standing(instance)["state"] == "running"
    os.kill(host.holder_pid(instance), signal.SIGKILL)

    wait_for(lambda: not host.cgroup_of(instance).exists())


def test_watchdog_and_holder_killed_together_are_swept_up_by_the_daemon(host: Host) -> None:
    instance = running(host)
    watchdog, holder = watchdog_of(host, instance), host.holder_pid(instance)
    os.kill(watchdog, signal.SIGKILL)
    os.kill(holder, signal.SIGKILL)

    wait_for(lambda: not host.cgroup_of(instance).exists())


def test_all_three_killed_together_are_swept_up_by_the_next_daemon(host: Host) -> None:
    instance = running(host)
    assert host.daemon is not None
    pids = [watchdog_of(host, instance), host.daemon.pid, host.holder_pid(instance)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    host.daemon.wait()
    time.sleep(0.3)
    assert does_not_act(host, instance), "its gate died with its holder"
    host.serve()

    wait_for(lambda: not host.cgroup_of(instance).exists())
    wait_for(lambda: host.attestor.instances[instance].stopped == "lost")


@pytest.mark.parametrize("after", [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
def test_holder_killed_at_any_point_of_its_start_leaves_nothing_running(host: Host, after: float) -> None:
    host.agent("a", BUSY)
    run = host.run("a")
    parent = Path(host.cgroup_of(bytes(16)).path).parent
    holder = wait_for(host.holders)[0]
    time.sleep(after)
    os.kill(holder, signal.SIGKILL)
    assert host.finish(run)[0] == 3

    wait_for(lambda: not [c for c in parent.iterdir() if c.is_dir()])
    time.sleep(0.2)
    assert Cgroup(parent).processes() == ()
    assert not [
        p
        for p in Path("/proc").iterdir()
        if p.name.isdigit() and b"store/a.py" in cmdline(int(p.name)) and str(host.folder).encode() in cmdline(int(p.name))
    ]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_fork_bomb_is_frozen_and_killed_as_one(host: Host) -> None:
    host.agent("bomb", "for _ in range(5):\n    os.fork()\nwhile True:\n    pass\n")
    host.run("bomb")
    instance = host.instance("bomb")
    host.wait_state(instance, "running")
    wait_for(lambda: len(host.cgroup_of(instance).child("agent").processes()) > 20)
    host.attestor.drift(instance)
    standing = host.wait_state(instance, "killed")

    assert standing["measured"]["frozen_ms"] > 0
    wait_for(lambda: not host.cgroup_of(instance).exists())
