"""Somebody who does not take an answer is closed, and keeps nobody else's memory; somebody who takes it slowly has it whole."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from enforcer.relying.protocol import StrictProtocol
from tests.enforcer.host import wait_for
from tests.world.network import certified
from verifier.http.limits import DeadlineProtocol
from writ.service.unsent import _OF_THREADS, Unsent

SIZE = 12 << 20
"""More than the kernel keeps for a connection."""
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = ASK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


class Counted(Unsent):
    """It says how many it has ended."""

    ended = 0

    def _end(self, transport: asyncio.WriteTransport) -> None:
        self.ended += 1
        super()._end(transport)


class Served:
    """An answer of `SIZE` bytes, by one of our protocols over `unsent`."""

    def __init__(self, protocol: Any, unsent: Counted, certificate: tuple[Path, Path] | None) -> None:
        named = {} if certificate is None else dict(zip(("ssl_certfile", "ssl_keyfile"), map(str, certificate), strict=True))
        config = uvicorn.Config(
            self.answer, host="127.0.0.1", port=0, http=protocol, log_level="critical", lifespan="off", interface="asgi3", loop="asyncio",
            timeout_keep_alive=60,
            **named,  # type: ignore[arg-type]  # of its parameters
        )  # fmt: skip
        self.unsent, self.server = unsent, uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    async def answer(self, _scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(SIZE).encode())]})
        await send({"type": "http.response.body", "body": bytes(SIZE)})

    @contextlib.contextmanager
    def asked(self, request: bytes = ASK) -> Iterator[socket.socket]:
        """Somebody who has asked, and taken nothing."""
        with socket.socket() as near:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            near.connect(("127.0.0.1", self.port))
            near.settimeout(20)
            near.sendall(request)
            yield near

    @property
    def held(self) -> int:
        return len(self.unsent._watched)  # noqa: SLF001 - what is held is what the test is about

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture(params=[DeadlineProtocol, StrictProtocol], ids=["verifier", "relying"])
def serve(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made: list[Served] = []

    def begin(certificate: tuple[Path, Path] | None = None, **bounds: Any) -> Served:
        unsent = Counted(**bounds)
        monkeypatch.setattr("writ.service.unsent.of_this_loop", lambda: unsent)
        made.append(Served(request.param, unsent, certificate))
        return made[-1]

    yield begin
    for one in made:
        one.stop()


def rest_of(near: socket.socket) -> int:
    """Bytes that still come, until the end, or until it breaks off."""
    found = 0
    with contextlib.suppress(ConnectionResetError):
        while part := near.recv(1 << 20):
            found += len(part)
    return found


def test_who_takes_nothing_is_closed_and_nothing_is_kept_for_it(serve: Any) -> None:
    served = serve(looks_every=0.3)
    with served.asked() as near:
        wait_for(lambda: served.unsent.ended)
        assert served.held == 0
        assert rest_of(near) < SIZE, "it broke off"


def test_who_takes_less_than_the_least_is_closed(serve: Any) -> None:
    served = serve(looks_every=0.3, rate=1 << 20)
    with served.asked() as near:
        while not served.unsent.ended:
            near.recv(64)
            time.sleep(0.01)
        assert rest_of(near) < SIZE


def test_who_takes_enough_has_all_of_it_however_long_that_is(serve: Any) -> None:
    served = serve(looks_every=1.5, rate=4 << 10)
    with served.asked() as near:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        head, _, body = near.recv(4096).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), "the head came whole"
        found = len(body)
        while found < SIZE:
            part = near.recv(min(256 << 10, SIZE - found))
            assert part, f"whole, not {found} bytes"
            found += len(part)
            time.sleep(0.08)
        near.sendall(ASK)
        assert near.recv(12) == b"HTTP/1.1 200", "and asks again on the same connection"


def test_of_those_who_wait_the_first_make_room_once_there_is_too_much(serve: Any) -> None:
    served = serve(most=2 * SIZE, looks_every=60.0)
    with contextlib.ExitStack() as open_:
        first = open_.enter_context(served.asked())
        wait_for(lambda: served.held == 1)
        for count in (2, 3):
            open_.enter_context(served.asked())
            wait_for(lambda count=count: served.held == min(count, 2))  # type: ignore[misc]  # of this round
        assert rest_of(first) < SIZE
        with served.asked(LAST) as last:
            assert rest_of(last) > SIZE, "who takes is served, whoever does not"


def test_alone_it_may_hold_more_than_all_may(serve: Any) -> None:
    served = serve(most=1 << 20)
    with served.asked() as near:
        wait_for(lambda: served.held == 1)
        near.sendall(LAST)
        assert rest_of(near) > 2 * SIZE


def test_within_tls_it_is_the_same(serve: Any, tmp_path: Path) -> None:
    certificate = certified(tmp_path, "localhost")
    served = serve(certificate, looks_every=0.5)
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as near,
    ):
        near.sendall(ASK)
        assert near.recv(12) == b"HTTP/1.1 200"
        wait_for(lambda: served.unsent.ended)
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as near,
    ):
        near.sendall(ASK)
        found = 0
        while found < SIZE:
            found += len(near.recv(1 << 20))


def test_what_is_forgotten_is_not_looked_at() -> None:
    class Nobody(asyncio.WriteTransport):
        aborted = 0

        def get_write_buffer_size(self) -> int:
            return 1

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return raw  # no TCP

        def abort(self) -> None:
            self.aborted += 1

    async def run() -> tuple[int, int]:
        unsent, kept, gone = Unsent(looks_every=0.05), Nobody(), Nobody()
        unsent.watch(kept)
        unsent.watch(gone)
        unsent.forget(gone)
        unsent.forget(gone)
        await asyncio.sleep(0.2)
        return kept.aborted, gone.aborted

    with socket.socket(socket.AF_UNIX) as raw:
        assert asyncio.run(run()) == (1, 0)


def test_each_loop_watches_its_own_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """`enforcer relying serve` has three: what waits at one is no business of another's, and is never ended from its thread."""
    ended: list[bool] = []
    monkeypatch.setattr(Unsent, "__init__", partialmethod(Unsent.__init__, most=1 << 20))
    monkeypatch.setattr("writ.service.unsent._OF_THREADS", type(_OF_THREADS)())
    monkeypatch.setattr(Unsent, "_end", lambda self, transport: ended.append(self._watched.pop(transport)[1].cancel()))
    sites = [Served(StrictProtocol, Counted(), None) for _ in range(2)]
    try:
        with sites[0].asked() as first, sites[1].asked() as second:
            assert first.recv(1)
            assert second.recv(1)
            time.sleep(1)
            assert not ended, "each has one that waits, and one makes room for none"
    finally:
        for site in sites:
            site.stop()
