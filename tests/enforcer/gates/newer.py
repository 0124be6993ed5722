"""A site of HTTP/2 beyond an egress gate, and agents that speak it."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path

from enforcer.wire.limits import Limits
from tests.enforcer.gates.proxied import Proxied
from tests.world.network import Names, Server, certified
from tests.world.web2 import Client, newest

HOST = "api.test"


class Web:
    """A site called `api.test` that speaks what is offered, and a gate whose agent has grants on it."""

    def __init__(self, folder: Path, *, speaks: tuple[str, ...] = ("h2", "http/1.1"), limits: Limits | None = None) -> None:
        certificate = certified(folder, HOST)
        self.server = Server(newest, certificate=certificate)
        assert self.server.tls is not None
        self.server.tls.set_alpn_protocols(list(speaks))
        self.authority = f"{HOST}:{self.server.port}"
        self.url = f"https://{self.authority}"
        names = Names()
        names.name(HOST, "127.0.0.1")
        grants = [(f"http.{word}", f"{self.url}/{path}") for word in ("get", "post", "head") for path in ("v1/*", "grpc/*", "odd/*")]
        grants += [("http.get", f"{self.url}/{path}") for path in ("events", "pour", "never", "reset", "push", "short", "status", "goaway")]
        grants += [("http.post", f"{self.url}/early"), ("net.reach", f"tcp:127.0.0.1:{self.server.port}")]
        self.out = Proxied(folder, names=names, more=tuple(grants), roots=certificate[0], limits=limits)
        self._open: list[socket.socket] = []

    def agent(self, *, lax: bool = False) -> Client:
        """An agent that speaks HTTP/2."""
        return Client(self.near(), self.authority, lax=lax)

    def near(self, *offered: str) -> ssl.SSLSocket:
        """TLS within a tunnel."""
        context = ssl.create_default_context(cafile=str(self.out.ca_file))
        context.set_alpn_protocols(list(offered or ("h2",)))
        near = context.wrap_socket(self.out.tunnel(self.authority), server_hostname=HOST)
        near.settimeout(20)
        self._open.append(near)
        return near

    def curl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """curl that speaks HTTP/2."""
        return self.out.curl("--http2", "--cacert", str(self.out.ca_file), *words)

    def asked(self) -> list[tuple[str, str | bool]]:
        """Records of requests."""
        return [one for one in self.out.records() if one[0].startswith("https:")]

    def close(self) -> None:
        for near in self._open:
            near.close()
        self.out.close()
        self.server.close()
