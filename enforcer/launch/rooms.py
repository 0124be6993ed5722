"""Where an instance may write: one filesystem in memory for the agent and one for its tools, each bounded, nothing on it executable."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

from enforcer.launch.removal import remove_tree
from enforcer.launch.sandbox import Room
from writ.formats.errors import Unavailable

FOLDERS: Final = ("home", "tmp", "shm")
_NOSUID, _NODEV, _NOEXEC, _DETACH = 2, 4, 8, 2


def make_room(path: Path, uid: int, *, size: int, files: int, gate: Path | None = None) -> Room:
    """A filesystem of at most `size` bytes and `files` inodes at `path`, whose folders belong to `uid`. Raises Unavailable."""
    try:
        path.mkdir(mode=0o711)
    except OSError as error:
        raise Unavailable("room", f"{path}: {error.strerror}") from None
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size},nr_inodes={files},mode=0711".encode()
    if libc.mount(b"writ", os.fsencode(path), b"tmpfs", ctypes.c_ulong(_NOSUID | _NODEV | _NOEXEC), options) != 0:
        raise Unavailable("room", f"{path}: {os.strerror(ctypes.get_errno())}")
    try:
        for name in FOLDERS:
            (path / name).mkdir(mode=0o700)
            os.chown(path / name, uid, uid)
    except OSError as error:
        raise Unavailable("room", f"{path}: {error.strerror}") from None
    return Room(path, gate)


def clear_rooms(visible: Path) -> bool:
    """`visible` and all in it are gone, what is mounted there first. False where something would not go."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        for entry in visible.iterdir():
            while os.path.ismount(entry):
                if libc.umount2(os.fsencode(entry), _DETACH) != 0:
                    return False
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return remove_tree(visible)
