"""Child instances with real daemons, holders and cgroups: started by an agent, commanded by it, held, killed and gone with it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enforcer import frames
from enforcer.control import CONTROL, CouldNot, RefusedRun, Run
from enforcer.launch.sandbox import WORK
from tests.enforcer.host import Host, wait_for
from tests.enforcer.records import entries_of, records_of
from tests.world.root_fs import PYTHON
from writ.formats.archive import parse_archive
from writ.formats.local import Refusal
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, OutcomeRecord
from writ.formats.tlog.merkle import leaf_hash

pytestmark = pytest.mark.cgroup

GRANTS = tuple((f"instance.{act}", "agent:coder") for act in ("start", "run", "end"))
PRELUDE = """
import base64, json, os, socket, sys, threading, time
def ask(tool, method, **arguments):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["WRIT_SOCKET"])
        stream = connection.makefile("rwb")
        stream.write(json.dumps({"id": 1, "tool": tool, "method": method, "arguments": arguments}).encode() + b"\\n")
        stream.flush()
        return json.loads(stream.readline())
def run(script, **more):
    return ask("instance", "run", instance=child, script=script, **more)
def said(answer):
    return base64.b64decode(answer["result"]["stdout"]["content"]).decode()
"""
START = 'child = ask("instance", "start", agent="coder")["result"]["instance"]\n'


def agent(host: Host, body: str) -> None:
    """An agent called a that starts a child called coder, and goes on so."""
    host.agent("a", START + body, prelude=PRELUDE, more=GRANTS)


def act(host: Host, body: str) -> Any:
    """What such an agent prints."""
    agent(host, body)
    status, out, err = host.finish(host.run("a"), 60)
    assert (status, err) == (0, ""), (host.folder / "daemon.log").read_text()[-3000:]
    return json.loads(out)


def records(host: Host, name: str) -> list[ActionRecord | OutcomeRecord]:
    instance = host.instance(name)
    return records_of(host.config.instance_dir(instance), instance)


def running(host: Host, script: str = "sleep 60") -> tuple[bytes, bytes]:
    """Agent and child, with a command of it at work."""
    agent(host, f"run({script!r})\n")
    host.run("a")
    child = host.instance("coder")
    host.wait_state(child, "running", 30)
    wait_for(host.cgroup_of(child).processes, 30)
    return host.instance("a"), child


def ended(host: Host, *instances: bytes) -> None:
    """Nothing of these instances is left: no process, no cgroup, no holder, no room; and the attestor knows."""
    for instance in instances:
        wait_for(lambda instance=instance: not host.cgroup_of(instance).exists(), 30)  # type: ignore[misc]
        wait_for(lambda instance=instance: not host.config.agent_dir(instance).exists(), 30)  # type: ignore[misc]
        wait_for(lambda instance=instance: host.attestor.instances[instance].stopped, 30)  # type: ignore[misc]
        assert not host.config.holder_socket(instance).exists()
    wait_for(lambda: not host.holders(), 30)


# --- a command -------------------------------------------------------------------------------------------------------------


@pytest.mark.shared_host
def test_a_command_is_decided_and_recorded_in_both_logs(host: Host) -> None:
    host.child("coder", "/usr/bin/cat")
    script = "echo hello; echo no >&2; cat; exit 3"
    answer = act(host, f'print(json.dumps(run({script!r}, stdin="aW4=")))')
    parent, child = records(host, "a"), records(host, "coder")
    result = answer["result"]

    assert (answer["ok"], result["ended"], result["status"]) == (False, "exit", 3)
    assert base64.b64decode(result["stdout"]["content"]) == b"hello\nin"
    assert result["stderr"] == {"bytes": 3, "content": "bm8K", "sha256": hashlib.sha256(b"no\n").hexdigest()}
    acted = [(r.action, r.resource, r.permit) for r in parent if isinstance(r, ActionRecord)]
    assert acted == [("instance.start", "agent:coder", True), ("instance.run", "agent:coder", True)]
    asked, outcome = child
    assert isinstance(asked, ActionRecord)
    assert isinstance(outcome, OutcomeRecord)
    assert (asked.action, asked.resource, asked.gate, asked.permit) == ("instance.run", "agent:coder", "instance", True)
    assert (outcome.of, outcome.outcome, outcome.status) == (asked.sequence, "failed", 3)
    assert [r.status for r in parent if isinstance(r, OutcomeRecord)] == [None, 3], "a start has no status"
    coder = host.attestor.instances[host.instance("coder")]
    wait_for(lambda: coder.log[0] == 3)  # the child's holder carries it as it ends, and the parent does not wait for that


@pytest.mark.shared_host
def test_the_childs_record_names_the_parents_and_the_scripts_digest(host: Host) -> None:
    host.child("coder")
    act(host, 'print(json.dumps(run("true", stdin="aW4=")))')
    instance = host.instance("a")
    entries = entries_of(host.config.instance_dir(instance), instance)
    (run,) = (e for e in entries if isinstance(e.record, ActionRecord) and e.record.action == "instance.run")
    asked = records(host, "coder")[0]
    assert isinstance(asked, ActionRecord)
    assert asked.parent == leaf_hash(run.leaf)
    instance = host.instance("coder")
    arguments, result = (json.loads(e.content or b"") for e in entries_of(host.config.instance_dir(instance), instance))
    assert arguments["script"] == {"bytes": 4, "sha256": hashlib.sha256(b"true").hexdigest()}
    assert arguments["stdin"] == {"bytes": 2, "sha256": hashlib.sha256(b"in").hexdigest()}
    assert (result["ended"], result["status"], result["stdout"]["bytes"]) == ("exit", 0, 0)
    assert "content" not in result["stdout"], "the parent's log has what came, the child's says what it was"


@pytest.mark.shared_host
def test_files_stay_from_one_command_to_the_next_and_processes_do_not(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep", "/usr/bin/cat")
    first, then = "echo kept > f; sleep 60 & echo $! > pid", "cat f; kill -0 $(cat pid) && echo alive; true"
    assert act(host, f"run({first!r})\nprint(json.dumps(said(run({then!r}))))") == "kept\n"


@pytest.mark.shared_host
def test_what_it_wrote_runs_in_work_and_nowhere_else(host: Host) -> None:
    host.child("coder", "/usr/bin/cp", "/usr/bin/true")
    script = "for at in /work /work/tmp /tmp /agent /dev/shm; do cp /usr/bin/true $at/own; $at/own 2>/dev/null && echo $at; done; true"
    assert act(host, f"print(json.dumps(said(run({script!r}))))") == "/work\n/work/tmp\n"


@pytest.mark.shared_host
def test_its_environment_is_empty_and_it_has_no_gate(host: Host) -> None:
    host.child("coder", "/usr/bin/env", "/usr/bin/ls")
    answer = act(host, 'print(json.dumps(said(run("env; pwd; ls /run/writ; ls /proc/self/fd", env={"MINE": "1"}, cwd="/tmp"))))')
    names = {line.partition("=")[0] for line in answer.splitlines() if "=" in line}
    assert names == {"HOME", "LANG", "MINE", "PATH", "PWD", "TMPDIR"}
    assert answer.splitlines()[-5:] == ["/tmp", "0", "1", "2", "3"]
    assert f"HOME={WORK}" in answer


@pytest.mark.shared_host
def test_a_command_ends_at_its_time_and_its_output_is_bounded(host: Host) -> None:
    host.child("coder")
    late, much = act(
        host,
        'late = run("while :; do :; done", limits={"seconds": 1})\n'
        'much = run("i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done", limits={"output": 10})\nprint(json.dumps([late, much]))',
    )
    whole = "".join(f"{n}\n" for n in range(5000)).encode()
    assert (late["ok"], late["result"]["ended"], late["result"]["status"]) == (False, "time", 137)
    assert much["result"]["stdout"] == {
        "bytes": len(whole), "content": base64.b64encode(whole[:10]).decode(), "sha256": hashlib.sha256(whole).hexdigest(),
    }  # fmt: skip


@pytest.mark.shared_host
def test_a_program_that_is_not_there_is_a_failed_outcome(host: Host) -> None:
    host.child("coder")
    answer = act(host, 'print(json.dumps(ask("instance", "run", instance=child, argv=["/usr/bin/nothing"])))')
    assert (answer["ok"], answer["result"]["failure"]["what"]) == (False, "launch")
    outcome = records(host, "coder")[1]
    assert isinstance(outcome, OutcomeRecord)
    assert (outcome.outcome, outcome.status) == ("failed", None), "it never ran"


@pytest.mark.shared_host
def test_only_so_many_commands_run_at_a_time(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep")
    answers = act(
        host,
        "found = []\ntasks = [threading.Thread(target=lambda: found.append(run('sleep 2'))) for _ in range(9)]\n"
        "[t.start() for t in tasks]\n[t.join() for t in tasks]\nprint(json.dumps(found))",
    )
    refused = [a["result"]["refusal"]["reasons"][0]["code"] for a in answers if not a["ok"]]
    assert refused == ["too-many-requests"]


# --- who may -------------------------------------------------------------------------------------------------------------------


@pytest.mark.shared_host
def test_without_a_grant_no_child_is_started(host: Host) -> None:
    host.child("coder")
    host.agent("a", 'print(json.dumps(ask("instance", "start", agent="coder")))', prelude=PRELUDE, more=[("instance.start", "agent:other")])
    _, out, _ = host.finish(host.run("a"))
    assert [r["code"] for r in json.loads(out)["refusal"]["reasons"]] == ["grant-missing"]
    assert len(host.attestor.instances) == 1


@pytest.mark.shared_host
def test_without_any_grant_there_is_no_such_tool(host: Host) -> None:
    host.agent("a", 'print(json.dumps(ask("instance", "start", agent="coder")))')
    _, out, _ = host.finish(host.run("a"))
    assert [r["code"] for r in json.loads(out)["refusal"]["reasons"]] == ["unknown-tool"]


@pytest.mark.shared_host
def test_the_childs_own_token_decides_too(host: Host) -> None:
    host.child("coder")
    host.attestor.agents["coder"] = replace(host.attestor.agents["coder"], grants=())
    answer = act(host, 'print(json.dumps(run("true")))')
    assert [r["code"] for r in answer["result"]["refusal"]["reasons"]] == ["grant-missing"]
    (asked,) = records(host, "coder")
    assert isinstance(asked, ActionRecord)
    assert not asked.permit


def test_a_policy_can_forbid_what_is_granted(host: Host) -> None:
    host.child("coder")
    host.attestor.policies += '@id("no-code") forbid (principal, action == Writ::Action::"instance.run", resource);'
    answer = act(host, 'print(json.dumps(run("true")))')
    assert [(r["code"], r["got"]) for r in answer["refusal"]["reasons"]] == [("policy-refused", "no-code")]


def test_a_child_that_gets_no_token_is_refused_with_its_reasons(host: Host) -> None:
    host.child("coder")
    host.agent("a", 'print(json.dumps(ask("instance", "start", agent="coder")))', prelude=PRELUDE, more=GRANTS)
    host.attestor.refuses["coder"] = Refusal((Reason("grants-not-narrower", "grants", "within its parent", "more"),), False)
    status, out, _ = host.finish(host.run("a"))
    assert status == 0
    assert [r["code"] for r in json.loads(out)["result"]["refusal"]["reasons"]] == ["grants-not-narrower"]
    assert host.standing(host.instance("coder"))["state"] == "refused"


def test_a_child_is_started_by_an_agent_only(host: Host) -> None:
    host.child("coder")
    status, out, err = host.finish(host.run("coder"))
    assert (status, out) == (1, "")
    assert "child-refused" in err
    agent(host, "time.sleep(30)")
    host.run("a")
    wait_for(lambda: host.standing(host.instance("coder"))["state"] == "running", 30)
    status, _, err = host.finish(host.run("coder", "--parent", host.instance("a").hex()))
    assert (status, "child-refused" in err) == (1, True)


@pytest.mark.shared_host
def test_only_a_sandboxed_agent_is_a_child(host: Host) -> None:
    host.child("coder")
    host.attestor.agents["coder"] = replace(host.attestor.agents["coder"], profile="jit")
    host.agent("a", 'print(json.dumps(ask("instance", "start", agent="coder")))', prelude=PRELUDE, more=GRANTS)
    _, out, _ = host.finish(host.run("a"))
    assert [r["code"] for r in json.loads(out)["result"]["refusal"]["reasons"]] == ["child-refused"]


def test_a_child_is_never_only_watched(idle_host: Host) -> None:
    host = idle_host
    host.child("coder")
    host.attestor.agents["coder"] = replace(host.attestor.agents["coder"], mode="observe")
    host.write_config(observe=True)
    host.serve()
    host.agent("a", 'print(json.dumps(ask("instance", "start", agent="coder")))', prelude=PRELUDE, more=GRANTS)
    _, out, _ = host.finish(host.run("a"))
    (reason,) = json.loads(out)["result"]["refusal"]["reasons"]
    assert (reason["code"], reason["claim"]) == ("child-refused", "measurement.mode")


def test_a_child_needs_a_line_and_a_parent_that_lives(host: Host) -> None:
    host.child("coder")
    null = os.open(os.devnull, os.O_RDWR)
    ours, theirs = socket.socketpair()
    said = []
    for stdin in (null, theirs.fileno()):
        with frames.connect(str(host.config.control_socket)) as client:
            frames.send(client, CONTROL.encode(Run("coder", (), bytes(16), child=True)), (stdin, null, null))
            data = frames.receive(client, 1 << 20, 30)
            assert data is not None
            said.append(CONTROL.parse(data))
    os.close(null)
    ours.close()
    theirs.close()
    assert isinstance(said[0], RefusedRun)
    assert said[0].reasons[0].code == "child-refused"
    assert isinstance(said[1], CouldNot), "there is no cgroup of that parent"


def test_an_operator_asks_for_no_child(idle_host: Host) -> None:
    """The control socket tells by the peer's uid."""
    host, gid = idle_host, 61999
    host.write_config(operator_gid=gid)
    host.serve()
    code = (
        "import os, socket, struct, sys\n"
        f"os.setgroups([{gid}]); os.setgid({gid}); os.setuid(61998)\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({str(host.config.control_socket)!r})\n"
        f"data = bytes.fromhex({CONTROL.encode(Run('coder', (), bytes(16), child=True)).hex()!r})\n"
        "frame = struct.pack('>I', len(data)) + data\n"
        "n = socket.send_fds(s, [frame[:1]], [0, 1, 2]); s.sendall(frame[n:])\n"
        "size = struct.unpack('>I', s.recv(4))[0]; sys.stdout.write(s.recv(size).hex())\n"
    )
    done = subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True, check=True, timeout=30)
    answer = CONTROL.parse(bytes.fromhex(done.stdout))
    assert isinstance(answer, CouldNot)
    assert "parent's holder" in answer.detail


@pytest.mark.shared_host
def test_a_handle_that_no_start_gave_is_malformed(host: Host) -> None:
    host.child("coder")
    answer = act(host, 'print(json.dumps(ask("instance", "run", instance="0" * 32, script="true")))')
    assert [r["code"] for r in answer["refusal"]["reasons"]] == ["malformed"]
    assert len([r for r in records(host, "a") if isinstance(r, ActionRecord)]) == 1, "no action, no record"


@pytest.mark.shared_host
def test_only_so_many_children_live_at_a_time(host: Host) -> None:
    host.child("coder")
    answers = act(host, 'print(json.dumps([ask("instance", "start", agent="coder") for _ in range(4)]))')
    assert [a["ok"] for a in answers] == [True, True, True, False]
    assert answers[3]["result"]["refusal"]["reasons"][0]["code"] == "too-many-requests"


# --- ends ------------------------------------------------------------------------------------------------------------------


def test_end_ends_it_with_what_it_runs(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep")
    answer = act(
        host,
        "found = []\ntask = threading.Thread(target=lambda: found.append(run('sleep 60')))\ntask.start()\ntime.sleep(1)\n"
        'ended = ask("instance", "end", instance=child)\ntask.join()\nprint(json.dumps([ended, found[0], run("true")]))',
    )
    done, cut, after = answer
    assert done["ok"]
    assert not cut["ok"]
    assert [r["code"] for r in after["refusal"]["reasons"]] == ["malformed"]
    assert [type(r) for r in records(host, "coder")] == [ActionRecord, OutcomeRecord]
    assert host.standing(host.instance("coder"))["state"] == "ended"


def test_a_child_ends_with_its_parent(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep")
    act(host, "threading.Thread(target=lambda: run('sleep 60'), daemon=True).start()\ntime.sleep(1)\nprint(1)")
    ended(host, host.instance("coder"), host.instance("a"))
    assert host.attestor.instances[host.instance("coder")].log[0] == 3


def test_a_kill_of_the_parent_kills_the_child(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep")
    parent, child = running(host)
    host.attestor.drift(parent)
    host.wait_state(parent, "killed")
    ended(host, parent, child)


def test_drift_of_the_child_kills_it_and_not_its_parent(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep")
    agent(host, "first = run('sleep 60')\nprint(json.dumps(first))\n")
    run = host.run("a")
    child = host.instance("coder")
    wait_for(lambda: host.cgroup_of(child).processes(), 30)
    host.attestor.drift(child)
    status, out, _ = host.finish(run)
    assert (status, host.standing(child)["state"]) == (0, "killed")
    assert not json.loads(out)["ok"]
    ended(host, child)


def test_a_hold_of_the_parent_holds_the_child_and_its_thaw_takes_a_token_of_its_own(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep")
    parent, child = running(host)
    host.kill_daemon()
    for instance in (parent, child):
        host.wait_state(instance, "held")
        assert host.cgroup_of(instance).frozen()
    host.serve()
    for instance in (parent, child):
        host.wait_state(instance, "running", 30)
        wait_for(lambda instance=instance: not host.cgroup_of(instance).frozen())  # type: ignore[misc]


def test_the_child_stays_on_hold_while_its_parent_is(host: Host) -> None:
    """Only the parent is refused: its child's token comes, and thaws nothing."""
    host.child("coder", "/usr/bin/sleep")
    host.attestor.settings = replace(host.attestor.settings, token_life=6)
    parent, child = running(host)
    refused = Refusal((Reason("host-not-active", "host", "active", "retired"),), False)
    host.attestor.refuses["a"] = refused
    host.wait_state(parent, "held", 30)
    assert host.wait_state(child, "held")["reasons"][0]["claim"] in ("parent", "token.exp")
    asks = sum(ask.instance == child for ask in host.attestor.asks)
    wait_for(lambda: sum(ask.instance == child for ask in host.attestor.asks) > asks + 1, 30)
    assert host.standing(child)["state"] == "held"
    assert host.cgroup_of(child).frozen()
    del host.attestor.refuses["a"]
    host.wait_state(parent, "running", 30)
    host.wait_state(child, "running", 30)


@pytest.mark.parametrize("whose", ["parent", "child"])
def test_sigkill_of_a_holder_leaves_no_survivor(host: Host, whose: str) -> None:
    host.child("coder", "/usr/bin/sleep")
    parent, child = running(host)
    inside = host.cgroup_of(child).processes()
    os.kill(host.holder_pid(parent if whose == "parent" else child), signal.SIGKILL)
    wait_for(lambda: not host.cgroup_of(child).populated(), 30)
    wait_for(lambda: not [pid for pid in inside if _lives(pid)])
    if whose == "child":
        host.finish(host.runs[-1])
    ended(host, parent, child)


def test_sigkill_of_the_zygote_ends_neither_and_what_comes_after_ends_both(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep")
    parent, child = running(host)
    assert host.daemon is not None
    os.kill(host.children(host.daemon.pid)[0], signal.SIGKILL)
    assert host.standing(child)["state"] == "running"
    os.kill(host.holder_pid(parent), signal.SIGKILL)
    for instance in (parent, child):
        wait_for(lambda instance=instance: not host.cgroup_of(instance).exists(), 30)  # type: ignore[misc]


def test_daemon_that_comes_later_sweeps_a_child_whose_holder_died(host: Host) -> None:
    host.child("coder", "/usr/bin/sleep")
    parent, child = running(host)
    host.kill_daemon()
    host.wait_state(child, "held")
    for instance in (child, parent):
        os.kill(host.holder_pid(instance), signal.SIGKILL)
    host.serve()
    for instance in (parent, child):
        wait_for(lambda instance=instance: not host.cgroup_of(instance).exists(), 30)  # type: ignore[misc]
        wait_for(lambda instance=instance: host.attestor.instances[instance].stopped == "lost", 30)  # type: ignore[misc]


def _lives(pid: int) -> bool:
    """A zombie is dead, and waits for its parent only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


# --- the way out -------------------------------------------------------------------------------------------------------------

WGET = """
import socket, sys
with socket.create_connection(("127.0.0.1", 3128), 5) as s:
    s.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\\r\\nHost: 127.0.0.1:%d\\r\\n\\r\\n" % (int(sys.argv[1]), int(sys.argv[1])))
    print(s.recv(100).split(b"\\r\\n")[0].decode())
"""


def _connects(port: int) -> str:
    argv = [PYTHON, "-I", "-c", WGET, str(port)]
    return f'ask("instance", "run", instance=child, argv={argv!r})'


@pytest.mark.parametrize("granted", [True, False])
def test_a_child_connects_where_its_own_grants_say_so(host: Host, granted: bool) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        host.child("coder", more=[("net.connect", f"tcp:127.0.0.1:{port if granted else port + 1}")])
        answer = act(host, f"print(json.dumps(said({_connects(port)})))")
    first = "HTTP/1.1 200" if granted else "HTTP/1.1 403"
    assert answer.startswith(first), answer
    acted = [(r.action, r.permit) for r in records(host, "coder") if isinstance(r, ActionRecord)]
    assert acted == [("instance.run", True), ("net.connect", granted)]


@pytest.mark.shared_host
def test_a_child_without_such_a_grant_has_no_way_out(host: Host) -> None:
    host.child("coder")
    answer = act(host, f"print(json.dumps({_connects(1)}))")
    assert "Connection refused" in base64.b64decode(answer["result"]["stderr"]["content"]).decode()


def test_an_export_holds_both_logs(host: Host) -> None:
    host.child("coder")
    act(host, 'print(json.dumps(run("true")))')
    archive = host.folder / "archive"
    assert host.show("log", "export", "--output", str(archive))["instances"] == 2
    assert len(parse_archive(archive.read_bytes()).logs) == 2
