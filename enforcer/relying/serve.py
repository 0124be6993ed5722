"""The process that decides for proxies and enforcement points of others: one relying party behind up to three sockets.

    forward_auth    whoever reaches the socket: the proxy. Every answer of 200 is a decision
    authzen         whoever reaches the socket: enforcement points
    health          whoever reaches the socket: `GET /healthz`, `GET /readyz`; says nothing but yes or no

Nobody is known by the socket, and no answer is worth more than the token and the proof that were shown for it. TLS is the proxy's: a
place is a unix socket or on loopback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from enforcer.relying.asgi import App, Receive, Scope, Send, answer, is_http
from enforcer.relying.authzen import AuthZen
from enforcer.relying.client import Sources, VerifierFeed
from enforcer.relying.config import RelyingConfig, listen_at
from enforcer.relying.forward_auth import Body, ForwardAuth, Proxy
from enforcer.relying.party import Feed, RelyingParty
from enforcer.relying.sink import FileSink
from writ.formats.digest import Digest
from writ.formats.errors import Unavailable
from writ.formats.policy_bundle import CLOCK_SKEW, TOKEN_LIFE_CEILING
from writ.service import observe
from writ.service.clock import SystemClock
from writ.service.engine_id import installed_engine

SOCKET_MODE: Final = 0o660
BACKLOG: Final = 512
_ANY: Final = Digest.of(b"")
_HTTP: Final[dict[str, Any]] = {
    "loop": "asyncio", "ws": "none", "lifespan": "off", "interface": "asgi3", "access_log": False, "server_header": False,
    "log_config": None, "proxy_headers": False, "timeout_keep_alive": 30, "timeout_graceful_shutdown": 10,
}  # fmt: skip
"""How uvicorn serves, whatever else is installed: on asyncio's own loop. No header of a proxy's is believed."""
_LOG = observe.get_logger(__name__)


class Relying:
    """The whole process, made and not yet started."""

    def __init__(self, config: RelyingConfig) -> None:
        """Raises Unavailable, FormatError."""
        clock = SystemClock()
        self._clock = clock
        sources = Sources(config.keys_from, config.status_from, config.policy_file, config.decision_keys(), _text(config.ca_file))
        self._feed = VerifierFeed(sources, clock)
        self._sink = FileSink(config.sink_file)
        party = RelyingParty(
            audience=config.audience, issuer=config.issuer, feed=self._feed, sink=self._sink, clock=clock, engine=installed_engine()
        )
        self._ready_at = clock.now() + CLOCK_SKEW + 1  # read after the party's own, so never before it takes a proof
        apps: list[tuple[str, App]] = []
        if config.forward_auth:
            proxy, body = cast(Proxy, config.proxy), cast(Body, config.body)
            apps.append((config.forward_auth, ForwardAuth(proxy=proxy, origins=config.origins, party=party, body=body)))
        if config.authzen:
            apps.append((config.authzen, AuthZen(pdp=config.pdp, party=party)))
        if config.health:
            apps.append((config.health, Health(self.wanting)))
        self._places = [(place, app, config.socket_gid) for place, app in apps]

    def wanting(self) -> str | None:
        """What is still missing before anything can pass; None when nothing is."""
        now = self._clock.now()
        if now < self._ready_at:
            return "time since the start"
        return "sink" if self._sink.broken else wanting(self._feed, now)

    def serve(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises Unavailable where a place cannot be listened at."""
        from uvicorn import Config, Server

        from enforcer.relying.protocol import StrictProtocol

        stopped = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        with contextlib.ExitStack() as opened:
            sockets = [(opened.enter_context(contextlib.closing(listen(place, gid))), app) for place, app, gid in self._places]
            self._feed.start()
            servers = [Server(Config(app, http=StrictProtocol, **_HTTP)) for _, app in sockets]
            threads = []
            for server, (listener, _) in zip(servers, sockets, strict=True):
                threads.append(threading.Thread(target=server.run, args=([listener],), daemon=True))
                threads[-1].start()
            _LOG.info("relying-serves", places=[place for place, _, _ in self._places])
            while not stopped.wait(1.0) and all(thread.is_alive() for thread in threads):
                pass
            for server in servers:
                server.should_exit = True
            for thread in threads:
                thread.join(15)
        if not stopped.is_set():
            raise Unavailable("server", "one of the places stopped by itself")


def wanting(feed: Feed, now: int) -> str | None:
    """What the verifier published and we do not hold, or not fresh enough for any token; None where nothing is missing."""
    if not feed.keys():
        return "token keys"
    revocation = feed.revocation()
    if revocation is None or revocation.issued_at < now - TOKEN_LIFE_CEILING:
        return "a fresh status list"
    return "policy" if feed.bundle(_ANY) is None else None


class Health:
    """`/healthz`: the process answers; `/readyz`: nothing is missing without which everything is refused."""

    def __init__(self, wanting: Callable[[], str | None]) -> None:
        self._wanting = wanting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if not await is_http(scope, send):
            return
        if scope["method"] != "GET" or scope["path"] not in ("/healthz", "/readyz"):
            await answer(send, 404, b"no such page\n", content_type=b"text/plain")
            return
        missing = self._wanting() if scope["path"] == "/readyz" else None
        text = b"ok\n" if missing is None else f"not ready: {missing}\n".encode("ascii")
        await answer(send, 200 if missing is None else 503, text, content_type=b"text/plain")


def listen(place: str, gid: int) -> socket.socket:
    """A socket that listens at `place`; a unix socket is ours, of group `gid`, and never wider than mode 0660. Raises Unavailable."""
    at = listen_at(place)
    made = socket.socket(socket.AF_UNIX if isinstance(at, Path) else socket.AF_INET6 if ":" in at[0] else socket.AF_INET)
    try:
        if isinstance(at, Path):
            _clear(at)
            umask = os.umask(0o777 & ~0o600)
            try:
                made.bind(str(at))
            finally:
                os.umask(umask)
            if gid != -1:  # no call that a unit would have to allow for nothing
                os.chown(at, -1, gid)
            os.chmod(at, SOCKET_MODE)
        else:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(at)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise Unavailable("listen", f"{place}: {error.strerror}") from None
    except Unavailable:
        made.close()
        raise
    return made


def _clear(path: Path) -> None:
    """A socket that nobody listens at any more is gone; anything else is left. Raises Unavailable, OSError."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Unavailable("listen", f"{path}: there is something that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise Unavailable("listen", f"{path}: another process listens there")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
