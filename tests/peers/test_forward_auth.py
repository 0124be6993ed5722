"""Envoy, nginx and Caddy, unmodified, with the configurations of docs/relying.md, in front of a service that must never be reached unasked.

Exchanged are the page's addresses for ones of this machine, its socket for one below a temporary directory, and nothing else; what is
around a server in nginx's own file, and Envoy's and Caddy's switches, are added.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from tests.docs.blocks import all_blocks
from tests.enforcer.relying.behind import SITE, Gate
from tests.enforcer.relying.process import Process
from tests.peers.conftest import caddy, envoy, nginx

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

HOST: Final = "reports.example.org"
SOCKET: Final = "/run/writ/relying/forward-auth.sock"
READY_WITHIN: Final = 20.0


def page(language: str) -> str:
    """The one block of docs/relying.md in this language."""
    (block,) = [block for block in all_blocks() if block.page == "docs/relying.md" and block.info == language]
    return block.text


@dataclass
class Upstream:
    """The service: it keeps what reached it."""

    reached: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upstream.reached.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            do_POST = do_PUT = do_GET  # noqa: N815 - http.server's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server.server_address[1]


@dataclass
class Peer:
    """A proxy before the service, and the process that it asks."""

    name: str
    port: int
    gate: Gate
    upstream: Upstream
    process: Process

    def ask(
        self, shown: dict[str, str], method: str = "GET", target: str = "/v1/report", body: bytes | None = None, host: str = HOST
    ) -> tuple[int, bytes, str]:  # fmt: skip
        """Status and body of what the client sees, and the code of our reason."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, target, body=body, headers={"Host": host, **shown})
            answer = connection.getresponse()
            return answer.status, answer.read(), (answer.getheader("X-Writ-Refusal") or "").partition(";")[0]
        finally:
            connection.close()

    def code(self, shown: dict[str, str], *args: Any, **more: Any) -> tuple[int, str]:
        """Status and reason of a refusal of ours; where the proxy hands on our body, that says the same."""
        status, body, code = self.ask(shown, *args, **more)
        if self.name != "nginx":
            assert json.loads(body)["reasons"][0]["code"] == code
        return status, code

    def raw(self, request: bytes) -> bytes:
        """What comes back for these very bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(request)
            connection.settimeout(5)
            got = b""
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                while part := connection.recv(65536):
                    got += part
                    if b"\r\n\r\n" in got and b"HTTP/1." in got:
                        connection.settimeout(0.5)
            return got


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nginx_command(folder: Path, text: str) -> list[str]:
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; error_log {folder}/error.log; pid {folder}/nginx.pid; events {{}}\n"
        f"{'user root;' if os.geteuid() == 0 else ''} http {{ access_log off; client_body_temp_path {folder}/body;"
        f" proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"{text}\n}}\n"
    )
    return [str(nginx()), "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def envoy_command(folder: Path, text: str) -> list[str]:
    (folder / "envoy.yaml").write_text(text)
    return [str(envoy()), "-c", str(folder / "envoy.yaml"), "--concurrency", "1", "-l", "warning", "--use-dynamic-base-id"]


def caddy_command(folder: Path, text: str) -> list[str]:
    (folder / "Caddyfile").write_text("{\n    admin off\n}\n" + text)
    return [str(caddy()), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


KINDS: Final[dict[str, tuple[str, Callable[[Path, str], list[str]]]]] = {
    "nginx": ("nginx", nginx_command),
    "envoy": ("yaml", envoy_command),
    "caddy": ("caddyfile", caddy_command),
}


def exchanged(kind: str, port: int, upstream: int, at: Path) -> str:
    """The page's configuration for this machine."""
    text = page(KINDS[kind][0]).replace(SOCKET, str(at)).replace("127.0.0.1:9000", f"127.0.0.1:{upstream}")
    text = text.replace("port_value: 9000", f"port_value: {upstream}").replace("port_value: 8080", f"port_value: {port}")
    text = text.replace("address: 0.0.0.0", "address: 127.0.0.1").replace("listen 8080;", f"listen 127.0.0.1:{port};")
    return text.replace(f"{HOST} {{", f"http://{HOST}:{port} {{")


def open_port(port: int, proxy: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        assert proxy.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@contextlib.contextmanager
def standing(kind: Any, body: Any) -> Iterator[Peer]:
    """A proxy of this kind, its service and our process."""
    with tempfile.TemporaryDirectory(prefix="wfa") as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        origin = SITE if kind in ("envoy", "nginx") else f"http://{HOST}"
        gate = Gate(folder, kind, body=body, origins=(origin,))
        at, upstream, port = folder / "fa.sock", Upstream(), free_port()
        process = stack.enter_context(Process(gate, folder, forward_auth=f"unix:{at}", proxy=kind, origins=[origin], body=body))
        log, text = folder / "proxy.log", exchanged(kind, port, upstream.port, at)
        for line in LEFT_OUT[kind] if body == "claimed" else ():
            text, before = text.replace(line, "", 1), text
            assert text != before, line
        with log.open("wb") as output:
            command = KINDS[kind][1](folder, text)
            proxy = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "HOME": place, "XDG_DATA_HOME": place})
        try:
            open_port(port, proxy, log)
            yield Peer(kind, port, gate, upstream, process)
        except BaseException:
            sys.stderr.write(f"--- {kind}\n{log.read_text()[-3000:]}\n{process.log()[-3000:]}\n")
            raise
        finally:
            proxy.terminate()
            proxy.wait(15)


LEFT_OUT: Final = {
    "nginx": ("        proxy_pass_request_body off;\n", '        proxy_set_header Content-Length "";\n'),
    "caddy": ('        @body expression {http.request.body} != ""\n', '        respond @body "no body here" 403\n'),
}
"""The two lines that the page says to leave out for `claimed`."""


@pytest.fixture(scope="module", params=list(KINDS))
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    with standing(request.param, "sent" if request.param == "envoy" else "none") as made:
        yield made


def proven(peer: Peer, method: str = "GET", path: str = "/v1/report", body: bytes = b"", **changed: Any) -> dict[str, str]:
    origin = SITE if peer.name in ("envoy", "nginx") else f"http://{HOST}"
    peer.process.refresh()
    return peer.gate.proven(method, origin + path, body, **changed)


def test_allowed_once_with_identity_and_without_the_credential(peer: Peer) -> None:
    before = len(peer.upstream.reached)
    shown = proven(peer) | {"X-Writ-Agent": "spiffe://example.org/test/agent/admin", "Content-Digest": "sha-256=:AAAA:"}
    assert peer.ask(shown)[:2] == (200, b"ok")
    method, path, headers, body = peer.upstream.reached[-1]
    assert (method, path, body) == ("GET", "/v1/report", b"")
    assert headers["x-writ-agent"] == "spiffe://example.org/test/agent/a"
    assert headers["content-digest"].startswith("sha-256=:47DEQpj8HBSa")
    assert headers["x-writ-reference"] in peer.process.sink()
    assert not {"authorization", "dpop"} & headers.keys()
    assert peer.code(shown) == (401, "proof-replayed")
    assert len(peer.upstream.reached) == before + 1


def test_trace_that_the_client_says_is_recorded(peer: Peer) -> None:
    said = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert peer.ask(proven(peer) | {"traceparent": said})[:2] == (200, b"ok")
    assert f'"traceparent":"{said}"' in peer.process.sink()
    assert peer.upstream.reached[-1][2]["traceparent"] == said


def test_refused_without_token_and_without_grant(peer: Peer) -> None:
    before = len(peer.upstream.reached)
    assert peer.code({}) == (401, "unauthenticated")
    assert peer.code(proven(peer, path="/v2/report"), "GET", "/v2/report") == (403, "grant-missing")
    assert peer.code(proven(peer, "PUT"), "PUT") == (403, "grant-missing")
    assert len(peer.upstream.reached) == before


def lines(method: str, target: str, shown: dict[str, str], *more: str, host: str = HOST, body: bytes = b"") -> bytes:
    """A request as it stands on the wire, which ends the connection."""
    head = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in shown.items()), *more]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1") + body


CHUNKED: Final = b"5\r\nsteal\r\n0\r\n\r\n"
SMUGGLED: Final[dict[str, Callable[[dict[str, str]], bytes]]] = {
    "body by length": lambda shown: lines("GET", "/v1/report", shown, "Content-Length: 5", body=b"steal"),
    "body by chunks": lambda shown: lines("GET", "/v1/report", shown, "Transfer-Encoding: chunked", body=CHUNKED),
    "length and chunks": lambda shown: lines(
        "GET", "/v1/report", shown, "Content-Length: 5", "Transfer-Encoding: chunked", body=CHUNKED
    ),
    "two lengths": lambda shown: lines("GET", "/v1/report", shown, "Content-Length: 0", "Content-Length: 5", body=b"steal"),
    "another coding": lambda shown: lines("GET", "/v1/report", shown, "Transfer-Encoding: xchunked", "Content-Length: 5", body=b"steal"),
    "second request behind a body": lambda shown: lines(
        "GET", "/v1/report", shown, "Content-Length: 0", body=lines("GET", "/v1/secret", {})
    ),
    "X-Original-URI": lambda shown: lines("GET", "/v1/secret", shown, "X-Original-URI: /v1/report"),
    "X-Original-Method": lambda shown: lines("POST", "/v1/report", shown, "X-Original-Method: GET", "Content-Length: 0"),
    "X-Forwarded-Uri": lambda shown: lines("GET", "/v1/secret", shown, "X-Forwarded-Uri: /v1/report"),
    "X-Forwarded-Method": lambda shown: lines("POST", "/v1/report", shown, "X-Forwarded-Method: GET", "Content-Length: 0"),
    "X-Forwarded-Host": lambda shown: lines("GET", "/v1/report", shown, f"X-Forwarded-Host: {HOST}", host="other.example.org"),
    "all conventions": lambda shown: lines(
        "GET", "/v1/secret", shown, "X-Original-URI: /v1/report", "X-Forwarded-Uri: /v1/report", "X-Rewrite-URL: /v1/report",
        "X-Envoy-Original-Path: /v1/report", "X-Original-URL: /v1/report",
    ),
    "whole body, says the client": lambda shown: lines(
        "POST", "/v1/report", shown, "X-Envoy-Auth-Partial-Body: false", "Content-Length: 5", body=b"steal"
    ),
    "escaped letter": lambda shown: lines("GET", "/v1/%72eport", shown),
    "escaped slash": lambda shown: lines("GET", "/v1%2freport", shown),
    "escaped dots": lambda shown: lines("GET", "/v1/%2e%2e/v1/report", shown),
    "escaped twice": lambda shown: lines("GET", "/v1/%252e%252e/v1/report", shown),
    "dot segments": lambda shown: lines("GET", "/v1/x/../report", shown),
    "dot segment with a parameter": lambda shown: lines("GET", "/v1/x/..;/report", shown),
    "empty segment": lambda shown: lines("GET", "/v1//report", shown),
    "backslash": lambda shown: lines("GET", "/v1\\report", shown),
    "query": lambda shown: lines("GET", "/v1/report?as=admin", shown),
    "fragment": lambda shown: lines("GET", "/v1/report#/../secret", shown),
    "absolute form of another host": lambda shown: lines("GET", "http://other.example.org/v1/report", shown),
    "absolute form against Host": lambda shown: lines("GET", f"http://{HOST}/v1/secret", shown, host="other.example.org"),
    "two Hosts": lambda shown: lines("GET", "/v1/report", shown, "Host: other.example.org"),
    "another Host": lambda shown: lines("GET", "/v1/report", shown, host="other.example.org"),
    "Host with a port": lambda shown: lines("GET", "/v1/report", shown, host=f"{HOST}:9999"),
    "small method": lambda shown: lines("get", "/v1/report", shown),
    "method with a blank": lambda shown: lines("GET ", "/v1/report", shown),
    "two proofs": lambda shown: lines("GET", "/v1/report", shown, f"DPoP: {shown['dpop']}"),
    "two tokens": lambda shown: lines("GET", "/v1/report", shown, "Authorization: DPoP x.y.z"),
    "token in the query": lambda shown: lines("GET", f"/v1/report?access_token={shown['authorization'][5:]}", {"dpop": shown["dpop"]}),
    "bearer": lambda shown: lines("GET", "/v1/report", shown | {"authorization": shown["authorization"].replace("DPoP", "Bearer")}),
    "folded header": lambda shown: lines("GET", "/v1/report", shown, "X-A: b", " X-Original-URI: /v1/report"),
    "upgrade": lambda shown: lines(
        "GET", "/v1/report", shown, "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    ),
    "our endpoint": lambda shown: lines("GET", "/forward-auth", shown),
    "our health": lambda shown: lines("GET", "/readyz", shown),
    "long target": lambda shown: lines("GET", "/v1/" + "a" * 4000, shown),
}  # fmt: skip
"""Each with a proof for `GET /v1/report` without a body, and a grant for all of /v1/."""


@pytest.mark.parametrize("name", SMUGGLED)
def test_whatever_reaches_the_service_is_what_was_proven(peer: Peer, name: str) -> None:
    before = len(peer.upstream.reached)
    said = peer.raw(SMUGGLED[name](proven(peer)))
    for method, path, headers, body in peer.upstream.reached[before:]:
        assert (method, path, body) == ("GET", "/v1/report", b""), (name, said)
        assert headers["host"] == HOST
        assert headers["x-writ-reference"] in peer.process.sink()
        assert "upgrade" not in headers
    assert len(peer.upstream.reached) <= before + 1


@pytest.mark.parametrize("spelling", ["X-Writ-Agent", "x-writ-agent", "X_Writ_Agent", "X-Writ_Agent", "X-Writ-Agent ", "Content_Digest"])
def test_an_identity_of_the_clients_own_never_arrives(peer: Peer, spelling: str) -> None:
    """A CGI upstream reads `-` and `_` alike."""
    before = len(peer.upstream.reached)
    peer.raw(lines("GET", "/v1/report", proven(peer), f"{spelling}: spiffe://example.org/test/agent/admin"))
    came = peer.upstream.reached[before:]
    for _, _, headers, _ in came:
        names = [plain for name in headers if (plain := name.replace("_", "-")).startswith(("x-writ-", "content-digest"))]
        assert sorted(names) == ["content-digest", "x-writ-agent", "x-writ-instance", "x-writ-reference"]
        assert "admin" not in headers["x-writ-agent"]
    assert len(came) == 1 or spelling.lower() != "x-writ-agent"


def test_a_body_that_the_proxy_sends_along_is_the_one_proven(peer: Peer) -> None:
    if peer.name != "envoy":
        return
    before = len(peer.upstream.reached)
    assert peer.ask(proven(peer, "POST", body=b"{}"), "POST", body=b"{}")[0] == 200
    assert peer.upstream.reached[-1][3] == b"{}"
    assert peer.code(proven(peer, "POST", body=b"{}"), "POST", body=b"[]") == (401, "proof-mismatch")
    too_long = b"x" * ((1 << 20) + 1)
    assert peer.ask(proven(peer, "POST", body=too_long), "POST", body=too_long)[0] == 413
    assert len(peer.upstream.reached) == before + 1


def test_with_our_process_hung_nothing_passes(peer: Peer) -> None:
    shown = proven(peer)
    before = len(peer.upstream.reached)
    peer.process.running.send_signal(signal.SIGSTOP)
    try:
        assert peer.ask(shown)[0] == {"nginx": 500, "envoy": 403, "caddy": 504}[peer.name]
    finally:
        peer.process.running.send_signal(signal.SIGCONT)
    assert len(peer.upstream.reached) == before


def test_with_our_process_gone_nothing_passes(peer: Peer) -> None:
    """The last: it stays gone."""
    shown = proven(peer)
    before = len(peer.upstream.reached)
    assert peer.process.stop() == 0
    assert peer.ask(shown)[0] == {"nginx": 500, "envoy": 403, "caddy": 502}[peer.name]
    assert len(peer.upstream.reached) == before


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_a_claimed_digest_comes_to_the_service_with_the_body(kind: str) -> None:
    """The service compares: what differs is there to be seen, whatever the client says itself."""
    with standing(kind, "claimed") as peer:
        for sent in (b"proven", b"another"):
            shown = proven(peer, "POST", body=b"proven") | {"Content-Digest": Gate.digest(sent)}
            assert peer.ask(shown, "POST", body=sent)[0] == 200
            method, path, headers, body = peer.upstream.reached[-1]
            assert (method, path, body, headers["content-digest"]) == ("POST", "/v1/report", sent, Gate.digest(b"proven"))
        assert peer.code(proven(peer, arg=None), "POST", body=b"proven") == (401, "proof-mismatch")
