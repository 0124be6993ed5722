"""The measured store: what was hashed is what runs.

    objects/<aa>/<sha256>[.x]     content, mode 0444, or 0555 with .x; named by its own hash
    objects/<aa>/<digest>.v[.x]   content under fs-verity, named by the kernel's digest of it: a copy, or the source's own inode
    trees/<manifest root>/<component>/…   what an instance runs from: hard links to objects, links, directories
    measured/<manifest root>      the measurement and its trees, for a daemon that starts again
    staging/ corrupt/             not yet whole; found false and moved aside, for an operator to look at

A source is hashed while it is copied, and the bytes hashed are the bytes
written: a reflink is hashed after it was made, a copy by the buffer that is
written. Instances of one manifest root share one tree, and trees share
objects; so who writes into one in place (root alone can) is seen in all that
share it.

Nothing here is synced to the disk: a power cut ends every instance that runs
from it, and what it left torn is found by its hash and made anew. Syncing each
of a thousand small files would cost a first launch seconds and prove nothing.

An object is hashed again before it is used, unless this process hashed it
before and its device, inode, size, mtime and ctime are what they were then.
Nobody can write without moving ctime who has not the kernel's clock or the raw
disk in his hands; he is outside what the store holds off, and the watch hashes
everything again at intervals all the same. What fs-verity holds is asked of the
kernel each time, in constant time, and no stat data are believed. A component
that dm-verity holds is a link to where its device is mounted; what the kernel
says of that mount is what counts, wherever the link leads. A ctime is believed if it was
100 ms old when the file was hashed, since two writes within one tick of the
clock look like one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestor.config import read_private, write_private
from attestor.measure.tree import Identity, hash_file, identity_of, measure_tree
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Refused, Unavailable
from writ.formats.measurement import Measurement, encode_measurement, parse_measurement
from writ.formats.reason import Reason
from writ.formats.tree import Component, Entry, check_path, component_root, diff, encode_tree, entry_digest, parse_tree, spell, unspell
from writ.service.verity import Kernel, NotHeld, Verity

_FICLONE: Final = 0x40049409
_CHUNK: Final = 1 << 20
_NO_LINK: Final = (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP)
_MAX_KNOWN: Final = 2_000_000
_SETTLED_NS: Final = 100_000_000


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """A path of a stored tree that is not what was measured.

    `expected` is the entry's digest, or, for a path that should not be there,
    the root of its component. `got` is None where it vanished or cannot be read.
    """

    component: str
    path: str
    expected: Digest
    got: Digest | None


class Store:
    """The store below `root`, which belongs to the attestor alone. Safe to use from several threads of one process."""

    def __init__(self, root: Path, verity: Verity | None = None) -> None:
        self.root: Final = root
        self._verity: Final[Verity] = verity or Kernel()
        self._devices: dict[tuple[Digest, int], Path] = {}
        self._known: dict[tuple[int, int], tuple[Identity, Digest]] = {}
        self._sources: dict[tuple[Identity, bool], tuple[Digest, int]] = {}
        self._linking = threading.Lock()
        try:
            fresh = not root.exists()
            for part in ("objects", "trees", "measured", "staging", "corrupt"):
                (root / part).mkdir(parents=True, exist_ok=True, mode=0o755)
            for way in (root, root / "trees") if fresh else ():
                way.chmod(0o755)  # agents of other users run from here, whatever the umask
            for left in (root / "staging").iterdir():
                _remove(left)
            info = root.stat()
        except OSError as error:
            raise Unavailable("store", f"{root}: {error.strerror}") from None
        if info.st_mode & 0o022 or info.st_uid not in (0, os.geteuid()):
            raise Unavailable("store", f"{root}: expected a directory that its owner alone can write, got mode {info.st_mode & 0o777:04o}")

    # --- content -----------------------------------------------------------------------------------------------------

    def read(self, fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
        """A `Reader`: the file's content is in the store, under the digest that is returned.

        A source whose stat data this process has seen before is not read again: what runs is the object, which is verified.
        """
        known = self._sources.get((identity, executable))
        if known is not None and self._is_sound(self._object(known[0], executable), known[0]):
            return known
        settled = _is_settled(identity)
        fresh = self.root / "staging" / secrets.token_hex(16)
        try:
            with open(fresh, "xb+", buffering=0) as copy:
                digest, size = self._copy(fd, copy.fileno(), identity, executable)
                os.fchmod(copy.fileno(), 0o555 if executable else 0o444)
            self._place(fresh, self._object(digest, executable), digest)
        finally:
            fresh.unlink(missing_ok=True)
        if len(self._sources) >= _MAX_KNOWN:
            self._sources.clear()
        if settled:
            self._sources[identity, executable] = digest, size
        return digest, size

    def file(self, fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
        """A `Reader` of fs-verity digests: the content is in the store under the one that is returned, held by the kernel.

        1. A source under fs-verity is linked, if its owner is ours and the disk is the same; then nothing is read.
        2. Else it is copied, the copy put under fs-verity and measured by the kernel; it must be what the source was.

        Raises NotHeld where the store's filesystem or the kernel cannot.
        """
        said = self._verity.measure(fd)
        if said is not None:
            place = self._object(said, executable, verity=True)
            if self._is_held(place, said, executable) or self._adopt(fd, place, said, executable):
                return said, identity[2]
        fresh = self.root / "staging" / secrets.token_hex(16)
        try:
            with open(fresh, "xb", buffering=0) as copy:
                _, size = _copy_bytes(fd, copy.fileno())
                os.fchmod(copy.fileno(), 0o555 if executable else 0o444)
            digest = self._enabled(fresh)
            if said not in (None, digest):
                raise NotHeld(f"{said}, and a copy of it {digest}")
            place = self._object(digest, executable, verity=True)
            while not self._is_held(place, digest, executable):
                self._set_aside(place)
                place.parent.mkdir(exist_ok=True, mode=0o755)
                with suppress(FileExistsError):
                    os.link(fresh, place)
        finally:
            fresh.unlink(missing_ok=True)
        return digest, size

    def device(self, source: Path, image: Path | None, salt: bytes) -> tuple[Digest, int]:
        """Root hash and size of the dm-verity device mounted at `source`, which is remembered by them. Raises NotHeld."""
        del image, salt  # what the kernel insists on is in its table
        real = source.resolve()
        table = self._verity.device(real)
        self._devices[table.root, table.size] = real
        return table.root, table.size

    def _enabled(self, fresh: Path) -> Digest:
        fd = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._verity.enable(fd)
            digest = self._verity.measure(fd)
        finally:
            os.close(fd)
        if digest is None:
            raise NotHeld("no digest of a file that was enabled")
        return digest

    def _adopt(self, fd: int, place: Path, digest: Digest, executable: bool) -> bool:
        """Whether the source's own inode is now the object. Its owner could make it another's by chmod only if he is not us or root."""
        if os.fstat(fd).st_uid not in (0, os.geteuid()):
            return False
        place.parent.mkdir(exist_ok=True, mode=0o755)
        self._set_aside(place)
        try:
            os.link(f"/proc/self/fd/{fd}", place, src_dir_fd=fd, follow_symlinks=True)  # a directory fd, though unused, makes it linkat
        except OSError:
            return False
        return self._is_held(place, digest, executable)

    def _is_held(self, place: Path, digest: Digest, executable: bool) -> bool:
        """Whether the file at `place` is a regular file that the kernel holds to this digest, executable as it should be."""
        try:
            fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            mode = os.fstat(fd).st_mode
            return stat.S_ISREG(mode) and bool(mode & stat.S_IXUSR) == executable and self._verity.measure(fd) == digest
        except (OSError, NotHeld):
            return False
        finally:
            os.close(fd)

    def _measured(self, fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
        """A `Reader` that asks the kernel, and keeps nothing. Raises NotHeld."""
        del executable
        digest = self._verity.measure(fd)
        if digest is None:
            raise NotHeld("a file without it")
        return digest, identity[2]

    def _copy(self, source: int, copy: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
        try:
            fcntl.ioctl(copy, _FICLONE, source)
        except OSError:
            return _copy_bytes(source, copy)
        return hash_file(copy, identity, executable)

    def _object(self, digest: Digest, executable: bool, *, verity: bool = False) -> Path:
        name = digest.hex() + (".v" if verity else "") + (".x" if executable else "")
        return self.root / f"objects/{name[:2]}/{name}"

    def _place(self, fresh: Path, place: Path, digest: Digest) -> None:
        """`place` holds the content of `fresh`. An object there already is kept if it is sound, else moved aside: it is never used."""
        place.parent.mkdir(exist_ok=True, mode=0o755)
        while True:
            try:
                os.link(fresh, place)
            except FileExistsError:
                if self._is_sound(place, digest):
                    return
                self._set_aside(place)
                continue
            fresh.unlink()
            info = identity_of(place.stat(follow_symlinks=False))
            self._remember(info, digest, settled=_is_settled(info))
            return

    def _is_sound(self, place: Path, digest: Digest) -> bool:
        """Whether the file at `place` is a regular file, unwritable, with this content. One that is as it was when it was hashed is not
        opened."""
        wanted = stat.S_IFREG | (0o555 if place.suffix == ".x" else 0o444)
        try:
            info = os.lstat(place)
            if info.st_mode == wanted and self._known.get((info.st_dev, info.st_ino)) == (identity_of(info), digest):
                return True
            fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            info = os.fstat(fd)
            return info.st_mode == wanted and self._verified(fd, identity_of(info), False)[0] == digest
        except OSError:
            return False
        finally:
            os.close(fd)

    def _verified(self, fd: int, identity: Identity, executable: bool) -> tuple[Digest, int]:
        """A `Reader` that hashes only what changed since this process hashed it."""
        known = self._known.get(identity[:2])
        if known is not None and known[0] == identity:
            return known[1], identity[2]
        settled = _is_settled(identity)
        digest, size = hash_file(fd, identity, executable)
        if identity_of(os.fstat(fd)) == identity:
            self._remember(identity, digest, settled=settled)
        return digest, size

    def _remember(self, identity: Identity, digest: Digest, *, settled: bool) -> None:
        """The file in this state has this digest; what is not `settled` is hashed again next time."""
        if settled:
            self._known[identity[:2]] = identity, digest
        else:
            self._known.pop(identity[:2], None)

    def _set_aside(self, place: Path) -> None:
        with suppress(FileNotFoundError):
            if place.is_dir() and not place.is_symlink():
                place.chmod(0o755)  # moving a directory writes into it
            place.rename(self.root / "corrupt" / f"{place.name}.{secrets.token_hex(4)}")

    # --- trees -------------------------------------------------------------------------------------------------------

    def tree(self, root: Digest) -> Path:
        """Where the tree of a manifest root lies."""
        return self.root / "trees" / root.hex()

    def assemble(self, measurement: Measurement, components: Sequence[Component]) -> Path:
        """The tree of `measurement` lies in the store, whole and verified now; its directory.

        Every object must have been read into the store before. A tree that is
        there and false is moved aside and made anew from sound objects.
        """
        root = measurement.root()
        place = self.tree(root)
        self._keep(measurement, components)
        while not self._is_whole(place, components):
            if os.path.lexists(place):
                self._set_aside(place)
            fresh = self.root / "staging" / secrets.token_hex(16)
            try:
                self._build(fresh, components)
                fresh.rename(place)
                place.chmod(0o555)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another launch was first
                    raise Unavailable("store", f"{place}: {error.strerror}") from None
            finally:
                with self._linking:
                    _remove(fresh)
        return place

    def _is_whole(self, place: Path, components: Sequence[Component]) -> bool:
        return place.is_dir() and not place.is_symlink() and not self.check(place, components)

    def _build(self, fresh: Path, components: Sequence[Component]) -> None:
        fresh.mkdir(mode=0o755)
        directories = [fresh]
        for part in components:
            base = fresh / part.name
            if (device := _device(part)) is not None and device.digest is not None:
                base.symlink_to(self._devices[device.digest, device.size])
                continue
            directories.append(base)
            base.mkdir(mode=0o755)
            for entry in part.entries:
                place = base / os.fsdecode(unspell(entry.path))
                directories.extend(_make_parents(place if entry.kind == "dir" else place.parent, base))
                if entry.kind == "link" and entry.target is not None:
                    place.symlink_to(os.fsdecode(unspell(entry.target)))
                elif entry.digest is not None:
                    self._link(entry, entry.digest, place)
        for directory in reversed(directories):
            if directory != fresh:  # moving a directory writes into it
                directory.chmod(0o555)

    def _link(self, entry: Entry, digest: Digest, place: Path) -> None:
        """`place` is the object's own inode; a copy of it where a link cannot be made.

        Linking moves the inode's ctime. That this alone moved it is taken
        from the link count; for a write by root in that very moment there is
        the watch's reading at intervals, not a second reading of every object
        that a new release of one prompt shares with the last.
        """
        held = entry.kind == "fs-verity"
        source = self._object(digest, entry.mode_exec, verity=held)
        if not (self._is_held(source, digest, entry.mode_exec) if held else self._is_sound(source, digest)):
            self._set_aside(source)
            raise Unavailable("store", f"object {digest} was found false and moved to {self.root / 'corrupt'}; launch again")
        with self._linking:
            before = source.stat(follow_symlinks=False)
            try:
                os.link(source, place, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINK or held:
                    raise
                _copy_file(source, place, digest)
                return
            after = place.stat(follow_symlinks=False)
            known = self._known.get((before.st_dev, before.st_ino))
            same = identity_of(after)[:4] == identity_of(before)[:4] and after.st_nlink == before.st_nlink + 1
            if same and known is not None and known == (identity_of(before), digest):
                self._remember(identity_of(after), digest, settled=True)

    def check(self, place: Path, components: Sequence[Component], *, rehash: bool = False) -> tuple[Difference, ...]:
        """Every path below `place` that is not as measured; with `rehash`, whatever the stat data say. No difference: nothing."""
        found: list[Difference] = []
        try:
            extra = sorted({item.name for item in os.scandir(place)} - {part.name for part in components})
        except OSError:
            extra = []
        for part in components[:1] if extra else ():
            found.extend(Difference(part.name, spell(os.fsencode(item)), component_root(part), None) for item in extra)
        for part in components:
            if self._differences(place, part, rehash):
                # A link made or removed by another launch moves the ctime of a shared object, also while it is read:
                # what differs must differ while none is (I11).
                with self._linking:
                    found.extend(self._differences(place, part, rehash))
        return tuple(found)

    def _differences(self, place: Path, part: Component, rehash: bool) -> list[Difference]:
        """Every path of one component that is not as measured."""
        base = place / part.name
        if (device := _device(part)) is not None:
            return self._other_device(base, part, device)
        if not rehash and self._is_unchanged(base, part):
            return []
        try:
            if base.is_symlink():
                raise Refused(Reason("source-link-escapes", f"{part.name}:.", "a directory", "a link"))
            if any(entry.kind == "fs-verity" for entry in part.entries):
                now = measure_tree(part.name, part.kind, base, read=self._measured, leaf="fs-verity")
            else:
                now = measure_tree(part.name, part.kind, base, read=hash_file if rehash else self._verified)
        except Refused as refused:
            return [_unreadable(part, refused.reasons[0].claim.removeprefix(f"{part.name}:"))]
        root = component_root(part)
        return [Difference(part.name, path, before or root, after) for path, before, after in diff(part, now)]

    def _other_device(self, base: Path, part: Component, device: Entry) -> list[Difference]:
        """Nothing, if what is mounted where `base` leads is the device that was measured."""
        try:
            table = self._verity.device(base.resolve())
        except (NotHeld, OSError, RuntimeError):
            return [Difference(part.name, device.path, entry_digest(device), None)]
        now = Component(part.name, part.kind, (Entry.dm_verity(table.root, table.size),))
        return [Difference(part.name, path, before or component_root(part), after) for path, before, after in diff(part, now)]

    def _is_unchanged(self, base: Path, part: Component) -> bool:
        """Whether a look at names and stat data alone shows every entry to be what it was; False says nothing."""
        wanted = {os.fsdecode(unspell(entry.path)): entry for entry in part.entries}
        seen, rooms = 0, [(os.fspath(base), "")]
        try:
            if base.is_symlink():
                return False
            while rooms:
                directory, above = rooms.pop()
                with os.scandir(directory) as items:
                    empty = True
                    for item in items:
                        empty = False
                        path, info = above + item.name, item.stat(follow_symlinks=False)
                        if stat.S_ISDIR(info.st_mode):
                            rooms.append((item.path, path + "/"))
                        elif (entry := wanted.get(path)) is not None and self._is_entry(item.path, info, entry):
                            seen += 1
                        else:
                            return False
                if empty and above:
                    if (entry := wanted.get(above[:-1])) is None or entry.kind != "dir":
                        return False
                    seen += 1
        except OSError:
            return False
        return seen == len(wanted)

    def _is_entry(self, place: str, info: os.stat_result, entry: Entry) -> bool:
        if entry.kind == "link":
            return stat.S_ISLNK(info.st_mode) and spell(os.fsencode(os.readlink(place))) == entry.target
        if entry.kind == "fs-verity":
            return entry.digest is not None and self._is_held(Path(place), entry.digest, entry.mode_exec)
        known = self._known.get((info.st_dev, info.st_ino))
        return (
            stat.S_ISREG(info.st_mode)
            and bool(info.st_mode & stat.S_IXUSR) == entry.mode_exec
            and known is not None
            and known == (identity_of(info), entry.digest)
        )

    # --- what was measured, for later --------------------------------------------------------------------------------

    def _keep(self, measurement: Measurement, components: Sequence[Component]) -> None:
        path = self.root / "measured" / measurement.root().hex()
        if path.exists():
            return
        for part, listed in zip(measurement.components, components, strict=True):
            if not (tree := self.root / "measured" / part.root.hex()).exists():
                write_private(tree, encode_tree(listed), durable=False)
        write_private(path, encode_measurement(measurement), durable=False)

    def recall_measurement(self, root: Digest) -> Measurement | None:
        """The measurement behind a manifest root, or None where it is gone or not what the root names. Says nothing of its trees."""
        data = read_private(self.root / "measured" / root.hex())
        try:
            return None if data is None or Digest.of(data) != root else parse_measurement(data)
        except FormatError:
            return None

    def recall(self, root: Digest) -> tuple[Measurement, tuple[Component, ...]] | None:
        """The measurement behind a manifest root and its trees, or None where they are gone or not what the root names."""
        measurement = self.recall_measurement(root)
        if measurement is None:
            return None
        try:
            trees = tuple(parse_tree((self.root / "measured" / part.root.hex()).read_bytes()) for part in measurement.components)
        except (FormatError, OSError):
            return None
        if [component_root(tree) for tree in trees] != [part.root for part in measurement.components]:
            return None
        return measurement, trees

    def collect(self, used: Iterable[Digest]) -> int:
        """Trees of no root in `used`, and objects that no tree holds, are gone; how many trees went."""
        kept = {root.hex() for root in used}
        parts: set[str] = set()
        for root in used:
            known = self.recall(root)
            parts |= {part.root.hex() for part in known[0].components} if known is not None else set()
        gone = [place for place in (self.root / "trees").iterdir() if place.name not in kept]
        for place in gone:
            with self._linking:
                _remove(place)
        for path in (self.root / "measured").iterdir():
            if path.name not in kept | parts:
                path.unlink(missing_ok=True)
        for path in (self.root / "objects").glob("*/*"):
            info = path.stat(follow_symlinks=False)
            if info.st_nlink == 1:
                path.unlink(missing_ok=True)
                self._known.pop((info.st_dev, info.st_ino), None)
        self._sources.clear()
        return len(gone)


def _device(part: Component) -> Entry | None:
    """The one entry of a component that is a dm-verity device."""
    return part.entries[0] if part.entries and part.entries[0].kind == "dm-verity" else None


def _is_settled(identity: Identity) -> bool:
    """Whether a later write must show in the ctime: it lies more than a tick of the clock back."""
    return time.time_ns() - identity[4] > _SETTLED_NS


def _copy_bytes(source: int, copy: int) -> tuple[Digest, int]:
    """The digest of the bytes that were written."""
    running, size = hashlib.sha256(), 0
    while chunk := os.read(source, _CHUNK):
        view = memoryview(chunk)
        running.update(view)
        size += len(view)
        while view:
            view = view[os.write(copy, view) :]
    return Digest("sha256", running.digest()), size


def _copy_file(source: Path, place: Path, digest: Digest) -> None:
    """A copy with the object's mode, its content hashed on the way. Raises Unavailable if it is not the object's."""
    with source.open("rb", buffering=0) as whole, place.open("xb", buffering=0) as copy:
        got, _ = _copy_bytes(whole.fileno(), copy.fileno())
        os.fchmod(copy.fileno(), stat.S_IMODE(os.fstat(whole.fileno()).st_mode))
    if got != digest:
        raise Unavailable("store", f"object {digest} read as {got}")


def _make_parents(directory: Path, base: Path) -> list[Path]:
    """`directory` exists below `base`; those that were made."""
    made: list[Path] = []
    while directory != base and not directory.is_dir():
        made.append(directory)
        directory = directory.parent
    made.reverse()
    for one in made:
        one.mkdir(mode=0o755)
    return made


def _unreadable(part: Component, path: str) -> Difference:
    """The difference for a path that cannot be measured; the first entry's, where the component as a whole is gone."""
    was = next((entry for entry in part.entries if entry.path == path), None)
    if was is not None:
        return Difference(part.name, path, entry_digest(was), None)
    try:
        check_path(path)
    except FormatError:
        path = part.entries[0].path if part.entries else part.name
    return Difference(part.name, path, component_root(part), None)


def _remove(place: Path) -> None:
    """`place` is gone, though its directories are unwritable."""
    if place.is_dir() and not place.is_symlink():
        for directory, _, _ in os.walk(place):
            Path(directory).chmod(0o700)
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
