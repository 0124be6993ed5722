"""An agent in its sandbox, against its only way out: real daemon, holder, namespaces and cgroup."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.enforcer.host import Host, wait_for
from tests.enforcer.records import records_of
from tests.world.network import Server, certified, echo, http, pour
from tests.world.web import site
from writ.formats.forward import Forward
from writ.formats.policy_bundle import PolicySettings
from writ.formats.record import ActionRecord

pytestmark = pytest.mark.cgroup

CLIENT = """
import json, os, socket, sys, time, urllib.error, urllib.request
proxies = {name: os.environ[name] for name in sorted(os.environ) if "proxy" in name.lower()}
def fetch(url):
    try:
        return urllib.request.urlopen(url, timeout=10).read().decode()
    except urllib.error.HTTPError as error:
        return [error.code, json.loads(error.read())]
def tunnel(destination):
    one = socket.create_connection(("127.0.0.1", 3128), timeout=10)
    one.sendall(f"CONNECT {destination} HTTP/1.1\\r\\nHost: {destination}\\r\\n\\r\\n".encode())
    return one, int(one.recv(4096).split(b" ")[1])
def tries(act):
    try:
        return act()
    except OSError as error:
        return type(error).__name__
"""


@pytest.fixture
def web() -> Iterator[Server]:
    made = Server(http)
    yield made
    made.close()


@pytest.fixture
def pours() -> Iterator[Server]:
    made = Server(pour)
    yield made
    made.close()


def records(host: Host, instance: bytes) -> list[tuple[str, str | bool]]:
    found = records_of(host.config.instance_dir(instance), instance)
    return [(one.resource, one.permit) if isinstance(one, ActionRecord) else ("outcome", one.outcome) for one in found]


def test_i8_agent_goes_out_by_its_grants_and_no_other_way(enforcer_host: Host, web: Server) -> None:
    host = enforcer_host
    body = f"""
    here = "127.0.0.1:{web.port}"
    print(json.dumps({{
        "proxies": proxies,
        "granted": fetch(f"http://{{here}}/x"),
        "other": fetch("http://127.0.0.2:{web.port}/x"),
        "name": fetch("http://localhost:{web.port}/x"),
        "tunnel": tunnel(here)[1],
        "metadata": tunnel("169.254.169.254:80")[1],
        "around": tries(lambda: socket.create_connection(("127.0.0.1", {web.port}), timeout=2) and "out"),
        "route": tries(lambda: socket.create_connection(("192.0.2.1", 80), timeout=2) and "out"),
        "udp": tries(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) and "out"),
        "port": tries(lambda: socket.create_server(("127.0.0.1", 3128)) and "taken"),
    }}))
    """
    host.agent("a", body, prelude=CLIENT, connects=[f"tcp:127.0.0.1:{web.port}"])
    status, out, err = host.finish(host.run("a"))
    assert (status, err) == (0, "")
    found = json.loads(out)
    instance = host.instance("a")

    proxy = "http://127.0.0.1:3128"
    assert found["proxies"] == {
        "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": "", "http_proxy": proxy, "https_proxy": proxy, "no_proxy": "",
        "NODE_USE_ENV_PROXY": "1",
    }  # fmt: skip
    assert found["granted"] == "hello "
    assert (found["other"][0], found["name"][0], found["tunnel"], found["metadata"]) == (403, 403, 200, 403)
    assert found["other"][1]["refusal"]["reasons"][0]["code"] == "grant-missing"
    assert found["other"][1]["reference"] == f"{instance.hex()[:8]}-3"
    assert found["around"] == "ConnectionRefusedError"
    assert {found["route"], found["udp"], found["port"]} <= {"OSError", "PermissionError"}
    assert web.connections == 2
    assert sorted(records(host, instance)) == sorted([
        (f"tcp:127.0.0.1:{web.port}", True), ("outcome", "done"), (f"tcp:127.0.0.2:{web.port}", False),
        (f"tcp:localhost:{web.port}", False),
        (f"tcp:127.0.0.1:{web.port}", True), ("tcp:169.254.169.254:80", False), ("outcome", "done"),
    ])  # fmt: skip
    why = host.show("why", found["other"][1]["reference"])
    assert (why["resource"], why["reasons"][0]["code"]) == (f"tcp:127.0.0.2:{web.port}", "grant-missing")


def test_agent_without_such_a_grant_has_no_proxy_at_all(enforcer_host: Host) -> None:
    body = 'print(json.dumps([proxies, tries(lambda: socket.create_connection(("127.0.0.1", 3128), timeout=2) and "out")]))\n'
    enforcer_host.agent("a", body, prelude=CLIENT)
    status, out, err = enforcer_host.finish(enforcer_host.run("a"))

    assert (status, err) == (0, "")
    assert json.loads(out) == [{}, "ConnectionRefusedError"]


POURING = """
one, status = tunnel("127.0.0.1:{port}")
print(status, flush=True)
got = 0
while True:
    part = tries(lambda: one.recv(65536))
    if not part or isinstance(part, str):
        break
    got += len(part)
print("ended", flush=True)
while True:
    again = tries(lambda: tunnel("127.0.0.1:{port}")[1])
    if again == 200:
        break
    time.sleep(0.05)
print("again", flush=True)
time.sleep(60)
"""


def test_hold_cuts_what_is_under_way_and_a_thaw_lets_new_connections_pass(enforcer_host: Host, pours: Server) -> None:
    host = enforcer_host
    host.attestor.settings = PolicySettings(accept_runtime_only=True, tpm_classes=("software",), token_life=5, hold_max=600)
    host.agent("a", POURING.format(port=pours.port), prelude=CLIENT, connects=[f"tcp:127.0.0.1:{pours.port}"])
    run = host.run("a")
    assert run.stdout is not None
    assert run.stdout.readline() == b"200\n"
    instance = host.instance("a")
    host.attestor.reachable = False
    standing = host.wait_state(instance, "held", 20)
    print(f"held under load: {standing['measured']}")
    assert standing["measured"]["cut_ms"] <= standing["measured"]["frozen_ms"]
    wait_for(lambda: ("outcome", "failed") in records(host, instance))
    wait_for(lambda: len(pours.errors) == 1)
    host.attestor.reachable = True
    host.wait_state(instance, "running", 20)
    assert run.stdout.readline() == b"ended\n"
    assert run.stdout.readline() == b"again\n"


def test_kill_cuts_what_is_under_way_and_its_outcome_is_carried(enforcer_host: Host, pours: Server) -> None:
    host = enforcer_host
    host.agent("a", POURING.format(port=pours.port), prelude=CLIENT, connects=[f"tcp:127.0.0.1:{pours.port}"])
    run = host.run("a")
    assert run.stdout is not None
    assert run.stdout.readline() == b"200\n"
    instance = host.instance("a")
    host.attestor.drift(instance)
    assert host.finish(run)[0] == 137
    print(f"killed under load: {host.standing(instance)['measured']}")

    assert records(host, instance) == [(f"tcp:127.0.0.1:{pours.port}", True), ("outcome", "failed")]
    assert host.attestor.instances[instance].log[0] == 3
    wait_for(lambda: len(pours.errors) == 1)


CURL = """
import json, os, subprocess
def curl(*words):
    done = subprocess.run(["/usr/bin/curl", "-sS", "--path-as-is", *words], capture_output=True, text=True, timeout=20)
    if not done.stdout.startswith("{"):
        return done.stdout or done.returncode
    return json.loads(done.stdout)["refusal"]["reasons"][0]["code"]
"""


def test_i8_requests_within_tls_are_decided_one_by_one_in_the_sandbox(idle_host: Host, tmp_path: Path) -> None:
    host = idle_host
    certificate = certified(tmp_path, "127.0.0.1")
    host.write_config(egress_ca_file=certificate[0])
    host.serve()
    web = Server(site, certificate=certificate)
    here = f"https://127.0.0.1:{web.port}"
    body = f"""
    with open("/tmp/other.pem", "w") as file:
        file.write(OTHER)
    def write():
        try:
            open("/run/writ/ca.pem", "a")
        except OSError as error:
            return type(error).__name__
    print(json.dumps({{
        "granted": curl("-w", "%{{http_version}}", "{here}/v1/a"),
        "other": curl("{here}/v2/a"),
        "method": curl("-X", "DELETE", "{here}/v1/a"),
        "dots": curl("{here}/v1/%2e%2e/v2"),
        "own roots": curl("--cacert", "/tmp/other.pem", "{here}/v1/a"),
        "around": curl("--noproxy", "*", "{here}/v1/a"),
        "ca": os.environ["SSL_CERT_FILE"] == os.environ["GIT_SSL_CAINFO"] == "/run/writ/ca.pem",
        "write": write(),
    }}))
    """
    prelude = CURL + f"OTHER = {certificate[0].read_text()!r}\n"
    host.agent("a", body, prelude=prelude, more=[("http.get", f"{here}/v1/*")], programs=["/usr/bin/curl"])
    status, out, err = host.finish(host.run("a"))
    web.close()
    assert (status, err) == (0, "")

    assert json.loads(out) == {
        "granted": "GET /v1/a 2", "other": "grant-missing", "method": "grant-missing", "dots": "malformed", "own roots": 60, "around": 7,
        "ca": True, "write": "PermissionError",
    }  # fmt: skip
    assert records(host, host.instance("a")) == [
        (f"{here}/v1/a", True), ("outcome", "done"), (f"{here}/v2/a", False), (f"{here}/v1/a", False), (f"tcp:127.0.0.1:{web.port}", False),
    ]  # fmt: skip


def test_i8_forwards_and_inbound_ports_are_what_manifest_grants_and_host_agree_on(idle_host: Host, tmp_path: Path) -> None:
    host = idle_host
    back, model = Server(echo), tmp_path / "model.sock"
    tmp_path.chmod(0o700)
    with socket.create_server(("127.0.0.1", 0)) as free:
        outside = free.getsockname()[1]
    host.write_config(unix_sockets=(str(model),), inbound=(f"a 8080 127.0.0.1:{outside}",))
    host.serve()
    body = """
    def say(port, words):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
            one.sendall(words)
            return one.recv(100).decode()
    found = {"database": say(5432, b"query"), "model": say(11434, b"prompt"), "env": len(proxies)}
    found["not granted"] = tries(lambda: say(6379, b"x"))
    server = socket.create_server(("127.0.0.1", 8080))
    print(json.dumps(found), flush=True)
    one, peer = server.accept()
    one.sendall(b"agent " + one.recv(100))
    one.close()
    """
    forwards = (Forward(5432, f"tcp:127.0.0.1:{back.port}"), Forward(6379, "tcp:127.0.0.1:9"), Forward(11434, f"unix:{model}"))
    grants = [("net.accept", "tcp:8080"), ("net.connect", f"unix:{model}"), ("net.connect", f"tcp:127.0.0.1:{back.port}")]
    host.agent("a", body, prelude=CLIENT, more=grants, forwards=forwards)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(model))
        server.listen()
        run = host.run("a")
        server.settimeout(20)
        one, _ = server.accept()
        with one:
            one.sendall(b"model " + one.recv(100))
    assert run.stdout is not None
    found = json.loads(run.stdout.readline())
    with socket.create_connection(("127.0.0.1", outside), timeout=10) as peer:
        peer.sendall(b"hello")
        assert peer.recv(100) == b"agent hello"
    status, _, err = host.finish(run)
    back.close()

    assert (status, err) == (0, "")
    assert found.pop("not granted") in ("", "ConnectionResetError", "BrokenPipeError")
    assert found == {"database": "query", "model": "model prompt", "env": 7}
    wanted = [(f"tcp:127.0.0.1:{back.port}", True), (f"unix:{model}", True), ("tcp:127.0.0.1:9", False), ("tcp:8080", True)]
    assert [one for one in records(host, host.instance("a")) if one[0] != "outcome"] == wanted
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", outside), timeout=10)
