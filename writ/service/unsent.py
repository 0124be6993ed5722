"""What a server's connections were given and have not taken: bounded for each in time, and for all together in bytes.

uvicorn waits for as long as somebody likes to take an answer, and keeps it until then. Here a connection that takes less than `RATE` is
closed, and so is the one that has waited longest while all of its loop together hold more than `MOST`: who takes nothing makes room for who
does.

    class Protocol(Taken, HttpToolsProtocol): ...
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import Final

MOST: Final = 64 << 20
"""Bytes. asyncio copies what it keeps, so twice that is held."""
RATE: Final = 16 << 10
"""Bytes a second, in each `LOOKS_EVERY`: who takes less of what is left, is closed."""
LOOKS_EVERY: Final = 10.0
"""Seconds."""
_ACKED: Final = 120
"""Where `tcpi_bytes_acked` is in `struct tcp_info` (linux/tcp.h, from Linux 4.1 on)."""


class Unsent:
    """Of the connections of one loop. Not thread-safe."""

    def __init__(self, *, most: int = MOST, rate: int = RATE, looks_every: float = LOOKS_EVERY) -> None:
        self._most, self._least, self._every = most, int(rate * looks_every), looks_every
        self._watched: dict[asyncio.WriteTransport, tuple[int, asyncio.TimerHandle]] = {}
        """Each with what it had taken when it was looked at last; who waits longest is the first."""

    def watch(self, transport: asyncio.WriteTransport) -> None:
        """Something may wait to be taken: where it does, the connection is looked at until nothing does, or it is gone."""
        if transport not in self._watched and _left(transport) > 0:
            self._look_again(transport)
        while len(self._watched) > 1 and sum(map(_left, self._watched)) > self._most:
            self._end(next(iter(self._watched)))

    def forget(self, transport: asyncio.WriteTransport) -> None:
        """It has taken all, or is gone."""
        if (known := self._watched.pop(transport, None)) is not None:
            known[1].cancel()

    def _look_again(self, transport: asyncio.WriteTransport) -> None:
        timer = asyncio.get_running_loop().call_later(self._every, self._look, transport)
        self._watched[transport] = (_taken(transport), timer)

    def _look(self, transport: asyncio.WriteTransport) -> None:
        before = self._watched[transport][0]
        if _left(transport) == 0:
            self.forget(transport)
        elif _taken(transport) - before < self._least:
            self._end(transport)
        else:
            self._look_again(transport)

    def _end(self, transport: asyncio.WriteTransport) -> None:
        self.forget(transport)
        _beneath(transport).abort()


def _beneath(transport: asyncio.WriteTransport) -> asyncio.WriteTransport:
    """The transport of the socket: TLS hands on to it at once all that it is given, and says of itself that nothing waits."""
    protocol = getattr(transport, "_ssl_protocol", None)
    beneath: asyncio.WriteTransport | None = getattr(protocol, "_transport", None)
    return transport if beneath is None else beneath


def _left(transport: asyncio.WriteTransport) -> int:
    """Bytes that wait to be taken, beside those that the kernel has."""
    beneath = _beneath(transport)
    if getattr(beneath, "_ssl_protocol", beneath) is None:  # TLS that was closed twice: asyncio ends it by itself (ssl_shutdown_timeout)
        return 0
    return beneath.get_write_buffer_size()


def _taken(transport: asyncio.WriteTransport) -> int:
    """Bytes that the other side has said to have, so far; on what is no TCP, those by which less waits."""
    try:
        info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return int.from_bytes(info[_ACKED : _ACKED + 8], sys.byteorder)
    except OSError:
        return -_left(transport)


class _OfThreads(threading.local):
    """One for each thread that serves: a loop has a thread of its own, and what it watches is nobody else's."""

    def __init__(self) -> None:
        self.unsent = Unsent()


_OF_THREADS: Final = _OfThreads()


def of_this_loop() -> Unsent:
    """That of the loop that runs in this thread."""
    return _OF_THREADS.unsent


class Taken(asyncio.Protocol):
    """A connection whose other side takes what it is given, or is closed; what serves on it comes behind it among the bases."""

    transport: asyncio.Transport

    def pause_writing(self) -> None:
        """Something waits to be taken."""
        super().pause_writing()
        of_this_loop().watch(self.transport)

    def on_response_complete(self) -> None:
        """An answer was given, and may wait."""
        super().on_response_complete()  # type: ignore[misc]  # of uvicorn's protocols, which are the other base
        of_this_loop().watch(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing waits any more."""
        of_this_loop().forget(self.transport)
        super().connection_lost(exc)
