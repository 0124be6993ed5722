"""Unix sockets with real peers: strangers, liars, and the slow."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import resource
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.formats.errors import FormatError, Misuse, Unavailable
from writ.service import peers
from writ.service.peers import Connection, PeerServer, connect, serve

ME = frozenset({os.getuid()})
STRANGER = 54321


async def echo(connection: Connection) -> None:
    while (data := await connection.receive(5)) is not None:
        await connection.send(data)


def with_server(
    path: Path,
    use: Callable[[PeerServer], Awaitable[None]],
    *,
    handler: peers.Handler = echo,
    allowed: frozenset[int] = ME,
    max_frame: int = 1000,
    max_connections: int = 8,
    mode: int = 0o660,
) -> None:
    async def go() -> None:
        server = await serve(path, handler, allowed_uids=allowed, max_frame=max_frame, max_connections=max_connections, mode=mode)
        try:
            await asyncio.wait_for(use(server), 30)
        finally:
            server.close()
            await server.wait_closed()

    asyncio.run(go())


async def raw(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_frames_come_back_whole_and_in_order_with_the_peer_known(path: Path) -> None:
    async def use(_server: PeerServer) -> None:
        connection = await connect(path, 1000, 5, allowed_uids=ME)
        for data in (b"", b"a", b"x" * 1000):
            await connection.send(data)
        assert [await connection.receive(5) for _ in range(3)] == [b"", b"a", b"x" * 1000]
        assert connection.peer == peers.PeerCredentials(os.getpid(), os.getuid(), os.getgid())
        connection.close()
        await connection.wait_closed()

    with_server(path, use)


def test_clean_end_is_none(path: Path) -> None:
    seen: list[bytes | None] = []
    both = asyncio.Event()

    async def record(connection: Connection) -> None:
        seen.append(await connection.receive(5))
        seen.append(await connection.receive(5))
        both.set()

    async def use(_server: PeerServer) -> None:
        _, writer = await raw(path)
        writer.write(b"\0\0\0\x02hi")
        writer.close()
        await writer.wait_closed()
        await both.wait()

    with_server(path, use, handler=record)
    assert seen == [b"hi", None]


@pytest.mark.parametrize(
    "data, what",
    [(b"\0", "an end"), (b"\0\0\0\x05abc", "an end"), (b"\xff\xff\xff\xff", "4294967295 bytes"), (b"\0\0\x03\xe9", "1001 bytes")],
)
def test_frame_cut_short_or_too_long_is_a_format_error(path: Path, data: bytes, what: str) -> None:
    caught: list[FormatError] = []

    async def record(connection: Connection) -> None:
        try:
            await connection.receive(5)
        except FormatError as error:
            caught.append(error)
            raise

    async def use(_server: PeerServer) -> None:
        reader, writer = await raw(path)
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()

    with_server(path, use, handler=record)
    assert what in caught[0].got


@given(st.binary(max_size=40))
def test_any_bytes_are_whole_frames_and_then_an_end_or_a_format_error(data: bytes) -> None:
    async def read() -> list[bytes]:
        ours, theirs = socket.socketpair()
        theirs.sendall(data)
        theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        connection = Connection(reader, writer, peers.PeerCredentials(1, 1, 1), 16)
        frames = []
        try:
            while (frame := await connection.receive(5)) is not None:
                frames.append(frame)
        finally:
            connection.close()
            await connection.wait_closed()
        return frames

    try:
        frames = asyncio.run(read())
    except FormatError:
        return
    assert b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames) == data
    assert all(len(frame) <= 16 for frame in frames)


def test_half_open_and_slow_peers_cost_no_other_its_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "FRAME_SECONDS", 0.4)

    async def use(_server: PeerServer) -> None:
        silent = await raw(path)
        loris = await raw(path)
        loris[1].write(b"\0\0\0\x20")

        async def drip() -> None:
            while not loris[1].is_closing():
                loris[1].write(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.ensure_future(drip())
        connection = await connect(path, 1000, 5)
        await connection.send(b"hello")
        assert await connection.receive(0.3) == b"hello"
        started = time.monotonic()
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await loris[0].readexactly(1)
        assert time.monotonic() - started < 1.5
        dripping.cancel()
        for closing in (silent[1], loris[1], connection):
            closing.close()

    with_server(path, use)


def test_silent_peer_is_given_up_after_the_callers_deadline(path: Path) -> None:
    async def silent(_connection: Connection) -> None:
        await asyncio.sleep(30)

    async def use(_server: PeerServer) -> None:
        connection = await connect(path, 1000, 5)
        started = time.monotonic()
        with pytest.raises(Unavailable, match="in time"):
            await connection.receive(0.1)
        assert time.monotonic() - started < 1

    with_server(path, use, handler=silent)


def test_peer_that_does_not_read_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SEND_SECONDS", 0.2)
    ended: list[str] = []
    gone = asyncio.Event()

    async def flood(connection: Connection) -> None:
        try:
            for _ in range(100):
                await connection.send(bytes(100_000))
        except Unavailable as error:
            ended.append(error.detail)
            gone.set()
            raise

    async def use(_server: PeerServer) -> None:
        _, writer = await raw(path)
        await gone.wait()
        writer.close()

    with_server(path, use, handler=flood, max_frame=100_000)
    assert "did not read" in ended[0]


def test_sending_more_than_the_bound_is_misuse(path: Path) -> None:
    async def use(_server: PeerServer) -> None:
        connection = await connect(path, 10, 5)
        with pytest.raises(Misuse):
            await connection.send(bytes(11))
        connection.close()

    with_server(path, use)


def test_peer_with_another_uid_is_closed_and_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served: list[int] = []

    async def record(connection: Connection) -> None:
        served.append(connection.peer.uid)

    async def use(_server: PeerServer) -> None:
        reader, writer = await raw(path)
        writer.write(b"\0\0\0\x01a")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()

    with caplog.at_level(logging.WARNING):
        with_server(path, use, handler=record, allowed=frozenset({STRANGER}))
    assert served == []
    assert [record.message for record in caplog.records] == ["peer-refused"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_stranger_is_refused_and_an_allowed_user_is_known_by_the_kernel(path: Path) -> None:
    path.parent.chmod(0o755)
    for folder in path.parents:
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001 and str(folder).count("/") > 1:
            folder.chmod(folder.stat().st_mode | 0o011)

    def ask(uid: int) -> bytes:
        """What a process of `uid` gets back, asked of the socket from a child."""
        out, into = os.pipe()
        if (pid := os.fork()) == 0:
            code = 1
            try:
                os.setgid(uid)
                os.setuid(uid)
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(5)
                    sock.connect(str(path))
                    sock.sendall(b"\0\0\0\x02hi")
                    os.write(into, sock.recv(100) or b"closed")
                code = 0
            except ConnectionError:
                os.write(into, b"closed")
                code = 0
            finally:
                os._exit(code)
        os.close(into)
        try:
            assert os.waitpid(pid, 0)[1] == 0
            return os.read(out, 100)
        finally:
            os.close(out)

    async def whoami(connection: Connection) -> None:
        await connection.receive(5)
        await connection.send(str(connection.peer.uid).encode())

    async def use(_server: PeerServer) -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, ask, STRANGER) == b"\0\0\0\x0554321"
        assert await loop.run_in_executor(None, ask, STRANGER + 1) == b"closed"

    with_server(path, use, handler=whoami, allowed=frozenset({STRANGER, 0}), mode=0o666)


def test_one_uid_cannot_take_every_connection_and_the_rest_are_closed(path: Path) -> None:
    async def use(_server: PeerServer) -> None:
        kept = [await raw(path) for _ in range(4)]
        await asyncio.sleep(0.05)
        reader, writer = await raw(path)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        kept[0][1].close()
        await kept[0][1].wait_closed()
        await asyncio.sleep(0.05)
        again = await connect(path, 1000, 5)
        await again.send(b"a")
        assert await again.receive(5) == b"a"
        again.close()
        for _, other in kept[1:]:
            other.close()

    with_server(path, use, allowed=ME | {STRANGER}, max_connections=8)


def test_bug_in_a_handler_ends_its_connection_and_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def buggy(connection: Connection) -> None:
        if await connection.receive(5) == b"bad":
            raise KeyError("hunter2")
        await connection.send(b"fine")

    async def use(_server: PeerServer) -> None:
        good, bad = await connect(path, 1000, 5), await connect(path, 1000, 5)
        await bad.send(b"bad")
        assert await bad.receive(5) is None
        await good.send(b"good")
        assert await good.receive(5) == b"fine"
        good.close()
        bad.close()

    with_server(path, use, handler=buggy)
    assert [record.message for record in caplog.records if record.name == peers.__name__] == ["peer-handler-failed"]


def test_socket_has_its_mode_whatever_the_umask(path: Path) -> None:
    async def go() -> None:
        for mode, mask in ((0o660, 0o000), (0o600, 0o077), (0o666, 0o777)):
            before = os.umask(mask)
            try:
                server = await serve(path, echo, allowed_uids=ME, max_frame=10, mode=mode, gid=os.getgid())
            finally:
                os.umask(before)
            assert stat.S_IMODE(os.stat(path).st_mode) == mode
            server.close()
            server.close()
            await server.wait_closed()
            assert os.listdir(path.parent) == ["s.lock"]

    asyncio.run(go())


def test_stale_socket_is_replaced_and_a_live_one_is_not(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def use(_server: PeerServer) -> None:
        with pytest.raises(Unavailable, match="another process serves there"):
            await serve(path, echo, allowed_uids=ME, max_frame=10)
        connection = await connect(path, 1000, 5)
        connection.close()

    with_server(path, use)


def test_live_socket_of_a_program_without_our_lock_is_not_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(Unavailable, match="another process serves there"):
            asyncio.run(serve(path, echo, allowed_uids=ME, max_frame=10))
        assert path.exists()
    with Path(f"{path}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_file_that_is_no_socket_is_never_removed(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(FormatError, match="another kind of file"):
        asyncio.run(serve(path, echo, allowed_uids=ME, max_frame=10))

    assert path.read_text() == "precious"


def test_place_where_no_socket_can_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="at most 107 bytes"):
        asyncio.run(serve(tmp_path / ("x" * 108), echo, allowed_uids=ME, max_frame=10))
    with pytest.raises(Unavailable, match="No such file"):
        asyncio.run(serve(tmp_path / "none" / "s", echo, allowed_uids=ME, max_frame=10))
    with pytest.raises(FormatError):
        asyncio.run(connect(tmp_path / ("x" * 108), 10, 1))


def test_nobody_there_is_unavailable(path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        asyncio.run(connect(path, 10, 1))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(Unavailable, match="refused"):
        asyncio.run(connect(path, 10, 1))


def test_server_whose_backlog_is_full_is_unavailable_in_time(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX) as first:
        deaf.bind(str(path))
        deaf.listen(0)
        first.connect(str(path))
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"no answer in 0\.2 s"):
            asyncio.run(connect(path, 10, 0.2))
        assert time.monotonic() - started < 2


def test_server_of_another_uid_is_not_spoken_to(path: Path) -> None:
    async def use(_server: PeerServer) -> None:
        with pytest.raises(Unavailable, match=rf"expected a server of uid \[{STRANGER}\]"):
            await connect(path, 10, 1, allowed_uids=frozenset({STRANGER}))

    with_server(path, use)


def test_close_cuts_connections_and_ends_handlers(path: Path) -> None:
    ended: list[bool] = []

    async def forever(connection: Connection) -> None:
        try:
            await connection.receive(None)
        finally:
            ended.append(True)

    async def use(server: PeerServer) -> None:
        connection = await connect(path, 10, 5)
        await asyncio.sleep(0.05)
        server.close()
        await server.wait_closed()
        assert await connection.receive(5) is None
        connection.close()

    with_server(path, use, handler=forever)
    assert ended == [True]


def test_peer_that_resets_is_unavailable_and_sending_to_it_too(path: Path) -> None:
    caught: list[str] = []
    both = asyncio.Event()

    async def use_broken(connection: Connection) -> None:
        await connection.send(b"unread by the peer")
        for attempt in (connection.receive(5), connection.send(bytes(100)), connection.send(bytes(100))):
            try:
                await attempt
            except Unavailable as error:
                caught.append(error.detail)
        both.set()

    async def use(_server: PeerServer) -> None:
        with socket.socket(socket.AF_UNIX) as rude:  # it closes with bytes unread, which is a reset
            rude.connect(str(path))
            await asyncio.sleep(0.05)
        await both.wait()

    with_server(path, use, handler=use_broken)
    assert caught == ["closed the connection"] * 3


def test_want_of_descriptors_delays_who_waits_and_ends_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(peers, "_PAUSE", 0.05)

    async def use(_server: PeerServer) -> None:
        early = await connect(path, 1000, 5)
        await early.send(b"a")
        assert await early.receive(5) == b"a"
        waiting = socket.socket(socket.AF_UNIX)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, before[1]))
        try:
            waiting.connect(str(path))
            await asyncio.sleep(0.15)
            await early.send(b"b")
            assert await early.receive(5) == b"b"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        reader, writer = await asyncio.open_unix_connection(sock=waiting)
        writer.write(b"\0\0\0\x01c")
        assert await asyncio.wait_for(reader.readexactly(5), 5) == b"\0\0\0\x01c"
        writer.close()
        early.close()

    with_server(path, use)
    assert "accept-failed" in [record.message for record in caplog.records]
