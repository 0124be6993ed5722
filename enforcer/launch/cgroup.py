"""One cgroup v2 for each instance: the only handle by which everything it started can be frozen and killed.

    <parent>/<instance hex>/          frozen and killed as one
    <parent>/<instance hex>/agent     the agent and whatever it forks
    <parent>/<instance hex>/tools     its tool servers, under another uid
    <parent>/<instance hex>/<instance hex>      a child instance: what freezes or kills its parent freezes or kills it
    <that>/agent/<number>             one command of a child instance

Only core files are used (cgroup.procs, cgroup.freeze, cgroup.kill,
cgroup.events), which need no controller; `pids.max` is set where the pids
controller is there. A cgroup is used for one run and never again.

Source: Linux Documentation/admin-guide/cgroup-v2.rst, "Core Interface Files".
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from writ.formats.errors import Unavailable

MOUNTINFO: Final = Path("/proc/self/mountinfo")
_POLL: Final = 0.001
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


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup of ours, by path."""

    path: Path

    @classmethod
    def fresh(cls, parent: Path, name: str, *children: str, pids_max: int | None = None) -> Cgroup:
        """A cgroup that did not exist before, with its children. Raises Unavailable."""
        path = parent / name
        try:
            path.mkdir(mode=0o755)
            for child in children:
                (path / child).mkdir(mode=0o755)
            if pids_max is not None and (path / "pids.max").exists():
                (path / "pids.max").write_text(str(pids_max))
        except OSError as error:
            raise Unavailable("cgroup v2", f"cannot make {path}: {error.strerror}") from None
        return cls(path)

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
        """Whether any process is left, zombies not counted; False when the cgroup is gone."""
        return self._event("populated")

    def frozen(self) -> bool:
        """Whether every process is stopped."""
        return self._event("frozen")

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
        self._write("cgroup.kill", "1")
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

    def _event(self, name: str) -> bool:
        try:
            return f"{name} 1" in (self.path / "cgroup.events").read_text().splitlines()
        except OSError:
            return False

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
