"""Removal of a tree that someone else has filled: at any depth, with names of any length, and with links to anywhere."""

from __future__ import annotations

import os
import secrets
from itertools import islice
from pathlib import Path
from typing import Final

_BATCH: Final = 1024
"""Entries looked at in one go: memory does not grow with the number of files."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> bool:
    """`path`, a directory, and all below it are gone; so are they where there was none. False where something would not go.

    Three descriptors and a fixed stack whatever the depth: what lies in a
    directory below `path` is unlinked, and a directory in it is first moved up
    to `path`. Every name is taken below a descriptor, and no link is followed.
    """
    try:
        top = os.open(path, _FOLDER)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        while entries := _entries(top):
            for name, is_folder in entries:
                if is_folder:
                    _flatten(top, name)
                else:
                    os.unlink(name, dir_fd=top)
        os.rmdir(path)
    except OSError:
        return False
    finally:
        os.close(top)
    return True


def _flatten(top: int, name: str) -> None:
    """The directory `name` in `top` is gone, and those in it lie in `top` under fresh names."""
    folder = os.open(name, _FOLDER, dir_fd=top)
    try:
        while entries := _entries(folder):
            for below, is_folder in entries:
                if is_folder:
                    os.rename(below, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
                else:
                    os.unlink(below, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _entries(folder: int) -> list[tuple[str, bool]]:
    """Some of the entries of a directory, and whether each is a directory itself; none when it is empty."""
    with os.scandir(folder) as found:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(found, _BATCH)]
