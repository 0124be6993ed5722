"""Another version of Writ is installed and its daemon started: instances come over to it, held, or end. Never do they act in between."""

from __future__ import annotations

import subprocess
import time

import pytest

from enforcer.record import LogReader
from tests.enforcer.host import Host, wait_for
from writ.formats.action import ActionRecord, OutcomeRecord
from writ.formats.eat import parse_token
from writ.formats.local import Refusal
from writ.formats.policy_bundle import PolicySettings
from writ.formats.reason import Reason

pytestmark = pytest.mark.cgroup

COUNTS = """
for number in range(100_000):
    got = ask("notes", "read", name="today")
    print(number, "ok" if got["ok"] else "refused", flush=True)
    time.sleep(0.01)
    if os.path.exists("/agent/enough"):
        sys.exit(7)
"""
WATCHED = 0.5
"""Seconds for which an instance on hold is looked at."""
BOUND = 10.0
"""Seconds within which nothing is left of an instance whose takeover failed."""


def running(host: Host) -> tuple[subprocess.Popen[bytes], bytes]:
    """An agent that counts, at work."""
    run = host.run("a")
    instance = host.instance("a")
    host.wait_state(instance, "running")
    wait_for(lambda: len(records(host, instance)) > 4)
    return run, instance


def records(host: Host, instance: bytes) -> list[ActionRecord]:
    """Every action in its log, of which each was checked against the recorded roots."""
    entries = LogReader(host.config.instance_dir(instance), instance).entries()
    return [entry.record for entry in entries if isinstance(entry.record, ActionRecord)]


def outcomes(host: Host, instance: bytes) -> list[OutcomeRecord]:
    entries = LogReader(host.config.instance_dir(instance), instance).entries()
    return [entry.record for entry in entries if isinstance(entry.record, OutcomeRecord)]


def upgrade(host: Host, version: str, *changes: tuple[str, str, str]) -> None:
    """What a package does, and after it `systemctl restart`."""
    host.install(version, *changes)
    host.kill_daemon()
    host.serve()


def acts_as(host: Host, instance: bytes, moves: int) -> None:
    """It has come over so often, and acts."""
    wait_for(lambda: (s := host.standing(instance))["moves"] == moves and s["state"] == "running")
    acted = len(records(host, instance))
    wait_for(lambda: len(records(host, instance)) > acted)


def enough(host: Host, instance: bytes) -> None:
    """The agent ends by itself, with status 7, when it is next at it."""
    (host.config.agent_dir(instance) / "agent" / "home" / "enough").touch()


def gone(host: Host, instance: bytes) -> bool:
    return not host.cgroup_of(instance).exists()


def held_throughout(host: Host, instance: bytes) -> bool:
    """For a while nothing runs and nothing is permitted."""
    before = len(records(host, instance))
    end = time.monotonic() + WATCHED
    while time.monotonic() < end:
        assert host.cgroup_of(instance).frozen()
        assert host.standing(instance)["state"] == "held"
        time.sleep(0.02)
    return not any(record.permit for record in records(host, instance)[before:])


def test_agent_is_held_comes_over_and_acts_on_under_the_new_engine(host: Host) -> None:
    host.agent("a", COUNTS)
    run, instance = running(host)
    holder, before = host.holder_pid(instance), host.standing(instance)
    host.attestor.reachable = False
    upgrade(host, "v2")

    over = wait_for(lambda: (s := host.standing(instance))["moves"] == 1 and s["state"] == "held" and s)
    assert over["holder"] == holder, "the agent's parent is the same process"
    assert over["came_from"] == before["code"] != over["code"]
    assert held_throughout(host, instance)
    assert host.show("why", instance.hex()[:8])["reasons"][0]["claim"] == "code"

    old = {record.engine for record in records(host, instance)}
    given, acted, since = len(host.attestor.given), len(records(host, instance)), int(time.time())
    host.attestor.reachable = True
    host.wait_state(instance, "running", 20)
    wait_for(lambda: len(records(host, instance)) > acted + 5)
    enough(host, instance)
    status, out, err = host.finish(run)

    assert (status, err) == (7, "")
    assert parse_token(host.attestor.given[given].token).claims.issued_at >= since
    later = records(host, instance)[acted:]
    assert len(old) == 1
    assert len({record.engine for record in later}) == 1
    assert {record.engine for record in later}.isdisjoint(old)
    assert later[0].permit
    numbers = [int(line.split()[0]) for line in out.splitlines()]
    assert numbers == list(range(len(numbers))), "it counted on, on the connection that it had"
    assert len(records(host, instance)) == len(numbers), "no action was lost, nor recorded twice"
    assert host.attestor.instances[instance].stopped == "exited"
    assert gone(host, instance)


def test_one_upgrade_after_another(host: Host) -> None:
    host.agent("a", COUNTS)
    run, instance = running(host)
    for number in (1, 2, 3):
        upgrade(host, f"v{number}")
        acts_as(host, instance, number)
    enough(host, instance)

    assert host.finish(run)[0] == 7
    assert len({record.engine for record in records(host, instance)}) == 4


def test_restart_of_the_same_version_leaves_holders_as_they_are(host: Host) -> None:
    host.agent("a", COUNTS)
    _, instance = running(host)
    host.kill_daemon()
    host.wait_state(instance, "held")
    host.serve()

    assert host.wait_state(instance, "running")["moves"] == 0


def test_estate_that_the_new_version_cannot_read_ends_the_instance(host: Host) -> None:
    host.agent("a", COUNTS)
    run, instance = running(host)
    upgrade(host, "v2", ("enforcer/estate.py", 'm.uint("moves")', 'm.uint("movements")'))

    wait_for(lambda: gone(host, instance), BOUND)
    status, _, err = host.finish(run)
    assert (status, "it died; its agent was killed" in err) == (3, True)
    wait_for(lambda: host.attestor.instances[instance].stopped == "lost")
    assert host.show("status", instance.hex())["instances"][0]["state"] == "lost"
    assert any("takeover-failed" in line for line in host.log_lines())


def test_refused_after_the_takeover_it_stays_held_and_is_killed_at_hold_max(host: Host) -> None:
    host.attestor.settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=60, hold_max=3)
    host.agent("a", COUNTS)
    run, instance = running(host)
    host.attestor.refusal = Refusal((Reason("policy-refused", "executables", "known ones", "others"),), final=False)
    began = time.monotonic()
    upgrade(host, "v2")

    wait_for(lambda: host.standing(instance)["moves"] == 1)
    assert held_throughout(host, instance)
    host.wait_state(instance, "killed", 10)
    assert time.monotonic() - began < 3 + 4, "the hold is counted from where it began, and not from the takeover"
    assert host.finish(run)[0] == 137
    assert gone(host, instance)
