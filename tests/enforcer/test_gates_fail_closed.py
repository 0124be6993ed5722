"""What the gates rest on, each missing, corrupt, hanging or gone: every surface refuses, and says why.

`MATRIX` has a row for each fault, and in it what the gates of an agent and the surfaces of a service say, or why it cannot befall them.
Before each fault the same request passes. The engine missing altogether is no refusal: nothing starts, which the last tests show.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from enforcer import record
from enforcer.record import Recorded
from enforcer.relying import asgi, sink
from enforcer.relying.authzen import AuthZen
from enforcer.relying.forward_auth import ForwardAuth
from enforcer.relying.middleware import Middleware
from enforcer.relying.sink import FileSink
from enforcer.replay_cache import ReplayCache
from tests.enforcer.gates import test_socket
from tests.enforcer.gates.proxied import Proxied
from tests.enforcer.relying import behind
from tests.enforcer.relying.asking import exchange
from tests.enforcer.scene import Scene
from tests.world.clock import HandClock
from tests.world.network import Server, echo
from writ.formats.access import Access
from writ.formats.action import Action
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.verdict.token import Revocation

ROOT: Final = Path(__file__).parents[2]
PDP: Final = "https://pdp.example.org"
GET: Final = Action("http.get", f"{behind.SITE}/v1/report", Digest.of(b""))
PanicException = type("PanicException", (BaseException,), {})
"""As PyO3's, which cannot be imported."""


class Surface(Protocol):
    """Where an action is asked for."""

    scene: Scene

    @property
    def passed(self) -> int:
        """What came through to whatever stands behind."""

    def prepare(self) -> Any:
        """What is sent, made while all is well."""

    def send(self, prepared: Any) -> str:
        """The code of the refusal, or "passed"."""

    def close(self) -> None:
        """The end."""


class AtSocket:
    """The gate at the agent's socket."""

    def __init__(self, folder: Path) -> None:
        self._gate = test_socket.Gate(folder)
        self.scene, self.log = self._gate.scene, self._gate.log
        self.scene.renew()

    @property
    def passed(self) -> int:
        """Calls of the tool."""
        return self._gate.tool.called

    def prepare(self) -> None:
        """Nothing: the gate adds token and proof."""

    def send(self, _: None) -> str:
        """One action."""
        answer = self._gate.ask()
        return "passed" if answer["ok"] else str(answer["refusal"]["reasons"][0]["code"])

    def close(self) -> None:
        """The end."""
        self._gate.close()


class AtEgress:
    """The way out."""

    def __init__(self, folder: Path) -> None:
        self._server = Server(echo)
        self._at = f"127.0.0.1:{self._server.port}"
        self._out = Proxied(folder, self._at)
        self.scene, self.log = self._out.scene, self._out.log
        self.passed = 0

    def prepare(self) -> None:
        """Nothing."""

    def send(self, nothing: None) -> str:
        """One tunnel."""
        with self._out.connect() as connection:
            connection.sendall(f"CONNECT {self._at} HTTP/1.1\r\nHost: {self._at}\r\n\r\n".encode())
            head, end, body = connection.recv(65536).partition(b"\r\n\r\n")
            assert end
            if head.startswith(b"HTTP/1.1 200 "):
                self.passed += 1
                return "passed"
            while part := connection.recv(65536):
                body += part
        return str(json.loads(body)["refusal"]["reasons"][0]["code"]) if body else "closed"

    def close(self) -> None:
        """The end."""
        self._out.close()
        self._server.close()


class OfService:
    """A service's own party, and one of its three surfaces."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.gate, self._kind, self.passed = behind.Gate(folder, "nginx"), kind, 0
        self.scene = self.gate.scene
        self.rely()

    def rely(self, **changed: Any) -> None:
        """The surface over a party with something else in it."""
        party = self.gate.party(**changed)
        apps: dict[str, asgi.App] = {
            "middleware": Middleware(self.gate.inner, origin=behind.SITE, party=party),
            "forward-auth": ForwardAuth(proxy="nginx", origins=(behind.SITE,), party=party),
            "authzen": AuthZen(pdp=PDP, party=party),
        }
        self._app = apps[self._kind]

    def prepare(self) -> dict[str, str]:
        """Token and proof."""
        if self._kind == "authzen":
            return {"token": self.gate.held.compact, "proof": self.gate.proof_of(GET, "POST", f"{PDP}/access/v1/evaluation")}
        return self.gate.proven()

    def send(self, shown: dict[str, str]) -> str:
        """One request."""
        if self._kind == "authzen":
            body = {
                "subject": {"type": "agent", "id": str(self.scene.agent), "properties": shown}, "action": {"name": GET.name},
                "resource": {"type": "https", "id": GET.resource.partition(":")[2]},
            }  # fmt: skip
            told = exchange(
                self._app, [(b"content-type", b"application/json")], method="POST", path="/access/v1/evaluation",
                body=json.dumps(body).encode(),
            )  # fmt: skip
            answer = json.loads(told.body)
            passed = answer.get("decision") is True
            reasons = answer["context"].get("reasons") if told.status == 200 else answer["reasons"]
        else:
            said = shown | {"host": "reports.example.org", "x-original-method": "GET", "x-original-uri": "/v1/report"}
            path = "/v1/report" if self._kind == "middleware" else "/forward-auth"
            told = exchange(self._app, [(name.encode(), value.encode()) for name, value in said.items()], path=path)
            passed, reasons = told.status == 200, None if told.status == 200 else json.loads(told.body)["reasons"]
        self.passed += passed
        return "passed" if passed else str(reasons[0]["code"])

    def close(self) -> None:
        """Nothing is open."""


HOST: Final = ("socket", "egress")
SERVICE: Final = ("middleware", "forward-auth", "authzen")


@pytest.fixture(params=(*HOST, *SERVICE))
def surface(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Surface]:
    made: Surface
    made = (
        AtSocket(tmp_path)
        if request.param == "socket"
        else AtEgress(tmp_path)
        if request.param == "egress"
        else OfService(tmp_path, request.param)
    )
    yield made
    made.close()


# --- the faults -------------------------------------------------------------------------------------------------------------


Patch = pytest.MonkeyPatch
Fault = Callable[[Any, Patch], None]


def renewed_in_vain(at: AtSocket | AtEgress) -> None:
    """The token's life passes, and what the attestor brings is not taken."""
    at.scene.clock.advance(61)
    with pytest.raises((FormatError, Refused, Unavailable)):
        at.scene.renew()


def store_missing(at: AtSocket | AtEgress, _: Patch) -> None:
    folder = at.scene.folder / "policies"
    folder.rename(folder.with_suffix(".gone"))
    folder.touch()  # nothing can be made there
    renewed_in_vain(at)


def store_corrupt(at: AtSocket | AtEgress, _: Patch) -> None:
    (held,) = (at.scene.folder / "policies").glob("*.held")
    held.write_bytes(held.read_bytes()[:-1] + b"\xff\xff")
    renewed_in_vain(at)


def store_holds_another(at: AtSocket | AtEgress, _: Patch) -> None:
    at.scene.attestor.policies += "\n// another text of the same version"
    renewed_in_vain(at)


def feed_without_policy(at: OfService, _: Patch) -> None:
    at.gate.feed.policy = None


def feed_with_another(at: OfService, _: Patch) -> None:
    at.gate.feed.policy = replace(at.scene.attestor.bundle(), version=9)


def unloadable(at: Any, _: Patch) -> None:
    """A policy that was signed all the same, and a token that names it."""
    at.scene.attestor.policies, at.scene.attestor.version = "permit(principal, action, resource) when { context.nothing };", 2
    held = at.scene.renew()
    if isinstance(at, OfService):
        at.gate.held, at.gate.feed.policy = held, at.scene.attestor.bundle()


def set_back(at: Any, _: Patch) -> None:
    at.scene.clock.wall -= 3600
    at.scene.clock.since_boot += 61


def jumped(at: Any, _: Patch) -> None:
    at.scene.clock.wall += 3600


def unreadable(_: Any, patch: Patch) -> None:
    def raises(clock: HandClock) -> int:  # noqa: ARG001 - a method
        raise OSError(22, "Invalid argument")

    patch.setattr(HandClock, "now", raises)


def sqlite_full(at: AtSocket | AtEgress, _: Patch) -> None:
    """SQLite finds no room for another page, and says what it says on a full disk; what is left of the last ones is used up."""
    (pages,) = at.log._db.execute("PRAGMA page_count").fetchone()  # noqa: SLF001 - the log's own connection
    at.log._db.execute(f"PRAGMA max_page_count = {pages}")  # noqa: SLF001
    for _round in range(100):
        if at.send(None) != "passed":
            return


def sqlite_errs(at: AtSocket | AtEgress, patch: Patch) -> None:
    closed = sqlite3.connect(":memory:")  # its own may be in use in this moment, and SQLite does not survive being closed then
    closed.close()
    patch.setattr(at.log, "_db", closed)


def log_hangs(at: AtSocket | AtEgress, patch: Patch) -> None:
    patch.setattr(record, "DURABLE_WITHIN", 0.3)
    real = at.log._commit  # noqa: SLF001 - as a disk that answers late

    def commit(batch: list[Any]) -> list[Recorded | None]:
        time.sleep(1.5)
        return real(batch)

    patch.setattr(at.log, "_commit", commit)


def sink_full(at: OfService, _: Patch) -> None:
    at.rely(sink=FileSink(Path("/dev/full")))


def sink_errs(at: OfService, _: Patch) -> None:
    class Raises:
        def write(self, access: Access) -> None:
            raise RuntimeError("secret")

    at.rely(sink=Raises())


def sink_hangs(at: OfService, patch: Patch) -> None:
    class Hangs:
        def write(self, access: Access) -> None:
            time.sleep(3)

    patch.setattr(asgi, "RECORDED_WITHIN", 0.3)
    at.rely(sink=Hangs())


def disk_hangs(at: OfService, patch: Patch) -> None:
    patch.setattr(sink, "DURABLE_WITHIN", 0.3)
    patch.setattr("os.fsync", lambda _: time.sleep(3))
    at.rely(sink=FileSink(at.scene.folder / "lines"))


def engine_raises(_: Any, patch: Patch) -> None:
    def raises(*_: object) -> None:
        raise ValueError("a fault of the engine")

    patch.setattr("cedarpy.is_authorized", raises)


def engine_panics(_: Any, patch: Patch) -> None:
    def panics(*_: object) -> None:
        raise PanicException("called `Option::unwrap()` on a `None` value")

    patch.setattr("cedarpy.is_authorized", panics)


def attestor_gone(at: Any, _: Patch) -> None:
    at.scene.clock.advance(61)


def list_stale(at: OfService, _: Patch) -> None:
    """The token is renewed, and its list is as old as a token may be, and a second."""
    at.scene.clock.advance(66)
    at.gate.feed.list = replace(at.gate.feed.list or Revocation("", 0, frozenset()), issued_at=at.gate.now)
    at.gate.now = at.scene.clock.wall
    at.gate.held = at.scene.renew()


def list_missing(at: OfService, _: Patch) -> None:
    at.gate.feed.list = None


def keys_missing(at: OfService, _: Patch) -> None:
    at.gate.feed.held_keys = {}


def cache_full(at: OfService, _: Patch) -> None:
    at.rely(replay=ReplayCache(capacity=0))


PUSHED: Final = "revocation comes to a host by push, and with every token"
MATRIX: Final[dict[str, tuple[tuple[Fault, str] | str, tuple[Fault, str] | str]]] = {
    "bundle store missing": ((store_missing, "hold"), (feed_without_policy, "policy-unknown")),
    "bundle store corrupt": ((store_corrupt, "hold"), "a file that is no signed policy is not taken: as missing, tests of the feed"),
    "bundle of another digest": ((store_holds_another, "hold"), (feed_with_another, "policy-digest-mismatch")),
    "bundle that does not load": ((unloadable, "policy-error"), (unloadable, "policy-error")),
    "clock set back": ((set_back, "hold"), (set_back, "token-not-yet-valid")),
    "clock jumped": ((jumped, "hold"), (jumped, "token-expired")),
    "clock unreadable": ((unreadable, "unavailable"), (unreadable, "unavailable")),
    "disk full": ((sqlite_full, "record-not-durable"), (sink_full, "record-not-durable")),
    "disk errs": ((sqlite_errs, "record-not-durable"), (sink_errs, "record-not-durable")),
    "disk hangs": ((log_hangs, "record-not-durable"), (disk_hangs, "record-not-durable")),
    "sink hangs": ("a host has its own log: as a disk that hangs", (sink_hangs, "record-not-durable")),
    "engine raises": ((engine_raises, "policy-error"), (engine_raises, "policy-error")),
    "engine panics": ((engine_panics, "policy-error"), (engine_panics, "policy-error")),
    "attestor gone": ((attestor_gone, "hold"), (attestor_gone, "token-expired")),
    "verifier gone, token dead": ((attestor_gone, "hold"), (attestor_gone, "token-expired")),
    "status list stale": (PUSHED, (list_stale, "status-stale")),
    "status list missing": (PUSHED, (list_missing, "status-stale")),
    "verifier never reached": ("there is no token", (keys_missing, "token-key-unknown")),
    "replay cache full": ("proofs are made there, and not taken", (cache_full, "too-many-requests")),
}
"""Fault -> (at an agent's gates, at a service's surfaces): what breaks it and the code of the refusal, or why there is nothing to show."""


@pytest.mark.parametrize("fault", MATRIX)
def test_fault_refuses_at_every_surface_with_its_reason(surface: Surface, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = MATRIX[fault][isinstance(surface, OfService)]
    if isinstance(cell, str):
        return
    breaks, code = cell
    asked_again = breaks in (unloadable, list_stale)
    if breaks not in (engine_raises, engine_panics):  # what was decided once is remembered, and not asked again
        assert surface.send(surface.prepare()) == "passed"
    prepared = surface.prepare()
    with monkeypatch.context() as patch:
        breaks(surface, patch)
        before = surface.passed
        assert surface.send(surface.prepare() if asked_again else prepared) == code
        assert surface.passed == before


# --- the engine missing -------------------------------------------------------------------------------------------------------


BROKEN_ENGINE: Final = 'raise ImportError("libgcc_s.so.1: cannot open shared object file")\n'


@pytest.mark.parametrize("verb", ["serve", "relying"])
def test_without_an_engine_nothing_starts_and_nothing_listens(tmp_path: Path, verb: str) -> None:
    """No socket, no state, no agent: the process ends before it has read its configuration, and says what it lacks."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "cedarpy.py").write_text(BROKEN_ENGINE)
    config = tmp_path / "enforcer.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\ncontrol_socket = "{tmp_path}/control.sock"\n')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "engine")}
    command = [sys.executable, "-m", "enforcer", "--config", str(config), verb]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 3, done.stderr
    assert "cedarpy" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["enforcer.toml", "engine"]
