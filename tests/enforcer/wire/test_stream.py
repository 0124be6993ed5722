"""Who is told something has a time in all to take it, on a socket as it is and within TLS, whoever else reads meanwhile."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enforcer.wire import stream
from enforcer.wire.client import Client
from enforcer.wire.stream import Stream, TlsStream
from tests.world.network import certified

MUCH = b"x" * (8 << 20)
"""More than any socket takes at once; at the pace of `sips`, of minutes."""
WITHIN = 0.3
PART = 64 << 10


@contextlib.contextmanager
def sips(far: socket.socket) -> Iterator[None]:
    """`far` is read, but for a pause before each part: a bound that begins anew with each is never over."""
    over = threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.05) and far.recv(PART):
                pass

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        far.shutdown(socket.SHUT_RDWR)
        thread.join()


def plain(near: socket.socket, _far: socket.socket, _folder: Path) -> Stream:
    return Stream(near)


def within_tls(near: socket.socket, far: socket.socket, folder: Path) -> Stream:
    """Ours is the server; the client's side is `far`, of which the rest is read as it comes."""
    certificate, key = certified(folder, "a.test")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(certificate))
    server.load_cert_chain(certificate, key)
    made = TlsStream(near, server, name=None)
    other = threading.Thread(target=TlsStream(far, client, name="a.test").handshake, args=(10,))
    other.start()
    made.handshake(10)
    other.join()
    far.settimeout(None)
    return made


KINDS = [plain, within_tls]
Made = Callable[[socket.socket, socket.socket, Path], Stream]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timeout, within", [(None, WITHIN), (60.0, WITHIN), (WITHIN, None)])
def test_who_takes_little_at_a_time_has_no_more_time_in_all(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, kind: Made, timeout: float | None, within: float | None
) -> None:
    near, far = pair
    made = kind(near, far, tmp_path)
    made.settimeout(timeout)
    with sips(far), pytest.raises(TimeoutError):
        made.sendall(MUCH, within)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_time_of_its_own_nobody_has_for_ever(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, kind: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "TELL_WITHIN", WITHIN)
    near, far = pair
    made = kind(near, far, tmp_path)
    made.settimeout(None)
    with pytest.raises(TimeoutError):
        made.sendall(MUCH)


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_part_of_something_nothing_is_sent(pair: tuple[socket.socket, socket.socket], tmp_path: Path, kind: Made) -> None:
    near, far = pair
    made = kind(near, far, tmp_path)
    with pytest.raises(TimeoutError):
        made.sendall(MUCH, WITHIN)
    with contextlib.suppress(BlockingIOError):
        while far.recv(PART, socket.MSG_DONTWAIT):  # there is room again
            pass
    with pytest.raises(BrokenPipeError):
        made.sendall(b"more", WITHIN)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timeout", [None, 5.0])
def test_to_what_was_closed_nothing_is_sent(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path, kind: Made, timeout: float | None
) -> None:
    near, far = pair
    made = kind(near, far, tmp_path)
    made.settimeout(timeout)
    near.close()
    with pytest.raises(OSError, match=r"Bad file descriptor|^$"):
        made.sendall(b"more", WITHIN)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_in_another_thread_is_left_alone(pair: tuple[socket.socket, socket.socket], tmp_path: Path, kind: Made) -> None:
    near, far = pair
    made = kind(near, far, tmp_path)
    made.settimeout(None)
    made.sendall(b"said", WITHIN)
    assert near.gettimeout() is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_never_waits_does_not_here_either(pair: tuple[socket.socket, socket.socket], tmp_path: Path, kind: Made) -> None:
    near, far = pair
    made = kind(near, far, tmp_path)
    made.settimeout(0)
    with pytest.raises(BlockingIOError):
        made.sendall(MUCH)


def test_what_is_asked_has_the_time_of_its_asker_to_leave(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    client = Client(Stream(near), "server notes", "a.test")
    with sips(far), pytest.raises(TimeoutError):
        client.post("/mcp", [], MUCH, time.monotonic() + WITHIN)
    assert client.sent == 0


def test_all_of_it_arrives_within_tls(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    certificate, key = certified(tmp_path, "a.test")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(certificate))
    server.load_cert_chain(certificate, key)
    found = b""

    def read() -> None:
        nonlocal found
        with client.wrap_socket(far, server_hostname="a.test") as spoken:
            while len(found) < len(MUCH) and (part := spoken.recv(PART)):
                found += part

    thread = threading.Thread(target=read)
    thread.start()
    with near:
        made = TlsStream(near, server, name=None)
        made.handshake(10)
        made.sendall(MUCH, 60)
        thread.join(60)
    assert found == MUCH
