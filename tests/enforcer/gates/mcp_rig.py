"""The gate for MCP on this host's own loopback, over one scene and a server that runs beside it, and the records that it leaves."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enforcer.gates.mcp.desk import Desk
from enforcer.gates.mcp.http import McpHttpGate
from enforcer.gates.mcp.stdio import McpStdioGate
from enforcer.launch.process import Running
from enforcer.secrets.held import Secrets
from enforcer.tools.mcp_program import McpProgram
from enforcer.tools.mcp_remote import McpRemote
from enforcer.tools.mcp_server import McpServer
from enforcer.wire.host_tls import upstream_contexts
from tests.enforcer.gates.proxied import listener
from tests.enforcer.records import records_of
from tests.enforcer.scene import Scene
from tests.world import mcp_notes
from tests.world.mcp_site import McpSite
from tests.world.network import Names, certified
from writ.formats.mcp.approved import ApprovedServer, Remote, definition_digest
from writ.formats.mcp.protocol import MODERN
from writ.formats.record import ActionRecord

GRANTS = (
    ("prompt.get", "mcp:notes/greet"), ("resource.read", "mcp:notes/note://today"), ("resource.read", "mcp:notes/note://files/*"),
)  # fmt: skip
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
OLD = "2025-11-25"
HOST = "tools.test"


def approved(protocol: str = MODERN, **without: Any) -> ApprovedServer:
    """All that the test server lists, as somebody approved it; `without` changes that."""
    tools = {one["name"]: definition_digest(one) for one in mcp_notes.STATE["tools"]}
    prompts = {one["name"]: definition_digest(one) for one in mcp_notes.STATE["prompts"]}
    instructions = definition_digest({"instructions": mcp_notes.STATE["instructions"]})
    made: dict[str, Any] = {"tools": tools, "prompts": prompts, "resources": True, "completions": True, "instructions": instructions}
    return ApprovedServer(protocol, **(made | without))


class Beside:
    """A server that this process started, as the launcher would have."""

    def __init__(
        self, command: Sequence[str], pins: ApprovedServer, name: str = "notes", environment: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        pipes = tuple(os.dup(one.fileno()) for one in (self.process.stdin, self.process.stdout))
        self.process.stdin.close()
        self.process.stdout.close()
        os.set_blocking(pipes[0], False)
        self.server = McpProgram(name, Running(self.process, self.process.pid), pipes, approved=pins)

    def close(self) -> None:
        """The end."""
        self.server.close()


class Gated:
    """A desk and both of its wires, in front of a server: `_begun` makes it."""

    server: McpServer

    def __init__(self, folder: Path, *, grants: tuple[tuple[str, str], ...] = GRANTS, renewed: bool = True, **more: Any) -> None:
        self.folder, self.closing = folder, contextlib.ExitStack()
        self.scene = Scene(folder, more=(*grants, *self._grants(**more)))
        self.log = self.scene.log(folder)
        self.gatekeeper = self.scene.gatekeeper(self.log)
        if renewed:
            self.scene.renew()
        self.server = self._begun(**more)
        self.desk = Desk("notes", self.server, self.gatekeeper, "5f1c09ab")
        at = listener()
        self.port: int = at.getsockname()[1]
        self.gate = McpHttpGate(at, {"notes": self.desk}, self.gatekeeper)
        self.path = str(folder / "notes.mcp.sock")
        self.lines = McpStdioGate(self.path, uid=os.getuid(), gid=os.getgid(), is_agent=lambda _: True, desk=self.desk)

    def _grants(self, **_: Any) -> tuple[tuple[str, str], ...]:
        return ()

    def _begun(self, **_: Any) -> McpServer:
        raise NotImplementedError

    def post(self, body: bytes, headers: Sequence[tuple[str, str]], path: str = "/mcp/notes", method: str = "POST") -> tuple[int, Any]:
        """Status and decoded body of one request, as it is."""
        named = {name.lower() for name, _ in headers}
        usual = [
            ("Host", f"127.0.0.1:{self.port}"), ("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream"),
            ("Content-Length", str(len(body))),
        ]  # fmt: skip
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in [*(one for one in usual if one[0].lower() not in named), *headers]:
                if value:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            said = answer.read()
        return answer.status, json.loads(said) if said else None

    def raw(self, data: bytes) -> bytes:
        """What comes back for these bytes, to the end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            found = b""
            while part := connection.recv(65536):
                found += part
            return found

    def modern(
        self, method: str, params: Mapping[str, Any] | None = None, *, headers: Sequence[tuple[str, str]] = (), **more: Any
    ) -> tuple[int, Any]:
        """One request of the newer generation, with the headers that it must have, but for those given (empty: left out)."""
        sent = {"_meta": META, **(params or {})}
        whole = {"jsonrpc": "2.0", "id": 1, "method": method, "params": sent} | more
        name = sent.get("name", sent.get("uri"))
        usual = [("MCP-Protocol-Version", MODERN), ("Mcp-Method", method), *([("Mcp-Name", name)] if isinstance(name, str) else [])]
        named = {one.lower() for one, _ in headers}
        return self.post(json.dumps(whole).encode(), [*(one for one in usual if one[0].lower() not in named), *headers])

    def old(
        self, method: str, params: Mapping[str, Any] | None = None, *, headers: Sequence[tuple[str, str]] = (), **more: Any
    ) -> tuple[int, Any]:
        """One request of the older generation, after its handshake."""
        whole = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}} | more
        named = {one.lower() for one, _ in headers}
        version = [] if "mcp-protocol-version" in named else [("MCP-Protocol-Version", OLD)]
        return self.post(json.dumps(whole).encode(), [*version, *headers])

    def line(self, *messages: Any) -> list[Any]:
        """The answers on the socket; bytes are sent as they are."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.path)
            connection.settimeout(20)
            for one in messages:
                connection.sendall((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n")
            connection.shutdown(socket.SHUT_WR)
            return [json.loads(one) for one in connection.makefile("rb")]

    def records(self) -> list[tuple[str, str, bool] | str]:
        """What is in the log: action, resource and whether it was permitted, or an outcome."""
        found = records_of(self.scene.folder, self.scene.instance)
        return [(one.action, one.resource, one.permit) if isinstance(one, ActionRecord) else one.outcome for one in found]

    def close(self) -> None:
        """The end."""
        self.closing.close()
        self.gate.close()
        self.lines.close()
        self.server.close()
        self.log.close()


class Rig(Gated):
    """In front of a program that runs beside it, whose state `says` sets."""

    server: McpProgram

    def _begun(
        self, protocol: str = MODERN, pins: ApprovedServer | None = None, command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None, **_: Any,
    ) -> McpServer:  # fmt: skip
        self.page = self.folder / "state.json"
        ours = (sys.executable, "-I", mcp_notes.__file__, str(self.page))
        self.beside = Beside(command or ours, pins or approved(protocol), environment=environment)
        return self.beside.server

    def says(self, **state: Any) -> None:
        """From now on the server is so."""
        self.page.write_text(json.dumps(state))

    def heard(self, method: str) -> list[dict[str, Any]]:
        """The requests of `method` that reached the server."""
        path = self.page.with_suffix(".heard")
        lines = path.read_text().splitlines() if path.exists() else []
        return [one for one in map(json.loads, lines) if one.get("method") == method]

    def restart(self) -> None:
        """The server is another process, as after a new launch."""
        command = self.beside.process.args
        assert isinstance(command, tuple)
        pins = self.server.approved
        self.beside.close()
        self.beside = Beside(command, pins)
        self.server = self.desk._server = self.beside.server  # noqa: SLF001 - a launch would make another desk


class RemoteRig(Gated):
    """In front of a site that is called `tools.test`, over TLS, at an address that the agent is granted."""

    def _grants(self, *, reach: str | None = None, sends: str | None = None, **_: Any) -> tuple[tuple[str, str], ...]:
        self.certificate = certified(self.folder, HOST)
        self.site = McpSite(self.certificate)
        self.url = f"https://{HOST}:{self.site.port}/mcp"
        reaches = ("net.reach", f"tcp:127.0.0.1:{self.site.port}" if reach is None else reach)
        return (reaches, *(() if sends is None else (("secret.send", f"secret:{sends}@{self.url}"),)))

    def _begun(
        self, protocol: str = MODERN, names: Names | None = None, url: str | None = None, roots: Path | None = None,
        headers: tuple[tuple[str, str, str | None], ...] = (), secrets: Secrets | None = None, reach: str | None = None,
        sends: str | None = None,
        **pins: Any,
    ) -> McpServer:  # fmt: skip
        self.names = names or Names()
        if names is None:
            self.names.name(HOST, "127.0.0.1")
        made = McpRemote(
            "notes", approved(protocol, remote=Remote(url or self.url, headers), **pins), asks=self.gatekeeper, resolver=self.names,
            contexts=upstream_contexts(str(roots or self.certificate[0])), secrets=secrets or Secrets((), {}),
        )  # fmt: skip
        self.gatekeeper.hold(made.line)
        return made

    def heard(self, method: str) -> list[dict[str, Any]]:
        """The requests of `method` that reached the site."""
        return [message for _, message in self.site.heard if message.get("method") == method]

    def close(self) -> None:
        """The end."""
        super().close()
        self.site.close()


def rule(answer: tuple[int, Any]) -> str:
    """The rule of a refusal."""
    return str(answer[1]["error"]["data"]["refusal"]["reasons"][0]["code"])
