"""A listener in a sandbox's network namespace: there and nowhere else, and this process has never left its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enforcer.launch.netns import ADDRESS, Namespace
from tests.enforcer.host import wait_for
from writ.formats.errors import Unavailable

pytestmark = pytest.mark.cgroup
PORT = 3128


@pytest.fixture
def elsewhere(cgroup_mount: Path) -> Iterator[subprocess.Popen[bytes]]:  # noqa: ARG001 - needs root
    """A process in a network namespace of its own, whose loopback is down until a line comes."""
    command = ["unshare", "--net", "sh", "-c", "read line; ip link set lo up; echo up; exec sleep 60"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        wait_for(lambda: namespace(process.pid) != namespace("self"))
        yield process
        process.kill()


def listen_in(pid: int, port: int) -> socket.socket:
    with contextlib.closing(Namespace(pid)) as there:
        return there.listen(port)


def namespace(pid: int | str, thread: str = "") -> str:
    return os.readlink(f"/proc/{pid}{thread}/ns/net")


def test_listener_is_in_there_before_loopback_is_up_and_is_accepted_on_from_here(elsewhere: subprocess.Popen[bytes]) -> None:
    server = listen_in(elsewhere.pid, PORT)
    assert elsewhere.stdin is not None
    assert elsewhere.stdout is not None
    elsewhere.stdin.write(b"\n")
    elsewhere.stdin.flush()
    assert elsewhere.stdout.readline() == b"up\n"
    inside = f"exec 3<>/dev/tcp/{ADDRESS}/{PORT} && echo hello >&3 && read -r said <&3 && echo $said"
    with subprocess.Popen(["nsenter", f"--net=/proc/{elsewhere.pid}/ns/net", "bash", "-c", inside], stdout=subprocess.PIPE) as client:
        near, _ = server.accept()
        assert near.recv(6) == b"hello\n"
        near.sendall(b"back\n")
        assert client.communicate(timeout=10)[0] == b"back\n"
    near.close()
    assert namespace("self") != namespace(elsewhere.pid)
    server.close()


def test_no_thread_of_this_process_is_in_there_afterwards(elsewhere: subprocess.Popen[bytes]) -> None:
    before = namespace("self")
    listen_in(elsewhere.pid, PORT).close()

    def everywhere() -> set[str]:
        found = set()
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(FileNotFoundError):
                found.add(namespace("self", f"/task/{thread}"))
        return found

    wait_for(lambda: everywhere() == {before})  # the kernel's thread ends a moment after Python's
    assert namespace("self") == before


def test_our_own_namespace_is_refused(cgroup_mount: Path) -> None:  # noqa: ARG001 - needs root
    with pytest.raises(Unavailable, match="of its own"):
        listen_in(os.getpid(), PORT)


def test_process_that_is_gone_is_refused(cgroup_mount: Path) -> None:  # noqa: ARG001 - needs root
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(Unavailable):
        listen_in(gone.pid, PORT)


def test_port_that_is_taken_is_refused_and_leaves_no_socket(elsewhere: subprocess.Popen[bytes]) -> None:
    server = listen_in(elsewhere.pid, PORT)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unavailable, match="in use"):
        listen_in(elsewhere.pid, PORT)
    assert len(os.listdir("/proc/self/fd")) == before
    server.close()
