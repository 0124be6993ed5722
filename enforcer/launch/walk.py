"""What a tree consists of, as it is measured but for the digests of files: `attestor/measure/tree.py` says how."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from writ.formats.digest import Digest
from writ.formats.tree import Entry, spell

NOT_HASHED: Final = Digest("sha256", bytes(32))


def walk(folder: Path, inner: str = "", without: Collection[str] = ()) -> Iterator[tuple[Path, Entry]]:
    """Each path below `folder`, spelt below `inner`, but for the names of its top level in `without`. A folder that holds something has
    no entry of its own. What changes under the walk makes another tree, which the digests then show. Raises OSError."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name not in without)
    if inner and not names:
        yield folder, Entry.dir(inner)
    for name in names:
        path, spelt = folder / name, spell(os.fsencode(name))
        at, info = f"{inner}/{spelt}" if inner else spelt, path.lstat()
        if stat.S_ISDIR(info.st_mode):
            yield from walk(path, at)
        elif stat.S_ISLNK(info.st_mode):
            yield path, Entry.link(at, spell(os.fsencode(os.readlink(path))))
        else:
            yield path, Entry(at, "file", bool(info.st_mode & stat.S_IXUSR), info.st_size, NOT_HASHED, None)
