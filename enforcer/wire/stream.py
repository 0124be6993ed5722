"""Bytes to and from one side: as they are, or within TLS that ends here.

TLS runs over memory, so the socket beneath stays the one that a cut reaches, and what was read from it before TLS began is not lost.
One thread may read while another writes. Whoever is sent something whole has a time in all to take it, however little at once.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from typing import Final

LINGER: Final = 1.0
"""Seconds in which somebody who is told the end may hear it."""
TELL_WITHIN: Final = 10.0
"""Seconds in which somebody who is told something has taken all of it, where nothing else is said."""
_PART: Final = 64 << 10
_RECORD: Final = 16 << 10
_MOST_UNSENT: Final = 64 << 10
"""Bytes that TLS itself has to say to somebody who does not take them."""


class Stream:
    """A socket as it is. With a timeout of 0 a call that would wait raises BlockingIOError, else TimeoutError once it waited so long."""

    def __init__(self, raw: socket.socket) -> None:
        """It closes with `raw`, which whoever made it closes. What is sent leaves at once, small or not."""
        with contextlib.suppress(OSError):  # a unix socket has no such delay
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._raw, self._unread, self._broken = raw, b"", False
        self.settimeout, self.fileno = raw.settimeout, raw.fileno

    @property
    def protocol(self) -> str | None:
        """What both sides agreed to speak (RFC 7301), None where they did not."""
        return None

    @property
    def waiting(self) -> bool:
        """Whether there is something to `recv` that the socket beneath does not show."""
        return bool(self._unread)

    @property
    def behind(self) -> bool:
        """Whether something that was sent has not left yet: `flush` it once the socket takes more."""
        return False

    def unread(self, data: bytes) -> None:
        """`recv` gives this first."""
        self._unread = data + self._unread

    def recv(self, size: int) -> bytes:
        """Some bytes, none at the end. Raises OSError."""
        if not self._unread:
            return self._raw.recv(size)
        part, self._unread = self._unread[:size], self._unread[size:]
        return part

    def readable(self, within: float) -> bool:
        """Whether within so many seconds something is there to be read, or the end."""
        return self.waiting or self._arrived(within)

    def come(self, size: int) -> bytes | None:
        """As `recv`, of what is there already: None where that is nothing. Raises OSError."""
        return self.recv(size) if self.readable(0) else None

    def send(self, data: memoryview) -> int:
        """How many of them were taken."""
        return self._raw.send(data)

    def sendall(self, data: bytes, within: float | None = None) -> None:
        """All have left within so many seconds in all; within the timeout where None, and where there is none `TELL_WITHIN`.

        Raises OSError. Nobody knows then how much was taken, so nothing is sent whole here any more.
        """
        if self._broken:
            raise BrokenPipeError
        try:
            self._send_whole(data, self._until(within))
        except BaseException:
            self._broken = True
            raise

    def _send_whole(self, data: bytes, end: float | None) -> None:
        view = memoryview(data)
        while view:
            view = view[self._taken(view, end) :]

    def _until(self, within: float | None) -> float | None:
        """When, on the monotonic clock; None where nobody waits."""
        timeout = self._raw.gettimeout() if within is None else within
        return None if within is None and timeout == 0 else time.monotonic() + (TELL_WITHIN if timeout is None else timeout)

    def _taken(self, data: memoryview, end: float | None) -> int:
        """How many of them the socket took, once it takes any. The time is not its own, which begins anew with each part."""
        if not self._raw.gettimeout():  # mostly there is room, and nothing to wait for
            try:
                return self._raw.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
        poll = select.poll()
        try:
            poll.register(self._raw, select.POLLOUT)
        except ValueError:  # somebody closed it
            raise BrokenPipeError from None
        while poll.poll(0 if end is None else 1000 * max(0.0, end - time.monotonic())):
            with contextlib.suppress(BlockingIOError):
                return self._raw.send(data, socket.MSG_DONTWAIT)
        raise BlockingIOError if end is None else TimeoutError

    def flush(self) -> None:
        """What was taken has left."""

    def end(self) -> None:
        """The other side is told that there is no more."""
        self._raw.shutdown(socket.SHUT_WR)

    def shut(self) -> None:
        """Who reads or writes here is told that it has ended. From any thread; does not wait."""
        with contextlib.suppress(OSError):
            self._raw.shutdown(socket.SHUT_RDWR)

    def linger(self, seconds: float) -> None:
        """What still comes is read away, as far as it comes soon: a close before would reset, and take what was sent last with it."""
        self._raw.settimeout(seconds)
        for _ in range(64):
            if not self._raw.recv(_PART):
                return

    def _arrived(self, within: float) -> bool:
        poll = select.poll()
        poll.register(self._raw, select.POLLIN)
        return bool(poll.poll(1000 * max(0.0, within)))


class TlsStream(Stream):
    """TLS over a socket, as a server, or as a client that asks for `name`. Nothing passes before `handshake`."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, *, name: str | None, said: bytes = b"") -> None:
        """`said` was read from the socket before."""
        super().__init__(raw)
        self._in, self._out, self._unsent = ssl.MemoryBIO(), ssl.MemoryBIO(), bytearray()
        self._in.write(said)
        self._tls = context.wrap_bio(self._in, self._out, server_side=name is None, server_hostname=name)
        self._lock, self._sending = threading.Lock(), threading.Lock()

    @property
    def protocol(self) -> str | None:
        """By ALPN."""
        return self._tls.selected_alpn_protocol()

    @property
    def waiting(self) -> bool:
        """Bytes in memory, decrypted or not: OpenSSL takes even a part of a record from there."""
        with self._lock:
            return super().waiting or self._tls.pending() > 0 or self._in.pending > 0

    @property
    def behind(self) -> bool:
        """Records that the socket did not take."""
        return bool(self._unsent)

    def handshake(self, within: float) -> None:
        """Both sides have agreed within so many seconds. Raises OSError; what the other side said against it is an ssl.SSLError."""
        end = time.monotonic() + within
        while True:
            self.settimeout(max(0.001, end - time.monotonic()))
            try:
                self._tls.do_handshake()
                self.flush()
                return
            except ssl.SSLWantReadError:
                self.flush()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self.flush()
                raise
            if time.monotonic() > end:
                raise TimeoutError
            self._fill()

    def recv(self, size: int) -> bytes:
        """An end that TLS was not told of is none: raises ssl.SSLEOFError."""
        while (part := self._read(size)) is None:
            self._reply()
            self._fill()
        return part

    def come(self, size: int) -> bytes | None:
        """Records may hold what is for TLS alone."""
        part = self._read(size)
        if part is None and self._arrived(0):
            self._reply()
            self._fill()
            part = self._read(size)
        return part

    def send(self, data: memoryview) -> int:
        """At most a record."""
        self.flush()
        with self._lock:
            sent = self._tls.write(data[:_RECORD])
        with contextlib.suppress(BlockingIOError):
            self.flush()
        return sent

    def flush(self) -> None:
        """As far as the socket takes it."""
        self._leave(self._until(None))

    def _send_whole(self, data: bytes, end: float | None) -> None:
        """Record by record."""
        view = memoryview(data)
        while view:
            with self._lock:
                view = view[self._tls.write(view[:_RECORD]) :]
            self._leave(end)

    def _leave(self, end: float | None) -> None:
        with self._sending:
            with self._lock:
                self._unsent += self._out.read()
            while self._unsent:
                with memoryview(self._unsent) as view:
                    sent = self._taken(view, end)
                del self._unsent[:sent]

    def end(self) -> None:
        """With a close_notify."""
        with contextlib.suppress(ssl.SSLError), self._lock:
            self._tls.unwrap()
        self.flush()
        super().end()

    def _read(self, size: int) -> bytes | None:
        if self._unread:
            return super().recv(size)
        try:
            with self._lock:
                return self._tls.read(size)
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLWantReadError:
            return None

    def _reply(self) -> None:
        """What TLS answered by itself has left (RFC 8446 4.6.3: each KeyUpdate may ask for another): it must not pile up in memory."""
        with contextlib.suppress(BlockingIOError):
            self.flush()
        if len(self._unsent) > _MOST_UNSENT:
            raise ConnectionAbortedError

    def _fill(self) -> None:
        part = self._raw.recv(_PART)
        with self._lock:
            if part:
                self._in.write(part)
            else:
                self._in.write_eof()
