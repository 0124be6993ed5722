"""What a server's connections were given and have not taken: bounded for each in time, and for all together in bytes.

uvicorn waits for as long as somebody likes to take an answer, and keeps it until then. Here a connection that takes less than `RATE` is
closed, and so is the one that has waited longest while all together hold more than `MOST`: who takes nothing makes room for who does.

    class Protocol(Taken, HttpToolsProtocol): ...
"""

from __future__ import annotations

import asyncio
from typing import Final

MOST: Final = 64 << 20
"""Bytes. asyncio copies what it keeps, so twice that is held."""
RATE: Final = 16 << 10
"""Bytes a second, in each `LOOKS_EVERY`: who takes less of what is left, is closed."""
LOOKS_EVERY: Final = 10.0
"""Seconds."""


class Unsent:
    """Of the connections of one loop. Not thread-safe."""

    def __init__(self, *, most: int = MOST, rate: int = RATE, looks_every: float = LOOKS_EVERY) -> None:
        self._most, self._least, self._every = most, int(rate * looks_every), looks_every
        self._watched: dict[asyncio.WriteTransport, tuple[int, asyncio.TimerHandle]] = {}
        """Each with what it held when it was looked at last; who waits longest is the first."""

    @staticmethod
    def begin(transport: asyncio.WriteTransport) -> None:
        """From now on asyncio says whenever something is not taken at once, and when all was."""
        transport.set_write_buffer_limits(high=1, low=0)

    def watch(self, transport: asyncio.WriteTransport) -> None:
        """Something was not taken at once: it is looked at until all was, or it is gone."""
        self._look_again(transport)
        while len(self._watched) > 1 and sum(map(_left, self._watched)) > self._most:
            self._end(next(iter(self._watched)))

    def forget(self, transport: asyncio.WriteTransport) -> None:
        """It has taken all, or is gone."""
        if (known := self._watched.pop(transport, None)) is not None:
            known[1].cancel()

    def _look_again(self, transport: asyncio.WriteTransport) -> None:
        timer = asyncio.get_running_loop().call_later(self._every, self._look, transport)
        self._watched[transport] = (_left(transport), timer)

    def _look(self, transport: asyncio.WriteTransport) -> None:
        before, left = self._watched[transport][0], _left(transport)
        if left == 0:
            self.forget(transport)
        elif before - left < self._least:
            self._end(transport)
        else:
            self._look_again(transport)

    def _end(self, transport: asyncio.WriteTransport) -> None:
        self.forget(transport)
        transport.abort()


def _left(transport: asyncio.WriteTransport) -> int:
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # TLS that was closed twice has let go of its connection, which asyncio ends by itself (ssl_shutdown_timeout)
        return 0


UNSENT: Final = Unsent()
"""Of this process, which serves on one loop."""


class Taken(asyncio.Protocol):
    """A connection whose other side takes what it is given, or is closed; what serves on it comes behind it among the bases."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as of every server's
        """It is told whenever something waits."""
        super().connection_made(transport)
        UNSENT.begin(transport)

    def pause_writing(self) -> None:
        """Something waits to be taken."""
        super().pause_writing()
        UNSENT.watch(self.transport)

    def resume_writing(self) -> None:
        """All was taken."""
        super().resume_writing()
        UNSENT.forget(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing waits any more."""
        UNSENT.forget(self.transport)
        super().connection_lost(exc)
