"""Components that the kernel itself keeps from changing: files by fs-verity, a mounted device by dm-verity. Nothing of them is copied.

Each is bound to a place of ours first, and the kernel is asked about what is bound there: whatever becomes of the store's names, or of the
host's mounts, what was asked about is what the agent finds.

Source: Linux, Documentation/filesystems/fsverity.rst; admin-guide/device-mapper/verity.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

from enforcer.launch.mounts import bind, mount_tmpfs, seal, unmount
from enforcer.launch.walk import walk
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.measurement import ComponentRoot
from writ.formats.reason import Reason
from writ.formats.tree import ComponentKind, Entry, component, component_root
from writ.service.verity import NotHeld, Verity

MOST_FILES: Final = 1024
"""Of a component held by fs-verity: each is a mount of its own."""
_ROOM: Final = 4 << 20


def hold(part: ComponentRoot, tree: Path, place: Path, kernel: Verity) -> bool:
    """`place`, read-only, is what `part` was measured to, held by the kernel. False where the kernel holds nothing of `tree`.

    Where it is False, or raises, nothing is mounted. Raises OSError, and Refused where what the kernel holds is something else.
    """
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        entries = _device(tree, place, kernel) if tree.is_symlink() else _files(tree, place, kernel)
        if entries is None:
            unmount(place)
            place.rmdir()
            return False
        got = component_root(component(part.name, cast(ComponentKind, part.kind), entries))
    except NotHeld as error:
        _undo(place)
        raise Refused(Reason("verity-unavailable", f"measurement.{part.name}", "what the kernel holds", error.got[:200])) from None
    except (OSError, FormatError):
        _undo(place)
        raise
    if got != part.root:
        _undo(place)
        raise Refused(Reason("component-mismatch", f"measurement.{part.name}", str(part.root), str(got)))
    return True


def _device(tree: Path, place: Path, kernel: Verity) -> tuple[Entry, ...]:
    """What is mounted where the store's link leads, bound whole and without what is mounted beneath."""
    bind(tree.resolve(), place)
    table = kernel.device(place)
    return (Entry.dm_verity(table.root, table.size),)


def _files(tree: Path, place: Path, kernel: Verity) -> tuple[Entry, ...] | None:
    """Each file bound by itself, in folders and links of our own making; None where the first file has no fs-verity."""
    first = next((path for path, entry in walk(tree) if entry.kind == "file"), None)
    if first is None or _measured(first, kernel) is None:
        return None
    found = list(walk(tree))
    files = sum(entry.kind == "file" for _, entry in found)
    if files > MOST_FILES:
        raise NotHeld(f"{files} files, of at most {MOST_FILES}")
    mount_tmpfs(place, size=_ROOM, files=4 * len(found) + 64, executable=True)
    place.chmod(0o755)
    for path, entry in found:
        at = place / path.relative_to(tree)
        at.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if entry.kind == "dir":
            at.mkdir(mode=0o755, exist_ok=True)
        elif entry.kind == "link":
            at.symlink_to(os.readlink(path))
        else:
            at.touch(mode=0o444)
            bind(path, at)
    seal(place)
    return tuple(_asked(place, kernel))


def _asked(place: Path, kernel: Verity) -> Iterator[Entry]:
    for path, entry in walk(place):
        if entry.kind != "file":
            yield entry
        elif (digest := _measured(path, kernel)) is None:
            raise NotHeld(f"{entry.path[:120]}: a file without fs-verity")
        else:
            yield Entry.fs_verity(entry.path, digest, entry.size, executable=entry.mode_exec)


def _measured(path: Path, kernel: Verity) -> Digest | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return kernel.measure(descriptor)
    finally:
        os.close(descriptor)


def _undo(place: Path) -> None:
    unmount(place)
    place.rmdir()
