"""Where an instance may write: one filesystem in memory for the agent and one for its tools, each bounded, nothing on it executable.

A child instance has one more, bounded too, whose files can be executed: the tree in which it works.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from enforcer.launch.mounts import mount_tmpfs, unmount
from enforcer.launch.removal import remove_tree
from enforcer.launch.sandbox import OWN, Room
from writ.formats.errors import Unavailable


def make_room(path: Path, uid: int, *, size: int, files: int, gate: Path | None = None) -> Room:
    """A filesystem of at most `size` bytes and `files` inodes at `path`, whose folders belong to `uid`. Raises Unavailable."""
    try:
        path.mkdir(mode=0o711)
        mount_tmpfs(path, size=size, files=files)
        for name in OWN:
            (path / name).mkdir(mode=0o700)
            os.chown(path / name, uid, uid)
    except OSError as error:
        raise Unavailable("room", f"{path}: {error.strerror}") from None
    return Room(path, gate)


def with_work(room: Room, path: Path, uid: int, *, size: int, files: int) -> Room:
    """`room`, with a tree at `path` of at most `size` bytes and `files` inodes in which `uid` may write and execute. Raises Unavailable."""
    work = path / "work"
    try:
        path.mkdir(mode=0o711)
        mount_tmpfs(path, size=size, files=files, executable=True)
        for folder in (work, work / "tmp"):
            folder.mkdir(mode=0o700)
            os.chown(folder, uid, uid)
    except OSError as error:
        raise Unavailable("room", f"{path}: {error.strerror}") from None
    return replace(room, work=work)


def clear_rooms(visible: Path) -> bool:
    """`visible` and all in it are gone, what is mounted there first. False where something would not go."""
    try:
        for entry in visible.iterdir():
            unmount(entry)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return remove_tree(visible)
