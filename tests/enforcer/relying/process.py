"""`enforcer relying` as a process of its own, with a verifier's public pages that a test keeps fresh."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from tests.enforcer.relying.site import Site, status_list
from tests.enforcer.relying.test_middleware import Service
from tests.world.attestor import AUDIENCE, ISSUER
from writ.formats.keys import key_id
from writ.formats.policy_bundle import CONTENT_TYPE, encode_bundle
from writ.formats.trust import encode_trust

READY_WITHIN = 30.0


class Process:
    """Runs while entered, by `command` or the one that is installed. The tokens of `gate` are good there."""

    def __init__(self, gate: Service, folder: Path, command: Sequence[str] = (), **settings: str | int | list[str]) -> None:
        self._gate, self._folder, self._site = gate, folder, Site()
        self._command = [*command] or [str(Path(sys.executable).with_name("enforcer"))]
        self._health = folder / "health.sock"
        attestor = gate.scene.attestor
        tokens = attestor.tokens.public
        self._site.pages["/jwks"] = json.dumps({"keys": [{**tokens.to_jwk(), "kid": key_id(tokens)}]}).encode()
        (folder / "policy.cose").write_bytes(attestor.sign(encode_bundle(attestor.bundle()), CONTENT_TYPE))
        (folder / "trust.cbor").write_bytes(encode_trust(attestor.trust()))
        given: dict[str, Any] = {
            "audience": AUDIENCE, "issuer": ISSUER, "policy_file": str(folder / "policy.cose"), "trust_file": str(folder / "trust.cbor"),
            "sink_file": str(folder / "decisions.jsonl"), "jwks_url": f"{self._site.url}/jwks", "status_uri": f"{self._site.url}/status",
            "health": f"unix:{self._health}", **settings,
        }  # fmt: skip
        self._config = folder / "relying.toml"
        self._config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items()))
        self.refresh()

    def refresh(self) -> None:
        """A token that is alive now, and a status list that is fresh."""
        attestor, now = self._gate.scene.attestor, int(time.time())
        attestor.status = f"{self._site.url}/status"
        self._site.pages["/status"] = status_list(attestor.tokens, sub=attestor.status, iat=now, exp=now + 60).encode()
        self._gate.now = self._gate.scene.clock.wall = now
        self._gate.held = self._gate.scene.renew()

    def __enter__(self) -> Self:
        """Run, until something can pass."""
        self.start()
        deadline = time.monotonic() + READY_WITHIN
        while self.page("/readyz")[0] != 200:
            assert self.running.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)
        return self

    def start(self) -> None:
        """Run."""
        with self.output.open("wb") as log:
            self.running = subprocess.Popen([*self._command, "--config", str(self._config), "relying"], stdout=log, stderr=log)

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.close()

    def close(self) -> None:
        """The verifier's pages are gone."""
        self._site.close()

    def stop(self) -> int:
        """The process has ended, with this status."""
        self.running.terminate()
        return self.running.wait(20)

    def page(self, path: str) -> tuple[int, bytes]:
        """What `health` answers; 0 where nobody does."""
        return asked(self._health, "GET", path)

    @property
    def output(self) -> Path:
        """Where its log goes."""
        return self._folder / "relying.log"

    def log(self) -> str:
        """What it logged."""
        return self.output.read_text()

    def sink(self) -> str:
        """What it recorded."""
        return (self._folder / "decisions.jsonl").read_text()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))


def asked(
    at: Path, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, bytes]:
    """Status and body of one request to a unix socket; status 0 where nobody answers."""
    connection = UnixConnection(at)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()
