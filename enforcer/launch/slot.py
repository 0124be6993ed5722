"""A place for an instance on this host: two uids that no other living instance has."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from enforcer.launch.cgroup import Cgroup
from writ.formats.errors import Unavailable


class Slot:
    """A pair of uids, one for the agent and one for its tools. Held while this process lives: the lock ends with it."""

    def __init__(self, descriptor: int, agent_uid: int) -> None:
        """`descriptor` is locked."""
        self.descriptor, self.agent_uid, self.tool_uid = descriptor, agent_uid, agent_uid + 1

    def free(self) -> None:
        """Another instance may have it."""
        os.close(self.descriptor)


def free_slot(folder: Path, count: int, uid_first: int, cgroup: Path) -> Slot:
    """The first of `count` that is free, ours; `folder` says then that `cgroup` has it.

    One in whose former cgroup a process is left is not free. Raises Unavailable where there is none.
    """
    for number in range(count):
        try:
            descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable("instances", f"{folder}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        former = os.read(descriptor, 4096).decode("utf-8", "replace")
        if former and Cgroup(Path(former)).populated():
            os.close(descriptor)
            continue
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(cgroup).encode(), 0)
        return Slot(descriptor, uid_first + 2 * number)
    raise Unavailable("instances", f"all {count} places are taken")
