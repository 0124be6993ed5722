"""Another version of Writ is installed and its daemon started: instances come over to it, held, or end. Never do they act in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from enforcer.record import LogReader
from tests.enforcer.child.test_children import PRELUDE
from tests.enforcer.host import Host, wait_for
from writ.formats.eat import parse_token
from writ.formats.engine import EngineId
from writ.formats.local import Refusal
from writ.formats.policy_bundle import PolicySettings
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, OutcomeRecord

pytestmark = pytest.mark.cgroup

COUNTS = """
for number in range(100_000):
    got = ask("notes", "read", name="today")
    print(number, "ok" if got["ok"] else "refused", flush=True)
    time.sleep(0.03)
    if os.path.exists("/agent/enough"):
        sys.exit(7)
"""
WATCHED = 0.5
"""Seconds for which an instance on hold is looked at."""
BOUND = 10.0
"""Seconds within which nothing is left of an instance whose takeover failed."""


def running(host: Host, agent: str = "a") -> tuple[subprocess.Popen[bytes], bytes]:
    """An agent that counts, at work."""
    run = host.run(agent)
    instance = host.instance(agent)
    host.wait_state(instance, "running")
    wait_for(lambda: len(records(host, instance)) > 4)
    return run, instance


def records(host: Host, instance: bytes) -> list[ActionRecord]:
    """Every action in its log, of which each was checked against the recorded roots."""
    entries = LogReader(host.config.instance_dir(instance), instance).entries()
    return [entry.record for entry in entries if isinstance(entry.record, ActionRecord)]


def engines(host: Host, instance: bytes) -> list[EngineId]:
    """That of each action."""
    entries = LogReader(host.config.instance_dir(instance), instance).entries()
    return [entry.opening.engine for entry in entries if isinstance(entry.record, ActionRecord)]


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

    old = set(engines(host, instance))
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
    new = set(engines(host, instance)[acted:])
    assert len(new) == 1
    assert new.isdisjoint(old)
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
    assert len(set(engines(host, instance))) == 4


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


def test_code_that_cannot_be_started_ends_the_instance_and_says_why(host: Host) -> None:
    host.agent("a", COUNTS)
    run, instance = running(host)
    upgrade(host, "v2", ("enforcer/zygote.py", '(sys.executable, "-P", "-m", "enforcer.takeover")', '("/nowhere/python3",)'))
    status, _, err = host.finish(run)

    assert (status, "the code of the daemon, started" in err) == (137, True)
    assert host.standing(instance)["state"] == "killed"
    assert host.attestor.instances[instance].stopped == "killed"
    assert gone(host, instance)


def test_refused_after_the_takeover_it_stays_held_and_is_killed_at_hold_max(host: Host) -> None:
    host.attestor.settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=60, hold_max=8)
    host.agent("a", COUNTS)
    run, instance = running(host)
    host.attestor.refusal = Refusal((Reason("policy-refused", "executables", "known ones", "others"),), final=False)
    began = time.monotonic()
    upgrade(host, "v2")

    wait_for(lambda: host.standing(instance)["moves"] == 1)
    assert held_throughout(host, instance)
    host.wait_state(instance, "killed", 15)
    assert time.monotonic() - began < 8 + 6, "the hold is counted from where it began, and not from the takeover"
    assert host.finish(run)[0] == 137
    assert gone(host, instance)


SLOW = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["params"]["name"] == "slow":
        time.sleep(5)
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {"asked": request["params"]["arguments"]["n"]}}), flush=True)
"""


def test_call_in_flight_fails_on_record_and_its_late_answer_answers_nothing(host: Host) -> None:
    body = """
    print(json.dumps(ask("notes", "slow", n=1)), flush=True)
    while not (got := ask("notes", "quick", n=2))["ok"]:
        time.sleep(0.05)
    print(json.dumps(got), flush=True)
    """
    host.agent("a", body, tool=SLOW)
    run = host.run("a")
    instance = host.instance("a")
    host.wait_state(instance, "running")
    wait_for(lambda: len(records(host, instance)) == 1)
    time.sleep(0.2)
    upgrade(host, "v2")
    status, out, _ = host.finish(run)

    first, last = map(json.loads, out.splitlines())
    assert (status, first["ok"], first["failure"]["detail"]) == (0, False, "tool notes: the enforcer comes over to other code")
    assert last["result"] == {"asked": 2}, "the answer to the first call came when the tool ran again, and was passed over"
    assert (outcomes(host, instance)[0].of, outcomes(host, instance)[0].outcome) == (1, "failed")


def test_request_that_was_sent_in_pieces_is_read_whole_across_the_takeover(host: Host) -> None:
    """The gate had read half of it: the rest goes over."""
    body = """
    line = json.dumps({"id": 5, "tool": "notes", "method": "read", "arguments": {"name": "today"}}).encode()
    connection.sendall(line[:20])
    print("half", flush=True)
    while not os.path.exists("/agent/go"):
        time.sleep(0.02)
    connection.sendall(line[20:] + b"\\n")
    print(stream.readline().decode(), flush=True)
    """
    host.agent("a", body)
    run = host.run("a")
    instance = host.instance("a")
    assert run.stdout is not None
    assert run.stdout.readline() == b"half\n"
    time.sleep(0.2)
    upgrade(host, "v2")
    wait_for(lambda: (s := host.standing(instance))["moves"] == 1 and s["state"] == "running")
    (host.config.agent_dir(instance) / "agent" / "home" / "go").touch()

    out, _ = run.communicate(timeout=20)
    assert json.loads(out)["id"] == 5
    assert json.loads(out)["ok"]


def test_signal_reaches_the_agent_under_the_new_code(host: Host) -> None:
    host.agent("a", COUNTS)
    run, instance = running(host)
    upgrade(host, "v2")
    acts_as(host, instance, 1)
    run.send_signal(signal.SIGUSR1)

    assert host.finish(run)[0] == 128 + signal.SIGUSR1


def test_agent_whose_client_goes_ends_under_the_new_code(host: Host) -> None:
    host.agent("a", COUNTS)
    run, instance = running(host)
    upgrade(host, "v2")
    acts_as(host, instance, 1)
    run.kill()
    wait_for(lambda: gone(host, instance), BOUND)


def test_holder_that_came_over_has_no_secret_in_what_ps_shows_and_no_descriptor_but_its_own(host: Host) -> None:
    host.agent("a", COUNTS)
    _, instance = running(host)
    holder = Path(f"/proc/{host.holder_pid(instance)}")
    before = sorted(os.readlink(fd).partition(":")[0] for fd in holder.joinpath("fd").iterdir())
    upgrade(host, "v2")
    acts_as(host, instance, 1)

    command = holder.joinpath("cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    environment = holder.joinpath("environ").read_bytes().rstrip(b"\0").split(b"\0")
    after = sorted(os.readlink(fd).partition(":")[0] for fd in holder.joinpath("fd").iterdir())
    assert command[1:-1] == [b"-P", b"-m", b"enforcer.takeover"]
    assert command[-1].isdigit()
    assert {line.partition(b"=")[0] for line in environment} <= {b"PATH", b"LANG", b"PYTHONPATH", b"PYTHONPYCACHEPREFIX"}
    assert not any("memfd" in name for name in after)
    assert len(after) <= len(before)
    assert holder.joinpath("comm").read_text() == "writ-holder\n"


def test_image_of_an_agent_that_ended_goes_though_the_daemon_has_another_mount_namespace(idle_host: Host) -> None:
    """As each start of a systemd unit with PrivateTmp has: nobody but the holders sees what is mounted in the one before."""
    host, own_mounts = idle_host, ("unshare", "--mount", "--propagation", "private")
    host.write_config(image_keep=0)
    host.serve(*own_mounts)
    host.agent("a", COUNTS)
    host.agent("b", COUNTS + "# another\n")
    (run, first), (_, second) = running(host, "a"), running(host, "b")
    seen = Path(f"/proc/{host.holder_pid(second)}/mountinfo")
    code = {name: next(part.root.hex() for part in host.attestor.agents[name].components if part.kind == "code") for name in "ab"}
    host.install("v2")
    host.kill_daemon()
    host.serve(*own_mounts)
    for instance in (first, second):
        acts_as(host, instance, 1)
    assert all(root in seen.read_text() for root in code.values())
    run.send_signal(signal.SIGTERM)
    assert host.finish(run)[0] == 128 + signal.SIGTERM

    wait_for(lambda: code["a"] not in seen.read_text())
    assert code["b"] in seen.read_text(), "it is in use"
    acts_as(host, second, 1)


def test_doctor_says_which_holders_run_other_code(host: Host) -> None:
    host.agent("a", COUNTS)
    _, instance = running(host)
    host.install("v2")

    def found() -> tuple[bool, str]:
        shown = subprocess.run(host.command("doctor", "--json"), cwd=host.code, capture_output=True, check=False, timeout=60)
        (finding,) = [f for f in json.loads(shown.stdout)["findings"] if f["check"] == "holders"]
        return finding["ok"], finding["found"]

    ok, told = found()
    assert (ok, instance.hex()[:8] in told) == (False, True)
    host.kill_daemon()
    host.serve()
    acts_as(host, instance, 1)
    assert found()[0]


def test_ways_out_are_closed_during_the_hold_and_lead_out_again_under_the_new_code(host: Host) -> None:
    body = """
    import urllib.request
    while not os.path.exists("/agent/enough"):
        try:
            print(urllib.request.urlopen("http://127.0.0.1:%d/v1/a", timeout=20).read().decode(), flush=True)
        except OSError as error:
            print(error, flush=True)
        time.sleep(0.05)
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1/*"
        host.agent("a", body % server.server_port, more=[("http.get", url)])
        run, instance = running(host)
        ca = host.config.agent_dir(instance) / "gate" / "ca.pem"
        trusted = ca.read_bytes()
        upgrade(host, "v2")
        wait_for(lambda: host.standing(instance)["moves"] == 1 and host.standing(instance)["state"] == "running")
        later = len(records(host, instance))
        wait_for(lambda: len(records(host, instance)) > later + 3)
        assert ca.read_bytes() == trusted
        enough(host, instance)
        status, out, _ = host.finish(run)
        server.shutdown()

    assert (status, out.splitlines()[-1]) == (0, "hello")
    assert {record.action for record in records(host, instance)} == {"http.get"}
    assert engines(host, instance)[-1] != engines(host, instance)[0]
    ended = {one.of for one in outcomes(host, instance)}
    assert {record.sequence for record in records(host, instance) if record.permit} <= ended, "each has its outcome"


class Hello(BaseHTTPRequestHandler):
    """Says hello."""

    def do_GET(self) -> None:
        """As `BaseHTTPRequestHandler`."""
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base's
        """Nothing."""


def test_child_instance_ends_and_its_parent_may_start_another(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep")
    body = """
    def start():
        while not (got := ask("instance", "start", agent="coder"))["ok"]:
            time.sleep(0.1)
        return got["result"]["instance"]
    child = start()
    print(json.dumps(ask("instance", "run", instance=child, script="sleep 60")), flush=True)
    print(json.dumps(ask("instance", "run", instance=child, script="true")), flush=True)
    print(json.dumps(ask("instance", "run", instance=start(), script="echo again")), flush=True)
    """
    grants = [(f"instance.{act}", "agent:coder") for act in ("start", "run", "end")]
    host.agent("a", body, prelude=PRELUDE, more=grants)
    run = host.run("a")
    parent, child = host.instance("a"), host.instance("coder")
    host.wait_state(child, "running")
    wait_for(lambda: len(records(host, child)) == 1)
    time.sleep(0.3)
    upgrade(host, "v2")
    status, out, err = host.finish(run, 60)

    assert status == 0, err
    asleep, after, again = map(json.loads, out.splitlines())
    assert (asleep["ok"], after["ok"]) == (False, False)
    assert again["result"]["status"] == 0
    assert gone(host, child)
    wait_for(lambda: host.attestor.instances[child].stopped is not None)
    assert [one.outcome for one in outcomes(host, child)] == ["failed"]
    assert [one.outcome for one in outcomes(host, parent)][:2] == ["done", "failed"]
    assert host.standing(parent)["moves"] == 1
