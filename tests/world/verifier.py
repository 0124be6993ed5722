"""A real verifier on a loopback port, in this process, over a hand-moved clock and a ledger in a directory of the test."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from tests.world.applications import application, closed
from tests.world.chip import Chip, Maker
from tests.world.clock import HandClock
from tests.world.host import SimulatedHost
from verifier import compose
from verifier.config import VerifierConfig
from verifier.http.wire import to_base64
from verifier.operate import Client, Server
from verifier.reference import captured, captured_governance
from writ.formats.corim import encode_corim
from writ.formats.eventlog.runtime import ComponentEvent, parse_event
from writ.formats.measurement import parse_measurement
from writ.formats.x509 import parse_certificate, to_pem
from writ.service.clock import Clock

DEFAULT_POLICY = Path(compose.__file__).parent / "default_policy"
SETTINGS: dict[str, object] = {"accept_runtime_only": True, "tpm_classes": ["software"]}


@dataclass
class RunningVerifier:
    """A verifier that serves. `client` is the operator of the whole domain; `made` the parts, for a look inside."""

    url: str
    config: VerifierConfig
    clock: HandClock
    made: compose.Verifier
    key_file: Path
    client: Client
    closing: contextlib.ExitStack

    def as_operator(self, key_file: Path, namespace: str | None = None) -> Client:
        """A client with another API key."""
        client = Client(Server(self.url, key_file, self.config.tls_cert_file, namespace))
        self.closing.callback(client.close)
        return client

    def trust(self, maker: Maker, tpm_class: str = "software") -> None:
        """EK certificates of this maker are believed."""
        pem = "".join(to_pem(parse_certificate(der)) for der in (maker.root(), maker.intermediate()))
        self.client.post("/v1/trust", {"pem": pem, "tpm_class": tpm_class})

    def publish(self, more: str = "", /, **settings: object) -> None:
        """The default policy is in force, and what is `more` of it, accepting software TPMs whose attestor nothing measured."""
        texts = {
            name: (DEFAULT_POLICY / file).read_text() for name, file in (("schema", "schema.cedarschema"), ("policies", "default.cedar"))
        }
        texts["policies"] += more
        self.client.post("/v1/policies", {"settings": {**SETTINGS, **settings}, **texts})

    def admit(self, host: str) -> str:
        """A ticket for the host."""
        ticket = self.client.post("/v1/hosts", {"host": host})["ticket"]
        assert isinstance(ticket, str)
        return ticket

    def host(self, name: str, chip: Chip | None = None) -> SimulatedHost:
        """A host of that name, enrolled, with its governance measured."""
        host = self.stranger(name, chip)
        host.enrol(self.admit(name))
        host.govern()
        return host

    def stranger(self, name: str, chip: Chip | None = None) -> SimulatedHost:
        """A host of that name that is not enrolled."""
        host = SimulatedHost(name, self.url, chip=chip, clock=self.clock, ca_file=self.config.tls_cert_file)
        self.closing.callback(host.close)
        return host

    def approve(self, host: SimulatedHost, *, replace: bool = False) -> None:
        """What the host shows now is approved: its governance and every measurement."""

        events = [parse_event(record.content) for record in host.records]
        governance = [(e.name, e.root) for e in events if isinstance(e, ComponentEvent)]
        corims = [captured_governance(host.namespace, governance), *(captured(parse_measurement(item)) for item in host.measured)]
        items = sorted({to_base64(encode_corim(corim)) for corim in corims})
        self.client.post("/v1/references", {"corims": items, "replace": replace})


def free_socket(port: int = 0) -> socket.socket:
    """A loopback socket bound to that port, or to a free one; its protocol is set, so that asyncio sets TCP_NODELAY."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


@contextlib.contextmanager
def serving(made: compose.Verifier, config: VerifierConfig, bound: socket.socket) -> Iterator[None]:
    """The verifier serves on `bound` while the block runs."""
    server = uvicorn.Server(compose.server_config(made.app, config))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(15)
        bound.close()


@contextlib.contextmanager
def running_verifier(
    folder: Path, *, clock: Clock | None = None, certificate: tuple[Path, Path] | None = None
) -> Iterator[RunningVerifier]:
    """A verifier, initialised in `folder`, serving until the block ends; under TLS with `certificate` and its key.

    One that was there before is at the address where it was, which is its log's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = folder / "port"
    bound = free_socket(int(port.read_text()) if port.exists() else 0)
    port.write_text(str(bound.getsockname()[1]))
    address = f"127.0.0.1:{bound.getsockname()[1]}"
    url, (cert, key) = f"{'https' if certificate else 'http'}://{address}", certificate or (None, None)
    config = VerifierConfig(
        folder / "state", "example.org", url, listen=address, tls_cert_file=cert, tls_key_file=key, requests_per_second=5000,
        requests_burst=5000,
    )  # fmt: skip
    hand = clock if isinstance(clock, HandClock) else HandClock()
    key_file = folder / "operator.key"
    config.state_dir.mkdir(parents=True, exist_ok=True)
    compose.init(config, key_file, hand)
    made = compose.verifier(config, hand, application)
    try:
        with serving(made, config, bound), contextlib.ExitStack() as closing:
            client = Client(Server(url, key_file, cert, None))
            closing.callback(client.close)
            yield RunningVerifier(url, config, hand, made, key_file, client, closing)
    finally:
        made.close()
        closed(made.app)
