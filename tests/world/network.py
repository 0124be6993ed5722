"""The network beyond a proxy, on this host's loopback: names in memory, and servers that remember what reached them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from enforcer import frames
from enforcer.wire.destination import Address
from tests.world.tls import self_signed
from writ.formats.errors import Unavailable


@dataclass
class Names:
    """Names and what they lead to: each look-up takes the next of a name's answers, and the last stays."""

    known: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def name(self, name: str, *answers: str | tuple[str, ...]) -> None:
        """`name` leads to these, one answer after another."""
        self.known[name] = [answer if isinstance(answer, tuple) else (answer,) for answer in answers]

    def addresses(self, name: str) -> tuple[Address, ...]:
        """As a Resolver."""
        self.asked.append(name)
        if name not in self.known:
            raise Unavailable("name", f"{name}: unknown")
        answers = self.known[name]
        return tuple(map(ip_address, answers.pop(0) if len(answers) > 1 else answers[0]))


Serve = Callable[[socket.socket, "Server"], None]


class Server:
    """A TCP server on loopback, TLS where it has a certificate; each connection in a thread of its own."""

    def __init__(self, serve: Serve, *, address: str = "127.0.0.1", port: int = 0, certificate: tuple[Path, Path] | None = None) -> None:
        self.serve = serve
        self.tls: ssl.SSLContext | None = None
        if certificate is not None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(*certificate)
        self.server = socket.create_server((address, port))
        self.address, self.port = self.server.getsockname()
        self.connections = 0
        self.heard = b""
        self.errors: list[str] = []
        self._live: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        for connection in frames.connections(self.server):
            self.connections += 1
            self._live.append(connection)
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(30)
            with self.tls.wrap_socket(connection, server_side=True) if self.tls is not None else connection as spoken:
                self.serve(spoken, self)
        except OSError as error:
            self.errors.append(type(error).__name__)
        finally:
            connection.close()

    def close(self) -> None:
        """Nobody is served any more."""
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for connection in self._live:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def certified(folder: Path, *named: str) -> tuple[Path, Path]:
    """Certificate and key for these names and addresses."""
    paths = folder / "server.pem", folder / "server.key"
    self_signed(*paths, *named)
    return paths


def echo(connection: socket.socket, server: Server) -> None:
    """Everything comes back."""
    while part := connection.recv(65536):
        server.heard += part
        connection.sendall(part)


def http(connection: socket.socket, server: Server) -> None:
    """One request, whose body is answered as `hello` and itself."""
    stream = connection.makefile("rb")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (line := stream.readline()):
            return
        head += line
    lengths = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    body = stream.read(int(lengths[0])) if lengths else b""
    server.heard += head + body
    said = b"hello " + body
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nKeep-Alive: timeout=5\r\n\r\n%s" % (len(said), said))


def greeting(connection: socket.socket, server: Server) -> None:
    """The server speaks first."""
    connection.sendall(b"220 hello\r\n")
    echo(connection, server)


def flood(connection: socket.socket, _server: Server) -> None:
    """More than anyone takes."""
    while True:
        connection.sendall(b"x" * 65536)


def pour(connection: socket.socket, _server: Server) -> None:
    """A stream without an end, slower than any bound."""
    while True:
        connection.sendall(b"x" * 16384)
        time.sleep(0.002)


def silent(connection: socket.socket, server: Server) -> None:
    """Reads, and says nothing."""
    while part := connection.recv(65536):
        server.heard += part
