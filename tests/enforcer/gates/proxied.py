"""An egress gate on this host's own loopback, over one scene, names in memory, and the records that it leaves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from enforcer.gates.egress.gate import EgressGate
from enforcer.gates.egress.instance_ca import InstanceCa
from enforcer.gates.egress.outlet import opened_by
from enforcer.gates.egress.session import Opened
from enforcer.secrets.held import Secrets
from enforcer.wire.host_tls import upstream_contexts
from enforcer.wire.limits import Limits
from tests.enforcer.host import wait_for
from tests.enforcer.records import entries_of, records_of
from tests.enforcer.scene import Scene
from tests.world.network import Names
from writ.formats.record import ActionRecord, OutcomeRecord
from writ.service.clock import SystemClock

NO_SECRETS = Secrets((), {})


def listener() -> socket.socket:
    """A listener on a port that it was told, as in a sandbox: one that the kernel chose would be another after a cut."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return socket.create_server(("127.0.0.1", port))


class Proxied:
    """`connects` are what the agent's token grants: `HOST:PORT`."""

    def __init__(
        self, folder: Path, *connects: str, limits: Limits | None = None, names: Names | None = None,
        more: tuple[tuple[str, str], ...] = (), roots: Path | None = None, secrets: Secrets = NO_SECRETS,
    ) -> None:  # fmt: skip
        """The token grants `more`, too; `roots` are whom the gate verifies hosts by, `secrets` the instance's."""
        self.scene = Scene(folder, *(f"tcp:{one}" for one in connects), more=more)
        self.log, self.names = self.scene.log(folder), names or Names()
        self.gatekeeper = self.scene.gatekeeper(self.log)
        self.scene.renew()
        server = listener()
        self.port: int = server.getsockname()[1]
        hosts = opened_by(self.scene.subject.grants)
        self.opened = Opened(
            frozenset(one.authority for one in hosts),
            InstanceCa(hosts, SystemClock()),
            upstream_contexts(None if roots is None else str(roots)),
            secrets,
        )
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.opened.ca.certificate)
        self.gate = EgressGate(
            server, gatekeeper=self.gatekeeper, resolver=self.names, short="5f1c09ab", limits=limits, opened=self.opened if hosts else None
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Where the proxy is."""
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A connection to the proxy."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, request: bytes) -> tuple[int, Any]:
        """Status and body of the answer to `request` as it stands."""
        with self.connect() as connection:
            connection.sendall(request)
            data = b""
            while part := connection.recv(65536):
                data += part
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body) if body.startswith(b"{") else body

    def tunnel(self, destination: str) -> socket.socket:
        """A tunnel to `destination`, open."""
        connection = self.connect()
        try:
            self._open(connection, destination)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, connection: socket.socket, destination: str) -> None:
        connection.sendall(f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            part = connection.recv(1)
            assert part, head
            head += part
        assert head.startswith(b"HTTP/1.1 200 "), head

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """curl with these arguments, through the proxy."""
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        command = ["curl", "--silent", "--show-error", "--max-time", "20", "--proxy", self.url, "--noproxy", "", *arguments]
        return subprocess.run(command, env=clean, capture_output=True, text=True, check=False)

    def records(self) -> list[tuple[str, str | bool]]:
        """Each record as a resource and its permit, or `outcome` and what it says; once every permitted action has an outcome."""
        return wait_for(self._settled)  # type: ignore[no-any-return]  # wait_for returns what it is given

    def _settled(self) -> list[tuple[str, str | bool]] | None:
        found = records_of(self.scene.folder, self.scene.instance)
        shown: list[tuple[str, str | bool]] = [
            (one.resource, one.permit) if isinstance(one, ActionRecord) else ("outcome", one.outcome) for one in found
        ]
        open_ones = sum(isinstance(one, ActionRecord) and one.permit for one in found) - sum(
            isinstance(one, OutcomeRecord) for one in found
        )
        return shown if shown and not open_ones else None

    def results(self) -> list[Any]:
        """What the outcomes say, sealed beside the log."""
        self.records()
        entries = entries_of(self.scene.folder, self.scene.instance)
        return [json.loads(entry.content or b"null") for entry in entries if isinstance(entry.record, OutcomeRecord)]

    def close(self) -> None:
        """The end."""
        self.gate.close()
        self.log.close()
