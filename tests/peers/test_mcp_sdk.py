"""The official MCP SDK as it is: its client of both generations before our gate, its server behind it as either, over both wires."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enforcer.tools.proposed import of_program
from tests.enforcer.gates.conftest import makes
from tests.enforcer.gates.mcp_rig import HOST, OLD, RemoteRig, Rig
from tests.enforcer.host import wait_for
from tests.peers.conftest import LIB, ROOT
from tests.world.network import certified
from writ.formats.mcp.approved import ApprovedServer, Remote
from writ.formats.mcp.protocol import FAILED, MODERN, REFUSED
from writ.formats.reason import Reason

pytestmark = pytest.mark.peers

SERVER = '''
import sys
from mcp.server.mcpserver import MCPServer

app = MCPServer("notes", instructions="Read before you wipe.")

@app.tool()
def read(name: str) -> str:
    """Read a note."""
    return {"today": "water the plants"}.get(name, "")

@app.tool()
def wipe() -> str:
    """Forget all notes."""
    raise SystemExit("wiped")

@app.tool()
def fails(why: str) -> str:
    """Fail, and say why."""
    raise ValueError(why)

@app.tool()
def scale(by: float) -> dict[str, float]:
    """A number, doubled."""
    return {"doubled": 2 * by}

@app.resource("note://today")
def today() -> str:
    """Today's note."""
    return "water the plants"

@app.resource("note://files/{name}")
def file(name: str) -> str:
    """A note by its name."""
    return f"note {name}"

@app.resource("note://secret/key")
def key() -> str:
    """Nobody's."""
    return "k"

@app.prompt()
def greet(who: str) -> str:
    """Greet somebody."""
    return f"Hello {who}"

app.run("stdio")
'''
CLIENT = """
import anyio, json, sys
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference

async def tried(act, *words, **more):
    try:
        return {"ok": (await act(*words, **more)).model_dump(mode="json", by_alias=True)}
    except MCPError as error:
        return {"code": error.error.code, "data": error.error.data}

async def main(target, mode):
    if target.startswith("["):
        target = StdioServerParameters(command=json.loads(target)[0], args=json.loads(target)[1:])
    async with Client(target, mode=mode, read_timeout_seconds=30) as client:
        found = {
            "protocol": client.protocol_version,
            "instructions": client.instructions,
            "tools": await tried(client.list_tools),
            "resources": await tried(client.list_resources),
            "templates": await tried(client.list_resource_templates),
            "prompts": await tried(client.list_prompts),
            "read": await tried(client.call_tool, "read", {"name": "today"}),
            "scale": await tried(client.call_tool, "scale", {"by": 1.25}),
            "wipe": await tried(client.call_tool, "wipe"),
            "fails": await tried(client.call_tool, "fails", {"why": "because"}),
            "unknown": await tried(client.call_tool, "unknown"),
            "today": await tried(client.read_resource, "note://today"),
            "file": await tried(client.read_resource, "note://files/a"),
            "key": await tried(client.read_resource, "note://secret/key"),
            "greet": await tried(client.get_prompt, "greet", {"who": "you"}),
        }
        print(json.dumps(found))

anyio.run(main, *sys.argv[1:3])
"""
BRIDGE = """
import socket, sys, threading
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile("rwb", buffering=0)
threading.Thread(target=lambda: [sys.stdout.buffer.write(line) and sys.stdout.buffer.flush() for line in f], daemon=True).start()
for line in sys.stdin.buffer: f.write(line)
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(LIB)}
Make = Callable[..., Rig]


@pytest.fixture
def server(tmp_path: Path) -> tuple[str, ...]:
    """The command of the SDK's server."""
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    return (sys.executable, str(path))


@pytest.fixture
def pins(server: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ApprovedServer]:
    """What `enforcer tools` proposes for it."""
    monkeypatch.setenv("PYTHONPATH", str(LIB))
    return lambda protocol: of_program(server, protocol)[0]


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[Make]:
    yield from makes(Rig, tmp_path)


def client(target: str, mode: str, folder: Path) -> Any:
    path = folder / "client.py"
    path.write_text(CLIENT)
    command = [sys.executable, str(path), target, mode]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False, timeout=100, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_bridge_is_the_one_of_the_page() -> None:
    assert BRIDGE.lstrip("\n") in (ROOT / "docs/operations.md").read_text()


def expect(found: Any, rig: Rig) -> None:
    """All that is granted passed, and nothing else did."""
    assert found["instructions"] == "Read before you wipe."
    assert [one["name"] for one in found["tools"]["ok"]["tools"]] == ["read", "wipe", "fails", "scale"]
    assert [one["uri"] for one in found["resources"]["ok"]["resources"]] == ["note://today"]
    assert [one["uriTemplate"] for one in found["templates"]["ok"]["resourceTemplates"]] == ["note://files/{name}"]
    assert [one["name"] for one in found["prompts"]["ok"]["prompts"]] == ["greet"]
    assert found["read"]["ok"]["content"][0]["text"] == "water the plants"
    assert found["scale"]["ok"]["structuredContent"] == {"doubled": 2.5}
    assert found["fails"]["ok"]["isError"] is True
    assert found["today"]["ok"]["contents"][0]["text"] == "water the plants"
    assert found["file"]["ok"]["contents"][0]["text"] == "note a"
    assert found["greet"]["ok"]["messages"][0]["content"]["text"] == "Hello you"
    refused = {name: found[name] for name in ("wipe", "unknown", "key")}
    assert {name: (one["code"], one["data"]["refusal"]["reasons"][0]["code"]) for name, one in refused.items()} == {
        "wipe": (REFUSED, "policy-refused"), "unknown": (REFUSED, "tool-unapproved"), "key": (REFUSED, "grant-missing"),
    }  # fmt: skip
    assert all(set(one["data"]["refusal"]["reasons"][0]) == {"code", "claim", "expected", "got", "remedy"} for one in refused.values())
    assert [one[1:] if isinstance(one, tuple) else one for one in rig.records()] == [
        ("mcp:notes/read", True), "done", ("mcp:notes/scale", True), "done", ("mcp:notes/wipe", False), ("mcp:notes/fails", True), "failed",
        ("mcp:notes/unknown", False), ("mcp:notes/note://today", True), "done", ("mcp:notes/note://files/a", True), "done",
        ("mcp:notes/note://secret/key", False), ("mcp:notes/greet", True), "done",
    ]  # fmt: skip


@pytest.mark.parametrize("behind", [MODERN, OLD, "2025-06-18"])
@pytest.mark.parametrize("mode", ["auto", "legacy", MODERN])
def test_its_client_of_either_generation_over_http(
    server: tuple[str, ...], pins: Callable[[str], ApprovedServer], rigs: Make, tmp_path: Path, behind: str, mode: str
) -> None:
    rig = rigs(command=server, pins=pins(behind), environment=ENVIRONMENT)
    found = client(f"http://127.0.0.1:{rig.port}/mcp/notes", mode, tmp_path)

    assert found["protocol"] == (OLD if mode == "legacy" else MODERN)
    if mode == MODERN:
        found["instructions"] = "Read before you wipe."  # it asks for none
    expect(found, rig)


@pytest.mark.parametrize("behind", [MODERN, OLD])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_its_client_of_either_generation_launches_the_bridge(
    server: tuple[str, ...], pins: Callable[[str], ApprovedServer], rigs: Make, tmp_path: Path, behind: str, mode: str
) -> None:
    rig = rigs(command=server, pins=pins(behind), environment=ENVIRONMENT)
    bridge = tmp_path / "bridge.py"
    bridge.write_text(BRIDGE)
    found = client(json.dumps([sys.executable, str(bridge), rig.path]), mode, tmp_path)

    assert found["protocol"] == (OLD if mode == "legacy" else MODERN)
    expect(found, rig)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_with_the_holder_down_its_client_gets_nothing(
    server: tuple[str, ...], pins: Callable[[str], ApprovedServer], rigs: Make, tmp_path: Path, mode: str
) -> None:
    rig = rigs(command=server, pins=pins(MODERN), environment=ENVIRONMENT)
    rig.gate.close()
    with pytest.raises(AssertionError, match=r"Connect|refused"):
        client(f"http://127.0.0.1:{rig.port}/mcp/notes", mode, tmp_path)
    assert rig.records() == []


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_on_hold_its_client_is_refused_everything(
    server: tuple[str, ...], pins: Callable[[str], ApprovedServer], rigs: Make, tmp_path: Path, mode: str
) -> None:
    rig = rigs(command=server, pins=pins(MODERN), environment=ENVIRONMENT, renewed=False)
    found = client(f"http://127.0.0.1:{rig.port}/mcp/notes", mode, tmp_path)

    rules = {one["data"]["refusal"]["reasons"][0]["code"] for name, one in found.items() if name not in ("protocol", "instructions")}
    assert rules == {"hold"}
    assert not any(one == "done" or one[2] for one in rig.records())


def test_a_cut_line_is_no_answer(server: tuple[str, ...], pins: Callable[[str], ApprovedServer], rigs: Make, tmp_path: Path) -> None:
    rig = rigs(command=server, pins=pins(MODERN), environment=ENVIRONMENT)
    rig.gatekeeper.cut(Reason("hold", "token", "a valid execution token", "none"))
    with pytest.raises(AssertionError, match=r"Connect|refused"):
        client(f"http://127.0.0.1:{rig.port}/mcp/notes", "auto", tmp_path)


def test_a_server_that_ends_is_a_failure(server: tuple[str, ...], pins: Callable[[str], ApprovedServer], rigs: Make) -> None:
    rig = rigs(command=server, pins=pins(MODERN), environment=ENVIRONMENT)
    rig.beside.process.kill()
    rig.beside.process.wait()
    answer = rig.modern("resources/read", {"uri": "note://today"})[1]["error"]
    assert answer["code"] == FAILED


FAR = """
import ssl, sys, uvicorn
from pydantic import BaseModel
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult

app = MCPServer("notes", instructions="Read before you wipe.")

@app.tool()
def read(name: str) -> str:
    "Read a note."
    return {"today": "water the plants"}.get(name, "")

@app.tool()
def wipe() -> str:
    "Forget all notes."
    raise SystemExit("wiped")

@app.tool()
async def slow(ctx: Context) -> str:
    "Work, and say how far it is."
    for step in (1, 2, 3):
        await ctx.report_progress(step, 3, f"step {step}")
    return "worked"

@app.tool()
async def sure(ctx: Context) -> str | InputRequiredResult:
    "Ask first."
    answers = ctx.input_responses
    if answers is None:
        asked = ElicitRequestFormParams(message="Really?", requested_schema={"type": "object", "properties": {"ok": {"type": "boolean"}}})
        return InputRequiredResult(input_requests={"really": ElicitRequest(params=asked)}, request_state="s1")
    return f"{answers['really'].action} {ctx.request_state}"

@app.tool()
async def change(ctx: Context) -> str:
    "Say that something has changed."
    await ctx.notify_tools_changed()
    await ctx.notify_resource_updated("note://today")
    return "changed"

@app.resource("note://today")
def today() -> str:
    "Today's note."
    return "water the plants"

@app.prompt()
def greet(who: str) -> str:
    "Greet somebody."
    return f"Hello {who}"

port, certificate, key = int(sys.argv[1]), sys.argv[2], sys.argv[3]
hosts = TransportSecuritySettings(allowed_hosts=[f"tools.test:{port}"])
made = app.streamable_http_app(json_response=sys.argv[4] == "json", transport_security=hosts)
uvicorn.run(made, host="127.0.0.1", port=port, ssl_certfile=certificate, ssl_keyfile=key, log_level="warning")
"""
FAR_CLIENT = """
import anyio, json, sys
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

async def main(target, mode, listens):
    progress = []
    async def far(progress_, total, message):
        progress.append([progress_, total, message])
    async def asked(context, params):
        return ElicitResult(action="accept", content={"ok": True})
    async def tried(act, *words, **more):
        try:
            return (await act(*words, **more)).model_dump(mode="json", by_alias=True)
        except MCPError as error:
            reasons = (error.error.data or {}).get("refusal", {}).get("reasons", [{"code": None}])
            return {"code": error.error.code, "rule": reasons[0]["code"]}
    heard = []
    async with Client(target, mode=mode, read_timeout_seconds=30, elicitation_callback=asked) as client:
        found = {
            "tools": [one.name for one in (await client.list_tools()).tools],
            "read": await tried(client.call_tool, "read", {"name": "today"}),
            "wipe": await tried(client.call_tool, "wipe"),
            "slow": await tried(client.call_tool, "slow", progress_callback=far),
            "sure": await tried(client.call_tool, "sure"),
            "today": await tried(client.read_resource, "note://today"),
            "greet": await tried(client.get_prompt, "greet", {"who": "you"}),
        }
        if listens == "True":
            async with client.listen(tools_list_changed=True, resource_subscriptions=["note://today"]) as stream:
                await client.call_tool("change")
                async for one in stream:
                    heard.append(type(one).__name__)
                    if len(heard) == 2:
                        break
        print(json.dumps({**found, "progress": progress, "heard": heard}))

anyio.run(main, *sys.argv[1:4])
"""
GRANTED = (
    ("input.request", "mcp:notes/elicitation"), ("prompt.get", "mcp:notes/greet"), ("resource.read", "mcp:notes/note://today"),
    ("resource.subscribe", "mcp:notes/note://today"), ("resource.subscribe", "mcp:notes/tools/list"),
)  # fmt: skip


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Callable[..., tuple[RemoteRig, ApprovedServer]]]:
    """Its server on the network, over TLS, and the gate in front of it."""
    closing = contextlib.ExitStack()

    def make(protocol: str, kind: str) -> tuple[RemoteRig, ApprovedServer]:
        (tmp_path / "far").mkdir()
        certificate = certified(tmp_path / "far", HOST)
        program = tmp_path / "far.py"
        program.write_text(FAR)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, str(program), str(port), *map(str, certificate), kind]
        process = closing.enter_context(subprocess.Popen(command, env=ENVIRONMENT))
        closing.callback(process.kill)
        wait_for(lambda: listens(port), 60)
        remote = Remote(f"https://{HOST}:{port}/mcp")
        rig = RemoteRig(tmp_path, url=remote.url, reach=f"tcp:127.0.0.1:{port}", roots=certificate[0], protocol=protocol, grants=GRANTED)
        pins = rig.server.propose()[0]
        rig.server.approved = pins
        return closing.enter_context(contextlib.closing(rig)), pins

    yield make
    closing.close()


@pytest.mark.parametrize("kind", ["json", "stream"])
@pytest.mark.parametrize("behind", [MODERN, OLD, "2025-06-18"])
@pytest.mark.parametrize("mode", [MODERN, "legacy"])
def test_its_server_on_the_network_of_either_generation(
    far: Callable[..., tuple[RemoteRig, ApprovedServer]], tmp_path: Path, behind: str, mode: str, kind: str
) -> None:
    rig, pins = far(behind, kind)
    path = tmp_path / "client.py"
    path.write_text(FAR_CLIENT)
    target = f"http://127.0.0.1:{rig.port}/mcp/notes"
    done = subprocess.run(
        [sys.executable, str(path), target, mode, str(mode == behind == MODERN)],
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
        timeout=100,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)

    assert sorted(found["tools"]) == sorted(pins.tools) == ["change", "read", "slow", "sure", "wipe"]
    assert found["read"]["content"][0]["text"] == "water the plants"
    assert found["wipe"] == {"code": REFUSED, "rule": "policy-refused"}
    assert found["slow"]["content"][0]["text"] == "worked"
    assert found["today"]["contents"][0]["text"] == "water the plants"
    assert found["greet"]["messages"][0]["content"]["text"] == "Hello you"
    assert found["progress"] == ([] if kind == "json" else [[1.0, 3.0, "step 1"], [2.0, 3.0, "step 2"], [3.0, 3.0, "step 3"]])
    if mode == MODERN and behind == MODERN:
        assert found["sure"]["content"][0]["text"] == "accept s1"
        assert sorted(found["heard"]) == ["ResourceUpdated", "ToolsListChanged"]
        assert ("input.request", "mcp:notes/elicitation", True) in rig.records()
