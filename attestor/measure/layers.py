"""Layers of an image, one upon the other, into a tree on disk.

The tree is made in memory and laid out when the last layer is known: until then nothing is written but contents, each into a file of a
number, so no link of an image can lead a write anywhere. A layer is strict, or the image is refused:

    paths           relative; `./` before them and `/` after a directory are left out; no `..`, at most 64 deep
    directory, file, symbolic link        each once in a layer, a directory as often as it likes
    beneath         a file or a link lies nothing, in this layer or the ones below
    symbolic link   any target within the root; one that climbs out of it is refused
    hard link       to a file or a link that is there, in this layer or below: the content once more
    `.wh.NAME`      takes NAME of the layers below away; `.wh..wh..opq` all that the directory had there
    setuid, setgid, file capabilities     refused, or lost where that is asked for: an agent's root has no use for them
    device, pipe, socket                  refused

Owner, times and modes but for a file's execute bit are no part of it, as they are none of a component.

Source: OCI image-spec 1.1, layer.md.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from attestor.measure.tree import MAX_DEPTH
from writ.formats.errors import FormatError
from writ.formats.tar import CHUNK, Read, TarEntry, tar_entries
from writ.formats.tree import MAX_ENTRIES, MAX_PATH, spell

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_WHAT: Final = "layer"
_OPEN: Final = 0o755
"""Of a directory, whatever the umask: the attestor reads it, perhaps as another user."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A file, whose content is the staged one of that number, or a symbolic link."""

    content: int = -1
    executable: bool = False
    target: bytes = b""


@dataclass(slots=True)
class Directory:
    """What is in it by name. `said` is False where a layer only names something beneath it."""

    said: bool = True
    inner: dict[bytes, Directory | Leaf] = field(default_factory=dict)

    def find(self, parts: list[bytes]) -> Directory | Leaf | None:
        """What lies there, no link followed."""
        at: Directory | Leaf | None = self
        for part in parts:
            at = at.inner.get(part) if isinstance(at, Directory) else None
        return at


class Layers:
    """The tree of the layers so far; contents lie in `staging`, a directory of ours alone."""

    def __init__(self, staging: Path, *, drop_setuid: bool = False) -> None:
        self._staging, self._drop_setuid = staging, drop_setuid
        self._contents = self._made = 0
        self._root = Directory()

    def add(self, read: Read) -> None:
        """One more layer, its tar read to its end.

        1. What it brings, and what it takes away of the layers below.
        2. After the archive there is nothing but zeros.
        3. Taken away first, then brought. Raises FormatError.
        """
        # 1
        new, gone = Directory(), set[tuple[bytes, ...]]()
        self._made = 0
        for entry, content in tar_entries(read, _WHAT, pax=True):
            parts = _inside(entry.path, f"{_WHAT} {spell(entry.path)[:120]}")
            if parts and parts[-1].startswith(_WHITEOUT):
                gone.add(_whiteout(entry, parts))
            else:
                self._put(new, parts, entry, content)
        # 2
        while part := read(CHUNK):
            if part.strip(b"\0"):
                raise FormatError(_WHAT, "zeros after the archive", "other bytes")
        # 3
        for taken in gone:
            holder = self._root.find(list(taken[:-1]))
            if isinstance(holder, Directory):
                if taken[-1] == _OPAQUE:
                    holder.inner.clear()
                else:
                    holder.inner.pop(taken[-1], None)
        _merge(self._root, new, b"")
        if (count := sum(1 for _ in _walk(self._root, b""))) > MAX_ENTRIES:
            raise FormatError(_WHAT, f"at most {MAX_ENTRIES} entries", f"{count}")

    def _put(self, new: Directory, parts: list[bytes], entry: TarEntry, content: Read) -> None:
        shown = spell(entry.path)[:120]
        if entry.flag == "5":
            self._reach(new, parts, shown).said = True
            return
        if entry.flag not in "012":
            kinds = {"3": "a character device", "4": "a block device", "6": "a pipe"}
            raise FormatError(f"{_WHAT} {shown}", "a file, link or directory", kinds[entry.flag])
        if not parts or entry.path.endswith(b"/"):
            raise FormatError(f"{_WHAT} {shown}", "the path of a file or link", "that of a directory")
        holder = self._reach(new, parts[:-1], shown)
        if parts[-1] in holder.inner:
            raise FormatError(f"{_WHAT} {shown}", "each path once in a layer", "twice")
        holder.inner[parts[-1]] = self._leaf(new, parts, entry, content, shown)

    def _leaf(self, new: Directory, parts: list[bytes], entry: TarEntry, content: Read, shown: str) -> Leaf:
        if entry.flag == "1":
            there = _inside(entry.target, f"{_WHAT} {shown} target")
            found = new.find(there) or self._root.find(there)
            if not isinstance(found, Leaf):
                raise FormatError(f"{_WHAT} {shown}", "a hard link to a file that is there", spell(entry.target)[:120])
            return found
        if entry.flag == "2":
            return Leaf(target=_target(entry.target, len(parts) - 1, shown))
        if not self._drop_setuid and (entry.mode & (stat.S_ISUID | stat.S_ISGID) or entry.capable):
            got = "file capabilities" if entry.capable else f"mode {entry.mode:04o}"
            raise FormatError(f"{_WHAT} {shown}", "no setuid, setgid or capabilities (--drop-setuid lets it lose them)", got)
        number, self._contents = self._contents, self._contents + 1
        with open(self._staging / str(number), "xb") as file:
            while part := content(CHUNK):
                file.write(part)
        return Leaf(number, bool(entry.mode & stat.S_IXUSR))

    def _reach(self, new: Directory, parts: list[bytes], shown: str) -> Directory:
        """The directory there; made, and not yet said, where it was not."""
        at = new
        for part in parts:
            inner = at.inner.get(part)
            if inner is None:
                inner = at.inner[part] = Directory(said=False)
                self._made += 1
            if isinstance(inner, Leaf) or part.startswith(_WHITEOUT):
                raise FormatError(f"{_WHAT} {shown}", "nothing beneath a file, link or whiteout", spell(part)[:120])
            if self._made > MAX_ENTRIES:
                raise FormatError(_WHAT, f"at most {MAX_ENTRIES} directories", "more")
            at = inner
        return at

    def lay_out(self, place: Path) -> None:
        """The tree is at `place`, which was not there. A content that several files have is one inode. Raises OSError."""
        base = os.fsencode(place)
        place.mkdir()
        place.chmod(_OPEN)
        for path, node in _walk(self._root, b""):
            at = base + b"/" + path
            if isinstance(node, Directory):
                os.mkdir(at)
                os.chmod(at, _OPEN)
            elif node.content < 0:
                os.symlink(node.target, at)
            else:
                staged = self._staging / str(node.content)
                staged.chmod(0o755 if node.executable else 0o644)
                os.link(staged, at)


def _walk(directory: Directory, above: bytes) -> Iterator[tuple[bytes, Directory | Leaf]]:
    """Everything beneath, each directory before what is in it."""
    for name, node in sorted(directory.inner.items(), key=lambda item: item[0]):
        yield above + name, node
        if isinstance(node, Directory):
            yield from _walk(node, above + name + b"/")


def _merge(below: Directory, new: Directory, path: bytes) -> None:
    for name, node in new.inner.items():
        there = below.inner.get(name)
        if isinstance(node, Leaf) or (isinstance(there, Leaf) and node.said):
            below.inner[name] = node
        elif isinstance(there, Leaf):
            raise FormatError(f"{_WHAT} {spell(path + name)[:120]}", "nothing beneath a file or link", "one of a layer below")
        elif there is None:
            below.inner[name] = node
        else:
            _merge(there, node, path + name + b"/")


def _inside(path: bytes, what: str) -> list[bytes]:
    """The segments of a relative path that does not lead up; none for the root. Raises FormatError."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if path.startswith(b"/") or b".." in parts or b"\0" in path or not path:
        raise FormatError(what, "a relative path within the root", repr(path)[:120])
    if len(parts) > MAX_DEPTH or len(path) > MAX_PATH or any(len(part) > 255 for part in parts):
        raise FormatError(what, f"at most {MAX_DEPTH} segments of at most 255 bytes", "more")
    return parts


def _whiteout(entry: TarEntry, parts: list[bytes]) -> tuple[bytes, ...]:
    """What it takes away: the path of something below, or that of an opaque whiteout as it stands."""
    name = parts[-1].removeprefix(_WHITEOUT)
    known = parts[-1] == _OPAQUE or (name not in (b"", b".", b"..") and not name.startswith(_WHITEOUT))
    if entry.flag != "0" or entry.size or not known:
        raise FormatError(f"{_WHAT} {spell(entry.path)[:120]}", "an empty file .wh.NAME or .wh..wh..opq", "another whiteout")
    return tuple(parts) if parts[-1] == _OPAQUE else (*parts[:-1], name)


def _target(target: bytes, depth: int, shown: str) -> bytes:
    """A link's target, if it stays within the root wherever the directories that it names are none but directories."""
    level = 0 if target.startswith(b"/") else depth
    for part in target.split(b"/"):
        level += 0 if part in (b"", b".") else -1 if part == b".." else 1
        if level < 0:
            raise FormatError(f"{_WHAT} {shown}", "a link that stays within the root", spell(target)[:120])
    if not 1 <= len(target) <= MAX_PATH or b"\0" in target:
        raise FormatError(f"{_WHAT} {shown}", f"a target of 1 to {MAX_PATH} bytes without NUL", f"{len(target)} bytes")
    return target
