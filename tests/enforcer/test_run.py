"""`enforcer run`, with a real daemon, holder and cgroup: what an agent can do, and what it cannot reach."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace

import pytest

from enforcer.record import LogReader
from tests.enforcer.host import UID_FIRST, Host, wait_for
from tests.enforcer.records import records_of
from tests.world.attestor import POLICIES
from tests.world.root_fs import PYTHON
from writ.formats.archive import parse_archive
from writ.formats.local import Refusal
from writ.formats.policy_bundle import CONTENT_TYPE, PolicySettings, encode_bundle
from writ.formats.reason import Reason
from writ.formats.record import ActionRecord, Opening, OutcomeRecord, parse_log

pytestmark = pytest.mark.cgroup


@pytest.mark.shared_host
def test_agent_acts_through_the_gate_and_its_status_is_returned(host: Host) -> None:
    host.agent("a", 'print(json.dumps([ask("notes", "read", name="today"), ask("notes", "wipe"), ask("none", "x")]))\nsys.exit(7)\n')
    status, out, err = host.finish(host.run("a"))
    allowed, forbidden, unknown = json.loads(out)

    assert (status, err) == (7, "")
    assert (allowed["ok"], allowed["result"]) == (True, {"text": "water the plants"})
    assert [r["code"] for r in forbidden["refusal"]["reasons"]] == ["policy-refused"]
    assert [r["code"] for r in unknown["refusal"]["reasons"]] == ["unknown-tool"]
    instance = host.instance("a")
    records = records_of(host.config.instance_dir(instance), instance)
    assert [(type(r), getattr(r, "permit", None)) for r in records] == [
        (ActionRecord, True), (OutcomeRecord, None), (ActionRecord, False), (ActionRecord, False),
    ]  # fmt: skip
    assert host.attestor.instances[instance].stopped == "exited"
    assert host.attestor.instances[instance].log[0] == 5, "what was done last is carried before the instance is closed"
    assert not host.cgroup_of(instance).exists()
    assert not host.config.agent_dir(instance).exists()


@pytest.mark.shared_host
def test_refusal_is_explained_by_its_reference(host: Host) -> None:
    host.agent("a", 'print(ask("notes", "wipe")["reference"])')
    _, out, _ = host.finish(host.run("a"))
    why = host.show("why", out.strip())

    assert [r["code"] for r in why["reasons"]] == ["policy-refused"]
    assert why["reasons"][0]["got"] == "no-wipe"
    assert why["reasons"][0]["remedy"]
    assert why["resource"] == "mcp:notes/wipe"


@pytest.mark.shared_host
def test_a_tools_own_error_is_a_failed_outcome(host: Host) -> None:
    host.agent("a", 'print(json.dumps(ask("notes", "explode")))')
    _, out, _ = host.finish(host.run("a"))
    instance = host.instance("a")
    _, outcome = records_of(host.config.instance_dir(instance), instance)

    assert json.loads(out)["ok"] is False
    assert isinstance(outcome, OutcomeRecord)
    assert outcome.outcome == "failed"


@pytest.mark.shared_host
def test_agent_reaches_neither_token_nor_key_nor_log(host: Host) -> None:
    host.agent(
        "a",
        """
        found = {"uid": os.getuid(), "groups": os.getgroups(), "environment": sorted(os.environ), "cwd": os.getcwd()}
        found["fds"] = sorted(int(n) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}"))
        status = (line.split(":\\t") for line in open("/proc/self/status"))
        found["status"] = {key: value for key, value in status if key in ("CapEff", "CapPrm", "NoNewPrivs")}
        holder, state, run = STATE
        blocked = []
        def tries(name, act):
            try:
                act()
            except (PermissionError, FileNotFoundError, ProcessLookupError, OSError) as error:
                blocked.append(name)
        tries("memory", lambda: open(f"/proc/{holder}/mem", "rb"))
        tries("environ", lambda: open(f"/proc/{holder}/environ", "rb").read(1))
        tries("descriptors", lambda: os.listdir(f"/proc/{holder}/fd"))
        tries("signal", lambda: os.kill(holder, 0))
        tries("state", lambda: os.listdir(state))
        tries("holders", lambda: os.listdir(run + "/holders"))
        tries("others", lambda: os.listdir(run + "/agents"))
        def control():
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(run + "/control.sock")
        tries("control", control)
        tries("store", lambda: open("/store/code/written", "w"))
        tries("root", lambda: os.setuid(0))
        print(json.dumps([found, blocked]))
        """,
        prelude="import json, os, socket, sys, time\n"
        f"STATE = 99999, {str(host.config.state_dir / 'instances')!r}, {str(host.config.run_dir)!r}\n",
    )
    status, out, err = host.finish(host.run("a"))
    assert (status, err) == (0, "")
    found, blocked = json.loads(out)

    assert found["environment"] == ["HOME", "LANG", "PATH", "PWD", "TMPDIR", "WRIT_SOCKET"]
    assert found["fds"] == [0, 1, 2]
    assert (found["uid"], found["groups"], found["cwd"]) == (1000, [], "/agent")
    assert {k: v.strip() for k, v in found["status"].items()} == {"CapEff": "0" * 16, "CapPrm": "0" * 16, "NoNewPrivs": "1"}
    assert set(blocked) == {"memory", "environ", "descriptors", "signal", "state", "holders", "others", "control", "store", "root"}


def test_no_other_uid_is_heard_at_the_gate(host: Host) -> None:
    host.agent("a", "time.sleep(20)")
    host.run("a")
    instance = host.instance("a")
    host.wait_state(instance, "running")
    gate = host.config.agent_dir(instance) / "gate" / "gate.sock"
    wait_for(gate.exists)
    import socket

    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(gate))  # root: the file's mode does not stop it, the peer check does
        heard = True
        try:
            stranger.sendall(b'{"id":1,"tool":"notes","method":"read","arguments":{}}\n')
            heard = stranger.recv(100) != b""
        except (ConnectionResetError, BrokenPipeError):
            heard = False
    assert not heard
    assert LogReader(host.config.instance_dir(instance), instance).checkpoint.size == 0


def test_agent_cannot_be_traced_to_its_tool(host: Host) -> None:
    """The tool runs under another uid, in a cgroup of its own."""
    host.agent("a", "time.sleep(20)")
    host.run("a")
    instance = host.instance("a")
    host.wait_state(instance, "running")
    cgroup = host.cgroup_of(instance)
    wait_for(lambda: cgroup.child("agent").processes() and cgroup.child("tools").processes())

    def owners(part: str) -> set[int]:
        return {os.stat(f"/proc/{process}").st_uid for process in cgroup.child(part).processes()}

    wait_for(lambda: (owners("agent"), owners("tools")) == ({UID_FIRST}, {UID_FIRST + 1}))


def test_two_instances_have_different_uids(host: Host) -> None:
    host.agent("a", "time.sleep(20)")
    host.run("a")
    host.run("a")
    wait_for(lambda: len(host.attestor.instances) == 2)
    for instance in host.attestor.instances:
        host.wait_state(instance, "running")
        wait_for(host.cgroup_of(instance).child("agent").processes)
    uids = {os.stat(f"/proc/{host.cgroup_of(i).child('agent').processes()[0]}").st_uid for i in host.attestor.instances}

    assert len(uids) == 2


@pytest.mark.parametrize(
    "refusal, code",
    [
        (Refusal((Reason("component-mismatch", "a", "b", "c"),), False), "component-mismatch"),
        (Refusal((Reason("instance-tainted", "a", "b", "c"),), True), "instance-tainted"),
    ],
)
def test_agent_without_a_token_is_never_started(host: Host, refusal: Refusal, code: str) -> None:
    host.agent("a", 'open("/var/tmp/writ-must-not-exist", "w")')
    host.attestor.refusal = refusal
    status, out, err = host.finish(host.run("a"))
    instance = host.instance("a")

    assert (status, out) == (1, "")
    assert code in err
    assert not os.path.exists("/var/tmp/writ-must-not-exist")
    assert host.standing(instance)["state"] == "refused"
    assert host.show("why", instance.hex()[:8])["reasons"][0]["code"] == code
    assert host.attestor.instances[instance].stopped == "exited"


@pytest.mark.shared_host
def test_an_agent_no_one_knows_is_refused_with_a_reference(host: Host) -> None:
    status, _, err = host.finish(host.run("nobody"))
    reference = err.split("reference ")[1].split()[0]

    assert status == 1
    assert host.show("why", reference)["reasons"][0]["code"] == "agent-unknown"


def test_without_an_attestor_nothing_starts_and_the_status_says_so(host: Host) -> None:
    host.agent("a", "pass")
    host.attestor.stop()
    status, _, err = host.finish(host.run("a"))

    assert status == 3
    assert "attestor" in err


def test_store_that_others_can_write_is_refused(host: Host) -> None:
    host.agent("a", "pass")
    host.store.chmod(0o777)
    status, _, err = host.finish(host.run("a"))

    assert status == 1
    assert "manifest-mutable" in err


def test_other_command_than_the_measured_one_is_refused(host: Host) -> None:
    host.agent("a", "pass")
    host.attestor.lies_about_command = ("/bin/false",)
    status, _, err = host.finish(host.run("a"))

    assert status == 1
    assert "component-mismatch" in err


@pytest.mark.shared_host
def test_signals_reach_the_agent_and_its_handler_decides(host: Host) -> None:
    host.agent(
        "a",
        """
        import signal
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(33))
        print("ready", flush=True)
        time.sleep(30)
        """,
    )
    run = host.run("a")
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    run.send_signal(signal.SIGTERM)

    assert host.finish(run)[0] == 33


@pytest.mark.shared_host
def test_status_of_an_agent_ended_by_a_signal_is_128_and_the_signal(host: Host) -> None:
    host.agent("a", "os.kill(os.getpid(), 9)")

    assert host.finish(host.run("a"))[0] == 137


@pytest.mark.shared_host
def test_what_the_agent_leaves_behind_ends_with_it(host: Host) -> None:
    host.agent("a", "if os.fork() == 0:\n    os.setsid()\n    os.close(1); os.close(2)\n    time.sleep(60)\n")
    assert host.finish(host.run("a"))[0] == 0
    instance = host.instance("a")

    assert not host.cgroup_of(instance).exists()


def test_agent_ends_when_its_client_is_gone(host: Host) -> None:
    host.agent("a", "time.sleep(60)")
    run = host.run("a")
    instance = host.instance("a")
    host.wait_state(instance, "running")
    wait_for(host.cgroup_of(instance).child("agent").processes)
    run.kill()

    host.wait_state(instance, "ended")


def test_renewal_comes_at_half_life_and_carries_the_log(host: Host) -> None:
    host.attestor.settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=5)
    host.agent("a", 'for _ in range(40):\n    print(ask("notes", "read", name="today")["ok"])\n    time.sleep(0.2)\n')
    started = time.monotonic()
    status, out, err = host.finish(host.run("a"))

    assert (status, set(out.split()), err) == (0, {"True"}, ""), "no action falls between two tokens"
    assert time.monotonic() - started > 8
    sizes = [ask.log_size for ask in host.attestor.asks]
    assert len(sizes) >= 4
    assert sizes == sorted(sizes)
    assert sizes[-1] == 81, "forty actions, each with its outcome, and the opening"


def test_lost_answer_is_resumed_from_the_checkpoint_that_the_verifier_holds(host: Host) -> None:
    host.attestor.settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=5)
    host.agent("a", 'for _ in range(30):\n    print(ask("notes", "read", name="today")["ok"])\n    time.sleep(0.2)\n')
    run = host.run("a")
    instance = host.instance("a")
    wait_for(lambda: len(host.attestor.asks) >= 1 and host.standing(instance)["state"] == "running")
    time.sleep(1)
    # the verifier has committed a checkpoint whose answer never came
    reader = LogReader(host.config.instance_dir(instance), instance)
    host.attestor.instances[instance].log = (reader.checkpoint.size, reader.checkpoint.root)
    status, out, _ = host.finish(run)

    assert (status, set(out.split())) == (0, {"True"})


def test_export_holds_the_log_and_every_paper(host: Host) -> None:
    host.agent("a", 'ask("notes", "read", name="today")')
    host.finish(host.run("a"))
    out = host.folder / "archive"
    host.show("log", "export", "--output", str(out))
    archive = parse_archive(out.read_bytes())

    assert [[type(record) for record in parse_log(log.leaves)] for log in archive.logs] == [[Opening, ActionRecord, OutcomeRecord]]
    assert {given.token for given in host.attestor.given} == set(archive.tokens)
    assert {given.decision for given in host.attestor.given} == set(archive.entries)
    assert {given.evidence for given in host.attestor.given} <= set(archive.objects)


def test_stranger_is_not_heard_at_the_control_socket(host: Host) -> None:
    import subprocess

    probe = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(host.config.control_socket)!r})"
    done = subprocess.run([PYTHON, "-c", probe], user=65534, group=65534, extra_groups=[], capture_output=True, check=False)

    assert b"PermissionError" in done.stderr


def test_second_daemon_is_refused(host: Host) -> None:
    import subprocess

    done = subprocess.run(host.command("serve"), capture_output=True, check=False, timeout=20)

    assert done.returncode == 3
    assert b"another one serves" in done.stderr


def test_candidate_stands_beside_the_policy_and_recorded_actions_are_decided_again_under_it(idle_host: Host) -> None:
    host = idle_host
    turned = POLICIES.replace("mcp:notes/wipe", "mcp:notes/read")
    candidate = host.folder / "candidate.cose"
    candidate.write_bytes(host.attestor.sign(encode_bundle(replace(host.attestor.bundle(), version=9, policies=turned)), CONTENT_TYPE))
    host.write_config(shadow_policy=candidate)
    host.serve()
    host.agent("a", 'print(json.dumps([ask("notes", "read", name="today")["ok"], ask("notes", "wipe")["ok"]]))')
    status, out, err = host.finish(host.run("a"))
    assert (status, json.loads(out), err) == (0, [True, False], ""), "the candidate decides nothing"

    (beside,) = host.show("policy", "shadow")["instances"]
    assert (beside["compared"], beside["missed"], beside["version"]) == (2, 0, 9)
    told = host.show("policy", "what-if", "--policies", str(candidate))
    for differences in (beside["differences"], told["differences"]):
        assert [(one["resource"], one["was"], one["would"]) for one in differences] == [
            ("mcp:notes/read", "permit", "refuse"), ("mcp:notes/wipe", "refuse", "permit"),
        ]  # fmt: skip
