"""Ports of one kind of connection each: what they lead to is an action, bounded, and cut with everything else."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enforcer.gates.egress.outlet import Outlet
from enforcer.gates.egress.passage import Forwarded, Inbound, Local, MakeWay, Served
from enforcer.gates.egress.way import Way
from enforcer.quota import Quota
from enforcer.wire.destination import parse_authority
from enforcer.wire.limits import Limits
from enforcer.wire.line import ListeningLine
from tests.enforcer.gates.proxied import NO_SECRETS, Proxied, listener
from tests.enforcer.gates.test_egress import hello
from tests.enforcer.host import wait_for
from tests.world.network import Names, Server, echo, flood, greeting, silent
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.forward import Forward
from writ.formats.grants import grant_set
from writ.formats.reason import Reason
from writ.service.clock import SystemClock

CUT = Reason("token-revoked", "token", "a valid token", "revoked")
Open = Callable[..., int]


class Ports:
    """Ports over one scene; `out` has its records."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, list[ListeningLine]()
        self.out: Proxied | None = None

    def open(self, made: Callable[[MakeWay], Served], *grants: tuple[str, str], limits: Limits | None = None, room: int = 64) -> int:
        """The port at which it is served."""
        out = self.out = Proxied(self.folder, names=Names({"db.test": [("127.0.0.1",)]}), more=grants)

        def way(era: int) -> Way:
            return Way(out.gatekeeper, out.names, limits or Limits(), line, era, "5f1c09ab")

        server = listener()
        line = ListeningLine(server, made(way).serve, threading.BoundedSemaphore(room), Limits(connections=room))
        line.begin()
        out.gatekeeper.hold(line)
        self.lines.append(line)
        return int(server.getsockname()[1])

    def close(self) -> None:
        for line in self.lines:
            line.close()
        if self.out is not None:
            self.out.close()


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[Ports]:
    made = Ports(tmp_path)
    yield made
    made.close()


@pytest.fixture
def served() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def make(*given: Any, **more: Any) -> Server:
        made.append(Server(*given, **more))
        return made[-1]

    yield make
    for server in made:
        server.close()


def forwarded(port: int, host: str = "127.0.0.1") -> Callable[[MakeWay], Served]:
    return lambda way: Forwarded(5432, parse_authority(f"{host}:{port}"), way)


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_connection_is_one_action_on_the_place_and_its_address_another(ports: Ports, served: Callable[..., Server]) -> None:
    back = served(greeting)
    grants = [("net.connect", f"tcp:{host}:{back.port}") for host in ("db.test", "127.0.0.1")]
    with dial(ports.open(forwarded(back.port, "db.test"), *grants)) as near:
        assert near.recv(11) == b"220 hello\r\n"
        data = b"!" + random.Random(1).randbytes(100_000)
        sender = threading.Thread(target=near.sendall, args=(data,))
        sender.start()
        got = b""
        while len(got) < len(data):
            got += near.recv(65536)
        sender.join()
        assert got == data
    assert ports.out is not None
    assert ports.out.records() == [
        (f"tcp:db.test:{back.port}", True), (f"tcp:127.0.0.1:{back.port}", True), ("outcome", "done"), ("outcome", "done"),
    ]  # fmt: skip
    assert ports.out.results()[0] == {
        "address": "127.0.0.1", "ended": "closed", "opaque": True, "received": len(data) + 11, "sent": len(data),
    }  # fmt: skip


def test_place_that_is_not_granted_is_recorded_and_not_dialled(ports: Ports, served: Callable[..., Server]) -> None:
    back = served(echo)
    with dial(ports.open(forwarded(back.port))) as near:
        assert ended(near)
    assert ports.out is not None
    assert ports.out.records() == [(f"tcp:127.0.0.1:{back.port}", False)]
    assert back.connections == 0


def test_name_that_leads_to_a_private_address_takes_a_grant_of_it(ports: Ports, served: Callable[..., Server]) -> None:
    back = served(echo)
    with dial(ports.open(forwarded(back.port, "db.test"), ("net.connect", f"tcp:db.test:{back.port}"))) as near:
        assert ended(near)
    assert back.connections == 0


def test_tls_to_another_host_does_not_pass(ports: Ports, served: Callable[..., Server]) -> None:
    back = served(silent)
    grants = [("net.connect", f"tcp:{host}:{back.port}") for host in ("db.test", "127.0.0.1")]
    with dial(ports.open(forwarded(back.port, "db.test"), *grants)) as near:
        near.sendall(hello("other.test"))
        assert ended(near)
    assert back.heard == b""


def test_unix_socket_of_the_host_is_reached_by_its_own_grant(ports: Ports, tmp_path: Path) -> None:
    path = tmp_path / "model.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            one, _ = server.accept()
            with one:
                one.sendall(b"model " + one.recv(100))

        threading.Thread(target=serve, daemon=True).start()
        with dial(ports.open(lambda way: Local(8080, str(path), way), ("net.connect", f"unix:{path}"))) as near:
            near.sendall(b"hello")
            assert near.recv(100) == b"model hello"
    assert ports.out is not None
    assert ports.out.records() == [(f"unix:{path}", True), ("outcome", "done")]
    assert ports.out.results()[0]["address"] == str(path)


def test_unix_socket_that_is_not_granted_is_not_reached(ports: Ports, tmp_path: Path) -> None:
    with dial(ports.open(lambda way: Local(8080, str(tmp_path / "x"), way))) as near:
        assert ended(near)
    assert ports.out is not None
    assert ports.out.records() == [(f"unix:{tmp_path / 'x'}", False)]


def inbound(port: int) -> Callable[[MakeWay], Served]:
    return lambda way: Inbound(port, lambda: socket.socket(socket.AF_INET), "127.0.0.1", Quota(SystemClock()), way)


def test_others_reach_a_port_inside_by_a_grant_of_it(ports: Ports, served: Callable[..., Server]) -> None:
    agent = served(echo)
    with dial(ports.open(inbound(agent.port), ("net.accept", f"tcp:{agent.port}"))) as near:
        near.sendall(b"hello")
        assert near.recv(100) == b"hello"
    assert ports.out is not None
    assert ports.out.records() == [(f"tcp:{agent.port}", True), ("outcome", "done")]
    assert (ports.out.results()[0]["received"], ports.out.results()[0]["sent"]) == (5, 5)


def test_others_do_not_reach_a_port_that_is_not_granted(ports: Ports, served: Callable[..., Server]) -> None:
    agent = served(echo)
    with dial(ports.open(inbound(agent.port), ("net.connect", f"tcp:{agent.port}"))) as near:
        assert ended(near)
    assert agent.connections == 0


@pytest.mark.parametrize("limits, counted", [(Limits(sent=1000), "sent"), (Limits(received=1000), "received")])
def test_bytes_are_bounded(ports: Ports, served: Callable[..., Server], limits: Limits, counted: str) -> None:
    server = served(silent if counted == "sent" else flood)
    with dial(ports.open(forwarded(server.port), ("net.connect", f"tcp:127.0.0.1:{server.port}"), limits=limits)) as near:
        try:
            near.sendall(b"x" * 5000)
            while near.recv(65536):
                pass
        except ConnectionError:
            pass
    assert ports.out is not None
    assert (ports.out.results()[0]["ended"], ports.out.results()[0][counted]) == ("limit", 1000)


def test_idle_connection_is_ended_and_connections_are_bounded(ports: Ports, served: Callable[..., Server]) -> None:
    server = served(silent)
    port = ports.open(forwarded(server.port), ("net.connect", f"tcp:127.0.0.1:{server.port}"), limits=Limits(idle=0.5), room=1)
    with dial(port) as first:
        wait_for(lambda: server.connections)
        with dial(port) as second:
            assert ended(second)
        assert server.connections == 1
        assert ended(first)


def test_cut_reaches_every_port_at_once_and_a_mend_opens_it(ports: Ports, served: Callable[..., Server]) -> None:
    back = served(flood)
    port = ports.open(forwarded(back.port), ("net.connect", f"tcp:127.0.0.1:{back.port}"))
    flows = [dial(port) for _ in range(20)]
    for near in flows:
        near.sendall(b"x")
        assert near.recv(10)
    assert ports.out is not None
    begun = time.monotonic_ns()
    ports.out.gatekeeper.cut(CUT)
    assert (time.monotonic_ns() - begun) / 1e6 < 100
    with pytest.raises(ConnectionError):
        dial(port)
    for near in flows:
        with near:
            while not ended(near):
                near.recv(1 << 20)
    assert {one["ended"] for one in ports.out.results()} == {"cut"}
    ports.out.gatekeeper.mend()
    with dial(port) as near:
        near.sendall(b"x")
        assert near.recv(10)


# --- what an instance may have ---------------------------------------------------------------------------------------------


def outlet(*forwards: Forward, grants: tuple[tuple[str, str], ...] = (), sockets: tuple[str, ...] = ()) -> Outlet:
    return Outlet(grant_set(grants), SystemClock(), NO_SECRETS, roots=None, always=False, forwards=forwards, sockets=sockets)


def test_forward_to_where_requests_are_decided_is_refused() -> None:
    with pytest.raises(Refused):
        outlet(Forward(443, "tcp:a.test:443"), grants=(("http.get", "https://a.test:443/*"), ("net.connect", "tcp:a.test:443")))


def test_forward_to_a_socket_that_the_host_does_not_give_is_refused() -> None:
    outlet(Forward(1, "unix:/run/model.sock"), sockets=("/run/model.sock",))
    with pytest.raises(Unavailable, match="unix_sockets"):
        outlet(Forward(1, "unix:/run/model.sock"), sockets=("/run/other.sock",))


@pytest.mark.parametrize("to", ["tcp:127.1:80", "tcp:a.test:99999", "tcp:a..test:80", "tcp:[::0001]:80"])
def test_forward_with_an_odd_spelling_is_refused(to: str) -> None:
    with pytest.raises(FormatError):
        outlet(Forward(1, to))
