"""The process: what it is told, where it listens, and that no route answers whom it should not."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enforcer.__main__ import main
from enforcer.relying.authzen import CONFIGURATION, EVALUATIONS
from enforcer.relying.config import PREFIX, RelyingConfig, listen_at
from enforcer.relying.serve import listen, wanting
from tests.enforcer.relying.behind import SITE, Gate
from tests.enforcer.relying.process import Process, asked
from tests.enforcer.relying.test_authzen import PDP, Point
from tests.enforcer.relying.test_middleware import KnownFeed
from tests.world.attestor import STATUS
from writ.formats.errors import FormatError, Unavailable
from writ.service import config
from writ.service.cli import COULD_NOT, MISUSE
from writ.verdict.token import Revocation

LEAST = {
    "audience": "reports", "issuer": "https://verifier.example.org", "policy_file": "/p", "forward_auth": "unix:/run/x.sock",
    "proxy": "nginx", "origins": [SITE],
}  # fmt: skip


def written(folder: Path, **changed: Any) -> Path:
    """A configuration, with what is None left out."""
    path = folder / "relying.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in (LEAST | changed).items() if value is not None))
    return path


def test_the_least_that_is_needed(tmp_path: Path) -> None:
    made = config.load(RelyingConfig, written(tmp_path), {}, PREFIX)
    assert (made.keys_from, made.status_from) == (
        "https://verifier.example.org/.well-known/jwks.json",
        "https://verifier.example.org/v1/status/0",
    )
    assert made.body == "none"


@pytest.mark.parametrize(
    "changed",
    [
        {"audience": ""},
        {"issuer": "verifier.example.org"},
        {"policy_file": "p"},
        {"policy_file": None},
        {"forward_auth": None},
        {"proxy": None},
        {"proxy": "haproxy"},
        {"origins": []},
        {"origins": [f"{SITE}/"]},
        {"origins": [f"{SITE}/v1"]},
        {"origins": ["https://REPORTS.example.org"]},
        {"origins": ["https://a@reports.example.org"]},
        {"origins": ["https://reports.example.org?x"]},
        {"origins": [SITE, "http://reports.example.org"]},
        {"body": "sent"},
        {"body": "any"},
        {"authzen": "127.0.0.1:9000"},
        {"pdp": PDP},
        {"authzen": "127.0.0.1:9000", "pdp": f"{PDP}/pdp"},
        {"health": "unix:/run/x.sock"},
        {"health": "0.0.0.0:9000"},
        {"health": "localhost:9000"},
        {"health": "127.0.0.1:0"},
        {"health": "127.0.0.1"},
        {"health": "unix:x.sock"},
        {"health": f"unix:/{'x' * 100}"},
        {"log_level": "loud"},
        {"trust_files": "/x"},
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, changed: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, **changed)
    with pytest.raises(FormatError):
        config.load(RelyingConfig, path, {}, PREFIX)
    assert main(["--config", str(path), "config", "check", "--relying", "--json"]) == MISUSE
    assert json.loads(capsys.readouterr().out)["faults"]


def test_a_configuration_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path)
    assert main(["--config", str(path), "config", "check", "--relying", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"configuration": str(path), "faults": []}
    assert main(["--config", str(path), "relying"]) == COULD_NOT  # no trust file there


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wrs") as made:  # short: a unix socket's path
        yield Path(made)


def test_a_socket_is_of_its_owner_and_group(place: Path) -> None:
    with listen(f"unix:{place}/s", os.getegid()):
        made = (place / "s").stat()
        assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (0o660, os.geteuid(), os.getegid())
        with pytest.raises(Unavailable, match="another process"):
            listen(f"unix:{place}/s", -1)
    listen(f"unix:{place}/s", -1).close()  # nobody listens there any more


def test_what_is_no_socket_is_left(place: Path) -> None:
    (place / "s").write_text("precious")
    with pytest.raises(Unavailable, match="no socket"):
        listen(f"unix:{place}/s", -1)
    assert (place / "s").read_text() == "precious"
    with pytest.raises(Unavailable):
        listen(f"unix:{place}/none/s", -1)


def test_a_port_is_on_loopback() -> None:
    assert listen_at("[::1]:9000") == ("::1", 9000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Unavailable):
            listen(f"127.0.0.1:{taken.getsockname()[1]}", -1)


PAGES = (
    "/", "/healthz", "/readyz", "/forward-auth", "/v1/report", "/access/v1/evaluation", "/access/v1/evaluations",
    "/access/v1/search/subject",
    "/.well-known/authzen-configuration", "/metrics", "/docs", "/../readyz", "//readyz",
)  # fmt: skip
PUBLIC = {("health", "GET", "/healthz"), ("health", "GET", "/readyz"), ("authzen", "GET", "/.well-known/authzen-configuration")}
"""Whoever reaches the socket may ask these; every other answer of 200 is a decision about a token and a proof."""


def test_a_walk_of_all_routes_without_credentials_opens_nothing(place: Path) -> None:
    point = Gate(place, "nginx")
    sockets = {name: place / f"{name}.sock" for name in ("forward_auth", "authzen", "health")}
    settings: dict[str, Any] = {name: f"unix:{path}" for name, path in sockets.items()}
    with Process(point, place, **settings, pdp=PDP, proxy="nginx", origins=[SITE]) as process:
        for name, at in sockets.items():
            for page in PAGES:
                for method, body in (
                    ("GET", None),
                    ("HEAD", None),
                    ("POST", b""),
                    ("POST", b"{}"),
                    ("POST", b"\xff" * 100),
                    ("OPTIONS", None),
                ):
                    status, said = asked(at, method, page, body, {"content-type": "application/json"})
                    assert (status == 200) == ((name, method, page) in PUBLIC), (name, method, page, said)
                    assert 200 <= status < 500, (name, method, page)
                    assert name != "forward_auth" or status in (401, 403), (method, page, status)
        nobody = json.dumps({"subject": {"type": "agent", "id": "a"}, "action": {"name": "http.get"}, "resource": {"type": "a", "id": "b"}})
        status, said = asked(sockets["authzen"], "POST", "/access/v1/evaluation", nobody.encode(), {"content-type": "application/json"})
        assert (status, json.loads(said)["decision"]) == (200, False)
        for path in sockets.values():
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert '"permit":true' not in process.sink()
        assert process.stop() == 0
        assert "Traceback" not in process.log()


def test_the_process_decides_for_an_agent(place: Path) -> None:
    point = Point(place)
    at = place / "authzen.sock"
    with Process(point, place, authzen=f"unix:{at}", pdp=PDP) as process:
        process.refresh()
        body = json.dumps(point.request()).encode()
        answers = [asked(at, "POST", "/access/v1/evaluation", body, {"content-type": "application/json"}) for _ in range(2)]
        assert [(status, json.loads(said)["decision"]) for status, said in answers] == [(200, True), (200, False)]
        (recorded,) = [json.loads(line) for line in process.sink().splitlines() if '"permit":true' in line]
        assert recorded["resource"] == "document:reports/q3"


PROGRAM = """
import http.client, socket, sys
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
connection = Connection("localhost")
connection.request(sys.argv[2], sys.argv[3], sys.stdin.buffer.read() or None, {"Content-Type": "application/json"})
sys.stdout.write(connection.getresponse().read().decode())
"""
"""With nothing of ours, as another user's program on the host has it."""
NOBODY, ASKERS = 65534, 65533


def asks(at: Path, method: str, page: str, body: bytes, groups: list[int]) -> subprocess.CompletedProcess[bytes]:
    command = ["/usr/bin/python3", "-I", "-c", PROGRAM, str(at), method, page]
    return subprocess.run(
        command, input=body, capture_output=True, timeout=60, check=False, user=NOBODY, group=NOBODY, extra_groups=groups, cwd="/"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_program_of_another_user_on_the_host_asks_by_the_socket_of_its_group(place: Path) -> None:
    point, at = Point(place), place / "authzen.sock"
    place.chmod(0o711)
    with Process(point, place, authzen=f"unix:{at}", pdp=PDP, socket_gid=ASKERS) as process:
        process.refresh()
        told = asks(at, "GET", CONFIGURATION, b"", [ASKERS])
        assert json.loads(told.stdout) == point.point.configuration()
        items = [point.request(f"reports/{name}") for name in ("q1", "q2")]
        answered = asks(at, "POST", EVALUATIONS, json.dumps({"evaluations": [*items, items[0]]}).encode(), [ASKERS])
        assert [one["decision"] for one in json.loads(answered.stdout)["evaluations"]] == [True, True, False]
        outside = asks(at, "GET", CONFIGURATION, b"", [])
        assert outside.returncode != 0
        assert b"PermissionError" in outside.stderr


def test_it_is_not_ready_before_anything_can_pass(place: Path) -> None:
    gate = Gate(place, "nginx")
    process = Process(gate, place, forward_auth=f"unix:{place}/fa.sock", proxy="nginx", origins=[SITE])
    (place / "policy.cose").rename(place / "policy.later")
    process.start()
    try:
        while process.page("/readyz")[1] != b"not ready: policy\n":
            assert process.running.poll() is None, process.log()
            time.sleep(0.1)
        assert process.page("/healthz") == (200, b"ok\n")
        assert process.page("/readyz")[0] == 503
    finally:
        process.__exit__()


def test_ready_is_what_could_be_permitted(place: Path) -> None:
    gate = Gate(place, "nginx")
    assert wanting(gate.feed, gate.now) is None
    stale = [KnownFeed(gate.feed.held_keys, given, gate.feed.policy) for given in (None, Revocation(STATUS, gate.now - 301, frozenset()))]
    assert [wanting(feed, gate.now) for feed in stale] == ["a fresh status list"] * 2
    assert wanting(KnownFeed({}, gate.feed.list, gate.feed.policy), gate.now) == "token keys"
    assert wanting(KnownFeed(gate.feed.held_keys, gate.feed.list, None), gate.now) == "policy"


def test_one_interrupt_ends_it_and_the_socket_can_be_taken_again(place: Path) -> None:
    gate = Gate(place, "nginx")
    for _ in range(2):
        process = Process(gate, place, forward_auth=f"unix:{place}/fa.sock", proxy="nginx", origins=[SITE])
        process.start()
        try:
            while process.page("/healthz") != (200, b"ok\n"):
                assert process.running.poll() is None, process.log()
                time.sleep(0.1)
            process.running.send_signal(signal.SIGINT)
            assert process.running.wait(20) == 0
        finally:
            process.__exit__()


def test_a_place_that_is_taken_is_said(place: Path) -> None:
    gate = Gate(place, "nginx")
    with listen(f"unix:{place}/fa.sock", -1):
        process = Process(gate, place, forward_auth=f"unix:{place}/fa.sock", proxy="nginx", origins=[SITE])
        command = [str(Path(sys.executable).with_name("enforcer")), "--config", str(place / "relying.toml"), "relying"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == COULD_NOT
        assert "another process listens there" in done.stderr
        process.close()
