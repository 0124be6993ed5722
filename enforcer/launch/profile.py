"""The sandboxes an agent can run in. The manifest names one, so it is measured, and reference values approve it like a file.

| profile      | promises | needs |
| ---          | ---      | ---   |
| `strict`     | no unmeasured binary and no new machine code | Linux 6.12: Landlock 6, MDWE |
| `jit`        | no unmeasured binary; memory may become executable, for engines that compile (Node, JITs) | Linux 6.12: Landlock 6 |
| `strict-6.1` | as `strict`, by the filter alone; see below | Linux 6.1: Landlock 2 |
| `jit-6.1`    | as `jit`; see below | Linux 6.1: Landlock 2 |
| `sandboxed`  | as `jit`, but that any file of its own in `/work` can be executed | Linux 6.12: Landlock 6 |
| `sandboxed-6.1` | as `sandboxed`; see below | Linux 6.1: Landlock 2 |

Every profile: a root of measured files that nobody can write, nothing executable elsewhere, namespaces of its own for users, pids,
network, ipc, host name and cgroups, no capability, no new user namespace, the system calls of `seccomp.py` only, no interface but
loopback. A host whose kernel has less than the profile needs refuses to start it; nothing is left out for being missing.

What the profiles for Linux 6.1 do without: MDWE (a second wall behind the filter's own rules), Landlock's rights to truncate and to
control devices (both closed by what is mounted there), and its scopes for abstract sockets and signals (closed by the namespaces,
but that an agent can end its own init, and so itself).

`sandboxed` is for child instances: an agent that writes and runs code does it there and never in itself. **It does not promise that what
runs was measured**: `/work` holds scripts, objects and programs of anyone's making, and no record says what is in them but the script of
a command. What bounds them is everything else: the namespaces, the filter, the limits, and a token with grants of its own, which no
program inside ever holds. The attestation result says so (`executables` at warning), and so does the token (`executables-unmeasured`).

None bounds what an interpreter is fed: a measured Python runs any text, inside.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from writ.formats.errors import Unavailable
from writ.formats.measurement import Profile

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << at for at in range(4))
_MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 14, 1 << 15
_ALL: Final = (1 << 16) - 1
_SCOPES: Final = 3
"""Abstract sockets and signals."""
READ: Final = _READ_FILE | _READ_DIR
RUN: Final = READ | _EXECUTE
WRITE: Final = _ALL & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)
WRITE_AND_RUN: Final = WRITE | _EXECUTE
DEVICE: Final = _READ_FILE | _WRITE_FILE
CONTROL: Final = DEVICE | _IOCTL_DEV
TERMINAL: Final = READ | _WRITE_FILE | _IOCTL_DEV
_CREATE_RULESET: Final = 444
_VERSION: Final = 1
_RIGHTS_OF: Final[Mapping[int, int]] = {2: (1 << 14) - 1, 6: _ALL}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What one profile asks of the kernel. `landlock` is the ABI whose rights are handled, no more and no less.

    `scratch`: it has a tree of its own in which it may write and execute.
    """

    profile: Profile
    landlock: int
    new_code: bool
    mdwe: bool
    scratch: bool = False

    @property
    def handled(self) -> tuple[int, int, int]:
        """Landlock's rights for files, for the network (none: the namespace has none), and its scopes."""
        return _RIGHTS_OF[self.landlock], 0, _SCOPES if self.landlock >= 6 else 0

    def rights(self, wanted: int) -> int:
        """As much of these rights as is handled."""
        return wanted & _RIGHTS_OF[self.landlock]

    def check(self) -> None:
        """The kernel has what this needs. Raises Unavailable, with the profile that it could start."""
        if (found := landlock_abi()) < self.landlock:
            raise Unavailable("sandbox", f"profile {self.profile} needs Landlock ABI {self.landlock}, the kernel has {found}")


SANDBOXES: Final[Mapping[Profile, Sandbox]] = {
    one.profile: one
    for one in (
        Sandbox("strict", 6, new_code=False, mdwe=True),
        Sandbox("jit", 6, new_code=True, mdwe=False),
        Sandbox("strict-6.1", 2, new_code=False, mdwe=False),
        Sandbox("jit-6.1", 2, new_code=True, mdwe=False),
        Sandbox("sandboxed", 6, new_code=True, mdwe=False, scratch=True),
        Sandbox("sandboxed-6.1", 2, new_code=True, mdwe=False, scratch=True),
    )
}


@lru_cache(maxsize=1)
def landlock_abi() -> int:
    """The ABI of Landlock that the kernel has, 0 for none."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))
    if found < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EOPNOTSUPP):
        raise Unavailable("Landlock", os.strerror(ctypes.get_errno()))
    return max(found, 0)
