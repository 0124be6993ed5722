"""Frames on unix sockets: a 4-byte big-endian length and that many bytes, bounded, with deadlines; descriptors ride on the first byte."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from writ.formats.errors import FormatError, Unavailable

MAX_DESCRIPTORS: Final = 3
SEND_WITHIN: Final = 5
"""Seconds."""
_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})
"""Errors of accept(2) that say nothing about the listener."""
_SO_PEERGROUPS: Final = 59
"""asm-generic/socket.h; Python has no name for it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel recorded it when the socket was connected."""

    pid: int
    uid: int
    gids: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """The peer's credentials (SO_PEERCRED, SO_PEERGROUPS; unix(7))."""
    pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4096)
    except OSError:
        raw = b""
    groups = struct.unpack(f"{len(raw) // 4}I", raw[: len(raw) // 4 * 4])
    return Peer(pid, uid, frozenset({gid, *groups}))


def listen(path: str, *, uid: int, gid: int, mode: int, backlog: int = 64) -> socket.socket:
    """A listening socket at `path` with exactly this owner and mode from the moment on at which anyone could connect."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        before = os.umask(0o177)
        try:
            server.bind(path)
        finally:
            os.umask(before)
        os.chown(path, uid, gid)
        os.chmod(path, mode)
        server.listen(backlog)
    except OSError as error:
        server.close()
        raise Unavailable("socket", f"{path}: {error.strerror}") from None
    return server


def connections(server: socket.socket, may: Callable[[socket.socket], bool] = lambda _: True) -> Iterator[socket.socket]:
    """Each connection that comes, until the server is closed, or `may`, asked before each, says no.

    Where no descriptor or memory is left for one, it waits.
    """
    while may(server):
        try:
            connection, _ = server.accept()
        except OSError as error:
            if error.errno not in _PASSING:
                return
            time.sleep(0.01)
            continue
        yield connection


def connect(path: str, deadline: float = 5.0) -> socket.socket:
    """A connection to `path`. Raises Unavailable."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(deadline)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise Unavailable("socket", f"{path}: {error.strerror or 'no answer'}") from None
    return connection


def bound_sends(connection: socket.socket, seconds: int = SEND_WITHIN) -> None:
    """A send that the peer does not take within `seconds` fails. Unlike `settimeout` this leaves a reader in another thread alone.

    Source: socket(7), SO_SNDTIMEO.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, 0))


def send(connection: socket.socket, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """The whole frame is handed to the kernel. Raises Unavailable."""
    frame = struct.pack(">I", len(data)) + data
    try:
        if descriptors:
            sent = socket.send_fds(connection, [frame[:1]], list(descriptors))
            connection.sendall(frame[sent:])
        else:
            connection.sendall(frame)
    except OSError as error:
        raise Unavailable("socket", f"send: {error.strerror or 'deadline passed'}") from None


def receive(connection: socket.socket, most: int, deadline: float | None) -> bytes | None:
    """One frame, or None at the end of the stream. `deadline` in seconds for the whole frame; None waits for ever.

    Raises FormatError for a frame that is longer than `most` or cut off, Unavailable past the deadline or when the peer resets.
    """
    end = None if deadline is None else time.monotonic() + deadline
    head = _exactly(connection, 4, end, whole=False)
    if head is None:
        return None
    length = int.from_bytes(head, "big")
    if length > most:
        raise FormatError("frame", f"at most {most} bytes", f"{length} bytes")
    return _exactly(connection, length, end, whole=True)


def receive_with_descriptors(
    connection: socket.socket, most: int, deadline: float, most_descriptors: int = MAX_DESCRIPTORS
) -> tuple[bytes, tuple[int, ...]] | None:
    """As `receive`, with the descriptors that came with its first byte. They are the caller's to close; closed where this raises."""
    connection.settimeout(deadline)
    try:
        first, descriptors, flags, _ = socket.recv_fds(connection, 1, most_descriptors)
    except OSError as error:
        raise Unavailable("socket", f"receive: {error.strerror or 'deadline passed'}") from None
    if not first:
        return None
    try:
        if flags & socket.MSG_CTRUNC:
            raise FormatError("frame", f"at most {most_descriptors} descriptors", "more")
        end = time.monotonic() + deadline
        rest = _exactly(connection, 3, end, whole=True)
        length = int.from_bytes(first + (rest or b""), "big")
        if length > most:
            raise FormatError("frame", f"at most {most} bytes", f"{length} bytes")
        data = _exactly(connection, length, end, whole=True)
        return data or b"", tuple(descriptors)
    except (FormatError, Unavailable):
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _exactly(connection: socket.socket, length: int, end: float | None, *, whole: bool) -> bytes | None:
    """`length` bytes; None at the end of the stream before the first one unless `whole`."""
    got = bytearray()
    while len(got) < length:
        try:
            connection.settimeout(None if end is None else max(0.001, end - time.monotonic()))
            part = connection.recv(length - len(got))
        except OSError as error:
            raise Unavailable("socket", f"receive: {error.strerror or 'deadline passed'}") from None
        if not part:
            if got or whole:
                raise FormatError("frame", f"{length} bytes", f"{len(got)} bytes and the end")
            return None
        got += part
        if end is not None and time.monotonic() > end:
            raise Unavailable("socket", "receive: deadline passed")
    return bytes(got)
