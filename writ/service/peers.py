"""Unix sockets between the roles of a host: whole frames, known peers, bounded in size, number and time.

    00 00 00 05  68 65 6c 6c 6f        length of the data, 4 bytes big-endian, then the data

Who is at the other end is what the kernel said when it connected (SO_PEERCRED,
unix(7)): the uid is checked before a byte is read. What a frame means is
`writ.formats.local`'s matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from writ.formats.errors import FormatError, Misuse, Unavailable

SEND_SECONDS: Final = 10.0
"""A peer that does not take a frame for so long is given up."""
FRAME_SECONDS: Final = 10.0
"""A frame that has begun must be complete within this time, whatever the caller waits for its beginning."""
MAX_CONNECTIONS: Final = 256
MAX_PATH: Final = 107
"""Bytes of a socket's path (unix(7), sun_path without its NUL)."""

_HEAD: Final = 4
_BACKLOG: Final = 128
_PAUSE: Final = 0.1
"""Seconds without accepting after the kernel refused to."""
_BUFFER: Final = 64 * 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """Who connected, as the kernel recorded it then. The pid may have been taken over by another process since."""

    pid: int
    uid: int
    gid: int


class Connection:
    """One connection to a peer whose credentials are known. One task reads; any task may send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: PeerCredentials, max_frame: int) -> None:
        self._reader, self._writer = reader, writer
        self._peer = peer
        self._max_frame = max_frame

    @property
    def peer(self) -> PeerCredentials:
        """Who is at the other end."""
        return self._peer

    async def send(self, data: bytes) -> None:
        """The frame is with the kernel. Raises Unavailable if the peer is gone or does not read, Misuse above the bound."""
        if len(data) > self._max_frame:
            raise Misuse(f"a frame of {len(data)} bytes, above the bound of {self._max_frame}")
        try:
            self._writer.write(len(data).to_bytes(_HEAD, "big") + data)
            await asyncio.wait_for(self._writer.drain(), SEND_SECONDS)
        except TimeoutError:
            self.abort()
            raise Unavailable("local peer", f"did not read for {SEND_SECONDS:g} s") from None
        except (OSError, RuntimeError):
            self.abort()
            raise Unavailable("local peer", "closed the connection") from None

    async def receive(self, timeout: float | None) -> bytes | None:  # noqa: ASYNC109 - the deadline is part of what is promised
        """The next frame, or None if the peer closed between two frames.

        Waits `timeout` seconds for it (None: for ever) and FRAME_SECONDS at
        most once it has begun. Raises Unavailable when that is over and
        FormatError for a frame too long or cut short; the connection is
        closed then.
        """
        try:
            async with asyncio.timeout(timeout):
                first = await self._reader.read(1)
                if not first:
                    return None
                async with asyncio.timeout(FRAME_SECONDS):
                    return await self._rest(first)
        except TimeoutError:
            self.abort()
            raise Unavailable("local peer", "sent no whole frame in time") from None
        except asyncio.IncompleteReadError as error:
            self.abort()
            raise FormatError("frame", "all of its bytes", f"an end after {len(error.partial)}") from None
        except OSError:
            self.abort()
            raise Unavailable("local peer", "closed the connection") from None

    async def _rest(self, first: bytes) -> bytes:
        length = int.from_bytes(first + await self._reader.readexactly(_HEAD - 1), "big")
        if length > self._max_frame:
            self.abort()
            raise FormatError("frame", f"at most {self._max_frame} bytes", f"{length} bytes")
        return await self._reader.readexactly(length)

    def abort(self) -> None:
        """The connection is closed now; what was not sent is lost."""
        self._writer.transport.abort()

    def close(self) -> None:
        """The connection closes once what was sent has left."""
        self._writer.close()

    async def wait_closed(self) -> None:
        """Closed; a peer that does not read is given SEND_SECONDS and then cut off."""
        try:
            await asyncio.wait_for(self._writer.wait_closed(), SEND_SECONDS)
        except (TimeoutError, OSError):
            self.abort()


Handler = Callable[[Connection], Awaitable[None]]


class PeerServer:
    """A listening socket and its connections, each in a task of its own: what one peer does costs no other its turn."""

    def __init__(self, path: Path, handler: Handler, allowed_uids: frozenset[int], max_frame: int, max_connections: int) -> None:
        self._path, self._handler, self._allowed = path, handler, allowed_uids
        self._max_frame, self._max_connections = max_frame, max_connections
        self._per_uid = max_connections if len(allowed_uids) == 1 else max(1, max_connections // 2)
        self._open: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._lock_fd = -1
        self._inode: tuple[int, int] | None = None

    async def start(self, mode: int, gid: int | None) -> None:
        """Listen. The lock beside the socket is held until `close`, so of two servers on one path only one exists."""
        self._lock_fd = _lock(self._path)
        try:
            listener = _bind(self._path, mode, gid)
        except BaseException:
            os.close(self._lock_fd)
            raise
        self._inode = _inode(self._path)
        listener.listen(_BACKLOG)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def _accept(self) -> None:
        """Take whoever waits; without an await between accepting and admitting no socket is lost."""
        loop, listener = asyncio.get_running_loop(), self._listener
        if listener is None:
            return
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptor is left: those who are here are served on, the others wait
            _LOG.warning("accept-failed", extra={"fields": {"errno": error.errno, "socket": str(self._path)}})
            loop.remove_reader(listener)
            loop.call_later(_PAUSE, self._resume)
            return
        sock.setblocking(False)
        self._admit(sock)

    def _resume(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _admit(self, sock: socket.socket) -> None:
        """Close what is not allowed or too much, before a byte is read."""
        try:
            peer = _credentials(sock)
        except OSError:
            sock.close()
            return
        if refused := self._why_not(peer.uid):
            _LOG.warning("peer-refused", extra={"fields": {"why": refused, "pid": peer.pid, "uid": peer.uid, "socket": str(self._path)}})
            sock.close()
            return
        self._open[peer.uid] += 1
        task = asyncio.ensure_future(self._attend(sock, peer))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._forget(done, sock, peer.uid))

    def _why_not(self, uid: int) -> str | None:
        if uid not in self._allowed:
            return "uid"
        if len(self._tasks) >= self._max_connections or self._open[uid] >= self._per_uid:
            return "too many connections"
        return None

    def _forget(self, task: asyncio.Task[None], sock: socket.socket, uid: int) -> None:
        sock.close()
        self._tasks.discard(task)
        self._open[uid] -= 1

    async def _attend(self, sock: socket.socket, peer: PeerCredentials) -> None:
        """Run the handler; whatever it raises ends this connection and no other."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_BUFFER)
        connection = Connection(reader, writer, peer, self._max_frame)
        fields = {"pid": peer.pid, "uid": peer.uid, "socket": str(self._path)}
        try:
            await self._handler(connection)
        except FormatError as error:
            _LOG.warning("peer-malformed", extra={"fields": {**fields, "what": error.what, "expected": error.expected, "got": error.got}})
        except Unavailable as error:
            _LOG.info("peer-gone", extra={"fields": {**fields, "detail": error.detail}})
        except Exception as error:  # noqa: BLE001 - one connection's bug is not another's end
            _LOG.exception("peer-handler-failed", extra={"fields": {**fields, "error": type(error).__name__}})
        except BaseException:
            connection.abort()
            raise
        finally:
            connection.close()
        await connection.wait_closed()

    def close(self) -> None:
        """Nothing is accepted any more, connections are cut, their handlers cancelled, and the socket's file is gone."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._listener = None
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(OSError):
            if _inode(self._path) == self._inode:
                self._path.unlink()
        os.close(self._lock_fd)

    async def wait_closed(self) -> None:
        """Every handler has ended."""
        if tasks := list(self._tasks):
            await asyncio.gather(*tasks, return_exceptions=True)


async def serve(
    path: Path,
    handler: Handler,
    *,
    allowed_uids: frozenset[int],
    max_frame: int,
    mode: int = 0o660,
    gid: int | None = None,
    max_connections: int = MAX_CONNECTIONS,
) -> PeerServer:
    """A server on the unix socket `path`, each connection of an allowed uid given to `handler` in a task of its own.

    The socket has its mode and group before it listens. A file that is there
    already is replaced only if it is a socket that nobody listens on. Where
    several uids are allowed, none can take more than half of
    `max_connections`. Raises Unavailable if another process serves there or
    the socket cannot be made, FormatError for a path that is no place for one.
    """
    server = PeerServer(path, handler, allowed_uids, max_frame, max_connections)
    await server.start(mode, gid)
    return server


async def connect(
    path: Path,
    max_frame: int,
    timeout: float,  # noqa: ASYNC109 - as in receive
    *,
    allowed_uids: frozenset[int] | None = None,
) -> Connection:
    """A connection to the server on `path`, of one of `allowed_uids` if they are given.

    Raises Unavailable if nobody answers within `timeout` seconds or a
    stranger does.
    """
    what = f"socket {path}"
    _check_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    sock.connect(str(path))
                    break
                except BlockingIOError:  # the server's backlog is full; a unix socket connects at once or not at all
                    await asyncio.sleep(0.02)
            peer = _credentials(sock)
            if allowed_uids is not None and peer.uid not in allowed_uids:
                raise Unavailable(what, f"expected a server of uid {sorted(allowed_uids)}, got uid {peer.uid}")
            reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_BUFFER)
    except TimeoutError:
        sock.close()
        raise Unavailable(what, f"no answer in {timeout:g} s") from None
    except OSError as error:
        sock.close()
        raise Unavailable(what, error.strerror or "cannot connect") from None
    except BaseException:
        sock.close()
        raise
    return Connection(reader, writer, peer, max_frame)


# --- the socket's file --------------------------------------------------------------------------------------------------


def _credentials(sock: socket.socket) -> PeerCredentials:
    return PeerCredentials(*struct.unpack("=iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))


def _inode(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _check_path(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_PATH or "\0" in str(path):
        raise FormatError("socket path", f"at most {MAX_PATH} bytes", f"{len(os.fsencode(path))} bytes")


def _lock(path: Path) -> int:
    """The lock on `path`, as a descriptor; it ends with the process, however that ends."""
    _check_path(path)
    what = f"socket {path}"
    try:
        fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(what, f"cannot make its lock: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Unavailable(what, "another process serves there") from None
    return fd


def _bind(path: Path, mode: int, gid: int | None) -> socket.socket:
    """A bound socket that does not listen yet, so nobody can connect before its mode and group are right."""
    what = f"socket {path}"
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        if gid is not None:
            os.chown(path, -1, gid, follow_symlinks=False)
        path.chmod(mode)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise Unavailable(what, error.strerror or "cannot be made") from None
    return listener


def _clear_stale(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise Unavailable(f"socket {path}", error.strerror or "cannot be read") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise FormatError(f"socket {path}", "no file, or a stale socket", "another kind of file")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code != errno.ECONNREFUSED:
        raise Unavailable(f"socket {path}", "another process serves there")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
