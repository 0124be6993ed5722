"""Mounts of ours, by the system calls: no program is started for them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_NOSUID, _NODEV, _NOEXEC, _DETACH = 2, 4, 8, 2
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def mount_tmpfs(path: Path, *, size: int, files: int, executable: bool = False) -> None:
    """A filesystem in memory of at most `size` bytes and `files` inodes, nothing on it executable but where asked. Raises OSError."""
    options = f"size={size},nr_inodes={files},mode=0711".encode()
    flags = _NOSUID | _NODEV | (0 if executable else _NOEXEC)
    if _LIBC.mount(b"writ", os.fsencode(path), b"tmpfs", ctypes.c_ulong(flags), options) != 0:
        raise _error(path)


def unmount(path: Path) -> None:
    """Nothing is mounted at `path`; what is still open of it goes when that is closed. Raises OSError."""
    while os.path.ismount(path):
        if _LIBC.umount2(os.fsencode(path), _DETACH) != 0:
            raise _error(path)


def _error(path: Path) -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
