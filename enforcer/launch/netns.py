"""A listener inside a sandbox's network namespace, accepted on from outside: nothing of ours runs in there.

A socket belongs for ever to the namespace of the thread that made it. So a thread enters the namespace, makes the socket, and ends;
it is the only one of the process that was ever in there.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from typing import Final

from writ.formats.errors import Unavailable

ADDRESS: Final = "127.0.0.1"
BACKLOG: Final = 64
_CLONE_NEWNET: Final = 0x40000000
"""linux/sched.h; Python has a name for it from 3.12 on."""
_IP_FREEBIND: Final = 15
"""linux/in.h: the address may be bound before bubblewrap has brought the namespace's loopback up."""


def listen_in(pid: int, port: int) -> socket.socket:
    """A TCP socket that listens on 127.0.0.1:`port` in the network namespace of `pid`, which is not ours. Raises Unavailable."""
    made: list[socket.socket | OSError] = []
    thread = threading.Thread(target=lambda: made.append(_made(pid, port)), name="netns")
    thread.start()
    thread.join()
    (found,) = made or [OSError(0, "the thread ended without a word")]
    if isinstance(found, OSError):
        raise Unavailable("network namespace", f"{pid}: {found.strerror}")
    return found


def _made(pid: int, port: int) -> socket.socket | OSError:
    """1. The namespace is another than ours. 2. This thread enters it. 3. The socket listens, or is closed."""
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return error
    try:
        # 1
        if os.fstat(namespace).st_ino == os.stat("/proc/thread-self/ns/net").st_ino:
            return OSError(0, "expected a network namespace of its own, got ours")
        # 2
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace, _CLONE_NEWNET) != 0:
            return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        # 3
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
    except OSError as error:
        return error
    finally:
        os.close(namespace)
