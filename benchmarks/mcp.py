"""A call of an MCP tool, 20 policies, through the gate and its server asked directly: a program beside the agent, and a server over HTTP.

Each call asks the server twice, for the tool's definition and for the call itself. As with the other gates records are on the disk of the
temporary directory, in memory, or nowhere (`apart`), since what a commit takes is stated apart.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.cases import Line
from benchmarks.gates import MEMORY, Apart, Commit, Leaping, said
from benchmarks.measure import Case
from enforcer.gatekeeper import Gatekeeper
from enforcer.gates.mcp.desk import Desk
from enforcer.gates.mcp.http import McpHttpGate
from enforcer.gates.mcp.stdio import McpStdioGate
from enforcer.record import ActionLog
from enforcer.secrets.held import Secrets
from enforcer.tools.mcp_remote import McpRemote
from enforcer.tools.mcp_server import McpServer
from tests.enforcer.gates.mcp_rig import META, Beside, approved
from tests.enforcer.gates.proxied import listener
from tests.enforcer.scene import Scene
from tests.world import mcp_notes
from tests.world.network import Names
from writ.formats.mcp.approved import Remote
from writ.formats.mcp.protocol import MODERN

FAR: Final = """
import json, socket, sys, threading
from tests.world.mcp_notes import STATE, result

def serve(connection):
    stream = connection.makefile("rb")
    while head := stream.readline():
        length = 0
        while (line := stream.readline()) != b"\\r\\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line[15:])
        asked = json.loads(stream.read(length))
        body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result(asked["method"], asked["params"], STATE)}).encode()
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))

server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True:
    connection = server.accept()[0]
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
"""
"""A server over HTTP as fast as Python makes one."""
CALL: Final = {"name": "read", "arguments": {"name": "today"}}
BODY: Final = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**CALL, "_meta": META}}).encode()
HEADERS: Final = {
    "Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": MODERN,
    "Mcp-Method": "tools/call", "Mcp-Name": "read",
}  # fmt: skip
NOTES: Final = (sys.executable, "-I", mcp_notes.__file__)


class Spot:
    """One agent under 20 policies that may reach the server at the port `far`, its log in `folder`."""

    def __init__(self, folder: Path, log: type[ActionLog], far: int) -> None:
        folder.mkdir()
        scene = Scene(folder, more=(("net.reach", f"tcp:127.0.0.1:{far}"),))
        rules = "".join(f'permit(principal, action, resource == Writ::Resource::"mcp:notes/{at}");' for at in range(19))
        scene.attestor.policies = rules + 'permit(principal, action, resource) when { context.namespace == "test" };'
        scene.attestor.version += 1
        scene.renew()
        self.log = scene.log(folder, log)
        self.gatekeeper = Gatekeeper(
            credential=scene.credential, log=self.log, clock=Leaping(scene), left=1 << 50,
        )  # fmt: skip


def calls(folder: Path) -> Iterator[Case]:
    """All of them."""
    with contextlib.ExitStack() as closing:
        places = {"apart": folder / "apart", "on disk": folder / "disk"}
        if MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
            memory = closing.enter_context(tempfile.TemporaryDirectory(prefix="writ-bench-", dir=MEMORY))
            places["in memory"] = Path(memory) / "agent"
        else:
            said("no /dev/shm: no case with the record in memory")
        commit = Commit(folder / "commit", closing)
        far = closing.enter_context(far_away())
        beside = closing.enter_context(contextlib.closing(Beside(NOTES, approved(), "plain")))
        plain = closing.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", far)))
        for where, place in places.items():
            spot = Spot(place, Apart if where == "apart" else ActionLog, far)
            closing.callback(spot.log.close)
            commits = 2 if where == "on disk" else 0

            def beyond(bare: Callable[[], object], count: int = commits) -> Callable[[], None]:
                def work() -> None:
                    bare()
                    for _ in range(count):
                        commit()

                return work

            after = " and two commits" if commits else ""
            program = closing.enter_context(contextlib.closing(Beside(NOTES, approved()))).server
            line, over_http = wires(program, spot, closing)
            asked = beyond(lambda: beside.server.request("tools/call", CALL))
            yield Case(f"MCP call over the line to a program, records {where}", f"the program asked directly{after}", line, asked)
            yield Case(f"MCP call over HTTP to a program, records {where}", f"the program asked directly{after}", over_http, asked)
            remote = McpRemote(
                "notes", approved(remote=Remote(f"http://127.0.0.1:{far}/mcp")), asks=spot.gatekeeper, resolver=Names(), contexts={},
                secrets=Secrets((), {}),
            )  # fmt: skip
            closing.callback(remote.close)
            line, over_http = wires(remote, spot, closing)
            directly = beyond(lambda: post(plain, "/mcp"))
            yield Case(
                f"MCP call over HTTP to a server over HTTP, records {where}", f"the server asked directly{after}", over_http, directly
            )


@contextlib.contextmanager
def far_away() -> Iterator[int]:
    """The port of a server over HTTP, in a process of its own."""
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", FAR], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def wires(server: McpServer, spot: Spot, closing: contextlib.ExitStack) -> tuple[Callable[[], object], Callable[[], object]]:
    """A call by each wire of the gate, in front of `server`."""
    desk = Desk("notes", server, spot.gatekeeper, "5f1c09ab")
    at = listener()
    gate = McpHttpGate(at, {"notes": desk}, spot.gatekeeper)
    closing.callback(gate.close)
    folder = closing.enter_context(tempfile.TemporaryDirectory(prefix="writ-bench-"))
    lines = McpStdioGate(f"{folder}/gate.sock", uid=os.getuid(), gid=os.getgid(), is_agent=os.getpid().__eq__, desk=desk)
    closing.callback(lines.close)
    line = closing.enter_context(Line(f"{folder}/gate.sock"))
    connection = closing.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", at.getsockname()[1])))
    assert b'"result"' in line.ask(BODY + b"\n")
    assert b'"result"' in post(connection, "/mcp/notes")
    return lambda: line.ask(BODY + b"\n"), lambda: post(connection, "/mcp/notes")


def post(connection: http.client.HTTPConnection, path: str) -> bytes:
    """One call."""
    connection.request("POST", path, BODY, HEADERS)
    return connection.getresponse().read()
