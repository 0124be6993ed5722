"""A listener inside a sandbox's network namespace, accepted on from outside: nothing of ours runs in there.

A socket belongs for ever to the namespace of the thread that made it. So a thread enters the namespace, makes the socket, and ends;
no other of the process was ever in there.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from typing import Final

from writ.formats.errors import Unavailable

ADDRESS: Final = "127.0.0.1"
BACKLOG: Final = 64
_CLONE_NEWNET: Final = 0x40000000
"""linux/sched.h; Python has a name for it from 3.12 on."""
_IP_FREEBIND: Final = 15
"""linux/in.h: the address may be bound before bubblewrap has brought the namespace's loopback up."""


class Namespace:
    """The network namespace of a process, which is not ours. It is held, so that it stays this one when its processes end."""

    def __init__(self, pid: int) -> None:
        """Raises Unavailable."""
        try:
            self._descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable("network namespace", f"{pid}: {error.strerror}") from None
        if os.fstat(self._descriptor).st_ino == os.stat("/proc/thread-self/ns/net").st_ino:
            self.close()
            raise Unavailable("network namespace", f"{pid}: expected one of its own, got ours")

    def close(self) -> None:
        """It is not held any more. Its sockets stay in it."""
        os.close(self._descriptor)

    def listen(self, port: int) -> socket.socket:
        """A TCP socket that listens on 127.0.0.1:`port` in there. Raises Unavailable."""
        return self._made(lambda: _listener(port))

    def unconnected(self) -> socket.socket:
        """A TCP socket of there, to be connected from here. Raises Unavailable."""
        return self._made(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))

    def _made(self, make: Callable[[], socket.socket]) -> socket.socket:
        made: list[socket.socket | OSError] = []

        def enter() -> None:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(self._descriptor, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                made.append(make())
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=enter, name="netns")
        thread.start()
        thread.join()
        (found,) = made or [OSError(0, "the thread ended without a word")]
        if isinstance(found, OSError):
            raise Unavailable("network namespace", f"{found.strerror}")
        return found


def _listener(port: int) -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        server.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # it may listen again while old connections linger
        server.bind((ADDRESS, port))
        server.listen(BACKLOG)
    except OSError:
        server.close()
        raise
    return server
