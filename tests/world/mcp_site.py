"""A server of the Model Context Protocol on the network, over Streamable HTTP, as `mcp_notes` is on pipes; or what a script makes of it.

It speaks either generation, of the older with a session, answers with an object or a stream, and remembers what it was asked.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.world.mcp_notes import STATE, misbehave, result

Script = Callable[["Asked", dict[str, Any]], bool]
"""What is done with a message instead of answering it; False: nothing, it is answered."""


class Asked(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """One message."""
        site = self.server.site
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        site.heard.append((dict(self.headers), message))
        if site.script is not None and site.script(self, message):
            return
        old = "_meta" not in message.get("params", {}) or not any("protocolVersion" in one for one in message["params"]["_meta"])
        if old and message["method"] != "initialize" and self.headers["Mcp-Session-Id"] not in site.sessions:
            self.say(404, "application/json", b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no session"}}')
        elif "id" not in message:
            self.say(202, "", b"")
        else:
            self.answer(message, session=site.begun() if message["method"] == "initialize" else None)

    def answer(self, message: dict[str, Any], session: str | None = None) -> None:
        """As the site is."""
        site = self.server.site
        lists = message["method"].endswith("/list") or message["method"] in ("initialize", "ping", "server/discover")
        said = None if lists else misbehave(site.state["mode"], message)
        if said is None:
            said = [{"jsonrpc": "2.0", "id": message["id"], "result": result(message["method"], message.get("params", {}), site.state)}]
        more = {} if session is None else {"Mcp-Session-Id": session}
        if site.stream:
            self.say(200, "text/event-stream", b"".join(b"event: message\ndata: %s\n\n" % json.dumps(one).encode() for one in said), **more)
        else:
            self.say(200, "application/json", json.dumps(said[-1]).encode(), **more)

    def say(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        """One answer."""
        self.send_response(status)
        for name, value in {**({"Content-Type": kind} if kind else {}), "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self) -> None:
        """What follows are events, each sent by `event`."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, message: object) -> None:
        """One of them."""
        data = b"data: %s\n\n" % json.dumps(message).encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    site: McpSite


@dataclass
class McpSite:
    """`state` is as a page of `mcp_notes`."""

    certificate: tuple[Path, Path] | None = None
    stream: bool = False
    address: str = "127.0.0.1"
    state: dict[str, Any] = field(default_factory=lambda: dict(STATE))
    heard: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    script: Script | None = None

    def __post_init__(self) -> None:
        self._server = _Server((self.address, 0), Asked)
        self._server.site = self
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def begun(self) -> str:
        """A new session."""
        self.sessions.append(f"session-{len(self.sessions)}")
        return self.sessions[-1]

    def close(self) -> None:
        """The end."""
        self._server.shutdown()
        self._server.server_close()
