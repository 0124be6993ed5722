"""One cgroup v2 for each instance: the only handle by which everything it started can be frozen and killed.

    <parent>/<instance hex>/          frozen and killed as one
    <parent>/<instance hex>/agent     the agent and whatever it forks
    <parent>/<instance hex>/tools     its tool servers, under another uid
    <parent>/<instance hex>/<instance hex>      a child instance: what freezes or kills its parent freezes or kills it
    <that>/agent/<number>             one command of a child instance

Containing takes core files only (cgroup.procs, cgroup.freeze, cgroup.kill,
cgroup.events), which need no controller; limits take one each. A cgroup is
used for one run and never again.

Source: Linux Documentation/admin-guide/cgroup-v2.rst, "Core Interface Files".
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from writ.formats.errors import Unavailable

MOUNTINFO: Final = Path("/proc/self/mountinfo")
_POLL: Final = 0.001
_PERIOD: Final = 100_000
"""Microseconds over which the kernel counts CPU time."""
_INSTANCE = re.compile(r"[0-9a-f]{32}\Z")


def find_mount(mountinfo: str) -> Path:
    """Where cgroup v2 is mounted read-write: the first such line, which on a hybrid host is /sys/fs/cgroup/unified.

    Raises Unavailable. Source: proc_pid_mountinfo(5).
    """
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(" "), after.split(" ")
        if separator and len(left) >= 6 and right[0] == "cgroup2":
            path = left[4].replace("\\040", " ")
            if "rw" in left[5].split(",") and "rw" in right[-1].split(","):
                return Path(path)
    raise Unavailable("cgroup v2", "no writable cgroup2 mount; make one: mount -t cgroup2 none /sys/fs/cgroup/unified")


def parent_of(name: str, mount: Path | None = None) -> Path:
    """The cgroup `name` (as /proc/PID/cgroup spells it, below the mount), made if it is not there. Raises Unavailable."""
    mount = mount if mount is not None else find_mount(MOUNTINFO.read_text())
    parent = mount / name.lstrip("/")
    try:
        parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        present = (parent / "cgroup.kill").exists() and (parent / "cgroup.freeze").exists()
    except OSError as error:
        raise Unavailable("cgroup v2", f"cannot make {parent}: {error.strerror}") from None
    if not present or not os.access(parent / "cgroup.procs", os.W_OK):
        raise Unavailable("cgroup v2", f"{parent} has no writable cgroup.kill and cgroup.freeze (Linux 5.14 has both)")
    return parent


def enable(parent: Path, controller: str) -> None:
    """Children of `parent` have this controller, as far as the kernel and each cgroup above it allow."""
    above = [folder for folder in (parent, *parent.parents) if (folder / "cgroup.subtree_control").exists()]
    for folder in reversed(above):
        with contextlib.suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the processes of one cgroup may have together: processes, bytes of memory (what they write in their rooms among it), and
    hundredths of a CPU; 0 is no limit.

    Memory and CPU are held by the kernel's controllers, and asked for in vain where it lacks them. Processes are also counted by uid.
    """

    processes: int = 0
    memory: int = 0
    cpu: int = 0

    def lines(self) -> Iterator[tuple[str, str, str, bool]]:
        """Controller, file, text, and whether nothing may run without it."""
        if self.processes:
            yield "pids", "pids.max", str(self.processes), False
        if self.memory:
            yield "memory", "memory.max", str(self.memory), True
            yield "memory", "memory.swap.max", "0", False  # there is no such file where there is no swap
            yield "memory", "memory.oom.group", "1", True  # who lacks one of his processes is not what was measured
        if self.cpu:
            yield "cpu", "cpu.max", f"{self.cpu * _PERIOD // 100} {_PERIOD}", True


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup of ours, by path."""

    path: Path

    @classmethod
    def fresh(cls, parent: Path, name: str, *children: str, limits: Limits | None = None) -> Cgroup:
        """A cgroup that did not exist before, with its children, under `limits`. Raises Unavailable, and then there is none."""
        path = parent / name
        try:
            path.mkdir(mode=0o755)
        except OSError as error:
            raise Unavailable("cgroup v2", f"cannot make {path}: {error.strerror}") from None
        made = cls(path)
        try:
            for child in children:
                (path / child).mkdir(mode=0o755)
            made._limit(limits or Limits())
        except OSError as error:
            made.remove()
            raise Unavailable("cgroup v2", f"cannot make {path}: {error.strerror}") from None
        except Unavailable:
            made.remove()
            raise
        return made

    def _limit(self, limits: Limits) -> None:
        for controller, file, text, needed in limits.lines():
            if not (self.path / file).exists():
                enable(self.path.parent, controller)
            if (self.path / file).exists():
                (self.path / file).write_text(text)
            elif needed:
                raise Unavailable(
                    "cgroup v2", f"expected {file} for a limit of enforcer.toml, got no {controller} controller in {self.path}"
                )

    @classmethod
    def find(cls, parent: Path, name: str) -> Cgroup:
        """The cgroup called `name` below `parent`, at any depth; where there is none, one that does not exist."""
        return cls(next((path for path in _folders(parent) if path.name == name), parent / name))

    def child(self, name: str) -> Cgroup:
        """A child made by `fresh`."""
        return Cgroup(self.path / name)

    def processes(self) -> tuple[int, ...]:
        """The pids in this cgroup and below, sorted; empty when it is gone."""
        found: list[int] = []
        for folder in (self.path, *self._below()):
            try:
                found += [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
            except OSError:
                continue
        return tuple(sorted(found))

    def holds(self, pid: int) -> bool:
        """Whether `pid` is in here or below, as the kernel's cgroup.procs says: it shows pids as we see them, whatever is mounted where."""
        return pid > 0 and pid in self.processes()

    def populated(self) -> bool:
        """Whether any process is left, zombies not counted, or it cannot be known; False when the cgroup is gone."""
        return self._event("populated", unknown=True)

    def frozen(self) -> bool:
        """Whether every process is stopped."""
        return self._event("frozen", unknown=False)

    def freeze(self, deadline: float = 2.0) -> bool:
        """Stop every process; True once the kernel says all are stopped, False if it does not within `deadline` seconds."""
        return self._write("cgroup.freeze", "1") and self._wait(self.frozen, deadline)

    def thaw(self) -> bool:
        """Let the processes run on."""
        return self._write("cgroup.freeze", "0")

    def kill(self, deadline: float = 5.0) -> bool:
        """Kill every process, forks included; True once none is left.

        The freeze is lifted afterwards: in a cgroup left frozen the next child hangs before its exec (facts/launcher.md section 5).
        """
        end = time.monotonic() + deadline
        while not self._write("cgroup.kill", "1") and self.exists() and time.monotonic() < end:
            time.sleep(_POLL)  # no descriptor was left: it is asked again
        empty = self._wait(lambda: not self.populated(), deadline)
        self._write("cgroup.freeze", "0")
        return empty

    def remove(self) -> bool:
        """Remove the cgroup and its children, so that nothing can join any more. False while a process is left."""
        for folder in (*self._below(), self.path):
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                return False
        return True

    def exists(self) -> bool:
        """Whether the directory is there."""
        return self.path.is_dir()

    def _below(self) -> list[Path]:
        """All that is below, the deepest first."""
        return _folders(self.path)[::-1]

    def _event(self, name: str, *, unknown: bool) -> bool:
        """`unknown` where it is there and cannot be read: no descriptor may be left."""
        try:
            return f"{name} 1" in (self.path / "cgroup.events").read_text().splitlines()
        except OSError as error:
            return unknown and error.errno not in (errno.ENOENT, errno.ENODEV)

    def _write(self, file: str, text: str) -> bool:
        try:
            (self.path / file).write_text(text)
        except OSError:
            return False
        return True

    @staticmethod
    def _wait(done: Callable[[], bool], deadline: float) -> bool:
        end = time.monotonic() + deadline
        while not done():
            if time.monotonic() > end:
                return False
            time.sleep(_POLL)
        return True


def instances_below(parent: Path) -> list[bytes]:
    """Every instance that has a cgroup below `parent`, a parent before its children."""
    return [bytes.fromhex(path.name) for path in _folders(parent) if _INSTANCE.match(path.name)]


def _folders(path: Path) -> list[Path]:
    """The directories below `path`, each before those in it; what vanishes meanwhile is left out."""
    try:
        with os.scandir(path) as entries:
            found = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [folder for one in found for folder in (Path(one), *_folders(Path(one)))]
