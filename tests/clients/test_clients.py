"""Programs of the field in a real sandbox: each goes where it is granted, through the enforcer, and is refused elsewhere."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

import pytest

from enforcer.record import LogReader
from tests.clients import images
from tests.clients.registries import NAME, Registries
from tests.enforcer.host import TOOL, Host
from tests.world.attestor import KnownAgent
from tests.world.network import Server
from tests.world.root_fs import PYTHON, lay_out_on
from writ.formats.forward import Forward
from writ.formats.grants import grant_set
from writ.formats.measurement import Profile
from writ.formats.record import ActionRecord
from writ.formats.tree import Component

pytestmark = [pytest.mark.clients, pytest.mark.cgroup, pytest.mark.timeout(300)]
Image = tuple[Component, Any]

RUN = """
import json, os, subprocess, sys
def run(*words, **more):
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, env={**os.environ, **more})
    return [done.returncode, done.stdout, done.stderr]
def python(code, *words):
    return run(sys.executable, "-c", code, *words, PYTHONPATH=LIB)
"""


def ran(
    host: Host, image: Image, body: str, grants: Sequence[tuple[str, str]], *, profile: Profile = "strict", forwards: Sequence[Forward] = ()
) -> dict[str, tuple[int, str, str]]:
    """What `body` found, an agent with these grants."""
    root = host.store / "a"
    code = f"LIB = {str(images.LIB)!r}\n{RUN}\nfound = {{}}\n{textwrap.dedent(body)}\nprint(json.dumps(found))\n".encode()
    components = lay_out_on(root, image, {"code": ("code", {"a.py": code}), "tools": ("tools", {"tool.py": TOOL.encode()})})
    command = (PYTHON, "-I", "{store}/code/a.py")
    host.attestor.agents["a"] = KnownAgent(root, command, components, grant_set(grants), profile, forwards=tuple(forwards))
    status, out, err = host.finish(host.run("a"), 200)
    assert (status, err) == (0, ""), err
    return {name: (done[0], done[1], done[2]) for name, done in json.loads(out).items()}


def reach(port: int) -> tuple[str, str]:
    """The grant of the address that the name leads to."""
    return "net.reach", f"tcp:127.0.0.1:{port}"


def refused(host: Host) -> set[tuple[str, str]]:
    """Each action that was, with its resource."""
    instance = host.instance("a")
    records = [entry.record for entry in LogReader(host.config.instance_dir(instance), instance).entries()]
    return {(one.action, one.resource) for one in records if isinstance(one, ActionRecord) and not one.permit}


HTTPX = """
import httpx2, sys
answer = httpx2.get(sys.argv[1])
print(answer.status_code, answer.text)
"""
EVENTS = """
import httpx2, sys
with httpx2.stream("GET", sys.argv[1]) as answer:
    print(answer.status_code, [line for line in answer.iter_lines() if line.startswith("data:")])
"""
WEBSOCKET = """
import sys
from websockets.sync.client import connect
with connect(sys.argv[1]) as socket:
    socket.send("hello")
    print(socket.recv())
"""


def test_curl_httpx_events_and_websockets(host: Host, web: Server) -> None:
    here = f"{NAME}:{web.port}"
    found = ran(
        host,
        images.tools(),
        f"""
        found["curl"] = run("curl", "-sS", "https://{here}/v1/a")
        found["curl no"] = run("curl", "-sS", "-f", "https://{here}/v2/a")
        found["httpx2"] = python({HTTPX!r}, "https://{here}/v1/b")
        found["httpx2 no"] = python({HTTPX!r}, "https://{here}/v2/b")
        found["events"] = python({EVENTS!r}, "https://{here}/events")
        found["events no"] = python({EVENTS!r}, "https://{here}/v2/events")
        found["websocket"] = python({WEBSOCKET!r}, "wss://{here}/ws")
        found["websocket no"] = python({WEBSOCKET!r}, "wss://{here}/v2/ws")
        """,
        [
            ("http.get", f"https://{here}/v1/*"),
            ("http.get", f"https://{here}/events"),
            ("http.websocket", f"https://{here}/ws"),
            reach(web.port),
        ],
    )
    assert found["curl"][:2] == (0, "GET /v1/a "), found["curl"]
    assert found["curl no"][0] == 22
    assert found["httpx2"][:2] == (0, "200 GET /v1/b \n"), found["httpx2"]
    assert found["httpx2 no"][1].startswith("403 "), found["httpx2 no"]
    assert found["events"][:2] == (0, "200 ['data: 0', 'data: 1', 'data: 2']\n"), found["events"]
    assert found["events no"][1] == "403 []\n", found["events no"]
    assert found["websocket"][:2] == (0, "hello\n"), found["websocket"]
    assert "403" in found["websocket no"][2], found["websocket no"]
    assert refused(host) == {
        ("http.get", f"https://{here}/v2/a"), ("http.get", f"https://{here}/v2/b"), ("http.get", f"https://{here}/v2/events"),
        ("http.websocket", f"https://{here}/v2/ws"),
    }  # fmt: skip
    assert b"/v2/" not in web.heard


HTTPX2 = """
import httpx2, sys
with httpx2.Client(http2=True) as client:
    for url in sys.argv[1:]:
        answer = client.get(url)
        print(answer.http_version, answer.status_code, answer.text[:20])
"""
GRPC = """
import grpc, sys, threading
def said(call):
    try:
        return [*call]
    except grpc.RpcError as error:
        return error.code().name
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
    echo, heard = channel.stream_stream("/grpc/echo"), threading.Semaphore(1)
    def words():
        for word in (b"a", b"b", b"c"):
            heard.acquire()
            yield word
    call, found = echo(words(), timeout=30), []
    for word in call:
        found.append(word)
        heard.release()
    print(found, call.code().name)
    print(said(channel.unary_stream("/grpc/none")(b"x", timeout=30)))
    print(said(channel.unary_stream("/other/method")(b"x", timeout=30)))
"""


def test_clients_of_http_2(host: Host, newer: Server, web: Server) -> None:
    here, older = f"{NAME}:{newer.port}", f"{NAME}:{web.port}"
    found = ran(
        host,
        images.tools(),
        f"""
        said = ("-sS", "-w", "%{{http_version}}")
        found["curl"] = run("curl", *said, "https://{here}/v1/a")
        found["curl no"] = run("curl", *said, "-f", "https://{here}/v2/a")
        found["curl to an older host"] = run("curl", *said, "https://{older}/v1/a")
        found["curl of HTTP/1.1"] = run("curl", *said, "--http1.1", "https://{older}/v1/a")
        found["httpx2"] = python({HTTPX2!r}, "https://{here}/v1/b", "https://{here}/v2/b", "https://{here}/v1/c")
        found["grpc"] = python({GRPC!r}, "{here}")
        """,
        [
            ("http.get", f"https://{here}/v1/*"), ("http.get", f"https://{older}/v1/*"), ("http.post", f"https://{here}/grpc/*"),
            reach(newer.port), reach(web.port),
        ],
    )  # fmt: skip
    assert found["curl"][:2] == (0, "GET /v1/a 2"), found["curl"]
    assert found["curl no"][0] == 22
    assert found["curl to an older host"][:2] == (0, "GET /v1/a 2")
    assert found["curl of HTTP/1.1"][:2] == (0, "GET /v1/a 1.1")
    lines = found["httpx2"][1].splitlines()
    assert (lines[0], lines[1][:12], lines[2]) == ("HTTP/2 200 GET /v1/b ", "HTTP/2 403 {", "HTTP/2 200 GET /v1/c "), found["httpx2"]
    assert found["grpc"][:2] == (0, "[b'a', b'b', b'c'] OK\nUNIMPLEMENTED\nPERMISSION_DENIED\n"), found["grpc"]
    assert {("http.get", f"https://{here}/v2/a"), ("http.get", f"https://{here}/v2/b")} <= refused(host)
    assert ("http.post", f"https://{here}/other/method") in refused(host)
    assert b"/v2/" not in newer.heard
    assert b"/other" not in newer.heard


def test_git_and_pip(host: Host, registries: Registries) -> None:
    here = f"{NAME}:{registries.port}"
    found = ran(
        host,
        images.tools(),
        f"""
        found["git"] = run("git", "clone", "-q", "https://{here}/notes.git", "/agent/notes")
        found["git log"] = run("git", "-C", "/agent/notes", "log", "--format=%s")
        found["git push"] = run("git", "-C", "/agent/notes", "push", "-q", "origin", "HEAD:refs/heads/other")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-compile", "--target", "/agent/lib"]
        found["pip"] = run(*pip, "--index-url", "https://{here}/simple", "notes", PYTHONPATH=LIB)
        found["import"] = run(sys.executable, "-c", "import notes; print(notes.said)", PYTHONPATH="/agent/lib")
        found["pip no"] = run(*pip, "--retries", "0", "--index-url", "https://{here}/other", "notes", PYTHONPATH=LIB)
        """,
        [
            ("http.get", f"https://{here}/notes.git/info/refs"), ("http.post", f"https://{here}/notes.git/git-upload-pack"),
            ("http.get", f"https://{here}/simple/notes/"), ("http.get", f"https://{here}/files/*"), reach(registries.port),
        ],
    )  # fmt: skip
    assert found["git"][0] == 0, found["git"]
    assert found["git log"][1] == "one\n"
    assert found["git push"][0] != 0
    assert found["pip"][0] == 0, found["pip"]
    assert found["import"][1] == "notes\n"
    assert found["pip no"][0] != 0
    assert ("http.get", f"https://{here}/other/notes/") in refused(host)
    assert not any("receive-pack" in one or "/other/" in one for one in registries.asked), registries.asked


FETCH = """
fetch(process.argv[1]).then(async answer => console.log(answer.status, await answer.text()), error => console.log(error.cause))
"""


HTTP2 = """
const http = require("http"), http2 = require("http2"), tls = require("tls"), fs = require("fs");
const [host, port] = process.argv[1].split(":"), proxy = new URL(process.env.https_proxy);
const there = {method: "CONNECT", path: process.argv[1], headers: {host: process.argv[1]}};
const tunnel = http.request({host: proxy.hostname, port: proxy.port, ...there});
tunnel.on("connect", (_, socket) => {
    const secure = tls.connect({socket, servername: host, ALPNProtocols: ["h2"], ca: fs.readFileSync(process.env.SSL_CERT_FILE)});
    const session = http2.connect("https://" + process.argv[1], {createConnection: () => secure});
    let left = 2;
    for (const path of process.argv.slice(2)) {
        const stream = session.request({":path": path});
        let status, body = "";
        stream.on("response", headers => status = headers[":status"]);
        stream.on("data", part => body += part);
        stream.on("end", () => { console.log(status, body.slice(0, 10)); if (--left === 0) session.close(); });
    }
}).end();
"""


def test_npm_nodes_fetch_and_nodes_http2(host: Host, web: Server, newer: Server, registries: Registries) -> None:
    streams, here, there = f"{NAME}:{newer.port}", f"{NAME}:{web.port}", f"{NAME}:{registries.port}"
    npm = f'"{images.NODE}", "{images.NPM}", "install", "--no-audit", "--no-fund", "--fetch-retries=0", "--prefix", "/agent/p"'
    found = ran(
        host,
        images.node(),
        f"""
        found["fetch"] = run("{images.NODE}", "-e", {FETCH!r}, "https://{here}/v1/a")
        found["fetch no"] = run("{images.NODE}", "-e", {FETCH!r}, "https://{here}/v2/a")
        found["http2"] = run("{images.NODE}", "-e", {HTTP2!r}, "{streams}", "/v1/b", "/v2/b", NODE_USE_ENV_PROXY="0")
        found["npm"] = run({npm}, "--registry", "https://{there}/npm/", "notes")
        found["require"] = run("{images.NODE}", "-p", "require('/agent/p/node_modules/notes')")
        found["npm no"] = run({npm}, "--registry", "https://{there}/other/", "notes2")
        """,
        [
            ("http.get", f"https://{here}/v1/*"),
            ("http.get", f"https://{streams}/v1/*"),
            ("http.get", f"https://{there}/npm/*"),
            reach(web.port),
            reach(newer.port),
            reach(registries.port),
        ],
        profile="jit",
    )
    assert found["fetch"][:2] == (0, "200 GET /v1/a \n"), found["fetch"]
    assert found["fetch no"][1].startswith("403 "), found["fetch no"]
    assert sorted(found["http2"][1].splitlines()) == ["200 GET /v1/b ", '403 {"ok":fals'], found["http2"]
    assert found["npm"][0] == 0, found["npm"]
    assert found["require"][1] == "notes\n"
    assert found["npm no"][0] != 0
    assert {("http.get", f"https://{here}/v2/a"), ("http.get", f"https://{there}/other/notes2")} <= refused(host)
    assert not any("/other/" in one for one in registries.asked)


@pytest.mark.parametrize("granted", [True, False])
def test_psql(host: Host, database: int, granted: bool) -> None:
    place = f"tcp:127.0.0.1:{database}"
    found = ran(
        host,
        images.tools(),
        f"""
        words = ["-X", "-h", "127.0.0.1", "-U", "postgres", "-tAc", "select 6 * 7"]
        found["psql"] = run("{images.psql()}", *words, PGCONNECT_TIMEOUT="10")
        """,
        [("net.connect", place)] if granted else [],
        forwards=[Forward(5432, place)],
    )
    assert (found["psql"][0] == 0, found["psql"][1]) == (granted, "42\n" if granted else ""), found["psql"]
    assert refused(host) == (set() if granted else {("net.connect", place)})
