"""A process of an instance, started: it is in its cgroup and has no privilege before it becomes the program it is to be."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from enforcer.launch.cgroup import Cgroup
from writ.formats.errors import Unavailable

_CHILD: Final = Path(__file__).with_name("child.py")
_WATCHDOG: Final = Path(__file__).with_name("watchdog.py")
_DEADLINE: Final = 15.0
"""Seconds for a Python start on a loaded host; a healthy one takes 30 ms."""

LIMITS: Final[Mapping[str, int]] = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": 4096, "RLIMIT_MEMLOCK": 0, "RLIMIT_MSGQUEUE": 0}
PATH: Final = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Program:
    """What is to run: argv with an absolute program, the working directory, the identity, and the whole environment.

    `processes` is how many the uid may have at once (RLIMIT_NPROC), which holds where the pids controller is not there.
    """

    argv: tuple[str, ...]
    root: Path
    uid: int
    gid: int
    environment: Mapping[str, str]
    processes: int = 512


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of an agent: PATH, HOME, LANG and what is given, nothing of ours."""
    return {"PATH": PATH, "HOME": str(home), "LANG": "C.UTF-8", **more}


def start(program: Program, cgroup: Cgroup, stdio: tuple[int, int, int]) -> subprocess.Popen[bytes]:
    """The program runs in `cgroup` with `stdio` as 0, 1, 2 and no other descriptor.

    1. A child starts and joins the cgroup; it waits at the gate.
    2. The kernel says that it is in there; only then the gate opens.
    3. It drops every privilege and execs; its report ends without text.

    Raises Unavailable where any of it fails; nothing of it runs then.
    """
    gate_read, gate_write = os.pipe()
    report_read, report_write = os.pipe()
    spec = {
        "cgroup": str(cgroup.path), "gate": gate_read, "report": report_write, "uid": program.uid, "gid": program.gid,
        "root": str(program.root), "limits": {**LIMITS, "RLIMIT_NPROC": program.processes},
        "environment": dict(program.environment), "argv": list(program.argv),
    }  # fmt: skip
    try:
        # 1
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CHILD), json.dumps(spec)],
            stdin=stdio[0], stdout=stdio[1], stderr=stdio[2], pass_fds=(gate_read, report_write), env={}, cwd="/",
        )  # fmt: skip
    except OSError as error:
        os.close(gate_write)
        os.close(report_read)
        raise Unavailable("launch", f"{error.strerror}") from None
    finally:
        os.close(gate_read)
        os.close(report_write)
    try:
        said = _read(report_read, b"\n")
        # 2
        if said != b"joined\n" or not cgroup.holds(child.pid):
            raise Unavailable("launch", f"the child did not join its cgroup: {_shown(said)}")
        os.write(gate_write, b"G")
        # 3
        if fault := _read(report_read, None):
            raise Unavailable("launch", _shown(fault))
    except (Unavailable, OSError) as error:
        child.kill()
        child.wait()
        if isinstance(error, Unavailable):
            raise
        raise Unavailable("launch", f"{error.strerror}") from None
    finally:
        os.close(gate_write)
        os.close(report_read)
    return child


def _shown(said: bytes) -> str:
    return said.decode("utf-8", "replace")[:300].strip() or "it ended without a word"


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

    def __init__(self, cgroup: Cgroup) -> None:
        self._cgroup = cgroup
        self._child, self._hold = self._start()

    def _start(self) -> tuple[subprocess.Popen[bytes], int]:
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
