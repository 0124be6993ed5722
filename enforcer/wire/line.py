"""Connections of one instance that a cut must reach at once: dialled, or taken by a listener, each of which has a thread of its own.

A gate says what happens on a connection; whatever it opens further on joins the line, and so is cut with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from enforcer.wire.limits import Ended, Limits
from writ.service import observe

CLOSE_WITHIN: Final = 5.0
_LOOK: Final = 60.0
"""Seconds between two looks for connections that are too old."""
_ABORT: Final = struct.pack("ii", 1, 0)
"""SO_LINGER (socket(7)): what was not sent yet is thrown away, and the peer hears of a reset."""
_HELD: Final = ctypes.PyDLL(None)
"""The C library, called with the interpreter held: else busy threads would have it for a while between one connection and the next."""
_LOG = observe.get_logger(__name__)


class OpenLine:
    """Connections that can be cut, and mended so that new ones pass. Thread-safe."""

    def __init__(self) -> None:
        """Open."""
        self._changed = threading.Condition()
        self._open, self._era = True, 0
        self._live: dict[socket.socket, float] = {}

    def cut(self) -> None:
        """No byte passes on any connection, and none begins, until `mend`."""
        with self._changed:
            self._era += 1
            self._open = False
            self._abort(self._live)

    def mend(self) -> None:
        """New connections pass again; those that were cut stay cut."""
        with self._changed:
            self._open = True

    def _abort(self, connections: Iterable[socket.socket]) -> None:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            _HELD.shutdown(connection.fileno(), socket.SHUT_RDWR)

    @property
    def era(self) -> int:
        """Of which whatever begins now is. Raises Ended where nothing may."""
        with self._changed:
            if not self._open:
                raise Ended("cut")
            return self._era

    def is_cut_since(self, era: int) -> bool:
        """Whether what belongs to `era` may not go on."""
        with self._changed:
            return self._era != era

    @contextlib.contextmanager
    def joined(self, connection: socket.socket, era: int) -> Iterator[socket.socket]:
        """`connection` is cut with the line, and closed afterwards. Raises Ended where the line was cut since `era`."""
        try:
            with self._changed:
                if self._era != era:
                    raise Ended("cut")
                self._live[connection] = time.monotonic()
            yield connection
        finally:
            with self._changed:
                self._live.pop(connection, None)
                connection.close()


class ListeningLine(OpenLine):
    """A listener and its connections. It can be cut and mended, and closed for good."""

    def __init__(
        self, server: socket.socket, serve: Callable[[socket.socket, int], None], room: threading.BoundedSemaphore, limits: Limits
    ) -> None:
        """`server` listens on a port that it was told, and is ours from now on. `serve` gets each connection, and the era it is of.

        `room` is how many connections there may be at once, here and on whatever other line shares it. Each ends `limits.life` seconds
        after it began, at the latest a look later. Nobody is served before `begin`.
        """
        self._server, self._serve, self._room, self._limits = server, serve, room, limits
        server.settimeout(min(_LOOK, limits.life))
        super().__init__()
        self._closed = False
        self._looked = time.monotonic()
        self._attending: set[threading.Thread] = set()
        self._told = observe.Seldom()
        self._acceptor = threading.Thread(target=self._accept, name="gate", daemon=True)

    def begin(self) -> None:
        """Connections are served from now on."""
        self._acceptor.start()

    def cut(self) -> None:
        """Nobody connects and no byte passes, until `mend`. What was in flight gets its outcome."""
        with self._changed:
            with contextlib.suppress(OSError):
                self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # else whoever asks for it has the port meanwhile
                self._server.shutdown(socket.SHUT_RDWR)
            super().cut()

    def mend(self) -> None:
        """New connections pass again; those that were cut stay cut."""
        with self._changed:
            if self._open or self._closed:
                return
            try:
                self._listen()
            except OSError as error:
                _LOG.warning("gate-port-taken", error=error.strerror)
                return
            self._open = True
            self._changed.notify_all()

    def _listen(self) -> None:
        """Again, on the same port; where old connections linger on it, only as one that may be taken over while it does not listen."""
        try:
            self._server.listen(self._limits.connections)
        except OSError:
            self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._server.listen(self._limits.connections)

    def close(self) -> None:
        """Cut for good. What was in flight has its outcome, as far as it ends within `CLOSE_WITHIN`."""
        with self._changed:
            self._closed = True
            attending = [self._acceptor, *self._attending]
            self._changed.notify_all()
        self.cut()
        end = time.monotonic() + CLOSE_WITHIN
        for thread in attending:
            thread.join(max(0.0, end - time.monotonic()))
        self._server.close()

    def _accept(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open or self._closed)
                if self._closed:
                    return
                era = self._era
            self._end_the_old()
            try:
                near, _ = self._server.accept()
            except TimeoutError:
                continue
            except OSError:
                time.sleep(0.001)  # cut, or no descriptor left
                continue
            if not self._room.acquire(blocking=False):
                if self._told.now():
                    _LOG.warning("gate-full")
                near.close()
                continue
            thread = threading.Thread(target=self._attend, args=(near, era), name="connection", daemon=True)
            with self._changed:
                self._attending.add(thread)
            try:
                thread.start()
            except RuntimeError:  # no thread is left for it
                with self._changed:
                    self._attending.discard(thread)
                near.close()
                self._room.release()

    def _end_the_old(self) -> None:
        now = time.monotonic()
        if now - self._looked < min(_LOOK, self._limits.life):
            return
        self._looked, before = now, now - self._limits.life
        with self._changed:
            self._abort([connection for connection, began in self._live.items() if began < before])

    def _attend(self, near: socket.socket, era: int) -> None:
        try:
            with self.joined(near, era):
                self._serve(near, era)
        except (Ended, OSError):
            pass
        except Exception as error:  # noqa: BLE001 - a bug refuses, and its text does not leave
            _LOG.error("gate-failed", exception=error)
        finally:
            with self._changed:
                self._attending.discard(threading.current_thread())
            self._room.release()
