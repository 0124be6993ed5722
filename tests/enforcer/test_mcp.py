"""An agent in its sandbox and an MCP server beside it: real daemon, holder, namespaces and takeover; over HTTP and over the socket."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.enforcer.gates.mcp_rig import GRANTS, OLD, approved
from tests.enforcer.host import ROOT, Host, wait_for
from tests.enforcer.records import records_of
from tests.world import mcp_notes
from tests.world.mcp_site import McpSite
from writ.formats.mcp.approved import ApprovedServer, Remote, encode_approved, parse_approved
from writ.formats.mcp.protocol import MODERN
from writ.formats.record import ActionRecord, OutcomeRecord

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


def records(host: Host, instance: bytes) -> list[ActionRecord | OutcomeRecord]:
    return records_of(host.config.instance_dir(instance), instance)


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


FAR = """
def far(method, params):
    return rule(json.loads(post_at("far", method, params)))
def post_at(name, method, params):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}})
    sent = {"Content-Type": "application/json", "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, "Mcp-Name": params["name"]}
    connection = http.client.HTTPConnection("127.0.0.1", 3129, timeout=20)
    connection.request("POST", "/mcp/" + name, body, sent)
    return connection.getresponse().read()
"""


@pytest.fixture
def site() -> Iterator[McpSite]:
    """A server on the network, beside this host's others."""
    made = McpSite()
    yield made
    made.close()


def remote(site: McpSite, **more: Any) -> dict[str, bytes]:
    return {"far.mcp.json": encode_approved(approved(remote=Remote(f"http://127.0.0.1:{site.port}/mcp", **more)))}


@pytest.mark.cgroup
def test_a_server_on_the_network_is_there_because_it_was_approved_and_again_after_a_takeover(host: Host, site: McpSite) -> None:
    body = f"""
    for number in range(100_000):
        try:
            print(far("tools/call", {READ}), far("tools/call", {{"name": "wipe"}}), flush=True)
        except OSError:
            print("cut", flush=True)
        time.sleep(0.02)
        if os.path.exists("/agent/enough"):
            sys.exit(7)
    """
    grants = (("tool.call", "mcp:far/read"), ("net.reach", f"tcp:127.0.0.1:{site.port}"))
    host.agent("a", body, prelude=CLIENT + FAR, beside=remote(site), more=grants)
    run, instance = host.run("a"), host.instance("a")
    host.wait_state(instance, "running")
    wait_for(lambda: len(records(host, instance)) > 6)
    host.install("next")
    host.kill_daemon()
    host.serve()
    wait_for(lambda: (s := host.standing(instance))["moves"] == 1 and s["state"] == "running", 30)
    before = len(records(host, instance))
    wait_for(lambda: len(records(host, instance)) > before + 6)
    (host.config.agent_dir(instance) / "agent" / "home" / "enough").touch()
    status, out, _ = host.finish(run)

    assert (status, out.split()[:2], out.split()[-2:]) == (7, ["ok", "grant-missing"], ["ok", "grant-missing"])
    found = [one for one in records(host, instance) if isinstance(one, ActionRecord)]
    reached = [one for one in found if one.action == "net.reach"]
    assert [(one.gate, one.resource, one.permit) for one in reached][:1] == [("mcp", f"tcp:127.0.0.1:{site.port}", True)]
    assert len(reached) >= 2
    assert {(one.gate, one.resource, one.permit) for one in found} >= {("mcp", "mcp:far/read", True), ("mcp", "mcp:far/wipe", False)}


@pytest.mark.cgroup
@pytest.mark.parametrize(
    "name, more, why",
    [
        ("notes", {}, "a program's"),
        ("far", {"headers": (("Authorization", "Bearer ", "tools-key"),)}, "secrets that the manifest names"),
        ("instance", {}, "a name that no tool or service of this host has"),
        ("Far", {}, "1 to 63 of a-z"),
    ],
)
def test_a_file_of_a_server_that_cannot_be_served_starts_nothing(host: Host, site: McpSite, name: str, more: Any, why: str) -> None:
    (file,) = remote(site, **more).values()
    host.agent("a", "print('ran')", prelude=CLIENT, beside={f"{name}.mcp.json": file})
    status, out, err = host.finish(host.run("a"))
    assert (status, out) == (1, "")
    assert why in err


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


@pytest.mark.parametrize("words, sent", [((), None), (("--header", "Authorization: Bearer {tools-key}"), "Bearer s3cret")])
def test_what_to_approve_of_a_server_on_the_network_is_proposed_with_where_it_is(
    site: McpSite, tmp_path: Path, words: tuple[str, ...], sent: str | None
) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    url = f"http://127.0.0.1:{site.port}/mcp"
    given = (*words, "--secret", f"tools-key={tmp_path / 'key'}") if words else words
    done = proposed("--url", url, *given)

    headers = (("Authorization", "Bearer ", "tools-key"),) if words else ()
    assert (done.returncode, parse_approved(done.stdout)) == (0, approved(remote=Remote(url, headers)))
    assert b"s3cret" not in done.stdout + done.stderr
    assert {headers.get("Authorization") for headers, _ in site.heard} == {sent}


@pytest.mark.parametrize(
    "words, why",
    [
        ((), b"neither"),
        (("--url", "http://tools.example.com/mcp"), b"https://HOST/PATH"),
        (("--url", "https://tools.example.com/mcp", "--header", "Host: x"), b"names of headers"),
        (("--url", "http://127.0.0.1:1/mcp"), b"Connection refused"),
        (("--url", "http://127.0.0.1:1/mcp", "--", "true"), b"both"),
    ],
)
def test_what_cannot_be_proposed_is_said(words: tuple[str, ...], why: bytes) -> None:
    done = proposed(*words)
    assert done.returncode != 0
    assert why in done.stderr
