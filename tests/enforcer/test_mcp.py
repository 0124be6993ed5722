"""An agent in its sandbox and an MCP server beside it: real daemon, holder, namespaces and takeover; over HTTP and over the socket."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from enforcer.record import LogReader
from tests.enforcer.gates.mcp_rig import GRANTS, OLD, approved
from tests.enforcer.host import ROOT, Host, wait_for
from tests.world import mcp_notes
from writ.formats.action import ActionRecord, OutcomeRecord, Record
from writ.formats.mcp import MODERN, ApprovedServer, encode_approved, parse_approved

SERVER = Path(mcp_notes.__file__).read_text()
CLIENT = """
import http.client, json, os, socket, sys, time
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
def post(method, params, **headers):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}})
    sent = {"Content-Type": "application/json", "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
    if name := params.get("name", params.get("uri")):
        sent["Mcp-Name"] = name
    connection = http.client.HTTPConnection("127.0.0.1", 3129, timeout=20)
    connection.request("POST", "/mcp/notes", body, sent | headers)
    return json.loads(connection.getresponse().read())
def line(method, params):
    one = socket.socket(socket.AF_UNIX); one.connect("/run/writ/notes.mcp.sock"); f = one.makefile("rwb")
    f.write(json.dumps({"jsonrpc": "2.0", "id": 2, "method": method, "params": params}).encode() + b"\\n"); f.flush()
    return json.loads(f.readline())
def rule(answer):
    return answer["error"]["data"]["refusal"]["reasons"][0]["code"] if "error" in answer else "ok"
"""
READ = '{"name": "read", "arguments": {"name": "today"}}'


def agent(host: Host, body: str, pins: ApprovedServer) -> None:
    host.agent("a", body, prelude=CLIENT, tool=SERVER, approved=encode_approved(pins), more=GRANTS)


def records(host: Host, instance: bytes) -> list[Record]:
    return [entry.record for entry in LogReader(host.config.instance_dir(instance), instance).entries()]


def tools(host: Host, instance: bytes) -> str:
    return (host.cgroup_of(instance).child("tools").path / "cgroup.procs").read_text()


@pytest.mark.cgroup
@pytest.mark.parametrize("protocol", [MODERN, OLD])
def test_an_agent_reaches_its_servers_over_both_wires_and_no_other_way(host: Host, protocol: str) -> None:
    body = f"""
    print(json.dumps({{
        "http": rule(post("tools/call", {READ})), "line": rule(line("tools/call", {READ})),
        "wiped": rule(post("tools/call", {{"name": "wipe"}})), "key": rule(line("resources/read", {{"uri": "note://secret/key"}})),
        "today": rule(post("resources/read", {{"uri": "note://today"}})),
        "lied": post("tools/call", {READ}, **{{"Mcp-Name": "wipe"}})["error"]["code"],
        "tools": [one["name"] for one in post("tools/list", {{}})["result"]["tools"]],
        "env": [os.environ.get("WRIT_MCP"), "HTTP_PROXY" in os.environ],
    }}))
    """
    agent(host, body, approved(protocol))
    status, out, err = host.finish(host.run("a"))

    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "http": "ok", "line": "ok", "wiped": "policy-refused", "key": "grant-missing", "today": "ok", "lied": -32020,
        "tools": ["read", "wipe", "scale", "sql"], "env": ["http://127.0.0.1:3129/mcp", False],
    }  # fmt: skip
    instance = host.instance("a")
    found = records(host, instance)
    assert [(one.gate, one.resource) for one in found if isinstance(one, ActionRecord)] == [
        ("mcp", "mcp:notes/read"), ("mcp", "mcp:notes/read"), ("mcp", "mcp:notes/wipe"), ("mcp", "mcp:notes/note://secret/key"),
        ("mcp", "mcp:notes/note://today"),
    ]  # fmt: skip
    assert [one.outcome for one in found if isinstance(one, OutcomeRecord)] == ["done"] * 3


@pytest.mark.cgroup
@pytest.mark.shared_host
def test_an_agent_whose_server_was_approved_with_other_definitions_is_refused_them(host: Host) -> None:
    agent(
        host,
        f'print(rule(post("tools/call", {READ})), rule(post("tools/call", {{"name": "scale"}})))',
        approved(tools={"read": approved().tools["wipe"]}),
    )
    status, out, _ = host.finish(host.run("a"))
    assert (status, out.split()) == (0, ["tool-changed", "tool-unapproved"])


@pytest.mark.cgroup
@pytest.mark.shared_host
def test_a_file_that_approves_in_no_known_way_starts_nothing(host: Host) -> None:
    host.agent("a", "print('ran')", prelude=CLIENT, tool=SERVER, approved=b'{"v":2}')
    status, out, err = host.finish(host.run("a"))
    assert (status, out) == (1, "")
    assert "malformed" in err


@pytest.mark.cgroup
@pytest.mark.parametrize("protocol", [MODERN, OLD])
def test_servers_and_both_wires_are_there_after_a_takeover(host: Host, protocol: str) -> None:
    body = f"""
    for number in range(100_000):
        try:
            print(rule(post("tools/call", {READ})), rule(line("tools/call", {READ})), flush=True)
        except OSError:
            print("cut", flush=True)
        time.sleep(0.02)
        if os.path.exists("/agent/enough"):
            sys.exit(7)
    """
    agent(host, body, approved(protocol))
    run, instance = host.run("a"), host.instance("a")
    host.wait_state(instance, "running")
    wait_for(lambda: len(records(host, instance)) > 4)
    server = tools(host, instance)
    host.install("next")
    host.kill_daemon()
    host.serve()
    wait_for(lambda: (s := host.standing(instance))["moves"] == 1 and s["state"] == "running", 30)
    before = len(records(host, instance))
    wait_for(lambda: len(records(host, instance)) > before + 4)

    assert tools(host, instance) == server
    (host.config.agent_dir(instance) / "agent" / "home" / "enough").touch()
    status, out, _ = host.finish(run)
    assert (status, set(out.split())) in [(7, {"ok"}), (7, {"ok", "cut"}), (7, {"ok", "cut", "hold"}), (7, {"ok", "hold"})]
    assert out.split()[-2:] == ["ok", "ok"]


def proposed(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "enforcer", "tools", *words], cwd=ROOT, capture_output=True, check=False, timeout=60)


def test_what_to_approve_is_proposed_for_either_generation() -> None:
    server = (sys.executable, "-I", mcp_notes.__file__)
    for words, protocol in (((), MODERN), (("--protocol", OLD), OLD)):
        done = proposed(*words, "--", *server)
        assert parse_approved(done.stdout) == approved(protocol)
        assert b"Read a note." in done.stderr
    definitions = json.loads(proposed("--json", "--", *server).stdout)["definitions"]
    assert [one["name"] for one in definitions] == ["read", "wipe", "scale", "sql", "greet"]
    assert proposed("--", "/bin/false").returncode == 3
    unknown = proposed("--protocol", "2000-01-01", "--", "/bin/false")
    assert (unknown.returncode, MODERN.encode() in unknown.stderr) == (2, True)
