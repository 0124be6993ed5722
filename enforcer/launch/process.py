"""A process of an instance, started: in its cgroup and its sandbox, without any privilege, before it becomes the program it is to be."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from enforcer.launch.cgroup import Cgroup
from enforcer.launch.devices import NONE, Devices
from enforcer.launch.image import BWRAP, SHIM, Image
from enforcer.launch.sandbox import HOME, INSIDE_UID, LIMITS, SHIM_PROGRAM, Room, arguments, specification
from writ.formats.errors import Misuse, Unavailable
from writ.formats.measurement import Profile

_WATCHDOG: Final = Path(__file__).with_name("watchdog.py")
_DEADLINE: Final = 15.0
"""Seconds for each word of a launch on a loaded host; a healthy launch takes 50 ms."""
_LOOK_AGAIN: Final = 0.01


@dataclass(frozen=True, slots=True)
class Program:
    """What is to run: argv with a program of the image, its sandbox, its own places, the uid outside, and the whole environment.

    `processes` is how many the uid may have at once (RLIMIT_NPROC), which holds where the pids controller is not there. `inside_uid` is
    what it sees itself as; with 0 it is root of nothing but its own files. `folder` is where it begins.
    """

    argv: tuple[str, ...]
    profile: Profile
    image: Image
    room: Room
    uid: int
    environment: Mapping[str, str]
    processes: int = 512
    inside_uid: int = INSIDE_UID
    devices: Devices = NONE
    folder: str = HOME


class Child(Protocol):
    """As much of `subprocess.Popen` as is used of one."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Its status, once it has ended; it is reaped then."""

    def wait(self, timeout: float | None = None) -> int:
        """Its status, once it has ended. Raises subprocess.TimeoutExpired."""

    def kill(self) -> None:
        """SIGKILL, where it has not been reaped."""


class Inherited:
    """A child of this process, started by the code that ran in it before `execve`."""

    def __init__(self, pid: int) -> None:
        """Raises Unavailable where it is no child of ours."""
        self.pid = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except OSError as error:
            raise Unavailable("process", f"{pid}: {error.strerror}") from None

    def poll(self) -> int | None:
        """Its status, once it has ended; it is reaped then."""
        with self._lock:
            if self.returncode is None:
                done, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if done else None
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its status, once it has ended. Raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (returned := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(_LOOK_AGAIN)
        return returned

    def kill(self) -> None:
        """SIGKILL, where it has not been reaped."""
        with self._lock, contextlib.suppress(OSError):
            if self.returncode is None:
                os.kill(self.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Running:
    """A program in its sandbox: `outer` ends when it ends, with its status; `init` is the first pid of its namespaces, as we see it."""

    outer: Child
    init: int

    def ended(self) -> int:
        """As `wait`, but it stays to be reaped, so that its status is not lost with the code that waits."""
        found = os.waitid(os.P_PID, self.outer.pid, os.WEXITED | os.WNOWAIT)
        if found is None:
            raise Misuse("waitid without WNOHANG returned nothing")
        return found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status

    def wait(self, timeout: float | None = None) -> int:
        """A shell's exit status, once it has ended: its own, or 128 and the signal. Raises subprocess.TimeoutExpired."""
        returned = self.outer.wait(timeout)
        return returned if returned >= 0 else 128 - returned

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return os.waitid(os.P_PID, self.outer.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None

    @property
    def program(self) -> int | None:
        """The pid of the program, as we see it: the first child of the sandbox's init. None when it is gone."""
        try:
            return int(Path(f"/proc/{self.init}/task/{self.init}/children").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None


def start(program: Program, cgroup: Cgroup, stdio: tuple[int, int, int], enter: Callable[[int], None] = lambda _: None) -> Running:
    """The program runs in `cgroup` and in its sandbox, with `stdio` as 0, 1, 2 and no other descriptor.

    1. A child starts and joins the cgroup; it waits at the gate.
    2. The kernel says that it is in there; only then the gate opens.
    3. It drops every privilege and becomes bubblewrap, which says what the first pid of the sandbox is; `enter` is called with that.
    4. The shim inside waits for its specification, and without one, whole, it ends. It says that it is ready, and execs; its report
       then ends without another word.

    Raises Unavailable where any of it fails; nothing of it runs then.
    """
    given = specification(program.profile, program.image, {**LIMITS, "RLIMIT_NPROC": program.processes}, program.devices)
    gate, report, info, options, shim = (os.pipe() for _ in range(5))
    inner = [info[1], options[0], shim[0], report[1]]
    command = [
        str(SHIM_PROGRAM), "join", str(cgroup.path / "cgroup.procs"), str(gate[0]), str(report[1]), ",".join(map(str, sorted(inner))),
        str(program.uid), str(program.processes),
        BWRAP, "--args", str(options[0]), "--",
        f"/{SHIM}", "become", str(shim[0]), str(report[1]),
        *program.argv,
    ]  # fmt: skip
    ours = {gate[1], report[0], info[0], options[1], shim[1]}
    try:
        # 1
        child = subprocess.Popen(
            command, stdin=stdio[0], stdout=stdio[1], stderr=stdio[2], pass_fds=(gate[0], *inner), env={}, cwd="/",
        )  # fmt: skip
    except OSError as error:
        for descriptor in ours:
            os.close(descriptor)
        raise Unavailable("launch", f"{error.strerror}") from None
    finally:
        for descriptor in (gate[0], *inner):
            os.close(descriptor)
    try:
        said = _read(report[0], b"\n")
        # 2
        if said != b"joined\n" or not cgroup.holds(child.pid):
            raise Unavailable("launch", f"the child did not join its cgroup: {_shown(said)}")
        inside = arguments(
            program.image, program.room, program.environment, info[1], program.inside_uid, devices=program.devices, folder=program.folder
        )
        os.write(options[1], inside)
        _close(ours, options[1])
        os.write(gate[1], b"G")
        # 3
        init = _init(info[0], report[0])
        if not cgroup.holds(init):
            raise Unavailable("launch", f"the sandbox's first process {init} is not in its cgroup")
        enter(init)
        # 4
        os.write(shim[1], given)
        _close(ours, shim[1])
        if (said := _read(report[0], None)) != b"ready\n":
            raise Unavailable("launch", _shown(said))
    except (Unavailable, OSError) as error:
        child.kill()
        child.wait()
        if isinstance(error, Unavailable):
            raise
        raise Unavailable("launch", f"{error.strerror}") from None
    finally:
        for descriptor in ours:
            os.close(descriptor)
    return Running(child, init)


def _close(ours: set[int], descriptor: int) -> None:
    ours.remove(descriptor)
    os.close(descriptor)


def _init(info: int, report: int) -> int:
    """The pid that bubblewrap tells; its JSON arrives in pieces. Raises Unavailable."""
    said = b""
    while True:
        part = _read(info, b"}")
        said += part
        try:
            return int(json.loads(said)["child-pid"])
        except (ValueError, KeyError, TypeError):
            if not part:
                raise Unavailable("launch", f"bubblewrap made no sandbox: {_shown(_read(report, None))}") from None


def _shown(said: bytes) -> str:
    """The shim's report, its error number as text."""
    text = said.decode("utf-8", "replace")[:300].removeprefix("joined\n").removeprefix("ready\n").strip()
    what, _, number = text.rpartition(" ")
    return f"{what}: {os.strerror(int(number))}" if number.isdecimal() and int(number) else text or "it ended without a word"


def _read(descriptor: int, until: bytes | None) -> bytes:
    """What comes until `until`, or the end; raises Unavailable at the deadline."""
    end, said = time.monotonic() + _DEADLINE, b""
    while until is None or not said.endswith(until):
        if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
            raise Unavailable("launch", f"the child said nothing for {_DEADLINE:.0f} s")
        part = os.read(descriptor, 1 if until is not None else 4096)
        if not part:
            break
        said += part
    return said


class Watchdog:
    """A process that kills `cgroup` when this one dies, by the end of a pipe that only we hold."""

    def __init__(self, cgroup: Cgroup, inherited: tuple[int, int] | None = None) -> None:
        """`inherited` are pid and pipe of one that the code before us started: another takes its place. Raises Unavailable."""
        self._cgroup = cgroup
        former = None if inherited is None else (Inherited(inherited[0]), inherited[1])
        self._child, self._hold = self._start()
        if former is not None:
            former[0].kill()
            former[0].wait()
            os.close(former[1])

    def _start(self) -> tuple[Child, int]:
        read, write = os.pipe()
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_WATCHDOG), str(self._cgroup.path)],
                stdin=read, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={}, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            os.close(write)
            raise Unavailable("watchdog", f"{error.strerror}") from None
        finally:
            os.close(read)
        return child, write

    @property
    def pid(self) -> int:
        """Its pid."""
        return self._child.pid

    @property
    def pipe(self) -> int:
        """The descriptor that only we hold."""
        return self._hold

    def keep(self) -> bool:
        """Whether a watchdog runs: one that died is replaced. False where none could be started, and then nothing may run."""
        if self._child.poll() is None:
            return True
        try:
            child, hold = self._start()
        except Unavailable:
            return False
        os.close(self._hold)
        self._child, self._hold = child, hold
        return True

    def release(self) -> None:
        """Let it do its work now and end: for an instance that is over."""
        with contextlib.suppress(OSError):
            os.close(self._hold)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=5)
