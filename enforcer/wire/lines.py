"""A gate on a unix socket that speaks in lines: one listener an instance, at which its agent, and nobody else, is heard.

Whoever connects is known by its pid, as the kernel recorded it: the uid alone says nothing, because a slot's uid has had other instances
before, whose setuid programs may still lie about.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

from enforcer import frames
from enforcer.standstill import Standstill
from enforcer.wire.stream import TELL_WITHIN, Stream
from writ.service import observe

MAX_LINE: Final = 1 << 20
MAX_CONNECTIONS: Final = 16
_PART: Final = 65536
_LOG = observe.get_logger(__name__)
Taken = tuple[socket.socket, Sequence[tuple[socket.socket, bytes]]]
"""A listener, and connections with what was read of each ahead."""
Tell = Callable[[bytes], None]
"""Sends one line. Raises OSError, where nobody takes it in time too, and from then on always."""


class LineGate(ABC):
    """The listener of one instance and its connections, each in a thread of its own, at most `MAX_CONNECTIONS`."""

    def __init__(
        self, path: str, *, uid: int, gid: int, is_agent: Callable[[int], bool], taken: Taken | None = None,
        tell_within: float = TELL_WITHIN,
    ) -> None:  # fmt: skip
        """Listen at `path`, for processes of `uid` whose pid `is_agent`; from now on lines are answered.

        `taken` are a listener that is there already, and connections, of each of which somebody has read so much already. One whose
        client does not take a whole line within `tell_within` seconds is closed. Raises Unavailable.
        """
        self._uid, self._is_agent, self._tell_within = uid, is_agent, tell_within
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._live: dict[socket.socket, threading.Thread] = {}
        self._left: dict[socket.socket, bytes] = {}
        self._lock = threading.Lock()
        self._told = observe.Seldom()
        self._still, self._closed = Standstill(), False
        self._server, connections = taken or (frames.listen(path, uid=uid, gid=gid, mode=0o600), ())
        for connection, rest in connections:
            if self._room.acquire(blocking=False):
                self._begin(connection, rest)
        threading.Thread(target=self._accept, name="gate", daemon=True).start()

    def _accept(self) -> None:
        for connection in frames.connections(self._server, self._still.readable):
            peer = frames.peer_of(connection)
            if peer.uid != self._uid or not self._is_agent(peer.pid) or not self._room.acquire(blocking=False):
                if self._told.now():
                    _LOG.warning("gate-peer-refused", uid=peer.uid, pid=peer.pid)
                connection.close()
                continue
            self._begin(connection, b"")

    def _begin(self, connection: socket.socket, rest: bytes) -> None:
        thread = threading.Thread(target=self._attend, args=(connection, rest), name="gate-connection", daemon=True)
        with self._lock:
            self._live[connection] = thread
        try:
            thread.start()
        except RuntimeError:  # no thread is left for it
            with self._lock:
                del self._live[connection]
            connection.close()
            self._room.release()

    def _attend(self, connection: socket.socket, rest: bytes) -> None:
        ahead, stays, out = bytearray(rest), False, Stream(connection)

        def tell(said: bytes) -> None:
            out.sendall(said + b"\n", self._tell_within)

        try:
            with contextlib.suppress(OSError):
                while line := self._line(connection, ahead):
                    if (answer := self.answer(line, tell)) is not None:
                        tell(answer)
                    if len(line) > MAX_LINE:
                        return
                stays = line is None
        finally:
            with self._lock:
                if stays and not self._closed:
                    self._left[connection] = bytes(ahead)
                else:
                    del self._live[connection]
                    connection.close()
            self._room.release()

    def _line(self, connection: socket.socket, ahead: bytearray) -> bytes | None:
        """The next line, or what there is at the end of them or beyond the bound; None at a standstill. `ahead` is what was read beyond."""
        while b"\n" not in ahead and len(ahead) <= MAX_LINE:
            if not self._still.readable(connection):
                return None
            part = connection.recv(_PART)
            if not part:
                break
            ahead += part
        if self._still.called:
            return None
        end = ahead.find(b"\n") + 1 or len(ahead)
        line = bytes(ahead[: min(end, MAX_LINE + 1)])
        del ahead[: len(line)]
        return line

    @abstractmethod
    def answer(self, line: bytes, tell: Tell | None = None) -> bytes | None:
        """The answer to one line, whatever is in it; None where none is owed. Of one beyond `MAX_LINE` it is the last.

        `tell` sends a line before it.
        """

    def leave(self, within: float) -> tuple[int, list[tuple[int, bytes]]]:
        """Nobody is attended to any more: the listener, and each connection on which no answer is owed with what was read of it ahead.

        One whose answer nobody takes within `within` seconds is cut.
        """
        self._still.call()
        end = time.monotonic() + within
        with self._lock:
            live = dict(self._live)
        for thread in live.values():
            thread.join(max(0.0, end - time.monotonic()))
        with self._lock:
            for connection in self._live.keys() - self._left.keys():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            return self._server.fileno(), [(connection.fileno(), rest) for connection, rest in self._left.items()]

    def close(self) -> None:
        """Nobody can connect any more, and every connection is cut."""
        self._closed = True
        self._still.call()
        self._server.close()
        with self._lock:
            for connection in self._live:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
