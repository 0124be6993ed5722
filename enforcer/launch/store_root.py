"""Where a measured agent comes from: its tree in the attestor's store, which only root and the attestor may write."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from writ.formats.errors import Refused, Unavailable
from writ.formats.reason import Reason

STORE: Final = "{store}"
INSIDE: Final = "/store"
"""What `{store}` stands for, in the sandbox."""


@dataclass(frozen=True, slots=True)
class StoreRoot:
    """A directory of the store, checked, and the owners that may have written it."""

    path: Path

    def argv(self, command: tuple[str, ...]) -> tuple[str, ...]:
        """`command` with `{store}` at the beginning of an argument replaced by where it is inside. The program's path is absolute then.

        Raises Refused.
        """
        placed = tuple(self._place(argument) for argument in command)
        if not placed or not placed[0].startswith("/"):
            got = placed[0] if placed else "no command"
            raise Refused(Reason("component-mismatch", "command", "a program under {store} or an absolute path", got[:120]))
        return placed

    def _place(self, argument: str) -> str:
        if argument != STORE and not argument.startswith(STORE + "/"):
            return argument
        if ".." in argument.split("/"):
            raise Refused(Reason("component-mismatch", "command", "a path below {store}", argument[:120]))
        return INSIDE + argument[len(STORE) :]


def store_root(root: str, owners: frozenset[int]) -> StoreRoot:
    """The checked root: absolute, a directory and no link, no one but `owners` able to write it or any directory above it.

    Does not say that the files in it are those measured: the attestor vouches for that, and watches.
    Raises Refused, or Unavailable where it cannot be looked at.
    """
    path = Path(root)
    if not path.is_absolute() or os.path.normpath(root) != root:
        raise Refused(Reason("component-mismatch", "store", "a normalised absolute path", root[:120]))
    for folder in (path, *path.parents):
        try:
            info = folder.lstat()
        except OSError as error:
            raise Unavailable("measured store", f"{folder}: {error.strerror}") from None
        if not stat.S_ISDIR(info.st_mode):
            raise Refused(Reason("component-mismatch", "store", "directories, no link", str(folder)[:120]))
        loose = info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX
        if info.st_uid not in owners or loose:
            got = f"{folder} of uid {info.st_uid}, mode {stat.S_IMODE(info.st_mode):o}"
            raise Refused(Reason("manifest-mutable", "store", f"owned by one of {sorted(owners)}, writable by no other", got[:160]))
    return StoreRoot(path)
