"""A source on disk, walked and hashed into a `Component`.

What is found has one answer each, and nothing is skipped but what the
manifest excludes:

    directory      walked; listed itself only if nothing beneath it is
    file           hashed; hard links are files like others
    link           recorded as a link, never followed; it must stay within the component:
                   relative, `..` only at its beginning; in an image any, since an image is the root
    other          refused (device, socket, pipe)
    setuid, setgid refused on a file, since the store would lose the bits; lost in an image, where they are of no use
    unreadable     refused
    changing       read again, three times, then refused
    odd names      spelled by `writ.formats.tree.spell`: any bytes have one spelling

A source that is itself one file is a component of one entry, under the name
that the manifest gives it, whatever link leads there. A measurement says what
was read, not that it runs: `store.py` sees to that.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, Protocol

from attestor.measure.verity import refused
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused
from writ.formats.reason import Reason
from writ.formats.tree import MAX_ENTRIES, Component, ComponentKind, Entry, component, spell, unspell
from writ.service.verity import NotHeld

MAX_DEPTH: Final = 64
MAX_FILE: Final = 1 << 40
"""Bytes."""
_CHUNK: Final = 1 << 20
_ATTEMPTS: Final = 3
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime in nanoseconds: equal means unchanged, as far as stat data can say."""


class Reader(Protocol):
    """Reads an open regular file to its end and returns its SHA-256; the store's keeps a copy on the way."""

    def __call__(self, fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
        """Digest and count of bytes read."""
        ...


class _Changed(Exception):
    """The source moved under us; the walk begins again."""


def identity_of(info: os.stat_result) -> Identity:
    """What tells one state of one file from another without reading it."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def hash_file(fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
    """The plain `Reader`: hash and keep nothing."""
    del identity, executable
    running, size = hashlib.sha256(), 0
    while chunk := os.read(fd, _CHUNK):
        running.update(chunk)
        size += len(chunk)
    return Digest("sha256", running.digest()), size


Leaf = Literal["file", "fs-verity"]
"""What a regular file becomes in a tree: whose digest `read` returns."""


def measure_tree(
    name: str,
    kind: ComponentKind,
    source: Path,
    *,
    excludes: Callable[[str], bool] = lambda _: False,
    names: Callable[[str], frozenset[str] | None] = lambda _: None,
    read: Reader = hash_file,
    leaf: Leaf = "file",
) -> Component:
    """The component that `source` is now. `excludes` answers for a spelled path relative to it.

    `names` may say, of a directory's path, "" for the source, which spelled names alone `excludes` need be asked about.

    With `leaf` fs-verity the digests that `read` returns are of that kind, and
    a NotHeld that it raises is Refused `verity-unavailable`.

    Raises Refused with a `source-…` reason that names component, path, what was expected and what was found.
    """
    path = "."
    for _ in range(_ATTEMPTS):
        try:
            return component(name, kind, _Walk(name, kind, excludes, names, read, leaf).source(source))
        except _Changed as changed:
            path = str(changed)
        except FormatError as error:
            raise Refused(Reason("source-too-large", f"{name}", error.expected, error.got)) from None
    raise _refused("source-changing", name, path, "a source at rest", f"a change during each of {_ATTEMPTS} readings")


def _refused(code: str, name: str, path: str, expected: str, got: str) -> Refused:
    return Refused(Reason(code, f"{name}:{path}"[:1000], expected, got))


class _Walk:
    """One walk over one source; collects entries in any order."""

    def __init__(
        self, name: str, kind: ComponentKind, excludes: Callable[[str], bool], names: Callable[[str], frozenset[str] | None], read: Reader,
        leaf: Leaf,
    ) -> None:  # fmt: skip
        self._name, self._kind, self._excludes, self._names, self._read, self._leaf = name, kind, excludes, names, read, leaf
        self._entries: list[Entry] = []

    def source(self, source: Path) -> list[Entry]:
        """The entries beneath the directory `source`, or the one of the file."""
        try:
            real = source.resolve(strict=True)
            fd = os.open(real, _OPEN)
        except FileNotFoundError:
            raise _refused("source-missing", self._name, str(source), "a file or directory", "none") from None
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
            raise self._unreadable(str(source), error) from None
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                self._directory(fd, "", 0)
            else:
                self._file(fd, spell(os.fsencode(source.name)))
        finally:
            os.close(fd)
        return self._entries

    def _directory(self, fd: int, path: str, depth: int) -> None:
        """Everything beneath the open directory; it must not have changed when the last of it has been read."""
        if depth > MAX_DEPTH:
            raise _refused("source-too-large", self._name, path, f"at most {MAX_DEPTH} levels", "more")
        before, listed = identity_of(os.fstat(fd)), len(self._entries)
        try:
            found = os.listdir(fd)
        except OSError as error:
            raise self._unreadable(path or ".", error) from None
        if (wanted := self._names(path)) is not None:
            on_disk = _on_disk(wanted)
            found = [name for name in found if name in on_disk]
        for name in sorted(map(os.fsencode, found)):
            inner = f"{path}/{spell(name)}" if path else spell(name)
            if not self._excludes(inner):
                self._item(fd, name, inner, depth)
        if path and len(self._entries) == listed:
            self._add(Entry.dir(path))
        if identity_of(os.fstat(fd)) != before:
            raise _Changed(path or ".")

    def _item(self, parent: int, name: bytes, path: str, depth: int) -> None:
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                self._link(os.readlink(name, dir_fd=parent), path)
                return
            if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode):
                raise _refused("source-special-file", self._name, path, "a file, link or directory", _kind_of(info.st_mode))
            fd = os.open(name, _OPEN, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):  # it was there a moment ago, or was no link
                raise _Changed(path) from None
            raise self._unreadable(path, error) from None
        try:
            if (opened := os.fstat(fd)).st_ino != info.st_ino or opened.st_dev != info.st_dev:
                raise _Changed(path)
            if stat.S_ISDIR(opened.st_mode):
                self._directory(fd, path, depth + 1)
            else:
                self._file(fd, path)
        finally:
            os.close(fd)

    def _file(self, fd: int, path: str) -> None:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise _refused("source-special-file", self._name, path, "a file, link or directory", _kind_of(info.st_mode))
        if info.st_mode & (stat.S_ISUID | stat.S_ISGID) and self._kind != "image":
            raise _refused("source-setuid", self._name, path, "no setuid or setgid bit", f"mode {info.st_mode & 0o7777:04o}")
        if info.st_size > MAX_FILE:
            raise _refused("source-too-large", self._name, path, f"at most {MAX_FILE} bytes", f"{info.st_size}")
        executable, before = bool(info.st_mode & stat.S_IXUSR), identity_of(info)
        try:
            digest, size = self._read(fd, before, executable)
        except NotHeld as absent:
            raise refused(self._name, path, "fs-verity", absent.got) from None
        except OSError as error:
            raise self._unreadable(path, error) from None
        told = 4 if self._leaf == "fs-verity" else 5  # the store may link it, which moves the ctime
        if identity_of(os.fstat(fd))[:told] != before[:told] or size != info.st_size:
            raise _Changed(path)
        self._add(Entry(path, self._leaf, executable, size, digest, None))

    def _link(self, target: bytes, path: str) -> None:
        """A link that cannot lead out: `..` only at its beginning, and not further up than it lies deep.

        A `..` behind a name would go up from wherever a link of that name
        leads; at the beginning it goes up from the directory that was walked.
        In an image no link leads out: it is the root.
        """
        parts = [part for part in target.split(b"/") if part not in (b"", b".")]
        up = next((at for at, part in enumerate(parts) if part != b".."), len(parts))
        escapes = target.startswith(b"/") or up > path.count("/") or b".." in parts[up:]
        if escapes and self._kind != "image":
            raise _refused("source-link-escapes", self._name, path, "a link that stays within the component", spell(target)[:200])
        self._add(Entry.link(path, spell(target)))

    def _add(self, entry: Entry) -> None:
        if len(self._entries) >= MAX_ENTRIES:
            raise _refused("source-too-large", self._name, entry.path, f"at most {MAX_ENTRIES} entries", "more")
        self._entries.append(entry)

    def _unreadable(self, path: str, error: OSError | RuntimeError) -> Refused:
        got = errno.errorcode.get(error.errno or 0, "an error") if isinstance(error, OSError) else "ELOOP"
        return _refused("source-unreadable", self._name, path, "a readable file or directory", got)


def _on_disk(names: frozenset[str]) -> set[str]:
    """As `os.listdir` gives them. A text that is no spelling is the name of nothing."""
    found: set[str] = set()
    for name in names:
        with suppress(FormatError):
            found.add(os.fsdecode(unspell(name)))
    return found


def _kind_of(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a block device", stat.S_IFCHR: "a character device"}
    return kinds.get(stat.S_IFMT(mode), "another kind of file")
