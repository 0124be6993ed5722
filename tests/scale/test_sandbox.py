"""Containment of a busy agent and the start of a large one, measured: figures for people, and assertions on what must hold at any speed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Final

import pytest

from enforcer.launch.image import image_of, sweep
from enforcer.launch.process import Child, Program, start
from enforcer.launch.sandbox import environment_of
from enforcer.launch.store_root import StoreRoot
from tests.enforcer.gates.proxied import Proxied
from tests.enforcer.host import wait_for
from tests.enforcer.inside import UID, fresh_cgroup, inside
from tests.world.root_fs import PYTHON, lay_out
from writ.formats.measurement import Measurement
from writ.formats.reason import Reason
from writ.formats.spiffe import AgentId

pytestmark = [pytest.mark.scale, pytest.mark.cgroup]
ROUNDS: Final = int(os.environ.get("WRIT_ROUNDS", "200"))
BUSY: Final = 20
FILLER, FILES = 500 << 20, 2000
BUSY_AGENT: Final = f"""
import os, sys, time
for _ in range({BUSY - 1}):
    if os.fork() == 0:
        break
while True:
    sum(range(1000))
    os.write(1, b"x")
"""


def figures(name: str, milliseconds: list[float]) -> str:
    """Median, 99th percentile and the worst."""
    ordered = sorted(milliseconds)
    return f"{name}: p50 {median(ordered):.1f} ms, p99 {ordered[int(0.99 * (len(ordered) - 1))]:.1f} ms, max {ordered[-1]:.1f} ms"


class Far:
    """A server that takes whatever comes, and BUSY flows to it through the proxy that begin again whenever they are cut.

    It runs in a process of its own (`python -m tests.scale.test_sandbox PORT PROXY`), since the gate shares its interpreter with nobody
    but the holder either. Asked by a line, it says how many connections it has and had, and how many bytes.
    """

    def __init__(self, port: int, proxy: int) -> None:
        self.live = self.taken = self.bytes = 0
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", port))
        for work in (self._accept, *[lambda: self._send(port, proxy)] * BUSY):
            threading.Thread(target=work, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection = self._server.accept()[0]
            with self._lock:
                self.live, self.taken = self.live + 1, self.taken + 1
            threading.Thread(target=self._take, args=(connection,), daemon=True).start()

    def _take(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                with self._lock:
                    self.bytes += len(data)
        with self._lock:
            self.live -= 1

    def _send(self, port: int, proxy: int) -> None:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", proxy), timeout=10) as tunnel:
                tunnel.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                while tunnel.recv(1) != b"\n":  # the head's one line, and its end below
                    pass
                while True:
                    tunnel.sendall(bytes(4096))
                    time.sleep(0.001)
            time.sleep(0.005)


@contextlib.contextmanager
def flood(proxied: Proxied, port: int) -> Iterator[Callable[[], tuple[int, int, int]]]:
    """Asks the far side: connections now, connections ever, bytes."""
    command = [sys.executable, "-m", "tests.scale.test_sandbox", str(port), str(proxied.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as far:
        asked, said = far.stdin, far.stdout
        assert asked is not None
        assert said is not None

        def ask() -> tuple[int, int, int]:
            print(file=asked)
            live, taken, count = map(int, said.readline().split())
            return live, taken, count

        try:
            yield ask
        finally:
            far.kill()


@pytest.mark.timeout(1800)
def test_busy_agent_is_cut_and_frozen_every_time(tmp_path: Path, cgroup_mount: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    proxied = Proxied(tmp_path, f"127.0.0.1:{port}")
    cuts, frozen = [], []
    read, write = os.pipe()
    os.set_blocking(read, False)

    def drain() -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while data := os.read(read, 1 << 20):
                count += len(data)
        return count

    with inside() as box, fresh_cgroup(cgroup_mount) as cgroup, flood(proxied, port) as ask:
        null = os.open(os.devnull, os.O_RDWR)
        running = start(box.program(PYTHON, "-I", "-S", "-c", BUSY_AGENT), cgroup.child("agent"), (null, write, null))
        os.close(write)
        os.close(null)
        for round_ in range(ROUNDS):
            before = ask()[2]
            wait_for(lambda: drain() and ask()[0] == BUSY and ask()[2] > before + 65536, 30)  # noqa: B023 - called at once
            noticed = time.monotonic_ns()
            proxied.gatekeeper.cut(Reason("hold", "round", "a round", str(round_)))
            cuts.append((time.monotonic_ns() - noticed) / 1e6)
            assert cgroup.freeze(), f"round {round_}: not frozen"
            frozen.append((time.monotonic_ns() - noticed) / 1e6)
            drain()
            wait_for(lambda: ask()[0] == 0, 30)
            still = ask()
            time.sleep(0.05)
            assert (drain(), ask()) == (0, still), f"round {round_}: something ran or flowed"
            proxied.scene.clock.advance(1)  # by which the quota of records fills up again
            proxied.scene.renew()
            proxied.gatekeeper.mend()
            cgroup.thaw()
        cgroup.kill()
        running.outer.wait()
    os.close(read)
    proxied.close()
    with capsys.disabled():
        print(f"\n{ROUNDS} rounds, {BUSY} busy processes, {BUSY} flows", figures("cut", cuts), figures("frozen", frozen), sep="\n  ")


def first_byte(begin: Callable[[int], Child]) -> float:
    """Milliseconds from `begin`, which gets what to write to, until its program says something."""
    read, write = os.pipe()
    began = time.monotonic_ns()
    child = begin(write)
    os.close(write)
    assert os.read(read, 1) == b"x"
    took = (time.monotonic_ns() - began) / 1e6
    child.wait()
    os.close(read)
    return took


SAY: Final = ("-I", "-S", "-c", "import os; os.write(1, b'x')")


@pytest.mark.timeout(1800)
def test_large_environment_starts(cgroup_mount: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The filler is random, so nothing of it is compressed or shared."""
    size = FILLER // FILES
    filler = {f"part{number:05}": os.urandom(size) for number in range(FILES)}
    with inside() as box, fresh_cgroup(cgroup_mount) as cgroup:
        trees = box.folder / "large"
        trees.mkdir(mode=0o755)
        components = lay_out(trees, {"filler": ("code", filler)})
        del filler
        measurement = Measurement(AgentId("example.org", "test", "large"), (PYTHON,), components, (), "tools", ())
        null = os.open(os.devnull, os.O_RDWR)
        root = StoreRoot(trees)

        def sandboxed(out: int) -> Child:
            image = image_of(box.folder / "images", root, measurement)
            program = Program((PYTHON, *SAY), "strict", image, box.room, UID, environment_of(), 512)
            try:
                return start(program, cgroup.child("agent"), (null, out, null)).outer
            finally:
                image.free()

        def plain(out: int) -> Child:
            return subprocess.Popen([PYTHON, *SAY], stdin=null, stdout=out, stderr=null)

        new = first_byte(sandboxed)
        pairs = [(first_byte(sandboxed), first_byte(plain)) for _ in range(min(ROUNDS, 100))]
        os.close(null)
        sweep(box.folder / "images", 0)
    ours, bare = ([pair[at] for pair in pairs] for at in (0, 1))
    with capsys.disabled():
        print(
            f"\n{FILLER >> 20} MB of {FILES} files: the first start {new:.0f} ms",
            figures("start", ours),
            figures("plain", bare),
            sep="\n  ",
        )
        print(f"  p50 above the plain start: {median(ours) - median(bare):.1f} ms")


if __name__ == "__main__":
    far = Far(int(sys.argv[1]), int(sys.argv[2]))
    for _ in sys.stdin:
        print(far.live, far.taken, far.bytes, flush=True)
