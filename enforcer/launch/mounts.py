"""Mounts of ours, by the system calls: no program is started for them."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND, _DETACH = 1, 2, 4, 8, 32, 4096, 2
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def mount_tmpfs(path: Path, *, size: int, files: int, executable: bool = False) -> None:
    """A filesystem in memory of at most `size` bytes and `files` inodes, nothing on it executable but where asked. Raises OSError."""
    options = f"size={size},nr_inodes={files},mode=0711".encode()
    flags = _NOSUID | _NODEV | (0 if executable else _NOEXEC)
    if _LIBC.mount(b"writ", os.fsencode(path), b"tmpfs", ctypes.c_ulong(flags), options) != 0:
        raise _error(path)


def bind(source: Path, path: Path) -> None:
    """`source`, a file or a directory without what is mounted beneath it, is at `path` too, read-only. Raises OSError."""
    _mount(path, _BIND, source)
    _mount(path, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def seal(path: Path) -> None:
    """Nobody writes to the filesystem in memory at `path` any more. Raises OSError."""
    _mount(path, _REMOUNT | _RDONLY | _NOSUID | _NODEV)


def unmount(path: Path) -> None:
    """Nothing is mounted at `path`; what is still open of it goes when that is closed. Raises OSError."""
    while os.path.ismount(path):
        if _LIBC.umount2(os.fsencode(path), _DETACH) != 0:
            raise _error(path)


def _mount(path: Path, flags: int, source: Path | None = None) -> None:
    given = None if source is None else os.fsencode(source)
    if _LIBC.mount(given, os.fsencode(path), None, ctypes.c_ulong(flags), None) != 0:
        raise _error(path)


def _error(path: Path) -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
